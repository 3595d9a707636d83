"""Ingest: MQTT publishes in, checked and acknowledged records in Kafka out."""
