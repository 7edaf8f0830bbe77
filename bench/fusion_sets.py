"""Does a rule of fusion that validation chose beat the better side alone, on several sets?

Every set is one model's outputs for the users of validation and of test. On validation one rule is
chosen for each set, and one for all sets together; on test they are compared with the side that was
better on validation. The route of `msrrec.evaluation.routing` is measured on the same outputs.

    python -m bench.fusion_sets --set NAME=VALIDATION,TEST ... --halves NAME=OUT,DATASET,RUN
"""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import evaluated_examples
from msrrec.evaluation.fusion_study import Sides, expected_of_coin, read_sides, rule_hits
from msrrec.evaluation.results import EvaluationResult, RouteEnd, RoutingResult
from msrrec.evaluation.routing import choose_threshold, measure_route
from msrrec.inference.fusion import SideOutput
from msrrec.metrics.statistics import (
    SIGNIFICANT,
    Paired,
    detectable_difference,
    holm,
    mcnemar,
)
from msrrec.page import format_p
from msrrec.reasoning.prompts import Side
from msrrec.schema import Example

ALONE = ("user", "item")
SIDES: tuple[Side, ...] = ("user", "item", "full", "direct")

Hits = Mapping[str, Sequence[bool]]


@dataclass(frozen=True)
class Users:
    """The users of one split with their outputs."""

    examples: Sequence[Example]
    sides: Sequence[Sides]

    def hits(self) -> dict[str, list[bool]]:
        """Hits of every rule, and of each side's likeliest candidate where it was measured."""
        found = rule_hits(self.examples, self.sides)
        for side in ALONE:
            outputs = [both[side] for both in self.sides]
            if any(output.candidate_logprobs for output in outputs):
                pairs = zip(self.examples, outputs, strict=True)
                found[f"{side}_likeliest"] = [_likeliest(o) == e.target_slot for e, o in pairs]
        return found


@dataclass(frozen=True)
class FusionSet:
    """One model's users of validation and test."""

    name: str
    validation: Users
    test: Users


@dataclass(frozen=True)
class Compared:
    """A rule on the test users of one set.

    Attributes:
        better: The side that was better on validation.
        paired: The rule (first) against that side (second).
    """

    name: str
    rule: str
    better: str
    hits: Hits
    paired: Paired


def load_evaluation(folder: str) -> Users:
    """The outputs of an evaluation of the sides, on the dataset that it names."""
    found = EvaluationResult.load(folder)
    examples = evaluated_examples(Dataset.load(found.dataset.path), found.config.evaluate)
    sides = [side for side in SIDES if side in found.variants]
    outputs: Sequence[Sides] = read_sides(folder, examples, sides)
    return Users(examples, outputs)


def load_halves(out: str, folder: str, run: str) -> tuple[Users, Users]:
    """The test users of a run of `bench.real_backbone`, parted by a hash of the example's id."""
    dataset = Dataset.load(folder)
    table = pq.read_table(f"{out}/outputs.parquet", filters=[("run", "=", run)])
    outputs: dict[str, dict[str, SideOutput]] = {}
    for row in table.to_pylist():
        outputs.setdefault(row["example_id"], {})[row["side"]] = read_output(row)
    examples = dataset.examples("test")
    halves: list[list[Example]] = [[], []]
    for example in examples:
        digest = hashlib.sha256(f"half {example.example_id}".encode()).digest()
        halves[digest[0] % 2].append(example)
    first, second = (Users(half, [outputs[e.example_id] for e in half]) for half in halves)
    return first, second


def read_output(row: Mapping[str, Any]) -> SideOutput:
    """A row of `outputs.parquet`; most rows have no text."""
    return SideOutput(
        side=row["side"],
        text=row["text"] or "",
        reasoning="",
        index=row["index"],
        perplexity=row["perplexity"],
        num_tokens=row["num_tokens"],
        perplexity_output=row["perplexity_output"],
        candidate_logprobs=tuple(row["candidate_logprobs"] or ()) or None,
    )


def choose_own(hits: Hits) -> str:
    """The rule with the most hits, Eq. 3 first among equals; no side alone and no coin."""
    return max(_rules(hits), key=lambda rule: (sum(hits[rule]), rule == "eq3"))


def choose_common(sets: Sequence[Hits]) -> str:
    """The rule with the highest mean HitRatio@1 over the sets, of those measured in each."""
    shared = [rule for rule in _rules(sets[0]) if all(rule in hits for hits in sets)]
    means = {rule: sum(sum(h[rule]) / len(h[rule]) for h in sets) for rule in shared}
    return max(shared, key=lambda rule: (means[rule], rule == "eq3"))


def _rules(hits: Hits) -> list[str]:
    alone = (*ALONE, *(f"{side}_likeliest" for side in ALONE), "coin")
    return [rule for rule in hits if rule not in alone]


def compare(name: str, rule: str, validation: Hits, test: Hits) -> Compared:
    """A rule against the side that was better on validation."""
    better = max(ALONE, key=lambda side: sum(validation[side]))
    return Compared(name, rule, better, test, mcnemar(test[rule], test[better]))


def beats(rows: Sequence[Compared]) -> list[str]:
    """The sets on which the rule is better, after Holm's correction over all sets."""
    adjusted = holm([row.paired.p_value for row in rows])
    return [
        row.name
        for row, p_value in zip(rows, adjusted, strict=True)
        if p_value < SIGNIFICANT and row.paired.difference > 0
    ]


