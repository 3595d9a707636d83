"""Where the log comes from: a recorded scene by way of simulated devices, or a generated world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from v2x.pseudonym import Pseudonyms, vehicle_key
from v2x.topics import DEVICES, GANTRY, OBSERVATIONS, UPLINKS
from v2x.zones import ZoneMap

from v2x_codecs.framing import to_kafka
from v2x_codecs.reference import ReferenceCodec
from v2x_codecs.registry import Registry
from v2x_loadtest.scene import Scene
from v2x_loadtest.score.play import Message
from v2x_loadtest.score.setting import T0_MS, World
from v2x_loadtest.simulate.build import Generator
from v2x_loadtest.simulate.options import Options

_ENVELOPE_MAPS: Final = 4  # UPLINKS code of MAP: what a unit that sees nothing may still say


def scene_messages(
    scene: Scene, options: Options, zones: ZoneMap, t0_ms: int, silent_s: Mapping[str, float]
) -> list[Message]:
    """Return what the devices of a scene say, in order of arrival at ingest; event time begins at ``t0_ms``.

    ``silent_s``: scene second from which a device says nothing but its MAP.
    """
    registry = Registry.load()
    codec, masks = ReferenceCodec(registry, strict=False), Pseudonyms(bytes(32))
    generator = Generator(scene, options, t0_ms * 1000)
    out: list[Message] = []
    while not generator.done:
        step = generator.step()
        fleet = generator.fleet
        for n, row in enumerate(step.messages):
            uplink = UPLINKS[int(row["code"])]
            if uplink.kafka == DEVICES:
                continue
            device, at_ms = fleet.ids[row["device"]], float(row["intended_us"]) / 1e3
            said_s = options.offset + (at_ms - t0_ms) / 1e3
            if uplink.code != _ENVELOPE_MAPS and said_s >= silent_s.get(device, float("inf")):
                continue
            payload = step.payload(n)
            if uplink.kafka == GANTRY:
                name, clear = codec.decode_mqtt(payload)
                covered = masks.cover(clear)
                out.append(Message(at_ms, GANTRY, vehicle_key(covered), codec.encode(name, covered)))
                continue
            place: tuple[int | None, int | None] = (None, None)
            if fleet.kinds[row["device"]] == "obu":
                _, bsm = codec.decode_mqtt(payload)
                place = (bsm["lat"], bsm["lon"])
            key = device.encode()
            out.append(Message(at_ms, OBSERVATIONS, key, to_kafka(registry, payload), zones.route(device, *place)))
    out.sort(key=lambda m: m.at_ms)
    return out


def world_messages(world: World, zones: ZoneMap, silent_s: Mapping[str, float]) -> list[Message]:
    """Return what the units of a generated world say, in order of arrival."""
    codec = ReferenceCodec(Registry.load(), strict=False)
    out: list[Message] = []
    for at_ms, device, record in world.messages():
        if at_ms / 1e3 < silent_s.get(device, float("inf")):
            value = codec.encode("rsm", record)
            out.append(Message(T0_MS + at_ms, OBSERVATIONS, device.encode(), value, zones.route(device, None, None)))
    return out
