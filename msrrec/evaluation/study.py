"""Does reasoning help? Arms that differ only in the text between the markers, compared in pairs.

A contrast is the difference of two arms' HitRatio@1 on the same users, seed by seed. Three are
primary: reasoning against purchases alone, against the reasoning of other users, and against the
facts that a reasoning could look up; their p-values are corrected together on each dataset.
Datasets are never pooled.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from msrrec.config import StudyConfig
from msrrec.embedded.ceiling import Ceiling
from msrrec.errors import DataError
from msrrec.evaluation.audit import VALID_BAR
from msrrec.evaluation.hits import ArmHits, Cell
from msrrec.evaluation.study_results import (
    FURTHER,
    IN_WORDS,
    PRIMARY,
    ArmCost,
    ArmResult,
    Contrast,
    DatasetResult,
    Heterogeneity,
    Power,
    Reference,
    StudyResult,
    count_of,
    name_order,
)
from msrrec.metrics.crossed import (
    crossed_mean,
    crossed_share,
    detectable_effect,
    sign_flip,
    users_needed,
)
from msrrec.metrics.statistics import holm
from msrrec.page import format_p, percent

_DECIDING = PRIMARY[0]
"""The arms of the verdict."""

_Key = TypeVar("_Key", str, int)
"""A user's id or a seed."""


def plan_power(num_users: int, config: StudyConfig) -> Power | None:
    """The power of the primary contrasts that a study's arms allow; None if they allow none."""
    tests = sum(set(pair) <= set(config.arms) for pair in PRIMARY)
    if not tests:
        return None
    num_seeds, discordant, target = len(config.seeds), config.discordance, config.target
    spread = config.seed_spread if num_seeds > 1 else 0.0  # McNemar's test is over users alone
    return Power(
        num_users=num_users,
        num_seeds=num_seeds,
        num_tests=tests,
        discordant=discordant,
        spread=spread,
        target=target,
        detectable=detectable_effect(num_users, num_seeds, discordant, spread, tests),
        users_needed=users_needed(target, num_seeds, discordant, spread, tests),
    )


def analyse(hits: Mapping[Cell, ArmHits], readings: Sequence[str]) -> tuple[DatasetResult, ...]:
    """The results of every dataset, in the order of the hits.

    Args:
        hits: The hits of every cell.
        readings: An arm is compared under the first of these that it has; one with a single reading
            has no choice. The reading ``direct`` of chains is also the arm of that name.

    Raises:
        DataError: If an arm has several readings, and none of these.
    """
    chosen = _choose_readings(_add_direct(hits), readings)
    names = dict.fromkeys(cell.dataset for cell in chosen)
    return tuple(
        _analyse_dataset(name, {c: found for c, found in chosen.items() if c.dataset == name})
        for name in names
    )


def _add_direct(hits: Mapping[Cell, ArmHits]) -> dict[Cell, ArmHits]:
    """The hits with those of chains answering directly as an arm of their own, if it lacks.

    Chains that were read in no other way stay what they are.
    """
    found = dict(hits)
    after = {(cell.dataset, cell.order) for cell in hits if _is_after_chain(cell)}
    for cell in hits:
        is_direct = (cell.arm, cell.reading) == ("chain", "direct")
        if is_direct and (cell.dataset, cell.order) in after:
            found.setdefault(replace(cell, arm="direct"), hits[cell])
    return found


def _is_after_chain(cell: Cell) -> bool:
    return cell.arm == "chain" and cell.reading != "direct"


def _choose_readings(hits: Mapping[Cell, ArmHits], readings: Sequence[str]) -> dict[Cell, ArmHits]:
    """One cell per dataset, arm and order."""
    groups: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for cell in hits:
        groups.setdefault((cell.dataset, cell.arm, cell.order), {})[cell.reading] = cell
    chosen: dict[Cell, ArmHits] = {}
    for (dataset, arm, _), cells in groups.items():
        wanted = [cells[reading] for reading in readings if reading in cells]
        found = wanted or (list(cells.values()) if len(cells) == 1 else [])
        if not found:
            raise DataError(
                f"study: arm {arm} on {dataset} has the readings {', '.join(cells)}; expected one "
                f"of {', '.join(readings)}; name the reading to compare by --reading"
            )
        chosen[found[0]] = hits[found[0]]
    return chosen


def _analyse_dataset(name: str, hits: Mapping[Cell, ArmHits]) -> DatasetResult:
    orders = tuple(dict.fromkeys(cell.order for cell in hits))
    by_arm = {(cell.arm, cell.order): found for cell, found in hits.items()}
    compared = tuple(order for order in orders if ("chain", order) in by_arm)
    spans = (compared, *_single(compared)) if compared else ()
    contrasts = [c for shown in spans for c in _contrasts(by_arm, shown)]
    if len(compared) == 1:
        contrasts = [c.model_copy(update={"order": None}) for c in contrasts]
    arms = tuple(_describe_arm(cell, found) for cell, found in hits.items())
    return DatasetResult(
        name=name,
        orders=orders,
        arms=arms,
        contrasts=tuple(contrasts),
        verdict=tell_dataset(name, contrasts, arms),
    )


