"""Sentences that follow from the figures of a report: what they show and what they do not."""

from collections.abc import Sequence

from msrrec.embedded.ceiling import Ceiling
from msrrec.evaluation.audit import VALID_BAR, audit_systems
from msrrec.evaluation.results import Check, FusionResult, RoutingResult, VariantResult
from msrrec.metrics.coverage import Coverage
from msrrec.metrics.statistics import SIGNIFICANT, Paired, Share, holm, mcnemar
from msrrec.page import format_p, percent
from msrrec.report.load import Evaluated
from msrrec.report.results import AdjustedPaired, SystemRow
from msrrec.report.rows import Row, Table

_CONTROLS = ("popularity", "item-knn")
"""Ids of simple systems that a system trained on item ids should beat."""


def find_all(table: Table) -> tuple[str, ...]:
    """All sentences about a table, beginning with its headline system."""
    shown = [row.shown for row in table.rows]
    ceiling = _ceiling(table.headline.evaluated.result.ceiling)
    coverage = _coverage(table.headline.evaluated.result.coverage)
    fusion = _conflicts(table.headline.evaluated.result.fusion)
    return (
        *_compare(shown, table.headline.shown),
        *fusion,
        *_route(table.headline.evaluated.result.routing),
        *_chains(table.headline.evaluated),
        *ceiling,
        *coverage,
        *_costs(table),
        *_limits(table),
    )


def check_all(results: Sequence[Evaluated]) -> list[Check]:
    """All checks of all evaluations, failed ones first, and checks across evaluations."""
    checks = [
        check.model_copy(update={"name": f"{check.name}, {evaluated.label}"})
        for evaluated in results
        for check in evaluated.result.audit
    ]
    checks += audit_systems([evaluated.result for evaluated in results])
    different = {(check.name, check.text): check for check in checks}
    return sorted(different.values(), key=lambda check: check.ok)


def _compare(rows: Sequence[SystemRow], headline: SystemRow) -> list[str]:
    hit, chance = headline.hit_ratio, headline.chance
    findings = [
        f"{headline.label} names the item that came next for {percent(hit.value)} of "
        f"{headline.num_users:,} users ({percent(hit.low)} to {percent(hit.high)}); "
        f"chance is {percent(chance)}. {_against_chance(hit, chance)}"
    ]
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.paired:
            groups.setdefault(_verdict(row.paired), []).append(row.label)
    findings += [f"{verdict} {', '.join(labels)}." for verdict, labels in sorted(groups.items())]
    if headline.valid_ratio.value < VALID_BAR:
        findings.append(
            f"Only {percent(headline.valid_ratio.value)} of its answers name exactly one "
            "candidate; the rest count as misses."
        )
    return findings


def _ceiling(found: Ceiling | None) -> list[str]:
    """What can be reached in a generated world, whose probabilities are known."""
    if found is None:
        return []
    return [
        f"Purchases are generated (world: {found.world}), so the ceiling is known: the most likely "
        f"candidate is expected to be right for {percent(found.expected)} of these users and was "
        f"for {percent(found.hit_ratio)}; no system can be expected to do better. The category "
        f"that a history names most often is expected to be right for "
        f"{percent(found.category_expected)} and was for {percent(found.category_hit_ratio)}."
    ]


def _coverage(found: Coverage | None) -> list[str]:
    """What retrieval misses, which no system can name."""
    if found is None:
        return []
    share = found.at[found.num_retrieved]
    return [
        f"The candidates are the {found.num_retrieved} items that retrieval found in the whole "
        f"catalogue: the item that came next is among them for {percent(share.value)} of the users "
        f"({percent(share.low)} to {percent(share.high)}); for the others every answer is a miss."
    ]


def _conflicts(fusion: FusionResult | None) -> list[str]:
    """What Eq. 3 decides where a decision counts."""
    found = fusion.conflicts if fusion else None
    if found is None or not found.num_users:
        return []
    if found.p_value >= SIGNIFICANT:
        verdict = "no difference from a coin is shown"
    elif 2 * found.num_right > found.num_users:
        verdict = "it is better than a coin"
    else:
        verdict = "it is worse than a coin"
    return [
        f"Where the sides differ and exactly one is right, Equation 3 takes the right one for "
        f"{found.num_right} of {found.num_users} users; {verdict} ({format_p(found.p_value)}, "
        "exact binomial test)."
    ]


def _route(found: RoutingResult | None) -> list[str]:
    """What thinking only where the direct answer is unsure gives and costs."""
    if found is None:
        return []
    routed, never, always = found.routed, found.never, found.always
    ends = [
        f"{_is_shown(found.against_never)} never thinking ({percent(never.hit_ratio.value)} with "
        f"{never.tokens_per_user:.0f} tokens)"
    ]
    if always and found.against_always:
        ends.append(
            f"{_is_shown(found.against_always)} always thinking "
            f"({percent(always.hit_ratio.value)} with {always.tokens_per_user:.0f})"
        )
    where = "; these users chose the threshold" if found.is_chosen_here else ""
    thinking, hits = percent(found.thinking.value), percent(routed.hit_ratio.value)
    return [
        f"With chains only where the direct answer is less likely than {found.threshold:.3g}, "
        f"{thinking} of the users think, and {hits} get the right item with "
        f"{routed.tokens_per_user:.0f} generated tokens each; "
        f"{'; '.join(ends)}{where}."
    ]


