"""The tables of the benchmark with a pretrained model, from hits written by hand."""

from pathlib import Path

import pytest

from bench.real_tables import contrast, load, ratio_lines
from msrrec.evaluation.hits import group_hits, read_hits
from msrrec.evaluation.study import compare_arms
from tests.support.hits import rows_of, write_hits


def test_arms_are_paired_by_their_users_and_seeds_and_not_by_place(tmp_path: Path) -> None:
    chain = rows_of("chain", {0: "hmhm", 1: "hmhm"}, reading="fused")
    none = rows_of("none", {1: "mmhmh", 2: "hhhhh"})
    # as many users as the other arm, but u0000 is not among them
    write_hits(tmp_path / "hits.parquet", [*chain, *(r for r in none if r["user_id"] != "u0000")])
    mine = {key[2:]: found for key, found in load(tmp_path).items()}
    (row,) = contrast("chain - none", [("chain", "fused"), ("none", "direct")], mine)
    # with seed 1, users 1 to 3: misses but for user 2 in both arms
    assert row.text.startswith("chain - none | fused / direct | 1 | +0.0000 | ")
    assert not contrast("chain - facts", [("chain", "fused"), ("facts", "direct")], mine)


@pytest.mark.parametrize(
    ("chain", "none", "p_value"),
    [
        # one seed, exact McNemar: nine users of ten for chain, 2 x (10 + 1) / 2^10
        ({0: "hhhhhhhhhmmm"}, {0: "mmmmmmmmmhmm"}, 22 / 1024),
        # nothing spreads over users and seeds: all of six users, 2 / 2^6
        ({0: "hhhhhh", 1: "hhhhhh"}, {0: "mmmmmm", 1: "mmmmmm"}, 2 / 64),
        # several seeds that differ: t for other users and seeds
        ({0: "hhhhhm", 1: "hhmhhm"}, {0: "mmmmhm", 1: "mmmmmm"}, None),
    ],
)
def test_a_contrast_has_the_test_of_a_study(
    tmp_path: Path, chain: dict[int, str], none: dict[int, str], p_value: float | None
) -> None:
    rows = [*rows_of("chain", chain, reading="fused"), *rows_of("none", none)]
    write_hits(tmp_path / "hits.parquet", rows)
    mine = {key[2:]: found for key, found in load(tmp_path).items()}
    (row,) = contrast("chain - none", [("chain", "fused"), ("none", "direct")], mine, "sampled")
    ours, theirs = group_hits(read_hits([str(tmp_path / "hits.parquet")])).values()
    expected = compare_arms("chain", "none", None, [(ours, theirs)])
    assert row.p_value == expected.p_value
    cells = row.text.split(" | ")
    assert cells[3:5] == [
        f"{expected.difference:+.4f}",
        f"[{expected.low:+.3f}, {expected.high:+.3f}]",
    ]
    assert cells[-1] == f"{expected.p_value:.4f}"
    if p_value is not None:
        assert row.p_value == pytest.approx(p_value)


def test_a_model_that_never_hits_has_an_interval_of_its_users(tmp_path: Path) -> None:
    write_hits(tmp_path / "hits.parquet", rows_of("untuned", {0: "i" * 1500}))
    mine = {key[2:]: found for key, found in load(tmp_path).items()}
    assert ratio_lines(mine)[-1] == (
        "| untuned | direct | 1500 | 1 | 0.0000 | [0.000, 0.003] | 0.0000 | 0.000 |"
    )
