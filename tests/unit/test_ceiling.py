"""The Bayes ceiling of generated worlds: against an enumeration, and against what shoppers do."""

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import cast

import pytest

from msrrec.config import DataConfig, RunConfig, load_config
from msrrec.config.data import DemoWorld
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import prepare
from msrrec.embedded.ceiling import Beliefs, Ceiling, world_ceiling
from msrrec.embedded.world import Rules, Shopper, make_rules, make_world
from msrrec.evaluation.evaluate import evaluate_baseline
from msrrec.evaluation.results import EvaluationResult
from msrrec.report.page import report_folder
from msrrec.schema import Example, Item

WORLDS: list[DemoWorld] = ["mixture", "transitions", "unnamed"]
SHARES = (0.55, 0.2, 0.1, 0.15)  # first group, second group, maker, anything

ITEMS = [
    Item("a1", "A 1", ("A",), "Acme"),
    Item("a2", "A 2", ("A",), "Zeta"),
    Item("b1", "B 1", ("B",), "Acme"),
    Item("b2", "B 2", ("B",), "Acme"),
    Item("c1", "C 1", ("C",), "Zeta"),
    Item("c2", "C 2", ("C",), "Acme"),
]


def shoppers(rules: Rules) -> Iterator[tuple[float, tuple[str, str], str]]:
    """Every pair of groups and maker that a shopper can have, with its probability."""
    makers = [trait.maker for trait in rules.traits.values()]
    for pair in product(rules.groups, repeat=2):
        if pair[0] != pair[1]:
            for maker in makers:
                yield 1 / 6 / len(makers), pair, maker


def next_items(
    rules: Rules, bought: tuple[str, ...], pair: tuple[str, str], maker: str
) -> dict[str, float]:
    """The probability of each next purchase, from the four pools of a shopper."""
    if rules.successors and bought:
        pair = rules.successors[rules.traits[bought[-1]].group]
    traits = rules.traits.items()
    pools = [
        *([i for i, t in traits if t.group == group] for group in pair),
        [i for i, t in traits if t.maker == maker],
        [i for i, _ in traits],
    ]
    found: dict[str, float] = defaultdict(float)
    for share, pool in zip(SHARES, pools, strict=True):
        chosen = [i for i in pool if i not in bought] or [i for i, _ in traits]
        for item in chosen:
            found[item] += share / len(chosen)
    return found


def sequences(rules: Rules, length: int) -> dict[tuple[str, ...], float]:
    """The probability of every sequence of purchases."""
    total: dict[tuple[str, ...], float] = defaultdict(float)
    for prior, pair, maker in shoppers(rules):
        open_ones = {(): prior}
        for _ in range(length):
            open_ones = {
                (*bought, item): before * chance
                for bought, before in open_ones.items()
                for item, chance in next_items(rules, bought, pair, maker).items()
            }
        for bought, chance in open_ones.items():
            total[bought] += chance
    return total


@pytest.mark.parametrize("world", WORLDS)
def test_the_probabilities_are_those_of_an_enumeration_of_all_worlds(world: DemoWorld) -> None:
    rules = make_rules(ITEMS, world, 0)
    # every history of two, every target, and both negatives from what was not bought
    joint: dict[tuple[tuple[str, ...], frozenset[str]], dict[str, float]] = defaultdict(dict)
    for bought, chance in sequences(rules, 3).items():
        rest = [item.item_id for item in ITEMS if item.item_id not in bought]
        sets = list(combinations(rest, 2))
        for negatives in sets:
            key = (bought[:2], frozenset((*negatives, bought[2])))
            joint[key][bought[2]] = chance / len(sets)
    beliefs = Beliefs(rules)
    best = 0.0
    for (history, candidates), by_target in joint.items():
        if len(set(history)) == 2 and not set(history) & candidates:
            listed = tuple(sorted(candidates))
            found = beliefs.probabilities(Example("e", "u", history, listed[0], listed))
            whole = sum(by_target.values())
            assert found == pytest.approx([by_target[c] / whole for c in listed], abs=1e-12)
        best += max(by_target.values())
    assert 0.4 < best < 1.0


