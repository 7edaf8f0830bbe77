"""A study of fusion rules: every rule on the same outputs, side by side.

Recommendations always follow Eq. 3. A rule matters only for users whose sides differ, so the table
gives their number.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from operator import or_

import numpy as np
from numpy.typing import NDArray

from msrrec import storage
from msrrec.data.dataset import Dataset
from msrrec.data.partitions import Partitions
from msrrec.errors import DataError
from msrrec.evaluation.examples import partition_examples
from msrrec.evaluation.results import EvaluationResult, RuleResult
from msrrec.inference.fusion import (
    Gate,
    SideOutput,
    by_certainty,
    by_coin,
    by_equation_3,
    by_higher,
    by_joint_likelihood,
    by_likelihood_vote,
    by_lower,
    by_margin,
    by_vote,
    candidate_probabilities,
    fuse,
)
from msrrec.inference.predictions import iter_predictions, predictions_path
from msrrec.metrics.statistics import Share, mcnemar, wilson
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

logger = logging.getLogger(__name__)

MIN_GATE_USERS = 20
"""Minimum number of users with exactly one right side to fit a gate."""

_RIDGE = 1e-3

Sides = Mapping[str, SideOutput]
"""The outputs for one example, by side; further samples under their own names can vote."""


def fusion_study(
    examples: Sequence[Example],
    sides: Sequence[Sides],
    gate: Gate | None = None,
    chosen: str | None = None,
) -> tuple[RuleResult, ...]:
    """One row per rule: hits with interval, and the paired test against Eq. 3.

    Both sides alone come first, and last the oracle, which is right if either side is. Rules whose
    inputs were not measured are left out.

    Args:
        examples: One example per user.
        sides: The outputs of each example.
        gate: A gate fitted on validation, for a row of its own.
        chosen: The best rule on validation, see ``choose_rule``, for a row of its own.
    """
    tally = StudyTally(gate, chosen)
    tally.add(examples, sides)
    return tally.result()


class StudyTally:
    """What ``fusion_study`` needs of the users so far: a byte a user and rule."""

    def __init__(self, gate: Gate | None = None, chosen: str | None = None) -> None:
        self._gate, self._chosen = gate, chosen
        self._hits: dict[str, bytearray] = {}
        self._measured, self._differ = set[str](), bytearray()
        self._num_throws = 0

    def add(self, examples: Sequence[Example], sides: Sequence[Sides]) -> None:
        """Add users.

        A rule whose inputs nobody had so far is tried too, as later users may have them.
        """
        for name, found in _try_rules(examples, sides, self._gate).items():
            self._hits.setdefault(name, bytearray()).extend(found)
        self._measured |= {name for name, is_measured in _measured(sides).items() if is_measured}
        self._differ.extend(map(_differ, sides))
        self._num_throws += sum(_throws(examples, sides))

    def result(self) -> tuple[RuleResult, ...]:
        """The study of all users that were added."""
        hits = {n: h for n, h in self._hits.items() if n not in _RULES or n in self._measured}
        num_users = len(self._differ)
        if self._chosen in hits:
            hits["chosen"] = hits[self._chosen]
        hits["oracle"] = bytearray(map(or_, hits["user"], hits["item"]))
        coin = self._num_throws / (2 * num_users) if num_users else None
        return tuple(
            RuleResult(
                rule=name,
                num_hits=sum(is_hit),
                hit_ratio=_share(is_hit),
                hit_ratio_differ=_share(bytes(compress(is_hit, self._differ))),
                against_eq3=None if name == "eq3" else mcnemar(is_hit, hits["eq3"]),
                expected=coin if name == "coin" else None,
                chosen=self._chosen if name == "chosen" else None,
            )
            for name, is_hit in hits.items()
        )


def rule_hits(
    examples: Sequence[Example], sides: Sequence[Sides], gate: Gate | None = None
) -> dict[str, list[bool]]:
    """For each rule whose inputs were measured, the coin included, whether it hits each user.

    The sides alone come first. Arguments as of ``fusion_study``.
    """
    is_measured = _measured(sides)
    found = _try_rules(examples, sides, gate)
    return {name: hits for name, hits in found.items() if is_measured.get(name, True)}


def _try_rules(
    examples: Sequence[Example], sides: Sequence[Sides], gate: Gate | None
) -> dict[str, list[bool]]:
    """What each rule hits, its inputs measured or not."""
    targets = [example.target_slot for example in examples]
    choices = {name: [rule(both) for both in sides] for name, rule in _RULES.items()}
    choices["coin"] = [_flip(e, both) for e, both in zip(examples, sides, strict=True)]
    if gate:
        choices["gate"] = [fuse(both["user"], both["item"], gate).index for both in sides]
    return {
        name: [choice == target for choice, target in zip(chosen, targets, strict=True)]
        for name, chosen in choices.items()
    }


def _by(rule: Callable[[SideOutput, SideOutput], bool]) -> Callable[[Sides], int | None]:
    return lambda both: fuse(both["user"], both["item"], rule).index


def _flip(example: Example, both: Sides) -> int | None:
    return fuse(both["user"], both["item"], by_coin(example.example_id)).index


def _heads(user_side: SideOutput, item_side: SideOutput) -> bool:
    return True


def _tails(user_side: SideOutput, item_side: SideOutput) -> bool:
    return False


def expected_of_coin(examples: Sequence[Example], sides: Sequence[Sides]) -> float | None:
    """The expected HitRatio@1 of a fair coin: the mean of what heads and tails would hit."""
    throws = _throws(examples, sides)
    return sum(throws) / len(throws) if throws else None


def _throws(examples: Sequence[Example], sides: Sequence[Sides]) -> list[bool]:
    """Whether heads and tails hit each user."""
    return [
        fuse(both["user"], both["item"], rule).index == example.target_slot
        for both, example in zip(sides, examples, strict=True)
        for rule in (_heads, _tails)
    ]


def _likelihood_vote(both: Sides) -> int | None:
    return fuse(both["user"], both["item"], by_likelihood_vote(both.values())).index


def choose_rule(study: Sequence[RuleResult]) -> str | None:
    """The rule with the most hits in a study on validation, Eq. 3 first among equals.

    The oracle and the coin are no rules that one can choose, and a gate was fitted elsewhere.
    """
    rules = [row for row in study if row.rule not in ("oracle", "coin", "gate", "chosen")]
    if not rules:
        return None
    return max(rules, key=lambda row: (row.num_hits, row.rule == "eq3")).rule


def _vote(both: Sides) -> int | None:
    rule = by_vote(output for side, output in both.items() if side not in ("user", "item"))
    return fuse(both["user"], both["item"], rule).index


def _pool(outputs: Iterable[SideOutput]) -> int | None:
    """The candidate of the highest mean probability after the valid outputs' reasonings."""
    found = [candidate_probabilities(output) for output in outputs if output.is_valid]
    rows = [probabilities for probabilities in found if probabilities]
    return int(np.argmax(np.mean(rows, axis=0))) if rows else None


