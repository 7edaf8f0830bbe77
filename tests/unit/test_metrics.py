"""What the service counts and times, and how the figures of its replicas stand together."""

import re

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric

from msrrec.config import InferenceConfig
from serve.metrics import merge, render
from tests.support.service import World, outlast_any_deadline


def samples(world: World, name: str) -> dict[str, float]:
    """The values of a metric by their labels, but for the version of the one model."""
    text = world.call("GET", "/metrics").text
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return {labels.removesuffix(',version="v1"'): float(value) for labels, value in found}


def test_each_part_of_a_computation_is_timed_by_mode() -> None:
    world = World()
    world.ask(top_k=2)
    world.ask(mode="fast")
    assert samples(world, "msrrec_phase_seconds_count") == {
        'mode="fused",phase="queue"': 1,
        'mode="fused",phase="user"': 1,
        'mode="fused",phase="item"': 1,
        'mode="fused",phase="ranking"': 2,
        'mode="fast",phase="queue"': 1,
        'mode="fast",phase="ranking"': 1,
    }


def test_a_routed_request_is_timed_as_one_whichever_way_it_takes() -> None:
    world = World()
    world.api.fan_out.recommender.config = InferenceConfig(route_threshold=1.0)
    world.ask(mode="routed")
    phases = samples(world, "msrrec_phase_seconds_count")
    assert {key.partition(",")[0] for key in phases} == {'mode="routed"'}
    assert [key.partition(",")[2] for key in phases] == [
        f'phase="{name}"' for name in ("queue", "direct", "user", "item")
    ]


def test_the_whole_time_is_told_by_mode_and_by_where_the_answer_came_from() -> None:
    world = World(cache_ttl_s=60)
    for _ in range(3):
        world.ask()
    assert samples(world, "msrrec_request_seconds_count") == {
        'mode="fused",source="live"': 1,
        'mode="fused",source="cached"': 2,
    }
    assert samples(world, "msrrec_cache_answers") == {"": 1}
    assert samples(world, "msrrec_cache_bytes")[""] > 2000


def test_perplexity_and_outputs_are_told_by_side() -> None:
    world = World()
    world.ask()
    # exp(0.5) = 1.65 and exp(1) = 2.72
    assert samples(world, "msrrec_outputs_total") == {'side="user"': 1, 'side="item"': 1}
    buckets = samples(world, "msrrec_perplexity_bucket")
    assert (buckets['le="1.5",side="user"'], buckets['le="1.75",side="user"']) == (0, 1)
    assert (buckets['le="2.5",side="item"'], buckets['le="3.0",side="item"']) == (0, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_refusals_are_counted_once_by_their_reason(stream: bool) -> None:
    world = World(key="k")
    world.item.before = outlast_any_deadline
    headers = {"Authorization": "Bearer k"}
    ask = {"history": ["a"], "candidates": ["b", "Rope"], "stream": stream}
    for body, sent in [({}, {}), ({}, headers), (ask, headers)]:
        world.call("POST", "/v1/recommend", json=body, headers=sent)
    world.call("GET", "/v1/nothing", headers=headers)  # is no request for a recommendation
    text = world.call("GET", "/metrics", headers=headers).text
    found = dict(re.findall(r'^msrrec_refusals_total{reason="(\w+)"} (\S+)$', text, re.MULTILINE))
    assert found == {"unauthorized": "1.0", "invalid_request": "1.0", "deadline_exceeded": "1.0"}


def families(requests: int, seconds: float) -> list[Metric]:
    """The metrics of one replica."""
    registry = CollectorRegistry()
    Counter("asked", "Requests", ["status"], registry=registry).labels("200").inc(requests)
    Histogram("took", "Seconds", registry=registry, buckets=(1, 2)).observe(seconds)
    return list(registry.collect())


def test_figures_of_replicas_keep_apart_so_that_their_sum_is_right() -> None:
    found = {("v1", "r1"): families(2, 0.5), ("v2", "r2"): families(5, 1.5)}
    text = render(merge(found)).decode()
    assert 'asked_total{replica="r1",status="200",version="v1"} 2.0' in text
    assert 'asked_total{replica="r2",status="200",version="v2"} 5.0' in text
    assert 'took_bucket{le="1.0",replica="r1",version="v1"} 1.0' in text
    assert 'took_bucket{le="1.0",replica="r2",version="v2"} 0.0' in text
    assert text.count("# TYPE asked_total counter") == text.count("# TYPE took histogram") == 1
