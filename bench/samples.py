"""What do several outputs for a user give, against a single one that is decoded greedily?

Every folder holds an evaluation of the same users with `inference.num_samples` outputs each. For
every number of outputs the table has the choice that most of them name (self-consistency,
2203.11171), the choice after the chain of lowest perplexity, and that of the likeliest text,
reasoning and answer together (PiCSAR, 2508.21787). Evaluations with the same name are of one
model; single outputs of the first of them, which may be greedy, are compared with those of the
others, and with what each rule chooses among all of these.

    python -m bench.samples MODEL=EVALUATION MODEL=EVALUATION ...
"""

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq

from bench.reasons import name_and_folder
from msrrec.data.dataset import Dataset
from msrrec.evaluation.examples import evaluated_examples
from msrrec.evaluation.results import EvaluationResult
from msrrec.evaluation.write import SAMPLES
from msrrec.inference.fusion import SideOutput, joint_loglikelihood
from msrrec.inference.predictions import from_row
from msrrec.metrics.statistics import mean_interval, wilson
from msrrec.report.markdown import interval, one_line, table_line

Choose = Callable[[Sequence[SideOutput]], int | None]


@dataclass(frozen=True)
class Sampled:
    """The outputs of one evaluation, at least one for each user.

    Attributes:
        outputs: Each user's outputs in the order in which they were drawn, by example id.
        targets: Index of each user's target in the candidates, in the same order; -1 where
            it is none of them.
    """

    name: str
    split: str
    temperature: float
    outputs: Mapping[str, Sequence[SideOutput]]
    targets: Sequence[int]

    @property
    def num_samples(self) -> int:
        """Number of outputs that every user has."""
        return len(next(iter(self.outputs.values())))

    @property
    def num_tokens(self) -> float:
        """Mean number of tokens of an output."""
        counts = [output.num_tokens for outputs in self.outputs.values() for output in outputs]
        return sum(counts) / len(counts)

    def hits(self, choose: Choose, number: int) -> list[bool]:
        """Whether a rule hits each user, given so many of the user's outputs."""
        users = zip(self.outputs.values(), self.targets, strict=True)
        return [choose(outputs[:number]) == target for outputs, target in users]

    def mean_hits(self, number: int) -> list[float]:
        """The share of so many of a user's outputs that name the target, for each user."""
        users = zip(self.outputs.values(), self.targets, strict=True)
        return [
            sum(output.index == target for output in outputs[:number]) / number
            for outputs, target in users
        ]


def load_samples(name: str, folder: str) -> Sampled:
    """The outputs of an evaluation of one variant.

    Raises:
        DataError: If the evaluation or its dataset can't be read.
        ValueError: If it has several variants, is of another dataset than lies in its place, or
            has too few outputs for a user.
    """
    found, dataset = load_evaluation(folder)
    (variant,) = found.variants
    examples = evaluated_examples(dataset, found.config.evaluate)
    rows = pq.read_table(f"{folder}/predictions/{variant}.parquet").to_pylist()
    if found.config.inference.num_samples > 1:
        further = pq.read_table(f"{folder}/{SAMPLES}", filters=[("side", "=", variant)])
        rows += further.to_pylist()
    candidates = {example.example_id: example.candidates for example in examples}
    outputs: dict[str, list[SideOutput]] = {example_id: [] for example_id in candidates}
    for row in rows:
        item_id, example_id = row["item_id"], row["example_id"]
        index = None if item_id is None else candidates[example_id].index(item_id)
        outputs[example_id].append(from_row({**row, "index": index}).output)
    asked = found.config.inference.num_samples
    if any(len(drawn) != asked for drawn in outputs.values()):
        raise ValueError(
            f"{folder}: a user lacks outputs; expected {asked} for each; evaluate again"
        )
    targets = [example.target_slot for example in examples]
    temperature = found.config.inference.temperature
    return Sampled(name, found.split, temperature, outputs, targets)


def load_evaluation(folder: str) -> tuple[EvaluationResult, Dataset]:
    """An evaluation of one variant, and its dataset.

    Raises:
        DataError: If either can't be read.
        ValueError: If it has several variants, or is of another dataset than lies in its place.
    """
    found = EvaluationResult.load(folder)
    if len(found.variants) != 1:
        given = ", ".join(found.variants)
        raise ValueError(f"{folder}: found the variants {given}; expected one, by --variant")
    dataset = Dataset.load(found.dataset.path)
    if dataset.fingerprint != found.dataset.fingerprint:
        raise ValueError(f"{folder}: {dataset.path} is another dataset by now; evaluate again")
    return found, dataset


def most_named(outputs: Sequence[SideOutput]) -> int | None:
    """The candidate that most outputs name; among equals the one that was named first."""
    votes = Counter(output.index for output in outputs if output.is_valid)
    return max(votes, key=lambda index: votes[index]) if votes else None


