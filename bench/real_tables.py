"""The tables of ``bench.real_backbone``: HitRatio@1 by arm and reading, and paired contrasts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msrrec.markup import REASONING_END
from msrrec.metrics.crossed import crossed_mean
from msrrec.metrics.statistics import holm, mcnemar
from msrrec.titles import fold_text

Hits = NDArray[np.float64]
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


def load(folder: Path) -> tuple[dict[Key, Hits], dict[Key, float]]:
    """Hits by user and seed, shape (U, S), and the share of valid answers."""
    rows = pq.read_table(folder / "hits.parquet").to_pandas()
    rows["valid"] = rows["index"].notna()
    hits, valid = {}, {}
    for key, some in rows.groupby(["dataset", "order", "arm", "reading"], sort=False):
        table = some.pivot_table(index="user_id", columns="seed", values="hit", aggfunc="first")
        hits[key] = table.dropna(axis=1).to_numpy(float)
        valid[key] = float(some["valid"].mean())
    return hits, valid


def render(folder: Path) -> str:
    """All tables, as Markdown."""
    if not (folder / "hits.parquet").exists():
        return "nothing is finished yet\n"
    hits, valid = load(folder)
    lines = []
    for dataset, order in dict.fromkeys(key[:2] for key in hits):
        mine = {key[2:]: table for key, table in hits.items() if key[:2] == (dataset, order)}
        lines += [f"## {dataset}, {order}", "", *ratio_lines(dataset, order, mine, valid), ""]
        lines += [*contrast_lines(mine), ""]
    return "\n".join([*lines, *text_lines(folder), "", *run_lines(folder)]) + "\n"


def ratio_lines(
    dataset: str, order: str, mine: dict[tuple[str, str], Hits], valid: dict[Key, float]
) -> list[str]:
    """HitRatio@1 of each arm and reading."""
    lines = [
        "| arm | reading | users | seeds | HitRatio@1 | 95% | by seed | valid |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (arm, reading), table in sorted(mine.items(), key=lambda pair: pair[0][0]):
        share = crossed_mean(table).share
        seeds = " ".join(f"{value:.4f}" for value in table.mean(axis=0))
        lines.append(
            f"| {arm} | {reading} | {table.shape[0]} | {table.shape[1]} | {share.value:.4f} | "
            f"[{share.low:.3f}, {share.high:.3f}] | {seeds} | "
            f"{valid[dataset, order, arm, reading]:.3f} |"
        )
    return lines


def contrast_lines(mine: dict[tuple[str, str], Hits]) -> list[str]:
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
            better = max(sides, key=lambda key: mine[key].mean())
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
    mine: dict[tuple[str, str], Hits],
    family: str | None = None,
) -> list[Contrast]:
    """One row; none where an arm is missing."""
    if any(key not in mine for key in pair):
        return []
    first, second = (mine[key] for key in pair)
    seeds = min(first.shape[1], second.shape[1])
    first, second = first[:, :seeds], second[:, :seeds]
    if not seeds or len(first) != len(second):
        return []
    found = crossed_mean(first - second)
    seeds_of_both = zip(first.T, second.T, strict=True)
    tests = [mcnemar((a > 0).tolist(), (b > 0).tolist()) for a, b in seeds_of_both]
    cells = (
        name,
        " / ".join(key[1] for key in pair),
        str(seeds),
        f"{found.value:+.4f}",
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