def _is_shown(test: Paired) -> str:
    if test.p_value >= SIGNIFICANT:
        return f"no difference is shown ({format_p(test.p_value)}) from"
    return f"that is {'better' if test.difference > 0 else 'worse'} ({format_p(test.p_value)}) than"


_CHANGES = {
    "cut_0": "without any chain",
    "mistake": "after a mistake in the matching step",
    "paraphrase": "after other words",
    "cited_removed": "without the cited purchases",
    "shuffled": "with a shuffled history",
}
"""The interventions that the sentence tells, those that were made."""


def _chains(evaluated: Evaluated) -> list[str]:
    """How often choices change where the chain or its grounds do."""
    found = evaluated.faithfulness
    told = [
        f"{percent(row.changed.value)} {_CHANGES[row.name]} (control {percent(before.value)})"
        for row in (found.rows if found else ())
        if row.name in _CHANGES and row.changed and (before := row.control_changed)
    ]
    if found is None or not told:
        return []
    return [
        f"Of the choices of {found.system} that follow a {found.side} chain change: "
        f"{'; '.join(told)}."
    ]


def _verdict(paired: AdjustedPaired) -> str:
    if paired.p_adjusted >= SIGNIFICANT:
        return "On the same users, no difference is shown from"
    is_better = paired.first_only > paired.second_only
    return f"On the same users, it is {'better' if is_better else 'worse'} than"


def _against_chance(hit: Share, chance: float) -> str:
    if hit.low > chance:
        return f"That is {hit.value / chance:.1f} times chance."
    if hit.high < chance:
        return "That is worse than chance: look for an error before anything else."
    return "That can't be told from chance on this many users."


def _costs(table: Table) -> list[str]:
    """What MSR-Rec and its controls were trained to write, and write for a user."""
    rows = [
        row
        for row in table.rows
        if row.shown.system.id.startswith("msrrec")
        and row.shown.users == table.headline.shown.users
        and row.shown.variant == list(row.evaluated.result.variants)[-1]
    ]
    told = [sentence for row in rows if (sentence := _cost(row))]
    return [f"Tokens: {'; '.join(told)}."] if len(told) > 1 else []


def _cost(row: Row) -> str | None:
    result = row.evaluated.result
    counts = result.model.supervised_tokens if result.model else None
    generated = result.generated_tokens.get(row.shown.variant)
    if counts is None or generated is None:
        return None
    return (
        f"{row.shown.label} learned to write {counts.reasoning:,} of reasoning and "
        f"{counts.recommendation:,} of recommendations, and writes {generated:.0f} a user"
    )


def _limits(table: Table) -> list[str]:
    """The share of cold targets, and trained baselines that are not above a control."""
    cold = _cold_share(table.headline.variant)
    if cold is None:
        return []
    sentences = [
        f"{percent(cold)} of the targets are cold: no training user bought them, so a system that "
        "learns from item ids alone can't know them."
    ]
    same = [row for row in table.rows if row.shown.users == table.headline.shown.users]
    controls = [row for row in same if row.shown.system.id in _CONTROLS]
    pairs = [(row, control) for row in same if row.is_sequential for control in controls]
    tests = [mcnemar(row.variant.hits, control.variant.hits) for row, control in pairs]
    adjusted = holm([test.p_value for test in tests])
    for (row, control), test, p_adjusted in zip(pairs, tests, adjusted, strict=True):
        if test.difference <= 0 or p_adjusted >= SIGNIFICANT:
            sentences.append(_against_control(row, control, p_adjusted))
    return sentences


def _against_control(trained: Row, control: Row, p_adjusted: float) -> str:
    """How a trained baseline compares with a control."""
    ours, its = trained.variant, control.variant
    verdict = "is below" if p_adjusted < SIGNIFICANT else "is not shown to be above"
    fit = trained.evaluated.result.fit
    assert fit is not None
    assert fit.sequential is not None
    return (
        f"{trained.shown.system.label} {verdict} {control.shown.system.label} "
        f"({ours.hit_ratio.value:.4f} against {its.hit_ratio.value:.4f}, "
        f"{format_p(p_adjusted)}). On targets that somebody "
        f"bought in training it is {_warm(ours)} against {_warm(its)}; it learned from "
        f"{fit.sequential.events_per_item:.1f} events per item."
    )


def _cold_share(found: VariantResult) -> float | None:
    if found.popularity is None:
        return None
    return found.popularity.rows[0].num_users / max(found.num_users, 1)


def _warm(found: VariantResult) -> str:
    """HitRatio@1 over users whose target was bought in training."""
    rows = found.popularity.rows if found.popularity else ()
    warm = [(row.num_users, row.hit_ratio.value) for row in rows if row.low and row.hit_ratio]
    users = sum(num_users for num_users, _ in warm)
    hits = sum(num_users * value for num_users, value in warm)
    return f"{hits / users:.4f}" if users else "unknown"
