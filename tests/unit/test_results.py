"""Files of results: whole, of this version, and the same after a round trip."""

import json
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import PromptConfig
from msrrec.errors import DataError
from msrrec.evaluation.consistency import ChangedChoices
from msrrec.evaluation.document import Document
from msrrec.evaluation.results import (
    AgainstSide,
    ApiFacts,
    Case,
    CaseSide,
    Check,
    Errors,
    EvaluationResult,
    FitResult,
    FusionCount,
    FusionResult,
    Histogram,
    MetricScore,
    ModelFacts,
    ReasoningScores,
    Refused,
    RuleResult,
    SequentialFit,
    SideMetrics,
    Speed,
    TrialResult,
    VariantPair,
    VariantResult,
)
from msrrec.inference.fusion import Gate, SideOutput
from msrrec.inference.predictions import (
    Prediction,
    from_row,
    read_choices,
    to_row,
    write_predictions,
)
from msrrec.metrics.ranking import rank_metrics
from msrrec.metrics.reasoning import ReasoningMetrics
from msrrec.metrics.scores import JudgeFacts
from msrrec.metrics.statistics import Paired
from msrrec.report.results import (
    AdjustedPaired,
    PointVariant,
    ReportResult,
    SeedSpread,
    StudyRow,
    SweepPoint,
    SweepResult,
)
from msrrec.schema import Example
from tests.support.results import evaluation_result, read_all, share, system_id, system_row

PAIRED: dict[str, Any] = vars(Paired(3, 1, 0.625, 0.5, -0.25, 1.0))
QUALITY = ReasoningMetrics(4, share(0.5), None, 7, share(0.25), 0.75, share(9.0))


def full_variant() -> VariantResult:
    examples = [Example(f"e{n}", f"u{n}", ("h",) * n, "a", ("a", "b")) for n in range(1, 5)]
    metrics = rank_metrics(examples, ["a", "b", None, "a"], {"a": 2}, [[0.1, 0.2]] * 4)
    return VariantResult(**vars(metrics), reasoning=QUALITY, outputs_hash="0f")


def full_fusion() -> FusionResult:
    count = FusionCount(
        num_users=4, user_wins=2, item_wins=1, user_hits=2, item_hits=1, fused_hits=2
    )
    rule = RuleResult(
        rule="min",
        num_hits=2,
        hit_ratio=share(0.5),
        hit_ratio_differ=None,
        against_eq3=Paired(**PAIRED),
    )
    return FusionResult(
        total=count,
        by_agreement={"agree": count},
        gain=0,
        against_better=AgainstSide(**PAIRED, side="item"),
        perplexity=Histogram(edges=(1.0, 2.0), agree=(1,), differ=(0,)),
        study=(rule,),
        gate=Gate((0.1, 0.2, 0.3), 40),
    )


def full_fit() -> FitResult:
    trial = TrialResult(
        learning_rate=1e-3,
        dropout=0.1,
        size=32,
        validation=0.5,
        best_epoch=3,
        epochs=9,
        epoch_s=None,
    )
    return FitResult(
        wall_s=2.0,
        sequential=SequentialFit(events_per_item=1.5, best=trial, trials=(trial,)),
        facts={"model": "m", "size": 3},
    )


def full_case() -> Case:
    return Case(
        example_id="e1",
        agreement="differ",
        is_hit=False,
        history=("h",),
        candidates=("a", "b"),
        target=0,
        index=None,
        side=None,
        sides={"user": CaseSide(reasoning="r", text="t", index=None, perplexity=None)},
    )


def full_evaluation() -> EvaluationResult:
    """An evaluation in which every part is there."""
    more = {
        "audit": (Check(name="Leakage", ok=True, text="none"),),
        "paired": (VariantPair(**PAIRED, first="fused", second="user"),),
        "errors": Errors(num_refused=1, first=(Refused(example_id="e1", side="user", error="x"),)),
        "speed": Speed(num_resumed=0, wall_s=1.5, num_tokens=9, tokens_per_s=6.0),
        "sides": {"user": SideMetrics(num_outputs=4, mean_tokens=2.5, median_perplexity=None)},
        "cases": (full_case(),),
        "fusion": full_fusion(),
        "fit": full_fit(),
        "api": ApiFacts(calls=3, unanswered=1),
    }
    variants = {"fused": full_variant()}
    plain = evaluation_result(system_id("MSR-Rec", "trained", "MSR-Rec (8B)"), variants)
    return plain.model_copy(update=more)


def full_scores() -> ReasoningScores:
    judge = JudgeFacts("m", 3, 1.5, {"itself": 100.0, "code": None}, 9, 0.1, 10, 20, None)
    score = MetricScore(all=share(0.5), correct=None, num_users=3)
    return ReasoningScores(
        references="r",
        num_references=3,
        num_users=4,
        notes={"meteor": "NLTK"},
        judge=judge,
        variants={"fused": {"meteor": score}},
        cases={"e1": None},
    )


def full_report() -> ReportResult:
    paired = AdjustedPaired(**PAIRED, p_adjusted=1.0, detectable=None)
    row = system_row(system_id("caser", "baseline", "Caser"), "caser", 0.5, meteor=share(0.1))
    ranking = rank_metrics(
        [Example("e", "u", ("h",), "a", tuple("abcd"))], ["a"], scores=[[3.0, 2.0, 1.0, 0.0]]
    ).ranking
    more = {"paired": paired, "ranking": ranking, "reasoning": QUALITY}
    (rule,) = full_fusion().study
    changed = ChangedChoices(
        system="s", variant="user", differs="seed", changed=share(0.2), hit_ratios=(0.5, 0.4)
    )
    return ReportResult(
        systems=(row.model_copy(update=more),),
        failures={"bm25": "no"},
        findings=("f",),
        warnings=(),
        seeds=(SeedSpread(label="s", mean=0.5, sd=0.1, values={0: 0.4, 1: 0.6}),),
        changed_choices=(changed,),
        fusion_study=(StudyRow(**dict(rule), label="lower", p_adjusted=0.5),),
    )


