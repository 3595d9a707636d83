"""The fault matrix as data: what befalls the system, what it is set up like, and what must be true afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from v2x.errors import ConfigError

from v2x_loadtest.chaos import clock, faults
from v2x_loadtest.chaos.figures import AIM_MS, Figures
from v2x_loadtest.chaos.parts import SmallDisk
from v2x_loadtest.chaos.tunnel import Tunnel
from v2x_loadtest.chaos.world import World

OURS_S: Final = 5.0  # recovery of our own processes
BROKER_S: Final = 15.0
LONG_OUTAGE_S: Final = 20.0
FREEZE_S: Final = 30.0
OUTAGE_S: Final = 60.0
BUDGET_ERROR: Final = 0.1
BUSY_MS: Final = 3 * AIM_MS  # p99 before the fault; above, recovery says nothing


def _possible() -> str:
    return ""


def _fine(_world: World, _figures: Figures) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the system is set up for a row; else one process of each."""

    workers: int = 0  # of fusion, in a group
    standby: bool = False  # a second process of ingest and of fusion stands by
    cluster: bool = False  # three Kafka nodes
    network: bool = False  # a tunnel between the services and both brokers
    small_disk: str = ""  # the broker whose data is on one
    clock: str = ""  # the part that has a clock of its own
    queue_s: float = 0.0  # the MQTT broker queues so many seconds of the load; 0: as shipped
    build: bool = False  # another build of the pure core is made


