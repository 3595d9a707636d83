"""Avro codecs: schemas, registry, framings, decoders."""
