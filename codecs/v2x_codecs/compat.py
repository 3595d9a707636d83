"""May a schema change? FULL_TRANSITIVE between all versions of a schema, and the same for what Avro does not look at.

Avro's rules ("Schema Resolution", 1.12), both ways between any two versions: a field that only one of them has needs
a default, shapes and names stay, an enum that gains symbols needs a default. Stricter than Avro, because columns
depend on it: no promotion of types, symbols are only appended.

Attributes are part of the contract though no Avro tool compares them: a changed ``unit`` or ``unavailable`` silently
changes what a number means, a narrowed range refuses what was legal. A wider range is fine.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any, Final

from v2x_codecs.layout import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN, MAX_BYTES, MAX_ITEMS
from v2x_codecs.registry import Registry

_SAME: Final = ("unit", "unavailable", "personal")
_LOWER: Final = {"min": None, "minLength": 0, "minItems": 0}
_UPPER: Final = {"max": None, "maxLength": MAX_BYTES, "maxItems": MAX_ITEMS}
_LIMITS: Final = {"int": (INT_MIN, INT_MAX), "long": (LONG_MIN, LONG_MAX)}


def check(registry: Registry) -> list[str]:
    """Return what breaks between any two versions in the registry, one line each; empty if all is well."""
    found = []
    for name in registry.names:
        for old, new in combinations(registry.versions(name), 2):
            lines = breaking(old.raw, new.raw)
            found += [f"{name} version {old.version} to {new.version}: {line}" for line in lines]
    return found


def breaking(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return what breaks when record schema ``old`` becomes ``new``."""
    return _record(old, new, old["name"])


def _record(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[str]:
    found = []
    if old["name"] != new["name"] or old.get("namespace") != new.get("namespace"):
        found.append(f"{path}: renamed to {new['name']}")
    before = {f["name"]: f for f in old["fields"]}
    after = {f["name"]: f for f in new["fields"]}
    found += [f"{path}.{n}: removed, and had no default: old readers need it" for n in before if n not in after
              and "default" not in before[n]]  # fmt: skip
    found += [f"{path}.{n}: added without a default: old messages lack it" for n in after if n not in before
              and "default" not in after[n]]  # fmt: skip
    for name in before.keys() & after.keys():
        here = f"{path}.{name}"
        found += _type(before[name]["type"], after[name]["type"], here)
        found += _attributes(before[name], after[name], here)
    return sorted(found)


def _type(old: Any, new: Any, path: str) -> list[str]:
    kinds = [side["type"] if isinstance(side, Mapping) else side for side in (old, new)]
    if kinds[0] != kinds[1]:
        return [f"{path}: type changed from {kinds[0]} to {kinds[1]}"]
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return []
    match kinds[0]:
        case "record":
            return _record(old, new, path)
        case "array":
            return _type(old["items"], new["items"], f"{path}[]")
        case "fixed" if (old["name"], old["size"]) != (new["name"], new["size"]):
            return [f"{path}: fixed changed from {old['name']}({old['size']}) to {new['name']}({new['size']})"]
        case "enum":
            return _enum(old, new, path)
        case _:
            return []


def _enum(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[str]:
    if old["name"] != new["name"]:
        return [f"{path}: enum renamed from {old['name']} to {new['name']}"]
    known = len(old["symbols"])
    if new["symbols"][:known] != old["symbols"]:
        return [f"{path}: symbols removed or moved; they may only be appended"]
    if len(new["symbols"]) > known and "default" not in old:
        return [f"{path}: symbols {new['symbols'][known:]} added, but old readers have no default for them"]
    return []


def _attributes(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> list[str]:
    found = [
        f"{path}: {key} changed from {old.get(key)!r} to {new.get(key)!r}"
        for key in _SAME
        if old.get(key) != new.get(key)
    ]
    kind = old["type"] if isinstance(old["type"], str) else None
    least, most = _LIMITS.get(kind or "", (0, 0))
    for key, default in _LOWER.items():
        bounds = [side.get(key, least if default is None else default) for side in (old, new)]
        if bounds[1] > bounds[0]:
            found.append(f"{path}: {key} raised from {bounds[0]} to {bounds[1]}")
    for key, default in _UPPER.items():
        bounds = [side.get(key, most if default is None else default) for side in (old, new)]
        if bounds[1] < bounds[0]:
            found.append(f"{path}: {key} lowered from {bounds[0]} to {bounds[1]}")
    return found