@dataclass(frozen=True, slots=True)
class Expect:
    """What must be true; beside these nothing may be lost or told twice, and no end be missing."""

    recovery_s: float = OURS_S
    perishable: bool = False  # perishable messages may be lost; they are counted
    dead: bool = False  # dead letters are what should come of it
    quiet: bool = True  # what came out is what one quiet run makes
    stall_ingest_s: float | None = None
    stall_fusion_s: float | None = None
    more: Callable[[World, Figures], str] = _fine  # says what is wrong

    def text(self) -> str:
        """Return it in words."""
        lost = "lost 0" if not self.perishable else "reliable lost 0, perishable counted"
        stalls = "".join(
            f", {name} stands still for at most {value:g} s"
            for name, value in (("ingest", self.stall_ingest_s), ("fusion", self.stall_fusion_s))
            if value is not None
        )
        return f"{lost}, duplicates 0, back within {self.recovery_s:g} s{stalls}"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault."""

    name: str
    what: str
    do: Callable[[World], None]
    expect: Expect = field(default_factory=Expect)
    setup: Setup = field(default_factory=Setup)
    why_not: Callable[[], str] = _possible  # why it is not possible here, or nothing


def _poison(w: World, _figures: Figures) -> str:
    sent, counted = w.facts["poison_acknowledged"], w.facts["poison_counted"]
    return "" if sent == counted else f"{sent:,.0f} bad messages acknowledged, {counted:,.0f} counted"


def _budget(w: World, figures: Figures) -> str:
    budget, held = w.facts["budget_s"], figures.facts.get("first_lost_s")
    if held is None:
        return f"the broker dropped nothing, although ingest was away for longer than the {budget:.1f} s it told"
    error = abs(held - budget) / budget
    w.facts["budget_error"] = round(error, 3)
    return "" if error <= BUDGET_ERROR else f"told {budget:.1f} s, the first message was dropped after {held:.1f} s"


def _jumped(w: World, _figures: Figures) -> str:
    seen = w.facts["jump_seen_s"]
    return "" if seen >= faults.HOUR_S - 60 else f"the clock was off by {seen:g} s at most: the fault was none"


def _moved(_world: World, figures: Figures) -> str:
    if 1.0 < figures.stall_fusion_s < faults.STALE_S:
        return ""
    return f"partitions stood still for {figures.stall_fusion_s:g} s: they did not move while the worker slept"


def _stand_by(w: World, _figures: Figures) -> str:
    return "" if w.facts["taken_over"] == 2 else "a process that was hit works again: nobody stood by"


def _other_build(w: World, _figures: Figures) -> str:
    return faults.wrong_build(w)


_BROKER: Final = Expect(BROKER_S)
_TWO: Final = Setup(workers=2)
_STANDBY: Final = Setup(standby=True)
_NETWORK: Final = Setup(network=True)

ROWS: Final[tuple[Row, ...]] = (
    Row("kill-ingest", "kill -9 of ingest", lambda w: w.kill("ingest")),
    Row("kill-fusion", "kill -9 of fusion", lambda w: w.kill("fusion")),
    Row("kill-both", "kill -9 of ingest and fusion at once", lambda w: w.kill("ingest", "fusion")),
    Row("freeze-ingest", "SIGSTOP of ingest for 30 s", lambda w: w.freeze("ingest", seconds=FREEZE_S)),
    Row("freeze-fusion", "SIGSTOP of fusion for 30 s", lambda w: w.freeze("fusion", seconds=FREEZE_S)),
    Row("freeze-both", "SIGSTOP of both for 30 s", lambda w: w.freeze("ingest", "fusion", seconds=FREEZE_S)),
    Row(
        "kill-mosquitto",
        "kill -9 of Mosquitto (with persistence)",
        lambda w: w.kill("mosquitto"),
        Expect(BROKER_S, perishable=True),
    ),
    Row("restart-mosquitto", "clean restart of Mosquitto", lambda w: w.restart("mosquitto"), _BROKER),
    Row("kill-kafka", "kill -9 of Kafka", lambda w: w.kill("kafka"), _BROKER),
    Row("restart-kafka", "clean restart of Kafka", lambda w: w.restart("kafka"), _BROKER),
    Row("kafka-outage", "Kafka away for 60 s", lambda w: w.outage("kafka", OUTAGE_S), Expect(LONG_OUTAGE_S)),
    Row(
        "kafka-leader",
        "three Kafka nodes, the leader of most partitions killed for good",
        faults.lose_leader,
        _BROKER,
        Setup(cluster=True),
    ),
    Row(
        "network-cut",
        "no network between services and brokers for 10 s",
        faults.in_network("the network is cut for 10 s", cut=True),
        _BROKER,
        _NETWORK,
        Tunnel.why_not,
    ),
    Row(
        "network-delay",
        "200 ms of delay between services and brokers for 10 s",
        faults.in_network("round trips take 200 ms longer for 10 s", delay_s=0.1),
        setup=_NETWORK,
        why_not=Tunnel.why_not,
    ),
    Row(
        "network-loss",
        "5 % of the packets between services and brokers lost for 10 s",
        faults.in_network("5 % of the packets are lost for 10 s", loss=0.05),
        setup=_NETWORK,
        why_not=Tunnel.why_not,
    ),
    Row(
        "half-open",
        "half-open TCP: all connections dead without a word",
        faults.half_open,
        _BROKER,
        _NETWORK,
        Tunnel.why_not,
    ),
    Row(
        "full-disk-kafka",
        "Kafka's disk full for 8 s",
        faults.fill_disk("kafka"),
        _BROKER,
        Setup(small_disk="kafka"),
        SmallDisk.why_not,
    ),
    Row(
        "full-disk-mosquitto",
        "Mosquitto's disk full for 8 s",
        faults.fill_disk("mosquitto"),
        _BROKER,
        Setup(small_disk="mosquitto"),
        SmallDisk.why_not,
    ),
    Row(
        "clock-device",
        "the clock of a device jumps by +1 h and -1 h (its messages: dead letters, then quarantine, all counted)",
        faults.device_jump,
        Expect(dead=True),
    ),
    Row(
        "clock-ingest",
        "the clock of ingest jumps by +1 h and -1 h",
        faults.jump("ingest"),
        Expect(more=_jumped),
        setup=Setup(clock="ingest"),
        why_not=clock.why_not,
    ),
    Row(
        "clock-kafka",
        "the clock of Kafka jumps by +1 h and -1 h",
        faults.jump("kafka"),
        Expect(BROKER_S, more=_jumped),
        Setup(clock="kafka"),
        clock.why_not,
    ),
    Row("flood", "one device sends as much as all others", faults.flood),
    Row("poison", "30 % of all messages cannot be decoded", faults.poison, Expect(dead=True, more=_poison)),
    Row("slow-consumer", "a slow Kafka reader and a deaf MQTT subscriber", faults.slow_consumers),
    Row("rebalance", "fusion workers join, die, come again and leave", faults.rebalance, setup=_TWO),
    Row(
        "rolling-restart",
        "clean restart of every service, one after the other",
        faults.rolling,
        Expect(stall_ingest_s=3.0, stall_fusion_s=4.0),
    ),
    Row(
        "upgrade",
        "fusion replaced by a build with another threshold",
        faults.upgrade,
        Expect(quiet=False, stall_fusion_s=4.0, more=_other_build),
        Setup(build=True),
    ),
    Row(
        "stale-worker",
        "a fusion worker wakes up after its partitions moved",
        faults.stale_worker,
        Expect(more=_moved),
        _TWO,
    ),
    Row(
        "standby-restart",
        "clean restart of ingest, then of fusion, while others stand by",
        faults.restart_with_standby,
        Expect(stall_ingest_s=1.0, stall_fusion_s=1.0, more=_stand_by),
        _STANDBY,
    ),
    Row(
        "standby-kill",
        "kill -9 of ingest and fusion at once, while others stand by",
        faults.kill_with_standby,
        Expect(stall_ingest_s=1.5, stall_fusion_s=1.5, more=_stand_by),
        _STANDBY,
    ),
    Row(
        "standby-freeze",
        "ingest and fusion SIGSTOPped for 15 s, while others stand by; then they wake up",
        faults.freeze_with_standby,
        Expect(stall_ingest_s=11.0, stall_fusion_s=11.0, more=_stand_by),
        _STANDBY,
    ),
    Row(
        "standby-upgrade",
        "fusion replaced by a build with another threshold, which stood by",
        faults.upgrade_with_standby,
        Expect(quiet=False, stall_fusion_s=2.0, more=_other_build),
        Setup(standby=True, build=True),
    ),
    Row(
        "outage-budget",
        "ingest away for 1.5 times the outage budget it told",
        faults.outage_budget,
        Expect(perishable=True, more=_budget),
        Setup(queue_s=8.0),
    ),
)


def rows(names: list[str]) -> list[Row]:
    """Return the rows of these names, all without any; ConfigError names what there is."""
    by_name = {row.name: row for row in ROWS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise ConfigError(f"no row {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names] or list(ROWS)


def verdict(row: Row, f: Figures, world: World | None) -> list[str]:
    """Return what is not as expected; nothing if all is."""
    e = row.expect
    wrong = [
        text
        for is_wrong, text in (
            (f.lost_reliable > 0, f"lost {f.lost_reliable:,} reliable messages"),
            (f.lost_perishable > 0 and not e.perishable, f"lost {f.lost_perishable:,} perishable messages"),
            (f.duplicates > 0, f"{f.duplicates:,} told twice"),
            (f.missing_ends > 0, f"{f.missing_ends:,} ends missing"),
            (f.missing > 0, f"{f.missing:,} of {f.outputs:,} outputs missing"),
            (f.extra > 0, f"{f.extra:,} outputs that a quiet run does not make"),
            (f.dead > 0 and not e.dead, f"{f.dead:,} dead letters"),
            (not f.drained, "not drained in time"),
            (
                f.p99_before_ms > BUSY_MS,
                f"p99 was {f.p99_before_ms:,.0f} ms before the fault: the machine is too busy for this load",
            ),
            (f.recovery_s is None, "not back within the run"),
            (f.recovery_s is not None and f.recovery_s > e.recovery_s, f"back after {f.recovery_s} s only"),
            (
                e.stall_ingest_s is not None and f.stall_ingest_s > e.stall_ingest_s,
                f"ingest stood still for {f.stall_ingest_s} s",
            ),
            (
                e.stall_fusion_s is not None and f.stall_fusion_s > e.stall_fusion_s,
                f"fusion stood still for {f.stall_fusion_s} s",
            ),
        )
        if is_wrong
    ]
    more = e.more(world, f) if world is not None else ""
    return [*wrong, more] if more else wrong
