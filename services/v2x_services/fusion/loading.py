"""A partition's core: as its newest snapshot of this world has it, or as new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import structlog
from aiokafka import TopicPartition
from v2x.errors import BrokerError, SnapshotError

from v2x_services.fusion.cores import Cores
from v2x_services.fusion.snapshots import Label, SnapshotStore
from v2x_services.fusion.stage import Core

log = structlog.get_logger("fusion")


def load_core(
    store: SnapshotStore,
    cores: Cores,
    tp: TopicPartition,
    generations: Mapping[int, str],
    *,
    accept_other_version: bool = False,
) -> tuple[Label, Core]:
    """Return label and core of a partition; ``generations``: of all partitions of its topic (see services.topics).

    BrokerError where the topic has no genesis, SnapshotError where the snapshot cannot be gone on from.
    """
    topic, partition, partitions, generation = tp.topic, tp.partition, len(generations), generations[tp.partition]
    where = f"{topic}-{partition}"
    if not generation:
        raise BrokerError(f"{where} has no genesis record: run `v2x topics apply`")
    fresh = Label(topic, partition, partitions, generation, -1, True, cores.code, cores.config)
    found = store.load()
    if found is not None and generation not in {found[0].generation, "?"}:
        log.warning("snapshots belong to another world, putting them aside", partition=where)
        store.retire()
        found = None
    if found is None:
        if generation == "?":
            raise SnapshotError(f"{where} has lost its genesis to retention and there is no snapshot in {store.folder}")
        return fresh, cores.fresh(topic, partition, partitions)
    label, blob = found
    if (label.code, label.config) != (fresh.code, fresh.config) and not label.clean:
        if not accept_other_version:
            raise SnapshotError(
                f"the snapshot of {where} is not from a clean stop and belongs to other code or configuration: "
                f"start and stop that version once, or accept a seam here with --accept-other-version"
            )
        log.warning("going on from an unclean snapshot of another version", partition=where)
    log.info("snapshot loaded", partition=where, position=label.position, clean=label.clean)
    label = replace(label, code=fresh.code, config=fresh.config)
    try:
        core = cores.restore(topic, partition, partitions, blob)
    except SnapshotError as e:
        raise SnapshotError(
            f"{where}: {e}; go back to the zone map and version it was made with, or begin anew: delete "
            f"{store.folder}, or take another state_dir (--run-dir with `v2x up`)"
        ) from e
    return label, core
