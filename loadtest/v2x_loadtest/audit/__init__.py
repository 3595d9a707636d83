"""The audit: the real Kafka topics read from end to end and set against what the simulator knows it published."""
