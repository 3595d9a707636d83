"""Interesting cases of campaigns, kept: the shortest message for each verdict, field and reason that fastavro differs.

``codecs/corpus/{schema}.txt`` (``header.txt`` where no schema is known), one case a line, sorted: verdict, offset,
field, the row of ``differences`` if fastavro takes it (both ``-`` if there is none), message in hex, parted by tabs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from v2x.columns import Verdict
from v2x.errors import SchemaError

from v2x_codecs.campaign import Campaign, Case
from v2x_codecs.registry import schemas_dir

_NONE: Final = "-"
_HEADER: Final = "header"
_MOST_BYTES: Final = 2048  # a message longer than this is not kept
Key = tuple[str, Verdict, str, str]


def corpus_dir() -> Path:
    """Return the folder of the corpus in a checkout (a wheel has none)."""
    return schemas_dir().parent / "corpus"


class Corpus:
    """Cases by what they show."""

    def __init__(self, cases: Iterable[Case] = ()) -> None:
        self._best: dict[Key, Case] = {}
        self.add(cases)

    def add(self, cases: Iterable[Case]) -> int:
        """Keep those that show something new, or show it in fewer bytes; return how many are new."""
        new = 0
        for case in cases:
            key = (case.schema, case.verdict, case.field, case.difference)
            best = self._best.get(key)
            if len(case.payload) <= _MOST_BYTES and (best is None or _rank(case) < _rank(best)):
                self._best[key] = case
                new += best is None
        return new

    @property
    def cases(self) -> list[Case]:
        """Return them in the order of the files."""
        return [self._best[key] for key in sorted(self._best)]

    def save(self, folder: Path) -> None:
        """Write a file for each schema; files of schemas without cases go."""
        folder.mkdir(parents=True, exist_ok=True)
        lines: dict[str, list[str]] = {}
        for case in self.cases:
            cells = (
                case.verdict.name, str(case.at), case.field or _NONE, case.difference or _NONE, case.payload.hex(),
            )  # fmt: skip
            lines.setdefault(case.schema or _HEADER, []).append("\t".join(cells) + "\n")
        for path in folder.glob("*.txt"):
            if path.stem not in lines:
                path.unlink()
        for name, rows in lines.items():
            (folder / f"{name}.txt").write_text("".join(rows), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Corpus:
        """Read what ``save`` wrote (nothing where there is no such folder); SchemaError names a broken line."""
        found = cls()
        for path in sorted(folder.glob("*.txt")):
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                try:
                    verdict, at, name, difference, payload = line.split("\t")
                    schema = "" if path.stem == _HEADER else path.stem
                    parts = ("" if name == _NONE else name, "" if difference == _NONE else difference)
                    found.add([Case(bytes.fromhex(payload), schema, Verdict[verdict], int(at), *parts)])
                except (ValueError, KeyError) as error:
                    raise SchemaError(f"corpus {path.name}, line {number}: {error!r}") from error
        return found

    def renewed(self, campaign: Campaign) -> Corpus:
        """Return it as it is by the schemas of now: each message judged again."""
        _, cases = campaign.judge([case.payload for case in self.cases])
        return Corpus(cases)


def _rank(case: Case) -> tuple[int, bytes]:
    return len(case.payload), case.payload