def _single(orders: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Each order alone, where there are several."""
    return ((order,) for order in orders if len(orders) > 1)


def _describe_arm(cell: Cell, found: ArmHits) -> ArmResult:
    by_seed = found.hits.mean(axis=0)
    return ArmResult(
        arm=cell.arm,
        order=cell.order,
        reading=cell.reading,
        seeds=found.seeds,
        num_users=len(found.users),
        hit_ratio=crossed_share(found.hits.astype(float)),
        by_seed=tuple(map(float, by_seed)),
        spread=_spread(by_seed),
        valid_ratio=float(found.valid.mean()),
    )


def _spread(by_seed: NDArray[np.float64]) -> float | None:
    return float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None


def _contrasts(
    by_arm: Mapping[tuple[str, str], ArmHits], orders: Sequence[str]
) -> Iterator[Contrast]:
    """All contrasts of one order, or over several, whose arms are there in each of them."""
    order = orders[0] if len(orders) == 1 else None
    found: dict[tuple[str, str], Contrast] = {}
    for first, second in (*PRIMARY, *FURTHER):
        if all(pair in by_arm for pair in product((first, second), orders)):
            pairs = [(by_arm[first, shown], by_arm[second, shown]) for shown in orders]
            found[first, second] = compare_arms(first, second, order, pairs)
    primary = [pair for pair in PRIMARY if pair in found]
    adjusted = dict(zip(primary, holm([found[p].p_value for p in primary]), strict=True))
    for pair, contrast in found.items():
        update = {"p_adjusted": adjusted.get(pair, contrast.p_value)}
        yield contrast.model_copy(update=update)


def compare_arms(
    first: str, second: str, order: str | None, pairs: Sequence[tuple[ArmHits, ArmHits]]
) -> Contrast:
    """The difference of two arms, mean over the orders, before any correction.

    Args:
        first: Name of the arm that is better where the difference is positive.
        second: Name of the other arm.
        order: The order; None for a mean over several.
        pairs: The hits of both arms in each order, which may have other users and seeds; those that
            all have are compared.

    Raises:
        DataError: If they have no seed or fewer than two users in common.
    """
    every = [found for pair in pairs for found in pair]
    users = _common([found.users for found in every])
    seeds = _common([found.seeds for found in every])
    if len(users) < 2 or not seeds:
        raise DataError(
            f"{first} and {second}: have {len(users)} users and {len(seeds)} seeds in common; "
            "expected at least 2 users and 1 seed; give hits of the same users and seeds"
        )
    sides = [[found.select(users, seeds).hits for found in pair] for pair in pairs]
    by_order = np.stack([ours - theirs for ours, theirs in sides])
    total = by_order.sum(axis=0)
    differences = total / len(pairs)
    mean, p_models = crossed_mean(differences), sign_flip(total.sum(axis=1).tolist())
    # Where all differences are alike, t would be sure of any effect, however few the users.
    p_value = p_models if len(seeds) == 1 or not mean.error else mean.p_value
    return Contrast(
        first=first,
        second=second,
        order=order,
        is_primary=(first, second) in PRIMARY,
        difference=mean.value,
        low=max(mean.low, -1.0),
        high=min(mean.high, 1.0),
        error=mean.error,
        p_value=p_value,
        p_models=p_models,
        p_adjusted=p_value,
        num_users=len(users),
        seeds=seeds,
        discordant=float(np.abs(by_order).mean()),
        spread=_spread(differences.mean(axis=0)),
    )


def _common(groups: Sequence[tuple[_Key, ...]]) -> tuple[_Key, ...]:
    """What all of some sorted groups have, sorted."""
    if all(group == groups[0] for group in groups):
        return groups[0]
    return tuple(sorted(set.intersection(*map(set, groups))))


def heterogeneity(datasets: Sequence[DatasetResult]) -> Heterogeneity | None:
    """Cochran's Q of the headline contrasts; None with fewer than two datasets that have one."""
    from scipy.stats import chi2  # a second to import

    known = [c for d in datasets if (c := d.headline) is not None and c.error > 0]
    if len(known) < 2:
        return None
    weights = np.array([1 / c.error**2 for c in known])
    values = np.array([c.difference for c in known])
    q = float(weights @ (values - np.average(values, weights=weights)) ** 2)
    freedom = len(known) - 1
    return Heterogeneity(q=q, freedom=freedom, p_value=float(chi2.sf(q, freedom)))


def tell_dataset(name: str, contrasts: Sequence[Contrast], arms: Sequence[ArmResult]) -> str:
    """The verdict on one dataset in a few sentences, the last of them about invalid answers."""
    primary = [c for c in contrasts if c.is_primary and c.order is None]
    head = next((c for c in primary if c.second == "none"), None)
    if head is None:
        return f"{name}: no verdict, as the arms chain and none are not both there in every order."
    sentence = (
        f"{name}: {_verdict(head)}: {describe(head, IN_WORDS['none'])}, "
        f"{head.num_users:,} users, {count_of(len(head.seeds), 'seed')}."
    )
    others = "; ".join(describe(c, IN_WORDS[c.second]) for c in primary if c != head)
    if others:
        sentence += f" Against its controls: {others}."
    unshown = [IN_WORDS[c.second] for c in primary if not (c.is_shown and c.difference > 0)]
    if head.is_shown and head.difference > 0 and unshown:
        sentence += f" Not shown to be better than {' and '.join(unshown)}."
    return sentence + _tell_invalid(arms)


def _tell_invalid(arms: Sequence[ArmResult]) -> str:
    """A sentence about the arms of the verdict that often name no candidate; empty without any."""
    low = [
        f"{arm.arm} for {percent(arm.valid_ratio)} ({name_order(arm.order)})"
        for arm in arms
        if arm.arm in _DECIDING and arm.valid_ratio < VALID_BAR
    ]
    if not low:
        return ""
    return f" Answers that name no candidate are misses: one is named by {', '.join(low)} of users."


def tell(datasets: Sequence[DatasetResult]) -> str:
    """The verdict of a study in one sentence."""
    if len(datasets) == 1 and datasets[0].headline is None:
        return datasets[0].verdict
    parts = []
    for dataset in datasets:
        found = dataset.headline
        if found is None:
            parts.append(f"{dataset.name}: no verdict")
        else:
            size = f"{found.num_users:,} users, {count_of(len(found.seeds), 'seed')}"
            verdict = f"{dataset.name}: {_verdict(found)}, {describe(found)}, {size}"
            parts.append(verdict + _tell_least_valid(dataset.arms))
    return f"Reasoning against purchases alone, HitRatio@1: {'; '.join(parts)}."


def _tell_least_valid(arms: Sequence[ArmResult]) -> str:
    """What to add to a verdict where an arm of it often names no candidate."""
    least = min((a for a in arms if a.arm in _DECIDING), key=lambda arm: arm.valid_ratio)
    if least.valid_ratio >= VALID_BAR:
        return ""
    return f" (though {least.arm} names a candidate for only {percent(least.valid_ratio)} of users)"


def _verdict(found: Contrast) -> str:
    if not found.is_shown:
        return "reasoning is not shown to differ"
    return "reasoning helps" if found.difference > 0 else "reasoning hurts"


def describe(found: Contrast, other: str = "") -> str:
    """A contrast as ``+1.2 points [-0.3, 2.7], p = 0.123``, or ``+1.2 points over OTHER [-0.3 …``.

    Args:
        found: The contrast.
        other: The second arm in words.
    """
    over = f" over {other}" if other else ""
    low, high = 100 * found.low, 100 * found.high
    p, alone = format_p(found.p_adjusted), format_p(found.p_value)
    if p != alone:
        p += f" after Holm's correction ({alone} and the interval before it)"
    return f"{100 * found.difference:+.1f} points{over} [{low:.1f}, {high:.1f}], {p}"


@dataclass(frozen=True)
class Beside:
    """What is known of a dataset beside its hits.

    Attributes:
        costs: By arm and order.
        references: Systems beside the arms.
        ceiling: That of a generated world.
    """

    costs: Mapping[tuple[str, str], ArmCost]
    references: tuple[Reference, ...] = ()
    ceiling: Ceiling | None = None


def add_facts(found: DatasetResult, beside: Beside | None) -> DatasetResult:
    """A dataset's result with what is known beside its hits."""
    if beside is None:
        return found
    arms = tuple(
        arm.model_copy(update={"cost": beside.costs.get((arm.arm, arm.order))})
        for arm in found.arms
    )
    update = {"arms": arms, "references": beside.references, "ceiling": beside.ceiling}
    return found.model_copy(update=update)


def conclude(
    hits: Mapping[Cell, ArmHits],
    readings: Sequence[str],
    power: Power | None = None,
    beside: Mapping[str, Beside] | None = None,
    failures: Mapping[str, str] | None = None,
) -> StudyResult:
    """The result of a study.

    Args:
        hits: The hits of every cell.
        readings: The readings to compare, see ``analyse``.
        power: The plan; None for hits from elsewhere.
        beside: What is known beside the hits, by dataset.
        failures: Reasons why evaluations are missing, by name.

    Raises:
        DataError: If the arms can't be compared.
    """
    datasets = analyse(hits, readings)
    return StudyResult(
        verdict=tell(datasets),
        datasets=tuple(add_facts(found, (beside or {}).get(found.name)) for found in datasets),
        heterogeneity=heterogeneity(datasets),
        power=power,
        failures=dict(failures or {}),
    )
