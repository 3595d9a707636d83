"""Every metric there is, as data: name, kind, unit, labels, and what it says; and which sums must balance.

The only place where a metric is named; a name that is not here is refused (``metrics``). ``LAWS`` says which of them
must balance (in = out + dropped + in flight), for tests and the audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """What a metric does over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


# Bucket edges at the objectives (milliseconds: 5, 10, 20, 50, 100, 200 …), so that a share within one is exact.
LATENCY_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
SKEW_S: Final = (-60.0, -5.0, -1.0, -0.5, -0.1, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0)
BYTES: Final = tuple(float(1 << n) for n in range(10, 31, 2))


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the catalogue."""

    name: str
    type: Kind
    unit: str
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = LATENCY_S


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
CATALOGUE: Final[tuple[Metric, ...]] = (
    Metric("v2x_build_info", _G, "1", ("service", "version"), "1, with what runs as labels"),
    Metric("v2x_ready", _G, "1", (), "1 while /readyz says yes"),
    # ingest; LAWS says what must balance
    Metric("v2x_ingest_received_total", _C, "messages", ("session",), "MQTT publishes taken from the broker"),
    Metric("v2x_ingest_received_bytes_total", _C, "bytes", ("session",), "Payload bytes taken from the broker"),
    Metric(
        "v2x_ingest_forwarded_total", _C, "messages", ("session",), "Messages that Kafka acknowledged, copies apart"
    ),
    Metric("v2x_ingest_dead_letters_total", _C, "messages", ("session", "reason"), "Dead letters Kafka acknowledged"),
    Metric(
        "v2x_ingest_dropped_total",
        _C,
        "messages",
        ("session", "reason"),
        "Taken and neither forwarded nor dead-lettered",
    ),
    Metric("v2x_ingest_in_flight", _G, "messages", ("session",), "Taken and not yet decided"),
    Metric("v2x_ingest_acknowledged_total", _C, "messages", ("session",), "PUBACKs sent to the broker"),
    Metric(
        "v2x_ingest_copies_total", _C, "records", ("session",), "Copies written for halo zones, beyond the first record"
    ),
    Metric(
        "v2x_ingest_records_total", _C, "records", ("topic",), "Records that Kafka acknowledged, copies and ticks too"
    ),
    Metric(
        "v2x_ingest_repeats_total", _C, "messages", ("type",), "Sequence numbers seen before, by device, boot and type"
    ),
    Metric("v2x_ingest_gaps_total", _C, "messages", ("type",), "Sequence numbers skipped, by device, boot and type"),
    Metric(
        "v2x_ingest_unavailable_position_total",
        _C,
        "messages",
        ("schema",),
        "Valid messages whose own or reference position is 'unavailable'",
    ),
    Metric("v2x_ingest_ticks_total", _C, "records", (), "Tick records written to silent partitions"),
    Metric("v2x_ingest_connects_total", _C, "connections", ("session", "session_present"), "CONNACKs from the broker"),
    Metric(
        "v2x_ingest_possible_loss_total",
        _C,
        "intervals",
        ("session",),
        "Reconnects at which the broker had lost our session",
    ),
    Metric("v2x_ingest_connected", _G, "1", ("session",), "1 while connected and subscribed"),
    Metric("v2x_ingest_quarantined_devices", _G, "devices", (), "Devices over their limit of bad messages or bytes"),
    Metric("v2x_ingest_guest_devices", _G, "devices", (), "RSUs outside the zone map that shard 0 has met and takes"),
    Metric("v2x_ingest_known_devices", _G, "devices", (), "Devices with a counter in memory"),
    Metric("v2x_ingest_clock_suspect", _G, "1", (), "1 while most devices disagree with this machine's clock"),
    Metric(
        "v2x_ingest_outage_budget_seconds",
        _G,
        "seconds",
        ("session",),
        "How long ingest may be away before the broker drops",
    ),
    Metric(
        "v2x_ingest_device_skew_seconds", _H, "seconds", ("type",), "Receive time less ts_ms (late is positive)", SKEW_S
    ),
    Metric("v2x_ingest_to_kafka_seconds", _H, "seconds", ("session",), "From MQTT receive to Kafka's acknowledgement"),
    # the sink, in ingest and in fusion
    Metric("v2x_sink_records_total", _C, "records", ("topic",), "Records acknowledged by Kafka"),
    Metric("v2x_sink_batches_total", _C, "batches", ("topic",), "Batches acknowledged by Kafka"),
    Metric("v2x_sink_retries_total", _C, "batches", ("topic",), "Batches sent again after a fault"),
    Metric("v2x_sink_refused_total", _C, "records", ("topic",), "Records that Kafka refused for good"),
    Metric("v2x_sink_pending_bytes", _G, "bytes", (), "Appended and not yet acknowledged"),
    # fusion
    Metric("v2x_fusion_records_total", _C, "records", ("topic",), "Input records taken from Kafka by this process"),
    Metric("v2x_fusion_fused_total", _C, "records", ("topic",), "Input records that took effect"),
    Metric("v2x_fusion_dropped_total", _C, "records", ("topic", "reason"), "Input records without effect, and why"),
    Metric(
        "v2x_fusion_in_flight",
        _G,
        "records",
        ("topic",),
        "Taken and held back while fusion catches up after an outage; else 0",
    ),
    Metric("v2x_fusion_outputs_total", _C, "records", ("topic",), "Outputs made by the engines"),
    Metric("v2x_fusion_written_total", _C, "records", (), "Outputs that Kafka acknowledged"),
    Metric("v2x_fusion_refused_total", _C, "records", (), "Outputs that Kafka will never take (too large)"),
    Metric("v2x_fusion_suppressed_total", _C, "records", ("topic",), "Outputs of a replay that were already out"),
    Metric("v2x_fusion_outputs_in_flight", _G, "records", (), "Outputs made and not yet acknowledged"),
    Metric("v2x_fusion_lag_records", _G, "records", ("topic", "partition"), "Records in the log beyond our position"),
    Metric("v2x_fusion_step_seconds", _H, "seconds", ("topic",), "Engine time for one fetched batch"),
    Metric(
        "v2x_fusion_kafka_to_fused_seconds", _H, "seconds", ("topic",), "From the input's stamp to the end of its step"
    ),
    Metric(
        "v2x_fusion_fused_to_kafka_seconds",
        _H,
        "seconds",
        ("topic",),
        "From the end of a step to Kafka's acknowledgement",
    ),
    Metric("v2x_fusion_snapshots_total", _C, "files", ("topic",), "Snapshots written"),
    Metric("v2x_fusion_snapshot_seconds", _H, "seconds", ("topic",), "Time to make and write a snapshot"),
    Metric("v2x_fusion_snapshot_bytes", _H, "bytes", ("topic",), "Size of a snapshot", BYTES),
    Metric("v2x_fusion_tracks", _G, "tracks", ("partition",), "Tracks alive"),
    Metric("v2x_fusion_followed_partitions", _G, "partitions", (), "Another process's, followed to be taken over"),
    Metric("v2x_fusion_faults_total", _C, "faults", ("kind",), "Faults of the consumer that were survived"),
    # confirm
    Metric("v2x_confirm_records_total", _C, "records", ("topic",), "Records taken from Kafka by this process"),
    Metric("v2x_confirm_settled_total", _C, "records", ("how",), "Those of them that settle a number"),
    Metric(
        "v2x_confirm_passed_over_total", _C, "records", ("reason",), "Those of them that settle nothing new, and why"
    ),
    Metric("v2x_confirm_sent_total", _C, "messages", (), "Confirms published to devices"),
    Metric("v2x_confirm_unsent_total", _C, "messages", (), "Confirms not sent for want of a connection"),
    Metric("v2x_confirm_devices", _G, "1", (), "Devices and reliable types that are remembered"),
    Metric("v2x_confirm_missing", _G, "messages", (), "Numbers missing in streams that are told of at present"),
    Metric("v2x_confirm_given_up_total", _C, "messages", (), "Missing numbers that were told in vain: lost for good"),
    Metric("v2x_confirm_forgotten_total", _C, "streams", (), "Streams forgotten: idle, or too many"),
    Metric("v2x_confirm_lag_records", _G, "records", ("topic",), "Records in the log beyond our position"),
    Metric("v2x_confirm_skipped_total", _C, "records", ("topic",), "Records that retention took before they were read"),
    Metric("v2x_confirm_connected", _G, "1", (), "1 while connected to the MQTT broker"),
    Metric("v2x_confirm_snapshots_total", _C, "files", (), "Snapshots written"),
    Metric("v2x_confirm_faults_total", _C, "faults", (), "Faults of fetching that were survived"),
    # the standing audit
    Metric("v2x_audit_records_total", _C, "records", ("topic",), "Records taken from Kafka by this process"),
    Metric("v2x_audit_taken_total", _C, "messages", ("by",), "Numbers taken: from summaries, dead letters, records"),
    Metric("v2x_audit_seen_total", _C, "messages", ("type",), "Those of them that were new"),
    Metric("v2x_audit_again_total", _C, "messages", ("type",), "Those of them that were known, or came too late"),
    Metric("v2x_audit_unplaced_total", _C, "messages", ("type",), "Those of devices that there was no room for"),
    Metric("v2x_audit_lost_total", _C, "messages", ("type",), "Sequence numbers that did not come in time"),
    Metric(
        "v2x_audit_gap",
        _G,
        "messages",
        ("state", "device", "boot", "type", "first", "last"),
        "Numbers first to last that are missing and may still come, or are lost: the first and the newest 32",
    ),
    Metric("v2x_audit_missing", _G, "messages", (), "Sequence numbers that are missing and may still come"),
    Metric("v2x_audit_checked_total", _C, "records", (), "Records of the partition that is read in full, in turn"),
    Metric("v2x_audit_checks_total", _C, "partitions", (), "Partitions held against the summaries"),
    Metric("v2x_audit_untold_total", _C, "messages", (), "In such a partition, and no summary tells of it"),
    Metric("v2x_audit_untrue_total", _C, "messages", (), "A summary tells of it, and it is not in such a partition"),
    Metric("v2x_audit_catch_ups_total", _C, "times", (), "All partitions read, since a killed ingest left some untold"),
    Metric(
        "v2x_audit_other_total", _C, "records", (), "Records that are no uplinks, and dead letters without a number"
    ),
    Metric("v2x_audit_streams", _G, "streams", (), "Devices, boots and types that are remembered"),
    Metric("v2x_audit_forgotten_total", _C, "streams", (), "Streams forgotten to make room"),
    Metric("v2x_audit_lag_records", _G, "records", ("topic",), "Records in the log beyond our position"),
    Metric("v2x_audit_skipped_total", _C, "records", ("topic",), "Records that retention took before they were read"),
    Metric("v2x_audit_faults_total", _C, "faults", (), "Faults of fetching and saving that were survived"),
)
BY_NAME: Final[Mapping[str, Metric]] = {m.name: m for m in CATALOGUE}


@dataclass(frozen=True, slots=True)
class Law:
    """Conservation: the sum over all series of ``inflow`` equals the sum over all series of all ``outflow``."""

    name: str
    inflow: str
    outflow: tuple[str, ...]


LAWS: Final[tuple[Law, ...]] = (
    Law(
        "ingest",
        "v2x_ingest_received_total",
        (
            "v2x_ingest_forwarded_total",
            "v2x_ingest_dead_letters_total",
            "v2x_ingest_dropped_total",
            "v2x_ingest_in_flight",
        ),
    ),
    Law(
        "fusion",
        "v2x_fusion_records_total",
        ("v2x_fusion_fused_total", "v2x_fusion_dropped_total", "v2x_fusion_in_flight"),
    ),
    Law(
        "fusion outputs",
        "v2x_fusion_outputs_total",
        (
            "v2x_fusion_written_total",
            "v2x_fusion_suppressed_total",
            "v2x_fusion_refused_total",
            "v2x_fusion_outputs_in_flight",
        ),
    ),
    Law("confirm", "v2x_confirm_records_total", ("v2x_confirm_settled_total", "v2x_confirm_passed_over_total")),
    Law(
        "audit",
        "v2x_audit_taken_total",
        ("v2x_audit_seen_total", "v2x_audit_again_total", "v2x_audit_unplaced_total"),
    ),
)
