"""Errors of this project: a shallow tree; each message says what was wrong, where, and what to do."""


class V2XError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(V2XError):
    """A setting, flag or file the user gave is wrong."""


class TopicError(V2XError):
    """An MQTT topic is not one of ours."""


class SchemaError(V2XError):
    """A schema is unknown, broken or incompatible."""


class DecodeError(V2XError):
    """Bytes do not follow their schema."""


class SnapshotError(V2XError):
    """A snapshot is damaged, or belongs to other code, configuration or another world."""


class BrokerError(V2XError):
    """A broker cannot be reached, or refuses what we ask for."""
