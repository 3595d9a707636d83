"""Tables that are not on a terminal keep every figure."""

from __future__ import annotations

import pytest
from rich.table import Table

from v2x_services.paper import paper


def _printed(capsys: pytest.CaptureFixture[str]) -> str:
    table = Table(*(f"a heading {n}" for n in range(9)))
    table.add_row(*(f"{n}.0 (0.9-1.1)" for n in range(9)))
    paper().print(table)
    return capsys.readouterr().out


def test_a_pipe_gets_whole_figures(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    printed = _printed(capsys)
    assert "8.0 (0.9-1.1)" in printed
    assert "…" not in printed


def test_columns_of_the_environment_win(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, _printed(capsys).splitlines())) <= 60
