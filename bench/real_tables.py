"""The tables of ``bench.real_backbone``: HitRatio@1 by arm and reading, and paired contrasts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from msrrec.evaluation.hits import ArmHits, group_hits, read_hits
from msrrec.evaluation.study import compare_arms
from msrrec.markup import REASONING_END
from msrrec.metrics.crossed import crossed_share
from msrrec.metrics.statistics import holm, mcnemar
from msrrec.titles import fold_text

Key = tuple[str, str, str, str]
"""Dataset, order, arm, reading."""

_SAMPLED, _LIKELY = ("fused", "direct"), ("both-likelihood", "direct-likelihood")
_BOTH_SAMPLED, _BOTH_LIKELY = ("fused",) * 2, ("both-likelihood",) * 2
CONTRASTS = {
    "chain - none": (("chain", "none"), _SAMPLED, _LIKELY),
    "chain - placebo": (("chain", "placebo"), _BOTH_SAMPLED, _BOTH_LIKELY),
    "chain - facts": (("chain", "facts"), _SAMPLED, _LIKELY),
    "chain - filler": (("chain", "filler"), _BOTH_SAMPLED, _BOTH_LIKELY),
    "chain, answered directly - none": (
        ("chain", "none"),
        ("direct",) * 2,
        ("direct-likelihood",) * 2,
    ),
}
"""Arms, and their readings in the contrast of sampled answers and in that of likelihoods."""


PRIMARY = ("chain - none", "chain - placebo", "chain - facts")


@dataclass(frozen=True)
class Contrast:
    """A row of the table of contrasts.

    Attributes:
        text: All cells but the corrected p-value.
        family: What it is corrected with; None for no correction.
    """

    text: str
    p_value: float
    family: str | None


def load(folder: Path) -> dict[Key, ArmHits]:
    """The hits of each arm and reading."""
    hits = group_hits(read_hits([str(folder / "hits.parquet")]))
    return {(c.dataset, c.order, c.arm, c.reading): found for c, found in hits.items()}


def render(folder: Path) -> str:
    """All tables, as Markdown."""
    if not (folder / "hits.parquet").exists():
        return "nothing is finished yet\n"
    hits, lines = load(folder), []
    for dataset, order in dict.fromkeys(key[:2] for key in hits):
        mine = {key[2:]: found for key, found in hits.items() if key[:2] == (dataset, order)}
        lines += [f"## {dataset}, {order}", "", *ratio_lines(mine), ""]
        lines += [*contrast_lines(mine), ""]
    return "\n".join([*lines, *text_lines(folder), "", *run_lines(folder)]) + "\n"


def ratio_lines(mine: dict[tuple[str, str], ArmHits]) -> list[str]:
    """HitRatio@1 of each arm and reading."""
    lines = [
        "| arm | reading | users | seeds | HitRatio@1 | 95% | by seed | valid |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (arm, reading), found in sorted(mine.items(), key=lambda pair: pair[0][0]):
        share = crossed_share(found.hits.astype(float))
        seeds = " ".join(f"{value:.4f}" for value in found.hits.mean(axis=0))
        lines.append(
            f"| {arm} | {reading} | {len(found.users)} | {len(found.seeds)} | {share.value:.4f} | "
            f"[{share.low:.3f}, {share.high:.3f}] | {seeds} | {found.valid.mean():.3f} |"
        )
    return lines


def contrast_lines(mine: dict[tuple[str, str], ArmHits]) -> list[str]:
    """Paired contrasts of arms, and of fusion with the better side.

    Holm's correction is over the primary contrasts of the same kind of reading.
    """
    found = []
    for suffix in ("", "+plain"):
        for name, (arms, *readings) in CONTRASTS.items():
            for kind, (first, second) in zip(("sampled", "likelihood"), readings, strict=True):
                pair = [(f"{arms[0]}{suffix}", first), (f"{arms[1]}{suffix}", second)]
                family = kind + suffix if name in PRIMARY else None
                found += contrast(f"{name}{suffix}", pair, mine, family)
    for arm in dict.fromkeys(key[0] for key in mine):
        sides = [(arm, side) for side in ("user", "item") if (arm, side) in mine]
        if sides and (arm, "fused") in mine:
            better = max(sides, key=lambda key: mine[key].hits.mean())
            found += contrast(f"{arm}: fusion - better side", [(arm, "fused"), better], mine)
    lines = [
        "| contrast | readings | seeds | difference | 95% | seeds' differences | McNemar p by seed "
        "| p | Holm |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    adjusted = correct(found)
    return lines + [f"| {row.text} | {p} |" for row, p in zip(found, adjusted, strict=True)]


def correct(rows: Sequence[Contrast]) -> list[str]:
    """The corrected p-value of each row that belongs to a family."""
    adjusted = [""] * len(rows)
    for family in {row.family for row in rows if row.family}:
        places = [n for n, row in enumerate(rows) if row.family == family]
        for n, p_value in zip(places, holm([rows[n].p_value for n in places]), strict=True):
            adjusted[n] = f"{p_value:.4f}"
    return adjusted


def contrast(
    name: str,
    pair: Sequence[tuple[str, str]],
    mine: dict[tuple[str, str], ArmHits],
    family: str | None = None,
) -> list[Contrast]:
    """One row, over the users and seeds that both arms have; none where an arm is missing."""
    if any(key not in mine for key in pair):
        return []
    ours, theirs = (mine[key] for key in pair)
    users = sorted(set(ours.users) & set(theirs.users))
    seeds = sorted(set(ours.seeds) & set(theirs.seeds))
    if len(users) < 2 or not seeds:
        return []
    first, second = (side.select(users, seeds) for side in (ours, theirs))
    found = compare_arms(pair[0][0], pair[1][0], None, [(first, second)])
    seeds_of_both = zip(first.hits.T, second.hits.T, strict=True)
    tests = [mcnemar(a.tolist(), b.tolist()) for a, b in seeds_of_both]
    cells = (
        name,
        " / ".join(key[1] for key in pair),
        str(len(seeds)),
        f"{found.difference:+.4f}",
        f"[{found.low:+.3f}, {found.high:+.3f}]",
        " ".join(f"{test.difference:+.4f}" for test in tests),
        " ".join(f"{test.p_value:.4f}" for test in tests),
        f"{found.p_value:.4f}",
    )
    return [Contrast(" | ".join(cells), found.p_value, family)]


def text_lines(folder: Path) -> list[str]:
    """In how many of the texts kept the answer is the item that the chain's last step names."""
    rows = pq.read_table(folder / "outputs.parquet", columns=["run", "side", "text"]).to_pandas()
    rows = rows[rows["text"].notna() & rows["side"].isin(["user", "item"])]
    lines = [
        "| run | side | texts kept | a category with none of the candidates | last step names the "
        "answer |",
        "|---|---|---|---|---|",
    ]
    for (run, side), some in rows.groupby(["run", "side"], sort=False):
        parts = [text.partition(REASONING_END) for text in some["text"]]
        empty = sum(": none" in chain for chain, _, _ in parts)
        named = [
            bool(answer.strip()) and fold_text(answer) in fold_text(chain.strip().splitlines()[-1])
            for chain, _, answer in parts
            if chain.strip()
        ]
        lines.append(f"| {run} | {side} | {len(parts)} | {empty} | {sum(named)} |")
    return lines


def run_lines(folder: Path) -> list[str]:
    """What each run took."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "runs.jsonl").read_text("utf-8").splitlines()
    ]
    columns = (
        *("steps", "tokens", "supervised_reasoning", "supervised_recommendation", "loss_rea"),
        *("loss_rec", "valid_user", "tokens_user", "valid_item", "tokens_item", "valid_direct"),
        *("tokens_direct", "train_s", "ask_s"),
    )
    lines = ["| run | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = ("" if row.get(name) is None else str(row[name]) for name in columns)
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return lines
