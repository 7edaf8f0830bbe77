"""The tables of a study as Markdown, with the command and versions to reproduce them."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from msrrec.evaluation.study_results import (
    IN_WORDS,
    ArmResult,
    Contrast,
    DatasetResult,
    StudyResult,
    count_of,
    name_order,
)
from msrrec.report.markdown import interval, one_line, plain_p, table_line
from msrrec.report.table import RunFacts, describe_effort, describe_versions

_ARMS = (
    *("arm", "before the answer", "HitRatio@1", "by seed", "valid", "learning rate"),
    *("tokens learned", "tokens written a user", "a hit"),
)
_CONTRASTS = ("contrast", "points", "p", "p (Holm)", "users", "seeds", "one of the two right")


def render_study_table(
    result: StudyResult,
    commands: Sequence[str],
    runs: Collection[RunFacts] = (),
    fingerprints: Mapping[str, str] | None = None,
) -> str:
    """A study as Markdown: verdict, arms and contrasts of each dataset, and how it was made.

    Args:
        result: The study.
        commands: The commands that made it.
        runs: Facts about the run of each arm and seed; none for hits from elsewhere.
        fingerprints: Those of the datasets, by name.
    """
    lines = [
        "# Does reasoning help?",
        *("", one_line(result.verdict)),
        *chain.from_iterable(map(_dataset, result.datasets)),
        *_differ(result),
        *("", f"Planned: {result.power.sentence()}" if result.power else ""),
        *(f"- Missing: {one_line(name)}: {one_line(why)}" for name, why in result.failures.items()),
        "",
        "Brackets: 95% for other users and, with several seeds, other seeds. Every arm has the "
        "same purchases, order of the prompt and steps. Holm's correction is over the primary "
        "contrasts of a dataset, which are in bold; the others decide nothing. It is of p alone: "
        "intervals are those of one contrast by itself.",
        *("", *(f"    {command}" for command in commands), ""),
        *(_foot(runs, fingerprints or {}) if runs else ()),
    ]
    return "\n".join(lines)


def _foot(runs: Collection[RunFacts], fingerprints: Mapping[str, str]) -> Iterable[str]:
    """What the evaluations took, their trainings included, and what they ran on."""
    effort = f"{describe_effort(runs)}, in the runs that finished the evaluations"
    data = ", ".join(f"{one_line(name)} {print_[:16]}" for name, print_ in fingerprints.items())
    return f"{effort}. Data: {data}; {describe_versions(runs)}.", ""


def _dataset(found: DatasetResult) -> Iterator[str]:
    """The arms, systems beside them, and contrasts of a dataset."""
    has_orders = len(found.orders) > 1
    yield from ("", f"## {one_line(found.name)}", "", one_line(found.verdict), "")
    yield from _head(_ARMS)
    yield from (_arm(arm, has_orders) for arm in found.arms)
    for row in found.references:
        cells = (
            one_line(row.label),
            "",
            interval(row.hit_ratio),
            "",
            f"{row.valid_ratio.value:.3f}",
        )
        yield table_line((*cells, "", "", "", ""))
    if found.ceiling:
        most = f"{found.ceiling.hit_ratio:.4f} (expected {found.ceiling.expected:.4f})"
        yield table_line(("Bayes ceiling of the generated world", "", most, *[""] * 6))
    yield ""
    yield from _head(_CONTRASTS)
    yield from (_contrast(contrast) for contrast in found.contrasts)


def _head(names: tuple[str, ...]) -> Iterable[str]:
    return table_line(names), f"|{'---|' * len(names)}"


def _arm(arm: ArmResult, has_orders: bool) -> str:
    order = f", {name_order(arm.order)}" if has_orders else ""
    learned = rate = written = each = None
    if cost := arm.cost:
        rate, written = cost.learning_rate, cost.generated_per_user
        each = cost.tokens_per_hit(arm.hit_ratio.value)
        parts = (cost.supervised_reasoning, cost.supervised_recommendation)
        learned = None if None in parts else sum(part or 0 for part in parts)
    return table_line(
        (
            f"{one_line(arm.arm)}{order}",
            f"{IN_WORDS.get(arm.arm, '–')} ({one_line(arm.reading)})",
            interval(arm.hit_ratio),
            " ".join(f"{value:.4f}" for value in arm.by_seed),
            f"{arm.valid_ratio:.3f}",
            _number(rate, "g"),
            *(_number(learned, ",.0f"), _number(written, ",.1f"), _number(each, ",.0f")),
        )
    )


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _contrast(found: Contrast) -> str:
    order = f", {name_order(found.order)}" if found.order else ""
    name = f"{one_line(found.first)} − {one_line(found.second)}{order}"
    points = [100 * value for value in (found.difference, found.low, found.high)]
    return table_line(
        (
            f"**{name}**" if found.is_primary else name,
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points),
            plain_p(found.p_value),
            plain_p(found.p_adjusted) if found.is_primary else "–",
            f"{found.num_users:,}",
            str(len(found.seeds)),
            f"{found.discordant:.3f}",
        )
    )


def _differ(result: StudyResult) -> Iterator[str]:
    """Whether the effect differs between datasets."""
    if found := result.heterogeneity:
        freedom = count_of(found.freedom, "degree")
        yield ""
        yield (
            f"Between datasets: Cochran's Q = {found.q:.1f} at {freedom} of freedom, "
            f"p {plain_p(found.p_value)}; they are not pooled."
        )