def _eq3_on(field: str) -> Callable[[Sides], int | None]:
    """Eq. 3 on another perplexity than that of the reasoning."""

    def choose(both: Sides) -> int | None:
        user, item = (
            replace(o, perplexity=getattr(o, field)) for o in (both["user"], both["item"])
        )
        return fuse(user, item).index

    return choose


_RULES: dict[str, Callable[[Sides], int | None]] = {
    "user": lambda both: both["user"].index,
    "item": lambda both: both["item"].index,
    "eq3": _by(by_equation_3),
    "min": _by(by_lower),
    "max": _by(by_higher),
    "margin": _by(by_margin),
    "certainty": _by(by_certainty),
    "vote": _vote,
    "likelihood_vote": _likelihood_vote,
    "pool": lambda both: _pool((both["user"], both["item"])),
    "pool_all": lambda both: _pool(both.values()),
    "joint": _by(by_joint_likelihood),
    "eq3_output": _eq3_on("perplexity_output"),
    "eq3_unconditional": _eq3_on("perplexity_unconditional"),
}


def _measured(sides: Sequence[Sides]) -> dict[str, bool]:
    """Which rules have their inputs for at least one user."""
    both = [output for pair in sides for output in (pair["user"], pair["item"])]
    needs: dict[str, bool] = {
        "margin": any(output.candidate_logprobs for output in both),
        "certainty": any(output.candidate_logprobs for output in both),
        "vote": any(len(pair) > 2 for pair in sides),
        "likelihood_vote": any(len(pair) > 2 for pair in sides),
        "pool": any(output.candidate_logprobs for output in both),
        "pool_all": any(len(pair) > 2 and pair["user"].candidate_logprobs for pair in sides),
        "joint": any(output.perplexity_output is not None for output in both),
        "eq3_output": any(output.perplexity_output is not None for output in both),
        "eq3_unconditional": any(output.perplexity_unconditional is not None for output in both),
    }
    return {name: needs.get(name, True) for name in _RULES}


def _differ(both: Sides) -> bool:
    user, item = both["user"].index, both["item"].index
    return user is not None and item is not None and user != item


def _share(is_hit: Sequence[int]) -> Share | None:
    return wilson(sum(is_hit), len(is_hit))


def fit_gate(examples: Sequence[Example], sides: Sequence[Sides]) -> Gate | None:
    """A logistic regression on both perplexities that predicts which side is right.

    It uses only users whose sides are both valid with a perplexity, differ, and are not both wrong.
    None if these are fewer than ``MIN_GATE_USERS``.
    """
    return _fit_gate(list(_iter_decisive(examples, sides)))