def after_lowest_perplexity(outputs: Sequence[SideOutput]) -> int | None:
    """The candidate after the chain of lowest perplexity given the prompt, the first of equals."""
    return _best(outputs, lambda output: -output.perplexity if output.perplexity else None)


def of_likeliest_text(outputs: Sequence[SideOutput]) -> int | None:
    """The candidate of the output that is likeliest as a whole, the first of equals."""
    return _best(outputs, joint_loglikelihood)


def _best(outputs: Sequence[SideOutput], score: Callable[[SideOutput], float | None]) -> int | None:
    scored = [(score(output), output.index) for output in outputs if output.is_valid]
    known = [(value, index) for value, index in scored if value is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


RULES: Mapping[str, Choose] = {
    "named by most": most_named,
    "after the chain of lowest perplexity": after_lowest_perplexity,
    "likeliest text": of_likeliest_text,
}


def render(evaluations: Sequence[Sampled]) -> str:
    """The table of every evaluation as Markdown, then the differences of single outputs.

    Raises:
        ValueError: If the evaluations have different users.
    """
    users = {tuple(found.outputs) for found in evaluations}
    if len(users) != 1:
        raise ValueError("the evaluations have different users; expected the same of all")
    lines = ["# Several outputs for a user, and one that is decoded greedily", "", *_header()]
    lines += [line for found in evaluations for line in _rows(found)]
    firsts: dict[str, Sampled] = {}
    for found in evaluations:
        first = firsts.setdefault(found.name, found)
        lines += ["", *_compared(first, found)] if found is not first else []
    splits = ", ".join(sorted({found.split for found in evaluations}))
    brackets = "Brackets: 95%; Wilson's of shares, bootstrap over users of differences."
    lines += ["", f"{len(evaluations[0].targets):,} users of {splits}. {brackets}"]
    return "\n".join(lines) + "\n"


def _header() -> list[str]:
    names = ("model", "temperature", "outputs", "tokens", "one of them", *RULES, "any is right")
    return [table_line(names), "|" + "---|" * len(names)]


def _rows(found: Sampled) -> list[str]:
    counts = range(1, found.num_samples + 1)
    return [table_line(_cells(found, number)) for number in counts]


def _hits(found: Sampled, number: int) -> dict[str, list[bool] | None]:
    """Whether each rule hits each user; None where no output has a chain to go by."""
    has_chains = any(o.perplexity for outputs in found.outputs.values() for o in outputs)
    return {
        name: None
        if rule is after_lowest_perplexity and not has_chains
        else found.hits(rule, number)
        for name, rule in RULES.items()
    }


def _cells(found: Sampled, number: int) -> tuple[str, ...]:
    means, num_users = found.mean_hits(number), len(found.targets)
    return (
        one_line(found.name),
        f"{found.temperature:g}",
        str(number),
        f"{number * found.num_tokens:.0f}",
        f"{sum(means) / num_users:.4f}",
        *(
            interval(hits and wilson(sum(hits), len(hits)))
            for hits in _hits(found, number).values()
        ),
        f"{sum(mean > 0 for mean in means) / num_users:.4f}",
    )


def _compared(first: Sampled, other: Sampled) -> list[str]:
    """Single outputs of the first minus those of the other, and minus what each rule chooses."""
    singles = first.mean_hits(first.num_samples)
    of_one = (
        f"{one_line(first.name)}, one output at temperature {first.temperature:g} (mean over "
        f"{first.num_samples})"
    )
    one = f"one at {other.temperature:g} (mean over {other.num_samples})"
    against: dict[str, Sequence[float]] = {one: other.mean_hits(other.num_samples)}
    for rule, hits in _hits(other, other.num_samples).items() if other.num_samples > 1 else ():
        if hits:
            against[f"the one of {other.num_samples} at {other.temperature:g} ({rule})"] = hits
    points = [_points(singles, values) for values in against.values()]
    names = zip(against, points, strict=True)
    return [f"- {of_one} minus {name}: {found}." for name, found in names]


def _points(mine: Sequence[float], theirs: Sequence[float]) -> str:
    found = mean_interval([100 * (m - t) for m, t in zip(mine, theirs, strict=True)])
    assert found  # every evaluation has users
    return f"{found.value:+.1f} points [{found.low:+.1f}, {found.high:+.1f}]"


def main() -> None:
    """Print the tables of the named evaluations."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("evaluations", nargs="+", type=name_and_folder, metavar="MODEL=EVALUATION")
    args = parser.parse_args()
    found = [load_samples(name, folder) for name, folder in args.evaluations]
    print(render(found), end="")


if __name__ == "__main__":
    main()
