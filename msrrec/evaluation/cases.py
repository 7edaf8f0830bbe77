"""Case studies: the first user of each kind, right and wrong, so none is hand-picked."""

from collections.abc import Mapping, Sequence

from msrrec.data.dataset import Dataset
from msrrec.evaluation.results import Case, CaseSide
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.recommender import Mode
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example
from msrrec.titles import clean_title


def pick_cases(
    dataset: Dataset,
    examples: Sequence[Example],
    outputs: Sequence[Mapping[Side, SideOutput]],
    decisions: Mapping[Mode, Sequence[Recommendation]],
) -> list[Case]:
    """One case for each agreement and outcome, for fusion or else the first variant."""
    variant: Mode = "fused" if "fused" in decisions else next(iter(decisions))
    cases: dict[tuple[str, bool], Case] = {}
    for example, sides, decision in zip(examples, outputs, decisions[variant], strict=True):
        target = example.candidates.index(example.target)
        kind = (decision.agreement, decision.index == target)
        if kind not in cases:
            cases[kind] = _case(dataset, example, target, sides, decision)
    return list(cases.values())


def _case(
    dataset: Dataset,
    example: Example,
    target: int,
    sides: Mapping[Side, SideOutput],
    decision: Recommendation,
) -> Case:
    return Case(
        example_id=example.example_id,
        agreement=decision.agreement,
        is_hit=decision.index == target,
        history=tuple(clean_title(title) for title in dataset.titles(example.history)),
        candidates=tuple(clean_title(title) for title in dataset.titles(example.candidates)),
        target=target,
        index=decision.index,
        side=decision.side,
        sides={
            name: CaseSide(
                reasoning=output.reasoning,
                text=output.text,
                index=output.index,
                perplexity=output.perplexity,
            )
            for name, output in sides.items()
        },
    )