_Decisive = tuple[float, float, bool]
"""The perplexities of a user's sides, and whether the item side is the right one."""


def _iter_decisive(examples: Sequence[Example], sides: Sequence[Sides]) -> Iterator[_Decisive]:
    for example, both in zip(examples, sides, strict=True):
        user, item = both["user"], both["item"]
        target = example.target_slot
        if _differ(both) and target in (user.index, item.index):
            if user.perplexity is None or item.perplexity is None:
                continue
            yield user.perplexity, item.perplexity, item.index == target


def _fit_gate(users: Sequence[_Decisive]) -> Gate | None:
    from scipy.optimize import minimize  # a second to import

    if len(users) < MIN_GATE_USERS:
        return None
    features = np.array([(1.0, np.log(user), np.log(item)) for user, item, _ in users])
    signs = np.where([is_item for _, _, is_item in users], 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> float:
        fit = np.logaddexp(0.0, -signs * (features @ weights)).mean()
        return float(fit + _RIDGE * (weights @ weights))

    constant, of_user, of_item = minimize(loss, np.zeros(3)).x
    return Gate((float(constant), float(of_user), float(of_item)), len(users))


@dataclass(frozen=True)
class Learned:
    """What a study on validation teaches.

    Attributes:
        gate: The gate fitted there; None where too few users decide.
        chosen: The rule with the most hits there.
        threshold: That of the route with the most hits there; None without direct answers.
        temperatures: Of each variant's confidence, at which its targets are likeliest there.
    """

    gate: Gate | None = None
    chosen: str | None = None
    threshold: float | None = None
    temperatures: Mapping[str, float] = field(default_factory=dict)


def learn(folder: str, dataset: Dataset, weights_hash: str | None = None) -> Learned:
    """The gate, the best rule and the route of the same model's evaluation on validation.

    What another model's evaluation teaches is left out, with a warning.

    Args:
        folder: The evaluation.
        dataset: Its dataset.
        weights_hash: Of the model that is to use it; None if unknown.

    Raises:
        DataError: If the folder is not such an evaluation, or has another dataset.
    """
    found = load_validation(folder, dataset)
    if weights_hash and found.weights_hash and weights_hash != found.weights_hash:
        logger.warning("%s: evaluates another model, so nothing is learned from it", folder)
        return Learned()
    chosen = choose_rule(found.fusion.study) if found.fusion else None
    threshold = found.routing.threshold if found.routing else None
    temperatures = {
        variant: one.temperature
        for variant, one in found.calibration.items()
        if one.temperature is not None
    }
    return Learned(_load_gate(folder, found, dataset), chosen, threshold, temperatures)


def load_validation(folder: str, dataset: Dataset) -> EvaluationResult:
    """The figures of an evaluation on this dataset's validation users.

    Raises:
        DataError: If the folder is not such an evaluation, or has another dataset.
    """
    found = EvaluationResult.load(folder)
    if found.split != "validation" or found.dataset.fingerprint != dataset.fingerprint:
        raise DataError(
            f"{folder}: evaluates the {found.split} split of {found.dataset.path}; expected the "
            f"validation split of {dataset.path}; run `msrrec evaluate` with "
            "evaluate.split=validation and give that folder as evaluate.gate"
        )
    return found


def _load_gate(folder: str, found: EvaluationResult, dataset: Dataset) -> Gate | None:
    """A gate fitted on an evaluation, see ``fit_gate``; None if it has not asked both sides."""
    names: tuple[Side, Side] = ("user", "item")
    if not all(storage.exists(predictions_path(folder, name)) for name in names):
        return None
    examples = partition_examples(dataset, found.config.evaluate)
    sides = iter_sides(folder, examples, names)
    parts = zip(sides, examples.read(), strict=True)
    return _fit_gate([user for both, part in parts for user in _iter_decisive(part, both)])


def read_sides(
    folder: str, examples: Sequence[Example], sides: Sequence[Side]
) -> list[dict[str, SideOutput]]:
    """The outputs of an evaluation's sides, read from its files.

    Raises:
        DataError: If a side was not evaluated, or on other examples.
    """
    return [both for part in iter_sides(folder, Partitions.split(examples), sides) for both in part]


def iter_sides(
    folder: str, examples: Partitions, sides: Sequence[Side]
) -> Iterator[list[dict[str, SideOutput]]]:
    """The outputs for each partition of examples; see ``read_sides``."""
    paths = [predictions_path(folder, side) for side in sides]
    files = (iter_predictions(path, examples) for path in paths)
    for parts in zip(*files, strict=True):
        yield [
            {side: p.output for side, p in zip(sides, found, strict=True)}
            for found in zip(*parts, strict=True)
        ]
