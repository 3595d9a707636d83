"""A breaking change of a schema is caught, an allowed one is not, and `v2x schemas check` says so."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from v2x.errors import SchemaError

from v2x_codecs import compat
from v2x_codecs.registry import Registry, attributes_digest, read_avsc, schemas_dir, wire_fingerprint
from v2x_services.cmd_schemas import app

REGISTRY = Registry.load()
Change = Callable[[dict[str, Any]], object]


def field(raw: dict[str, Any], path: str) -> dict[str, Any]:
    for name in path.split("."):
        while "items" in raw.get("type", {}) or isinstance(raw.get("type"), dict):
            raw = raw["type"]["items"] if raw["type"].get("type") == "array" else raw["type"]
        raw = next(f for f in raw["fields"] if f["name"] == name)
    return raw


def changed(name: str, change: Change) -> list[str]:
    old = REGISTRY.get(name).raw
    new = copy.deepcopy(old)
    change(new)
    assert new != old
    return compat.breaking(old, new)


def put(path: str, **attributes: Any) -> Change:
    return lambda raw: field(raw, path).update(attributes)


def drop(path: str, key: str) -> Change:
    return lambda raw: field(raw, path).pop(key)


def add(item: dict[str, Any]) -> Change:
    return lambda raw: raw["fields"].append(item)


BREAKING: list[tuple[str, Change, str]] = [
    ("tick", lambda raw: raw.update(name="Tock"), "renamed to Tock"),
    ("tick", lambda raw: raw.update(namespace="v3x"), "renamed"),
    ("tick", lambda raw: raw["fields"].pop(), "Tick.ts_ms: removed"),
    ("tick", add({"name": "new", "type": "int"}), "Tick.new: added without a default"),
    ("tick", put("ts_ms", type="int"), "type changed from long to int"),
    ("genesis", put("partition", type="long"), "type changed from int to long"),
    ("genesis", put("generation", type="bytes"), "type changed from string to bytes"),
    ("rsm", put("participants.speed", max=8190), "Rsm.participants[].speed: max lowered from 8191 to 8190"),
    ("rsm", put("participants.d_lat", min=0), "min raised from -2097152 to 0"),
    ("rsm", put("participants.speed", unit="0.01 m/s"), "unit changed from '0.02 m/s' to '0.01 m/s'"),
    ("rsm", put("participants.speed", unavailable=0), "unavailable changed from 8191 to 0"),
    ("rsm", drop("participants.speed", "unavailable"), "unavailable changed from 8191 to None"),
    ("rsm", put("participants", maxItems=16), "maxItems lowered from 255 to 16"),
    ("rsm", put("participants", minItems=1), "minItems raised from 0 to 1"),
    ("tick", put("source", maxLength=63), "maxLength lowered from 64 to 63"),
    ("tick", put("source", minLength=2), "minLength raised from 1 to 2"),
    ("confirm", put("gaps", maxItems=10), "maxItems lowered from 65536 to 10"),
    ("gantry_plate", drop("plate", "personal"), "personal changed from True to None"),
    ("bsm", lambda raw: field(raw, "temp_id")["type"].update(size=4), "fixed changed from TempId(8) to TempId(4)"),
    ("traffic_event", lambda raw: field(raw, "kind")["type"]["symbols"].pop(), "symbols removed or moved"),
    ("traffic_event", lambda raw: field(raw, "kind")["type"]["symbols"].insert(0, "NEW"), "symbols removed or moved"),
    ("traffic_event", lambda raw: field(raw, "kind")["type"].update(name="Other"), "enum renamed"),
    ("rsm", lambda raw: field(raw, "participants")["type"]["items"].update(name="P"), "renamed to P"),
]
ALLOWED: list[tuple[str, Change]] = [
    ("tick", add({"name": "new", "type": "int", "default": 0})),
    ("tick", put("source", doc="Better said.")),
    ("rsm", put("participants.speed", max=9000)),
    ("rsm", put("participants.speed", min=-1)),
    ("rsm", put("participants", maxItems=300)),
    ("tick", put("source", maxLength=65)),
    ("traffic_event", lambda raw: field(raw, "kind")["type"]["symbols"].append("NEW")),
]


@pytest.mark.parametrize(("name", "change", "says"), BREAKING, ids=[b[2] for b in BREAKING])
def test_breaking_changes_are_caught(name: str, change: Change, says: str) -> None:
    found = changed(name, change)
    assert len(found) == 1
    assert says in found[0]


@pytest.mark.parametrize(("name", "change"), ALLOWED)
def test_allowed_changes_pass(name: str, change: Change) -> None:
    assert changed(name, change) == []


def test_symbols_need_a_default_to_be_added() -> None:
    old = {"name": "E", "fields": [{"name": "e", "type": {"type": "enum", "name": "X", "symbols": ["A"]}}]}
    new = {"name": "E", "fields": [{"name": "e", "type": {"type": "enum", "name": "X", "symbols": ["A", "B"]}}]}
    assert compat.breaking(old, new) == ["E.e: symbols ['B'] added, but old readers have no default for them"]


def test_a_field_that_had_a_default_may_go() -> None:
    old = {"name": "E", "fields": [{"name": "a", "type": "int"}, {"name": "b", "type": "int", "default": 3}]}
    assert compat.breaking(old, {"name": "E", "fields": [{"name": "a", "type": "int"}]}) == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(schemas_dir().parent / "vectors", tmp_path / "vectors")
    return Path(shutil.copytree(schemas_dir(), tmp_path / "schemas"))


def release(root: Path, name: str, change: Change) -> None:
    """Make a new version the way a maintainer does."""
    listed = json.loads((root / "registry.json").read_text())
    newest = listed[name][-1]["version"]
    raw = read_avsc(root / f"{name}.avsc")
    (root / f"{name}.avsc").rename(root / f"{name}.v{newest}.avsc")
    change(raw)
    (root / f"{name}.avsc").write_text(json.dumps(raw))
    listed[name].append({
        "version": newest + 1, "id": 100 + sum(map(len, listed.values())), "fingerprint": wire_fingerprint(raw).hex(),
        "attributes": attributes_digest(raw),
    })  # fmt: skip
    (root / "registry.json").write_text(json.dumps(listed))


def test_the_check_is_transitive(root: Path) -> None:
    """Version 3 takes back what 2 allowed: 2 to 3 is breaking; 1 to 3 would not show it."""
    release(root, "tick", put("source", maxLength=80))
    assert compat.check(Registry.load(root)) == []
    release(root, "tick", put("source", maxLength=64))
    assert compat.check(Registry.load(root)) == [
        "tick version 2 to 3: Tick.source: maxLength lowered from 80 to 64",
    ]


def test_versions_that_differ_in_ranges_only_share_a_fingerprint(root: Path) -> None:
    release(root, "tick", put("source", maxLength=80))
    registry = Registry.load(root)
    old, new = registry.versions("tick")
    assert old.fingerprint == new.fingerprint
    assert registry.by_fingerprint(old.fingerprint) is new
    assert registry.by_id(old.id) is old


run = CliRunner().invoke


def test_check_passes_on_what_is_released(root: Path) -> None:
    result = run(app, ["check"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert "24 schemas and 97 golden vectors are in order" in result.stdout
    release(root, "tick", add({"name": "new", "type": "int", "min": 0, "max": 9, "default": 0}))
    result = run(app, ["check", str(root), "--json"])
    assert json.loads(result.stdout) == {"ok": True, "schemas": 24, "vectors": 97, "problems": []}


def test_check_fails_on_a_breaking_version(root: Path) -> None:
    release(root, "tick", put("ts_ms", unit="s"))
    result = run(app, ["check", str(root)])
    assert result.exit_code == 1
    assert "tick version 1 to 2: Tick.ts_ms: unit changed from 'ms' to 's'" in result.stderr


def test_check_fails_on_an_edited_file_and_on_a_lost_vector(root: Path) -> None:
    (root.parent / "vectors" / "tick.json").unlink()
    result = run(app, ["check", str(root), "--json"])
    assert result.exit_code == 1
    assert "golden vectors tick.json" in json.loads(result.stdout)["problems"][0]
    path = root / "tick.avsc"
    path.write_text(path.read_text().replace('"max": 4102444800000', '"max": 1'))
    result = run(app, ["check", str(root)])
    assert result.exit_code == 1
    assert "tick.avsc does not match version 1" in result.stderr


def test_list_and_show() -> None:
    listed = json.loads(run(app, ["list", "--json"]).stdout)
    assert list(dict.fromkeys(row["name"] for row in listed)) == list(REGISTRY.names)
    assert next(row for row in listed if row["name"] == "bsm")["uplinks"] == ["rsu/+/bsm", "obu/+/bsm"]
    assert "gantry_transaction" in run(app, ["list"]).stdout
    shown = json.loads(run(app, ["show", "rsm", "--json"]).stdout)
    assert shown["fingerprint"] == REGISTRY.get("rsm").fingerprint.hex()
    assert shown["schema"]["name"] == "Rsm"
    text = run(app, ["show", "rsm"], env={"COLUMNS": "120"}).stdout
    assert "0 … 255 items" in text
    assert "8191" in text


def test_a_mistake_is_a_schema_error() -> None:
    result = run(app, ["show", "nothing"])
    assert isinstance(result.exception, SchemaError)
