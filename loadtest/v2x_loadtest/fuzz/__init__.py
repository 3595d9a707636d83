"""Mistaken input for what takes input from outside: MQTT framing, topics, zone maps, settings and the Avro decoder.

Each target takes bytes and raises ``Finding`` where a promise is broken. Two ways feed them: mutations of a corpus,
many at a time (``campaign``), and atheris, which follows the coverage and makes the corpus grow (``guided``).
"""
