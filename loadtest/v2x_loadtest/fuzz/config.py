"""Settings: taken, or refused by one line that names the setting.

An input is the text of a file or, if it begins with a zero byte, a table of settings, three bytes a setting: which,
which of the odd values for it, and a change of that value. Campaigns take mostly tables (``_TABLES`` of the cases):
they go through the fields and limits of ``Settings`` in a few microseconds, while pydantic-settings' search of its
sources takes half a millisecond. Of the texts all are parsed and checked so, and one in ``_WHOLE`` is loaded as
a file, all sources searched.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final, cast

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from v2x.errors import ConfigError

from v2x_codecs.mutate import mistaken
from v2x_loadtest.fuzz.mutants import Cases, Pool
from v2x_loadtest.fuzz.target import Finding, Maker, OneByOne, wrong_with
from v2x_loadtest.fuzz.totals import Tally
from v2x_services.settings import Settings, parse, refusal

_PARTITIONS: Final = 8
_TABLES: Final = 0.8
_WHOLE: Final = 16
_CHANGES: Final = 192  # from this value on the third byte changes the value
_STEP: Final = 3  # bytes of a setting in a table
_ODD: Final[tuple[Any, ...]] = (
    True, False, 0, -1, 1, 7, 65_535, 65_536, 1 << 31, 1 << 63, -(1 << 70), 0.0, -0.0, 1.5, 1e308, float("nan"),
    float("inf"), "", " ", "x", "路", "8", "1e3", "true", "e" * 300, "a\nb", "\0", "0-3,6", "0-", "-", "3-1", "0,0",
    "0-99999999", "١", [], [1], {}, {"a": {}},
    datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC).date(),
)  # fmt: skip


class Config(OneByOne):
    """The target: a file, or a table."""

    name: ClassVar[str] = "config"
    batch: ClassVar[int] = 10_000

    def __init__(self) -> None:
        self._file = Path(tempfile.mkdtemp(prefix="v2x-fuzz-")) / "v2x.toml"
        fields: dict[str, Any] = {name: (info.annotation, info) for name, info in Settings.model_fields.items()}
        kind = create_model(
            "Fields", __config__=ConfigDict(extra="forbid", frozen=True, validate_default=True), **fields
        )
        self._fields: type[BaseModel] = kind
        self._names = [*Settings.model_fields, "unknown", ""]
        self._values = [_values(name) for name in self._names]

    def seeds(self) -> list[bytes]:
        """Return small files and tables."""
        tables = [bytes((0, i, i % 7, 0, (i + 5) % 40, 3, 1, i // 2, 9, 200)) for i in range(len(self._names))]
        return [
            b'kafka_bootstrap = "127.0.0.1:9092"\npartitions = 8\npace_ms = 6.0\n',
            b'log_level = "info"\nfusion_partitions = "0-3,6"\naccept_other_version = true\n',
            b'ingest_id = "ingest"\nstate_dir = ".v2x/state"\nmqtt_port = 1883\n',
            b"[a.b]\nc = [1, {d = 2}]\ne = 1979-05-27T07:32:00Z\n",
            *tables,
        ]

    def mutate(self, data: bytes, others: Sequence[bytes], rng: Random) -> bytes:
        """Return a file or a table with mistakes."""
        return mistaken(data, 0, others, rng)

    def pool(self, inputs: Sequence[bytes]) -> Maker:
        """Return what makes cases of these inputs."""
        return Pool(self.name, inputs, start=1, chosen=[data for data in inputs if data[:1] == b"\0"], share=_TABLES)

    def run(self, data: bytes) -> str:
        """Take one input, a text both ways."""
        came_to = self._fast(data)
        return self._load(data) if data[:1] != b"\0" else came_to

    def judge(self, cases: Cases) -> Tally:
        """Take the cases of a batch, of the texts one in some as a file."""
        tally = Tally()
        for data in cases:
            tally.cases += 1
            whole = data[:1] != b"\0" and zlib.crc32(data) % _WHOLE == 0
            if wrong := wrong_with(self.run if whole else self._fast, data, tally.seen):
                tally.findings.append((data.hex(), wrong))
                if tally.enough:
                    break
        return tally

    def table(self, data: bytes) -> dict[str, Any]:
        """Return the table that bytes stand for."""
        found: dict[str, Any] = {}
        for at in range(0, len(data) - _STEP + 1, _STEP):
            which = data[at] % len(self._names)
            values = self._values[which]
            found[self._names[which]] = _changed(values[data[at + 1] % len(values)], data[at + 2])
        return found

    def _fast(self, data: bytes) -> str:
        kind = "text" if data[:1] != b"\0" else "table"
        try:
            self._check(parse(data, self._file) if kind == "text" else self.table(data[1:]))
        except ConfigError as e:
            _in_a_line(e)
            return f"{kind} refused"
        return f"{kind} taken"

    def _check(self, table: Mapping[str, Any]) -> None:
        try:
            made = self._fields.__pydantic_validator__.validate_python(table)
        except ValidationError as e:
            raise refusal(e, lambda _: f"file {self._file}") from None
        Settings.partition_list(cast("Settings", made), _PARTITIONS)

    def _load(self, data: bytes) -> str:
        self._file.write_bytes(data)
        try:
            Settings.load(self._file).partition_list(_PARTITIONS)
        except ConfigError as e:
            _in_a_line(e)
            return "file refused"
        return "file taken"


def _in_a_line(error: ConfigError) -> None:
    text = str(error)
    if "\n" in text or not text:
        raise Finding(f"an error that is not one line: {error}") from None


def _values(name: str) -> list[Any]:
    """Return values for a setting: its default, its bounds and what is next to them, and what is odd for any."""
    info = Settings.model_fields.get(name)
    if info is None:
        return list(_ODD)
    bounds = [getattr(m, key) for m in info.metadata for key in ("ge", "gt", "le", "lt") if hasattr(m, key)]
    near = [bound + step for bound in bounds for step in (-1, 0, 1)]
    default = str(info.default) if isinstance(info.default, Path) else info.default
    likely = [default, *near]
    return [*likely * (len(_ODD) // len(likely)), *_ODD]  # about one in two is


def _changed(value: Any, how: int) -> Any:
    """Return a value, one time in four changed a little."""
    if how < _CHANGES:
        return value
    if isinstance(value, str):
        at = how % (len(value) + 1)
        return value[:at] + chr(how - _CHANGES) + value[at:]
    if isinstance(value, int | float):
        return value + how - (_CHANGES + 32)
    return [value]
