from __future__ import annotations

import asyncio
import math
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from v2x.errors import ConfigError

from v2x_services.catalogue import BY_NAME, CATALOGUE, LATENCY_S, LAWS, Kind
from v2x_services.http import HealthServer
from v2x_services.metrics import Hist, Metrics


def test_catalogue_is_sound() -> None:
    assert len(BY_NAME) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert metric.name.startswith("v2x_")
        assert metric.help
        assert metric.unit
        assert metric.name.endswith("_total") == (metric.type is Kind.COUNTER)
        assert list(metric.buckets) == sorted(set(metric.buckets))
    for objective in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2):
        assert objective in LATENCY_S


def test_laws_name_metrics_of_the_catalogue() -> None:
    for law in LAWS:
        assert {law.inflow, *law.outflow} <= BY_NAME.keys()


@pytest.mark.parametrize(
    ("name", "labels"), [("v2x_nothing_total", {}), ("v2x_ready", {"x": "1"}), ("v2x_ingest_received_total", {})]
)
def test_unknown_names_and_labels_are_refused(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(KeyError):
        Metrics("t", "0").inc(name, **labels)


def test_a_value_on_an_edge_is_within_it_and_columns_count_like_single_values() -> None:
    ages = np.array([0, 5_000, 5_001, 100_000, 200_000, 99_000_000, -1_000_000])  # microseconds
    one, many = Hist(LATENCY_S), Hist(LATENCY_S)
    for age in ages:
        one.observe(age * 1e-6)
    now = 1_750_000_000_000_000
    many.observe_since(now, np.stack((now - ages, ages), axis=1)[:, 0], 1e-6)
    many.observe_since(now, ages[:0], 1e-6)
    assert one.counts == many.counts
    assert math.isclose(one.total, many.total)
    buckets = dict(one.buckets())
    assert buckets["0.005"] == 3  # 0, 5 ms itself, and the negative one
    assert buckets["0.2"] == 6
    assert buckets["+Inf"] == one.count == 7


def test_conservation_is_seen_when_it_holds_and_when_it_does_not() -> None:
    m, law = Metrics("t", "0"), LAWS[0]
    received = m.bind("v2x_ingest_received_total", session="reliable")
    received.add(10)
    m.inc("v2x_ingest_forwarded_total", 7, session="reliable")
    m.inc("v2x_ingest_dead_letters_total", 2, session="reliable", reason="TRUNCATED")
    m.set("v2x_ingest_in_flight", 1, session="perishable")
    assert m.imbalance(law) == 0
    received.add(1)
    assert m.imbalance(law) == 1


async def get(url: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            with e:
                return e.code, e.read().decode()

    return await asyncio.to_thread(ask)


async def test_http_serves_metrics_and_health(tmp_path) -> None:
    m = Metrics("demo", "1.2.3")
    m.observe("v2x_fusion_step_seconds", 0.03, topic="t")
    lag = 5.0
    m.before_scrape(lambda: m.set("v2x_fusion_lag_records", lag, topic="t", partition="0"))
    why = "compiling"
    server = HealthServer(m, lambda: why)
    await server.start()
    url = f"http://127.0.0.1:{server.port}"
    try:
        server.tell(tmp_path)
        assert (tmp_path / "demo.port").read_text().strip() == str(server.port)
        assert (await get(f"{url}/healthz"))[0] == 200
        status, body = await get(f"{url}/readyz")
        assert status == 503
        assert "compiling" in body
        why = ""
        assert (await get(f"{url}/readyz"))[0] == 200
        assert (await get(f"{url}/else"))[0] == 404
        lag = 7.0
        status, text = await get(f"{url}/metrics")
        samples = {
            (s.name, *sorted(s.labels.values())): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }
        assert samples["v2x_build_info", "1.2.3", "demo"] == 1
        assert samples["v2x_fusion_lag_records", "0", "t"] == 7
        assert samples["v2x_fusion_step_seconds_bucket", "0.02", "t"] == 0
        assert samples["v2x_fusion_step_seconds_bucket", "0.05", "t"] == 1
        assert samples["v2x_ready",] == 1

        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"nonsense\r\n\r\n")  # a broken client does no harm
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert (await get(f"{url}/healthz"))[0] == 200

        with pytest.raises(ConfigError, match="another metrics port"):
            await HealthServer(m, lambda: "", port=server.port).start()
    finally:
        await server.stop()
