"""The sweep's result and Figure 6, from finished points."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from msrrec import storage
from msrrec.config import load_config
from msrrec.errors import ConfigError
from msrrec.evaluation.results import Metric
from msrrec.metrics.statistics import Share
from msrrec.metrics.text import meteor
from msrrec.pipeline import sweep
from msrrec.report.plots import sweep_figure
from msrrec.report.results import PointVariant, SweepPoint, SweepResult
from tests.support.dataset import write_dataset
from tests.support.results import evaluation_result, share, system_id, variant_result
from tests.support.score import REFERENCE, write_references, write_scored

HITS = {0.2: 0.25, 0.5: 0.75, 0.8: 0.5}


def write_point(folder: Path, alpha: float) -> None:
    point = folder / sweep.name_of(alpha)
    summary = {"loss_rea": None, "loss_rec": 1.5}
    storage.write_json(str(point / "model" / storage.RECORD), {"summary": summary})
    found = replace(variant_result(), hit_ratio=share(HITS[alpha]), valid_ratio=share(0.9))
    result = evaluation_result(system_id("m", "trained"), {"full": found}, num_users=40)
    result.save(str(point / "predictions"))


def point(
    alpha: float, hit_ratio: Share, scores: Mapping[Metric, Share] | None = None
) -> SweepPoint:
    return SweepPoint(
        alpha=alpha,
        beta=1 - alpha,
        folder="p",
        loss_rea=1.0,
        loss_rec=1.0,
        num_users=4,
        chance=0.2,
        variants={
            "full": PointVariant(
                hit_ratio=hit_ratio, valid_ratio=share(0.5), scores=dict(scores or {})
            )
        },
        num_references=3 if scores else 0,
        scored_with={"judge_0_100": "a judge"} if scores else {},
    )


def test_a_sweep_names_the_best_alpha_and_draws_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[float, ...]] = []

    def run_points(run: Callable[[float], None], alphas: Sequence[float], *rest: Any) -> None:
        ran.append(tuple(alphas))
        for alpha in alphas:
            write_point(tmp_path / "out", alpha)

    monkeypatch.setattr(sweep, "run_points", run_points)
    dataset = write_dataset(tmp_path / "dataset", 11)
    config = load_config(overrides=["sweep.alphas=[0.8,0.2,0.5]"])
    summary = sweep.sweep(dataset.path, "paths", str(tmp_path / "out"), config, ["full"])
    assert ran == [(0.2, 0.5, 0.8)]
    assert (summary["best_alpha"], summary["hit_ratio"]) == ({"full": 0.5}, {"full": 0.75})
    result = SweepResult.load(str(tmp_path / "out"))
    assert [(p.alpha, p.beta) for p in result.points] == [
        (0.2, 0.8),
        (0.5, 0.5),
        (0.8, 0.2),
    ]
    assert result.points[0].variants["full"].hit_ratio.value == 0.25
    page = Path(summary["page"]).read_text()
    assert page.count("<polyline") == 1
    for label in ("0.2/0.8", "0.5/0.5", "0.8/0.2", "40 users of the validation split"):
        assert label in page


def test_a_page_escapes_the_shops_name() -> None:
    points = (point(0.5, share(0.5)),)
    result = SweepResult(split="test", points=points, best_alpha={"full": 0.5})
    assert b"<script>" not in sweep.render_sweep(result, "<script>")


def test_curves_of_shares_lie_on_a_plane_from_zero() -> None:
    points = [
        point(alpha, Share(value, value - 0.1, value + 0.1))
        for alpha, value in ((0, 0.25), (0.5, 0.5))
    ]
    (figure,) = sweep_figure(points)
    # the highest whisker ends at 0.6, so the plane ends at 0.7: 0.25 is 0.25/0.7 of 200 above 0
    assert figure.top == pytest.approx(0.7)
    assert figure.curves["full"].line == "0.0,128.6 300.0,57.1"
    ((x, low, high), _) = figure.curves["full"].whiskers
    assert (x, round(low, 1), round(high, 1)) == (0.0, 157.1, 100.0)


def test_a_gptscore_that_every_point_has_is_a_second_panel() -> None:
    marks = (Share(70, 66, 74), Share(80, 78, 83))
    points = [
        point(alpha, share(0.5), {"judge_0_100": mark, "meteor": share(0.1)})
        for alpha, mark in zip((0, 0.5), marks, strict=True)
    ]
    hits, judged = sweep_figure(points)
    assert (hits.title, judged.title) == ("HitRatio@1", "GPTScore as a judge's mark, 0 to 100")
    # intervals from 66 to 83 on steps of 5: an axis from 65 to 85, where 70 is 3/4 down from above
    assert (judged.bottom, judged.top, judged.chance, judged.note) == (65, 85, None, "a judge")
    assert judged.curves["full"].line == "0.0,150.0 300.0,50.0"
    page = sweep.render_sweep(
        SweepResult(split="test", points=tuple(points), best_alpha={"full": 0.0}), "Shop"
    ).decode()
    assert page.count("<polyline") == 2
    assert "over the 3 users with a reference" in page
    assert "needs <code>msrrec sweep --references" not in page
    some = [points[0], point(0.5, share(0.5))]
    assert [panel.title for panel in sweep_figure(some)] == ["HitRatio@1"]


def test_log_probabilities_below_zero_have_an_axis_of_their_own() -> None:
    points = [
        point(alpha, share(0.5), {"gptscore_logprob": Share(value, value - 0.1, value + 0.1)})
        for alpha, value in ((0.2, -2.5), (0.8, -2.2))
    ]
    panel = sweep_figure(points)[1]
    assert (round(panel.bottom, 6), round(panel.top, 6)) == (-2.6, -2.1)
    assert panel.curves["full"].line == "120.0,160.0 480.0,40.0"


def test_with_references_the_reasoning_of_every_point_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, evaluation = write_scored(tmp_path)
    references = write_references(tmp_path / "references", {"e0": "a", "e1": "a"})
    out = tmp_path / "out"

    def run_points(run: Callable[[float], None], alphas: Sequence[float], *rest: Any) -> None:
        for alpha in alphas:
            write_point(out, alpha)
            shutil.copytree(
                evaluation, out / sweep.name_of(alpha) / "predictions", dirs_exist_ok=True
            )

    monkeypatch.setattr(sweep, "run_points", run_points)
    config = load_config(overrides=["sweep.alphas=[0.2,0.5]", "sweep.split=test"])
    arguments = (dataset.path, "paths", str(out), config, ["user"])
    sweep.sweep(*arguments)
    assert SweepResult.load(str(out)).points[0].variants["user"].scores == {}
    sweep.sweep(*arguments, references=references)
    for found in SweepResult.load(str(out)).points:
        assert found.num_references == 2
        own = found.variants["user"].scores["meteor"]
        # user 0 wrote the reference and user 1 nothing like it
        assert own.value == pytest.approx(meteor([(REFERENCE, REFERENCE)]).values[0] / 2)
        assert found.scored_with["meteor"]


@pytest.mark.parametrize("alphas", ["[]", "[0.3, 0.3]", "[1.5]"])
def test_alphas_that_make_no_sweep_are_refused(alphas: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.alphas"):
        load_config(overrides=[f"sweep.alphas={alphas}"])
