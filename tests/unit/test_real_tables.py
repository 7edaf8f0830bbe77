"""The tables of the benchmark with a pretrained model, from hits written by hand."""

from pathlib import Path

from bench.real_tables import contrast, load, ratio_lines
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


def test_a_model_that_never_hits_has_an_interval_of_its_users(tmp_path: Path) -> None:
    write_hits(tmp_path / "hits.parquet", rows_of("untuned", {0: "i" * 1500}))
    mine = {key[2:]: found for key, found in load(tmp_path).items()}
    assert ratio_lines(mine)[-1] == (
        "| untuned | direct | 1500 | 1 | 0.0000 | [0.000, 0.003] | 0.0000 | 0.000 |"
    )
