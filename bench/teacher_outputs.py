"""How many real model outputs the parser reads, and why it does not read the rest.

    MSRREC_DATA=/path/to/data python -m bench.teacher_outputs
    python -m bench.teacher_outputs --folder /path/to/data/teacher-outputs

None of the outputs was asked for the five steps, so a chain found in one is a false one, and
pruning keeps none. Whatever it holds, a text is truncated where its call did not end by itself.
Their own tasks are read with the same code: three answers as a chain of three steps, and the item
that a text names among six titles (its own and five of other texts), or among six of other texts,
where every name found is a false one. An exception ends the run.
"""

import argparse
import gzip
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msrrec.data.leakage import find_leak
from msrrec.reasoning.choice import parse_recommendation
from msrrec.reasoning.parsing import Chain, ParseFailure, parse_chain
from msrrec.synthesis.journal import JournalEntry, Sampling
from msrrec.synthesis.pruning import judge
from msrrec.titles import normalize_title

NIR, EXP3RT, REASON4REC = (
    "nir_ml100k_3step",
    "exp3rt_amazonbook_rationale",
    "reason4rec_grpo_digitalmusic",
)
Named = tuple[str, str]
"""A text, and the item that it is about."""


def load(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one file."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def find_item(pattern: str, text: str) -> str:
    """The title that a prompt or a description is about."""
    match = re.search(pattern, text)
    assert match, f"no item in {text[:80]!r}"
    return match.group(1)


def tell(result: Chain | int | ParseFailure, right: str) -> str:
    """One or two words about the result of reading."""
    if isinstance(result, ParseFailure):
        is_step = result.reason == "incomplete"
        return f"{result.reason}, {result.detail}" if is_step else result.reason
    return right


def read_names(texts: Sequence[Named], *, with_item: bool) -> Counter[str]:
    """Counts of which of six titles each text names."""
    rng, titles = random.Random(0), sorted({title for _, title in texts})
    counts: Counter[str] = Counter()
    for text, title in texts:
        others = [t for t in rng.sample(titles, 12) if normalize_title(t) != normalize_title(title)]
        candidates = [title, *others[:5]] if with_item else others[:6]
        found = parse_recommendation(text, candidates)
        right = "its item" if with_item and found == 0 else "another"
        counts[tell(found, right)] += 1
    return counts


def read_chains(texts: Sequence[str]) -> Counter[str]:
    """Counts of the results of ``parse_chain``."""
    return Counter(tell(parse_chain(text), "five steps") for text in texts)


def judge_all(texts: Sequence[Named], finish_reason: str) -> Counter[str]:
    """Counts of verdicts of pruning, had a teacher sent each text; each names its target first."""
    counts: Counter[str] = Counter()
    for text, title in texts:
        sampling = Sampling("m", 0.6, 64)
        entry = JournalEntry("e", 0, "h", sampling, text, None, finish_reason, {}, "m", 0.1, 1, 0.0)
        counts[judge(entry, (title, "Another title", "A third title"), target=0).verdict] += 1
    return counts


def read_three_steps(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """Counts for three answers with numbers, read as the user side's chain."""
    counts: Counter[str] = Counter()
    for row in rows:
        steps = [step.strip() for step in row["step_outputs"]]
        chain = parse_chain("\n".join(f"Step {n}: {s}" for n, s in enumerate(steps, 1)), "user")
        is_whole = isinstance(chain, Chain) and list(chain.steps) == steps
        counts["three steps as written" if is_whole else tell(chain, "other steps")] += 1
    return counts


def read_lines(rows: Sequence[dict[str, Any]]) -> Counter[str]:
    """The candidate that each line ``[n. watched film - recommended film]`` names, of 19."""
    counts: Counter[str] = Counter()
    for row in rows:
        candidates = row["candidates_text"].split(", ")
        for line in re.split(r"\n|(?<=\]), *(?=\[)", row["step_outputs"][2]):
            if line.strip():
                counts[tell(parse_recommendation(line, candidates), "one")] += 1
    return counts


def read_leaks(texts: Sequence[Named]) -> Counter[str]:
    """Counts of knowledge about its item that each text could not have from its prompt."""
    return Counter(find_leak([text], [title], 0) or "nothing" for text, title in texts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    data = os.environ.get("MSRREC_DATA")
    parser.add_argument(
        "--folder", type=Path, default=Path(data) / "teacher-outputs" if data else None
    )
    folder = parser.parse_args().folder
    if folder is None:
        parser.error("name a --folder, or set MSRREC_DATA")
    nir, exp3rt, music = (load(folder, name) for name in (NIR, EXP3RT, REASON4REC))
    books = [(r["rationale"], find_item(r"Title: (.*)", r["item_description"])) for r in exp3rt]
    songs = [
        (row[kind]["completion"], find_item(r'new Digital Music "(.*?)" being', row["prompt"]))
        for row in music
        for kind in ("best", "worst")
    ]
    begin = time.perf_counter()
    tables = {
        f"{NIR}: any five steps": read_chains([t for r in nir for t in r["step_outputs"]]),
        f"{NIR}: its three steps": read_three_steps(nir),
        f"{NIR}: films in a line": read_lines(nir),
        f"{EXP3RT}: any five steps": read_chains([text for text, _ in books]),
        f"{EXP3RT}: its item among six": read_names(books, with_item=True),
        f"{EXP3RT}: six other items": read_names(books, with_item=False),
        f"{EXP3RT}: told without being told": read_leaks(books),
        f"{REASON4REC}: any five steps": read_chains([text for text, _ in songs]),
        f"{REASON4REC}: its item among six": read_names(songs, with_item=True),
        f"{REASON4REC}: six other items": read_names(songs, with_item=False),
        f"{REASON4REC}: told without being told": read_leaks(songs),
    }
    firsts = [(t, r["candidates_text"].split(", ")[0]) for r in nir for t in r["step_outputs"]]
    for reason in ("stop", "length", "abort"):
        for name, texts in ((NIR, firsts), (EXP3RT, books), (REASON4REC, songs)):
            tables[f"{name}: verdict at finish_reason={reason}"] = judge_all(texts, reason)
    seconds = time.perf_counter() - begin
    for name, counts in tables.items():
        print(f"{name} ({counts.total()} texts)")
        for reading, count in counts.most_common():
            print(f"    {count:6,} {count / counts.total():7.1%}  {reading}")
    total = sum(counts.total() for counts in tables.values())
    print(f"{total:,} readings in {seconds:.1f} s, none raised")


if __name__ == "__main__":
    main()
