"""Logs: structlog, for a human on a terminal, one JSON object a line otherwise; always on stderr."""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import structlog

Format = Literal["auto", "human", "json"]
# These libraries tell us each lost connection several times; what matters of it is in our own log and counters.
_CHATTY: Final = ("aiokafka", "asyncio")


def setup(service: str, fmt: Format = "auto", level: str = "info") -> structlog.stdlib.BoundLogger:
    """Set up logging of this process and return its logger; ``auto`` is human on a terminal, else JSON."""
    human = fmt == "human" or (fmt == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if human else "iso", utc=not human),
    ]
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False)
        if human
        else structlog.processors.JSONRenderer()
    )
    tracebacks: list[structlog.typing.Processor] = [] if human else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tracebacks, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL if name == "aiokafka" else logging.WARNING)
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(service).bind(service=service)
    return logger