def full_sweep() -> SweepResult:
    point = SweepPoint(
        alpha=0.7,
        beta=0.3,
        folder="p",
        loss_rea=None,
        loss_rec=1.0,
        num_users=4,
        chance=0.2,
        variants={"full": PointVariant(hit_ratio=share(0.5), valid_ratio=share(0.9))},
    )
    return SweepResult(split="validation", points=(point,), best_alpha={"full": 0.7})


DOCUMENTS = [full_evaluation(), full_scores(), full_report(), full_sweep()]
EVERY_KIND = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: type(d).__name__)


@EVERY_KIND
def test_a_result_comes_back_as_it_was_written(document: Document, tmp_path: Path) -> None:
    document.save(str(tmp_path))
    assert type(document).load(str(tmp_path)) == document


@EVERY_KIND
def test_a_file_says_its_kind_and_schema_version_first(document: Document, tmp_path: Path) -> None:
    document.save(str(tmp_path))
    written = json.loads((tmp_path / document.FILE).read_text())
    assert list(written)[:2] == ["kind", "schema_version"]


def rewrite(folder: Path, document: Document, **changes: Any) -> None:
    document.save(str(folder))
    file = folder / document.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@EVERY_KIND
def test_another_schema_version_is_refused_with_what_to_run(
    document: Document, tmp_path: Path
) -> None:
    rewrite(tmp_path, document, schema_version=99)
    words = f"has schema version 99; expected {document.VERSION}; run `{document.MADE_BY}` again"
    with pytest.raises(DataError, match=words):
        type(document).load(str(tmp_path))


@EVERY_KIND
def test_an_unknown_key_is_refused(document: Document, tmp_path: Path) -> None:
    rewrite(tmp_path, document, surprise=1)
    with pytest.raises(
        DataError, match="surprise: Extra inputs are not permitted; expected a file of"
    ):
        type(document).load(str(tmp_path))


def test_an_unknown_key_of_an_inner_part_is_refused_with_its_place(tmp_path: Path) -> None:
    full_evaluation().save(str(tmp_path))
    file = tmp_path / EvaluationResult.FILE
    found = json.loads(file.read_text())
    found["variants"]["fused"]["hit_ratio"]["median"] = 0.5
    file.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"variants\.fused\.hit_ratio\.median: "):
        EvaluationResult.load(str(tmp_path))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    rewrite(tmp_path, full_evaluation(), kind="other")
    with pytest.raises(DataError, match="not an evaluation; expected a file made by `msrrec eval"):
        EvaluationResult.load(str(tmp_path))


def test_figures_are_read_as_attributes() -> None:
    assert full_evaluation().variants["fused"].hit_ratio.value == 0.5
    assert full_evaluation().variants["fused"].hits == [True, False, False, True]


EXAMPLES = [Example(f"e{n}", f"u{n}", ("h",), "a", ("a", "b")) for n in range(3)]
CANDIDATES = {example.example_id: example.candidates for example in EXAMPLES}
PREDICTIONS = [
    Prediction(
        "e0",
        SideOutput("user", "text", "because", 1, 1.5, 7, 1.25, 2.5, (-1.0, -0.5)),
        seed=3,
    ),
    Prediction("e1", SideOutput("none", "", "", None, None, 0), 0),
    Prediction("e2", SideOutput("sasrec", "B", "", 1, None, 0), 0, candidate_scores=(0.1, 0.9)),
]


def test_predictions_come_back_from_disk_as_they_were(tmp_path: Path) -> None:
    path = str(tmp_path / "user.parquet")
    write_predictions(path, PREDICTIONS, CANDIDATES)
    assert read_all(path, EXAMPLES) == PREDICTIONS
    assert read_choices(path) == {"e0": "b", "e1": None, "e2": "b"}


def test_a_row_holds_all_that_a_prediction_is() -> None:
    refused = Prediction("e", SideOutput("user", "", "", None, None, 0), 5, "too long", 2)
    for prediction in (*PREDICTIONS, refused):
        assert from_row(to_row(prediction)) == prediction


def test_predictions_about_other_users_or_candidates_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "user.parquet")
    write_predictions(path, PREDICTIONS, CANDIDATES)
    with pytest.raises(DataError, match="holds other examples than the dataset"):
        read_all(path, EXAMPLES[:2])
    others = [Example(e.example_id, e.user_id, e.history, "a", ("a", "c")) for e in EXAMPLES]
    with pytest.raises(DataError, match="chooses b for e0, which is none of its candidates"):
        read_all(path, others)


def test_an_older_result_names_its_answer_format_alone() -> None:
    facts = {"model_dir": "m", "weights": "w", "adapter": None, "revision": None}
    older = {**facts, "weights_hash": None, "answer_format": "title"}
    assert ModelFacts.model_validate(older).form == PromptConfig(answer_format="title")
    newer = {**facts, "weights_hash": None, "form": {"order": "candidates_first"}}
    assert ModelFacts.model_validate(newer).form == PromptConfig(order="candidates_first")
