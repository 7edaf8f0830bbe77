"""Further views of the page: positions, groups, curves, fusion rules, case studies."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.partitions import PARTITION_SIZE
from msrrec.evaluation.results import Case, EvaluationResult, Metric, RuleResult, VariantResult
from msrrec.inference.predictions import predictions_path
from msrrec.metrics.anchors import TextAnchor
from msrrec.metrics.ranking import Group, Groups, Slots
from msrrec.metrics.statistics import Share, holm
from msrrec.report.load import Evaluated
from msrrec.report.plots import Curves, axis_top, training_curves
from msrrec.report.results import StudyRow

_TEXTS = pa.schema(
    [schema.PREDICTIONS.field(name) for name in ("example_id", "text", schema.ITEM_ID)]
)


@dataclass(frozen=True)
class SlotRow:
    """One position (from 1) in the candidate list, with its hits and its share of choices."""

    slot: int
    num_users: int
    hit_ratio: Share | None
    chosen: float


@dataclass(frozen=True)
class SlotTable:
    """The table of positions; ``top`` is the end of its bars."""

    rows: tuple[SlotRow, ...]
    p_value: float | None
    hit_p_value: float | None
    top: float


@dataclass(frozen=True)
class GroupTable:
    """HitRatio@1 grouped by a count; each row has a label."""

    title: str
    rows: tuple[tuple[str, Group], ...]
    p_value: float | None


@dataclass(frozen=True)
class ModelCurves:
    """The training of one model."""

    label: str
    curves: Curves


@dataclass(frozen=True)
class BackboneText:
    """The untrained backbone's output for the same user, and the item that it names."""

    label: str
    text: str
    item_id: str | None


@dataclass(frozen=True)
class ShownCase:
    """A case study, with its reference and the backbone's output if they exist."""

    case: Case
    reference: str | None
    backbone: BackboneText | None


def show_slots(slots: Slots) -> SlotTable:
    """Positions with their hits and choices."""
    total = max(sum(slots.num_chosen), 1)
    columns = zip(slots.num_users, slots.hit_ratio, slots.num_chosen, strict=True)
    rows = tuple(
        SlotRow(n, users, share, chosen / total)
        for n, (users, share, chosen) in enumerate(columns, 1)
    )
    highs = [row.hit_ratio.high for row in rows if row.hit_ratio]
    return SlotTable(rows, slots.uniform_p_value, slots.hit_p_value, axis_top(highs or [1.0]))


def show_groups(found: VariantResult) -> list[GroupTable]:
    """HitRatio@1 by history length and by popularity of the target."""
    tables = [_label("purchases before", found.history_length)]
    if found.popularity:
        tables.append(_label("training users of the target", found.popularity))
    return tables


def _label(title: str, groups: Groups) -> GroupTable:
    rows = tuple((_name_range(row.low, row.high), row) for row in groups.rows)
    return GroupTable(title, rows, groups.p_value)


def _name_range(low: int, high: int | None) -> str:
    """A range such as ``3 to 4``; group 0 has targets that nobody bought in training."""
    if high is None:
        return f"{low} or more"
    if high == 0:
        return "0 (cold)"
    return str(low) if low == high else f"{low} to {high}"


def show_curves(results: Sequence[Evaluated]) -> list[ModelCurves]:
    """One training curve per model, even if it was evaluated several times."""
    found: dict[str, ModelCurves] = {}
    for evaluated in results:
        curves = training_curves(evaluated.training)
        if curves and evaluated.result.model:
            model_dir = evaluated.result.model.model_dir
            found.setdefault(model_dir, ModelCurves(evaluated.label, curves))
    return list(found.values())


METRICS: dict[Metric, str] = {
    "meteor": "METEOR",
    "bertscore_f1": "BERTScore F1",
    "gptscore_logprob": "GPTScore, log-prob.",
    "judge_0_100": "judge",
}
ANCHORS: dict[TextAnchor, str] = {
    "another user's": "another user's reference: right form, wrong content",
    "shuffled words": "the reference's words shuffled: says nothing",
    "reworded": "the reference with other words: right, same form",
    "restated": "the right item and why, in free words: right, other form",
}

_RULES = {
    "user": "user side alone",
    "item": "item side alone",
    "eq3": "Equation 3",
    "min": "always the lower perplexity",
    "max": "always the higher perplexity",
    "margin": "the larger margin in likelihood",
    "vote": "vote with the full chain",
    "certainty": "the candidate probabilities farther from uniform (self-certainty at the answer)",
    "likelihood_vote": "vote weighted by likelihood (RPC without pruning)",
    "pool": "both sides' mean probability of a candidate",
    "pool_all": "all outputs' mean probability of a candidate",
    "joint": "joint likelihood of reasoning and answer (PiCSAR)",
    "coin": "a coin, by a hash of the user",
    "gate": "gate fitted on validation",
    "eq3_output": "Equation 3, perplexity of the whole output",
    "eq3_unconditional": "Equation 3, perplexity without the prompt",
    "oracle": "oracle: either side right",
}


def build_study(result: EvaluationResult) -> tuple[StudyRow, ...]:
    """The fusion rules with corrected p-values; empty without fusion."""
    study = result.fusion.study if result.fusion else ()
    tests = {row.rule: row.against_eq3 for row in study if row.rule not in ("oracle", "chosen")}
    p_values = {rule: test.p_value for rule, test in tests.items() if test}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return tuple(
        StudyRow(
            **dict(row), label=_name_rule(row), p_adjusted=adjusted.get(row.chosen or row.rule)
        )
        for row in study
    )


def _name_rule(row: RuleResult) -> str:
    if row.chosen:
        return f"chosen on validation: {_RULES[row.chosen]}"
    if row.expected is not None:
        return f"{_RULES[row.rule]}; expected {row.expected:.4f}"
    return _RULES[row.rule]


def show_cases(main: Evaluated, results: Sequence[Evaluated]) -> list[ShownCase]:
    """The case studies, with references and the backbone's output for the same user."""
    references = main.scores.cases if main.scores else {}
    base = next((r for r in results if r.result.system.id == "backbone"), None)
    wanted = {case.example_id for case in main.result.cases}
    texts = _backbone_texts(base, wanted) if base and base.users == main.users else {}
    return [
        ShownCase(case, references.get(case.example_id), texts.get(case.example_id))
        for case in main.result.cases
    ]


def _backbone_texts(base: Evaluated, wanted: Collection[str]) -> dict[str, BackboneText]:
    """What the backbone wrote for some users, by example id."""
    variant = next(iter(base.result.variants))
    path = predictions_path(base.path, variant)
    if not storage.exists(path):
        return {}
    return {
        example_id: BackboneText(base.label, text, item_id)
        for table in storage.iter_tables(path, _TEXTS, PARTITION_SIZE)
        for example_id, text, item_id in zip(*table.to_pydict().values(), strict=True)
        if example_id in wanted
    }
