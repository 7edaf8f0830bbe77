"""The rows of the table of systems: their figures, and the tests between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from msrrec.evaluation.results import Metric, VariantResult
from msrrec.metrics.statistics import Paired, Share, detectable_difference, holm, mcnemar
from msrrec.report.load import Evaluated
from msrrec.report.results import AdjustedPaired, SeedSpread, SystemRow


@dataclass(frozen=True)
class Row:
    """One system in one variant: its evaluation and its shown figures."""

    evaluated: Evaluated
    shown: SystemRow

    @property
    def variant(self) -> VariantResult:
        """All figures of the variant."""
        return self.evaluated.result.variants[self.shown.variant]

    @property
    def is_sequential(self) -> bool:
        """Whether it was fitted on sequences of item ids."""
        fit = self.evaluated.result.fit
        return fit is not None and fit.sequential is not None


@dataclass(frozen=True)
class Table:
    """The rows in their order, the reference row, and the spread over seeds."""

    rows: tuple[Row, ...]
    headline: Row
    seeds: tuple[SeedSpread, ...]


def build_table(results: Sequence[Evaluated]) -> Table:
    """The rows of results, in their order, each compared with the reference row.

    The reference is the last ``fused`` row, or else the last row. Several seeds of one system on
    the same users form one row, that of the first seed, and a spread. Several systems of one label,
    such as two folders named ``model``, are told apart by the folders of their evaluations.
    """
    every = _tell_apart(
        [_row(result, name) for result in results for name in result.result.variants]
    )
    rows = _first_seeds(every)
    fused = [row for row in rows if row.shown.variant == "fused"]
    headline = (fused or rows)[-1]
    spread = seed_spread([row.shown for row in every])
    return Table(tuple(_compare(rows, headline)), headline, tuple(spread))


def _row(evaluated: Evaluated, name: str) -> Row:
    result = evaluated.result
    system, found = result.system, result.variants[name]
    is_sequential = result.fit is not None and result.fit.sequential is not None
    shown = SystemRow(
        system=system,
        variant=name,
        label=system.label if name == system.id else f"{system.label} · {name}",
        domain=result.dataset.domain,
        users=evaluated.users,
        seed=result.config.inference.seed,
        is_trained=system.kind == "trained" or is_sequential,
        num_users=found.num_users,
        chance=result.chance,
        hit_ratio=found.hit_ratio,
        valid_ratio=found.valid_ratio,
        hit_ratio_valid=found.hit_ratio_valid,
        hit_ratio_fallback=found.hit_ratio_fallback,
        lenient=found.lenient,
        ranking=found.ranking,
        reasoning=found.reasoning,
        meteor=_score(evaluated, name, "meteor"),
        bertscore_f1=_score(evaluated, name, "bertscore_f1"),
        gptscore_logprob=_score(evaluated, name, "gptscore_logprob"),
        judge_0_100=_score(evaluated, name, "judge_0_100"),
    )
    return Row(evaluated, shown)


def _score(evaluated: Evaluated, variant: str, metric: Metric) -> Share | None:
    variants = evaluated.scores.variants if evaluated.scores else {}
    score = variants.get(variant, {}).get(metric)
    return score.all if score else None


def _tell_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, with its folder in the label of each whose label, users and seed a former one has.

    What a label alone does not tell would otherwise be taken for one system.
    """
    seen: set[tuple[str, str, int]] = set()
    apart = []
    for row in rows:
        key = (row.shown.users, row.shown.label, row.shown.seed)
        label = f"{row.shown.label} ({row.evaluated.path})"
        shown = row.shown.model_copy(update={"label": label}) if key in seen else row.shown
        seen.add(key)
        apart.append(replace(row, shown=shown))
    return apart


def _first_seeds(rows: Sequence[Row]) -> list[Row]:
    """One row per system, variant and users; other seeds appear only in the spread."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.shown.users, row.shown.label), row)
    return list(first.values())


def _compare(rows: Sequence[Row], headline: Row) -> list[Row]:
    """The rows with a paired test of the reference row against each row of the same users."""
    ours, users = headline.variant.hits, headline.shown.users
    others = [row for row in rows if row is not headline and row.shown.users == users]
    tests = [mcnemar(ours, row.variant.hits) for row in others]
    adjusted = holm([test.p_value for test in tests])
    paired = {
        id(row): _adjust(test, p_adjusted, len(ours), len(tests))
        for row, test, p_adjusted in zip(others, tests, adjusted, strict=True)
    }
    return [
        replace(row, shown=row.shown.model_copy(update={"paired": paired[id(row)]}))
        if id(row) in paired
        else row
        for row in rows
    ]


def _adjust(test: Paired, p_adjusted: float, num_users: int, num_tests: int) -> AdjustedPaired:
    discordant = (test.first_only + test.second_only) / num_users
    detectable = detectable_difference(num_users, discordant, num_tests)
    return AdjustedPaired(**vars(test), p_adjusted=p_adjusted, detectable=detectable)


def seed_spread(rows: Sequence[SystemRow]) -> list[SeedSpread]:
    """Mean and standard deviation of HitRatio@1 over the seeds of one system on the same users."""
    groups: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row.system.kind not in ("baseline", "file"):
            values = groups.setdefault((row.users, row.label), {})
            values[row.seed] = row.hit_ratio.value
    return [
        SeedSpread(
            label=label, mean=mean(values.values()), sd=stdev(values.values()), values=values
        )
        for (_, label), values in groups.items()
        if len(values) > 1
    ]
