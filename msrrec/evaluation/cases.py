"""Case studies: the first user of each kind, right and wrong, so none is hand-picked."""

from collections.abc import Mapping, Sequence

from msrrec.data.dataset import Dataset
from msrrec.evaluation.results import Case, CaseSide
from msrrec.inference.fusion import Recommendation, SideOutput
from msrrec.inference.recommender import Mode
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example
from msrrec.titles import clean_title


class CasePicker:
    """Picks one case for each agreement and outcome, for fusion or else the first variant."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._found: dict[tuple[str, bool], Case] = {}

    def add(
        self,
        examples: Sequence[Example],
        outputs: Sequence[Mapping[Side, SideOutput]],
        decisions: Mapping[Mode, Sequence[Recommendation]],
    ) -> None:
        """Look for kinds that no earlier user had."""
        variant: Mode = "fused" if "fused" in decisions else next(iter(decisions))
        for example, sides, decision in zip(examples, outputs, decisions[variant], strict=True):
            target = example.target_slot
            kind = (decision.agreement, decision.index == target)
            if kind not in self._found:
                self._found[kind] = _case(self._dataset, example, target, sides, decision)

    @property
    def cases(self) -> list[Case]:
        """The cases in the order in which they were found."""
        return list(self._found.values())


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
