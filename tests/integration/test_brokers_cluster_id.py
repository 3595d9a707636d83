"""A cluster id may begin with a dash, and Kafka's tool must not take it for a flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from v2x_services import brokers

pytestmark = pytest.mark.real


def test_an_id_that_begins_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "new_cluster_id", lambda: "-" + "A" * 20 + "Q")
    brokers.Kafka(tmp_path).command()  # formats the storage
    meta = next(tmp_path.rglob("meta.properties")).read_text("utf-8")
    assert "cluster.id=-A" in meta