@pytest.mark.parametrize("world", WORLDS)
def test_shoppers_buy_the_likeliest_candidate_as_often_as_expected(world: DemoWorld) -> None:
    """Three thousand shoppers; the standard deviation of the share is below 0.01."""
    rules, rng, examples = make_rules(ITEMS, world, 0), random.Random(1), []
    for n in range(3000):
        shopper = Shopper(ITEMS, rules, rng)
        bought = [shopper.buy().item_id for _ in range(4)]
        if len(set(bought)) == 4:
            rest = [item.item_id for item in ITEMS if item.item_id not in bought]
            candidates = (*rest, bought[-1])
            examples.append(Example(str(n), str(n), tuple(bought[:3]), bought[-1], candidates))
    beliefs, expected, hits = Beliefs(rules), 0.0, 0
    for example in examples:
        chances = beliefs.probabilities(example)
        expected += float(chances.max()) / len(examples)
        hits += example.candidates[int(chances.argmax())] == example.target
    assert hits / len(examples) == pytest.approx(expected, abs=0.03)
    assert expected > 0.4


def test_where_order_matters_the_last_purchase_decides_and_a_count_does_not_help() -> None:
    found = {world: measured(world) for world in WORLDS}
    assert found["mixture"].category_expected > found["mixture"].expected - 0.05
    for world in ("transitions", "unnamed"):
        assert found[world].expected > 0.55
        assert found[world].category_expected < 0.3


def measured(world: DemoWorld, seed: int = 0) -> Ceiling:
    """The ceiling on 100 users' last purchases beside five items that they never bought."""
    interactions, items = make_world(100, seed, world)
    bought: dict[str, list[str]] = defaultdict(list)
    for row in interactions.to_pylist():
        bought[row["user_id"]].append(row["item_id"])
    ids, rng = items["item_id"].to_pylist(), random.Random(0)
    examples = tuple(
        Example(user, user, tuple(events[:-1]), events[-1], (events[-1], *negatives))
        for user, events in bought.items()
        for negatives in [rng.sample([i for i in ids if i not in events], 5)]
    )
    ceiling = world_ceiling(world, seed, examples)
    assert ceiling is not None
    return ceiling


def test_the_world_of_today_is_the_default_and_the_others_differ_from_it() -> None:
    mixture = make_world(30, 0)[0]
    assert make_world(30, 0, "mixture")[0].equals(mixture)
    assert DataConfig().demo_world == "mixture"
    assert load_config("demo").data.demo_world == "transitions"
    for world in ("transitions", "unnamed"):
        assert not make_world(30, 0, cast(DemoWorld, world))[0].equals(mixture)


def test_after_a_category_its_two_followers_are_bought_most() -> None:
    interactions, items = make_world(300, 0, "transitions")
    category = {row["item_id"]: row["categories"][0] for row in items.to_pylist()}
    from_item: dict[str, str] = {}
    followed: dict[str, list[str]] = defaultdict(list)
    for row in interactions.to_pylist():
        if before := from_item.get(row["user_id"]):
            followed[before].append(category[row["item_id"]])
        from_item[row["user_id"]] = category[row["item_id"]]
    for group, after in followed.items():
        ranked = sorted(set(after), key=after.count, reverse=True)[:2]
        share = sum(map(after.count, ranked)) / len(after)
        assert 0.6 < share < 0.95, group  # 0.75 and a little by chance
        assert group not in ranked


def test_no_ceiling_without_examples() -> None:
    assert world_ceiling("mixture", 0, ()) is None


def test_the_ceiling_reaches_the_manifest_the_result_and_the_report(tmp_path: Path) -> None:
    folder, out = str(tmp_path / "dataset"), tmp_path / "evaluations"
    settings = DataConfig(demo_users=40, k_core=1, demo_world="unnamed")
    manifest = prepare("demo", None, None, folder, settings)
    assert manifest["ceiling"]["test"]["num_users"] == 40
    config = RunConfig.model_validate({"evaluate": {"num_users": 20}})
    dataset = Dataset.load(folder)
    evaluate_baseline(dataset, "category", str(out / "category"), config)
    result = EvaluationResult.load(str(out / "category"))
    expected = world_ceiling("unnamed", 0, tuple(dataset.examples("test", 20)))
    assert result.ceiling == expected
    assert expected is not None
    summary = report_folder(str(out))
    assert any("world: unnamed" in finding for finding in summary["findings"])
    page = (out / "report" / "index.html").read_text()
    assert f"expected {expected.expected:.4f}" in page
    # popular negatives are no longer uniform, so that the ceiling is unknown
    popular = RunConfig.model_validate({"evaluate": {"num_users": 20, "negatives": "popular"}})
    evaluate_baseline(dataset, "category", str(out / "popular"), popular)
    assert EvaluationResult.load(str(out / "popular")).ceiling is None