def show_rules(title: str, rows: Sequence[Compared], sets: Sequence[FusionSet]) -> str:
    """The table of one way to choose, as Markdown."""
    lines = [
        f"| {title} | users | better side | the rule | difference | 95% | detectable | p "
        "| after Holm | Eq. 3 | coin | better side, likeliest |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    adjusted = holm([row.paired.p_value for row in rows])
    for row, p_value, one in zip(rows, adjusted, sets, strict=True):
        paired, test = row.paired, one.test
        coin = expected_of_coin(test.examples, test.sides) or 0.0
        likeliest = row.hits.get(f"{row.better}_likeliest")
        lines.append(
            f"| {row.name} | {len(test.examples)} | {row.better} {_share(row.hits[row.better])} "
            f"| {row.rule} {_share(row.hits[row.rule])} | {paired.difference:+.4f} "
            f"| {paired.low:+.3f} to {paired.high:+.3f} "
            f"| {_detectable(paired, len(test.examples), len(rows))} | {format_p(paired.p_value)} "
            f"| {format_p(p_value)} | {_share(row.hits['eq3'])} | {coin:.4f} "
            f"| {_share(likeliest) if likeliest else '–'} |"
        )
    return "\n".join(lines)


def _detectable(paired: Paired, num_users: int, num_tests: int) -> str:
    """The difference that so many users find with probability .8 after Holm's correction."""
    discordant = (paired.first_only + paired.second_only) / num_users
    found = detectable_difference(num_users, discordant, num_tests)
    return "–" if found is None else f"{found:.3f}"


def show_routes(sets: Sequence[FusionSet]) -> str:
    """What the route that validation chose gives on test, as Markdown."""
    lines = [
        "| set | threshold | thinks | routed | never thinks | always thinks | p against never "
        "| p against always |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sets:
        validation, test = one.validation, one.test
        threshold = choose_threshold(validation.examples, _by_side(validation))
        lines.append(_show_route(one.name, measure_route(test.examples, _by_side(test), threshold)))
    return "\n".join(lines)


def _show_route(name: str, found: RoutingResult) -> str:
    assert found.always is not None
    assert found.against_always is not None
    ends = " | ".join(map(_show_end, (found.routed, found.never, found.always)))
    return (
        f"| {name} | {found.threshold:.4g} | {found.thinking.value:.1%} | {ends} "
        f"| {found.against_never.difference:+.4f}, {format_p(found.against_never.p_value)} "
        f"| {found.against_always.difference:+.4f}, {format_p(found.against_always.p_value)} |"
    )


def _show_end(end: RouteEnd) -> str:
    return f"{end.hit_ratio.value:.4f}, {end.tokens_per_user:.1f} tokens"


def _by_side(users: Users) -> list[dict[Side, SideOutput]]:
    return [{side: both[side] for side in SIDES if side in both} for both in users.sides]


def conclude(own: Sequence[Compared], common: Sequence[Compared]) -> str:
    """The sentence on how many sets a rule beats the better side."""
    named = {row.name: row.rule for row in own}
    winners = ", ".join(f"{name} ({named[name]})" for name in beats(own)) or "none"
    count, shared = len(own), beats(common)
    return (
        f"A rule chosen on each set's validation users beats the better side on {len(beats(own))} "
        f"of {count} sets ({winners}); the one rule chosen for all, {common[0].rule}, on "
        f"{len(shared)} of {count} ({', '.join(shared) or 'none'})."
    )


def render(sets: Sequence[FusionSet]) -> str:
    """Both tables of rules, the sentence, and the table of routes.

    Only rules whose inputs were measured on both splits can be chosen.
    """
    test = [one.test.hits() for one in sets]
    validation = [
        {rule: found for rule, found in one.validation.hits().items() if rule in new}
        for one, new in zip(sets, test, strict=True)
    ]
    shared = choose_common(validation)
    triples = list(zip(sets, validation, test, strict=True))
    own = [compare(one.name, choose_own(known), known, new) for one, known, new in triples]
    common = [compare(one.name, shared, known, new) for one, known, new in triples]
    parts = [
        show_rules("own rule", own, sets),
        show_rules("one rule for all", common, sets),
        conclude(own, common),
    ]
    routed = [one for one in sets if all("direct" in both for both in one.test.sides)]
    return "\n\n".join([*parts, *([show_routes(routed)] if routed else [])])


def _likeliest(output: SideOutput) -> int | None:
    """The likeliest candidate after a side's reasoning."""
    values = output.candidate_logprobs
    return max(range(len(values)), key=values.__getitem__) if values else None


def _share(hits: Sequence[bool]) -> str:
    return f"{sum(hits) / len(hits):.4f}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fusion_sets")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALIDATION,TEST")
    parser.add_argument("--halves", action="append", default=[], metavar="NAME=OUT,DATASET,RUN")
    return parser.parse_args(arguments)


def load(args: argparse.Namespace) -> list[FusionSet]:
    """The sets that the command line names."""
    sets = []
    for given in args.set:
        name, _, folders = given.partition("=")
        validation, test = map(load_evaluation, folders.split(","))
        sets.append(FusionSet(name, validation, test))
    for given in args.halves:
        name, _, folders = given.partition("=")
        sets.append(FusionSet(name, *load_halves(*folders.split(","))))
    return sets


if __name__ == "__main__":
    print(render(load(parse())))
