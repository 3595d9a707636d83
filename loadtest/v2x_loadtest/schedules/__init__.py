"""Ingest under random faults on a virtual clock: thousands of schedules a minute, each from a seed that replays.

The parts under test are the real ones: MQTT source, pipeline, ledger, Kafka sink, idempotent producer, and aiokafka's
client under it. What they talk to is simulated: an event loop whose clock jumps to the next timer, a network that
delays, tears and cuts, an MQTT broker and a Kafka cluster that fail as the seed says and check what they are sent.
"""
