"""For whom are systems right: where the next purchase shares a word with the history, or elsewhere?

A word counts as in the offline teacher's chains: three letters or more, and no article or the like.
Every folder holds an evaluation of one variant; all are of the same users.

    python -m bench.shared_words NAME=EVALUATION ...
"""

import argparse
from collections.abc import Mapping, Sequence

import pyarrow.parquet as pq

from bench.reasons import name_and_folder
from bench.samples import load_evaluation
from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import evaluated_examples
from msrrec.metrics.claims import Truth
from msrrec.metrics.statistics import wilson
from msrrec.report.markdown import interval, one_line, table_line
from msrrec.schema import Example
from msrrec.titles import is_content_word

TARGET, OTHERS, NOBODY = "the target does", "only other candidates do", "no candidate does"

Hits = Mapping[str, Mapping[str, bool]]
"""Whether each user, by example id, was hit, within the users of a group."""


def group_of(example: Example, truth: Truth) -> str:
    """Which candidates share a word with the history."""
    bought = frozenset().union(*map(truth.words, example.history))
    sharing = {
        item_id
        for item_id in example.candidates
        if any(map(is_content_word, truth.words(item_id) & bought))
    }
    return TARGET if example.target in sharing else OTHERS if sharing else NOBODY


def load_hits(folder: str) -> Hits:
    """The hits of an evaluation's users, group by group.

    Raises:
        DataError: If the evaluation or its dataset can't be read.
        ValueError: If it has several variants, or is of another dataset than lies in its place.
    """
    found, dataset = load_evaluation(folder)
    (variant,) = found.variants
    rows = pq.read_table(
        f"{folder}/predictions/{variant}.parquet", columns=["example_id", "item_id"]
    )
    chosen = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    truth = titles_of(dataset)
    hits: dict[str, dict[str, bool]] = {TARGET: {}, OTHERS: {}, NOBODY: {}}
    for example in evaluated_examples(dataset, found.config.evaluate):
        is_hit = chosen[example.example_id] == example.target
        hits[group_of(example, truth)][example.example_id] = is_hit
    return hits


def titles_of(dataset: Dataset) -> Truth:
    """What the titles of a dataset say, its categories left aside."""
    return Truth({}, frozenset(), {}, dataset.items)


def render(named: Sequence[tuple[str, Hits]]) -> str:
    """The table as Markdown, one line for each system.

    Raises:
        ValueError: If the evaluations have different users.
    """
    users = {frozenset(user for hits in found.values() for user in hits) for _, found in named}
    if len(users) != 1:
        raise ValueError("the evaluations have different users; expected the same of all")
    counts = {group: len(hits) for group, hits in named[0][1].items()}
    header = ("system", "HitRatio@1", *(f"{name} ({n:,} users)" for name, n in counts.items()))
    lines = ["# Hits by which candidates share a word with the history", ""]
    lines += [table_line(header), "|" + "---|" * len(header)]
    for name, found in named:
        groups = [list(hits.values()) for hits in found.values()]
        everyone = [hit for hits in groups for hit in hits]
        shares = (interval(wilson(sum(h), len(h))) for h in (everyone, *groups))
        lines.append(table_line((one_line(name), *shares)))
    return "\n".join([*lines, "", "Brackets: 95%, Wilson's."]) + "\n"


def main() -> None:
    """Print the table of the named evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("evaluations", nargs="+", type=name_and_folder, metavar="NAME=EVALUATION")
    args = parser.parse_args()
    print(render([(name, load_hits(folder)) for name, folder in args.evaluations]), end="")


if __name__ == "__main__":
    main()
