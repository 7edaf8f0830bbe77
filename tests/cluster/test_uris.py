"""Commands beside the stages whose model, dataset and evaluation lie in a bucket."""

import json

import pytest

from tests.support.cluster_runs import Site
from tests.support.nodes import can_isolate

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_isolate(), reason="nodes of their own files need root"),
]


def test_reasoning_is_scored_and_a_purchase_recommended_from_uris(site: Site, calm: str) -> None:
    asked = site.submit(
        *("jobs.synthesize", "--dataset", site.path(f"{calm}/dataset")),
        *("--out", site.path("references"), "synthesis.split=test"),
    )
    code, log = asked.wait()
    assert code == 0, log
    scored = site.submit(
        *("jobs.score", site.path(f"{calm}/evaluation")),
        *("--dataset", site.path(f"{calm}/dataset"), "--references", site.path("references")),
    )
    code, log = scored.wait()
    assert code == 0, log
    assert site.names(f"{calm}/evaluation/score/run.json")
    answered = site.submit(
        *("msrrec", "recommend", "--model", site.path(f"{calm}/model")),
        *("--history", "Trail Camera", "--candidate", "Lens", "--candidate", "Garden Hose"),
        "inference.constrained=true",
    )
    code, log = answered.wait()
    assert code == 0, log
    line = next(line for line in reversed(log.splitlines()) if line.startswith("{"))
    assert json.loads(line)["item"] in ("Lens", "Garden Hose")
