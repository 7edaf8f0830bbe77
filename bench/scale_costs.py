"""What each stage costs for very many users, from what a finished pipeline of few used per user.

    python -m bench.scale_costs RUN --calls CALLS --teacher-speed TOKENS --train-speed TOKENS
        --write-speed TOKENS --prompt-price PRICE --completion-price PRICE

RUN is a folder of ``msrrec pipeline`` on a sample of the users in question, with their teacher and
prompts. What it can't tell is given: speeds of one GPU and prices, each by the option whose help
says how it is measured. The printed table is the formulas of ``docs/scale.md`` and nothing more.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USERS = (1_000_000, 100_000_000, 1_000_000_000)
PREPARED, ASKED, PREDICTED = "dataset", "reasoning", "evaluation/predictions"


@dataclass(frozen=True)
class Usage:
    """What a finished pipeline used, for one user or one call to the teacher.

    Attributes:
        dataset_bytes: Bytes of the dataset for a user.
        reasoning_bytes: Bytes of paths, verdicts and journal for a call.
        prediction_bytes: Bytes of predictions for a user.
        prompt_tokens: Tokens of a call's prompt.
        completion_tokens: Tokens of a call's answer.
        train_tokens: Tokens of an epoch for a call: those of kept paths, over all calls.
        output_tokens: Tokens that the student writes for a user, both sides.
    """

    dataset_bytes: float
    reasoning_bytes: float
    prediction_bytes: float
    prompt_tokens: float
    completion_tokens: float
    train_tokens: float
    output_tokens: float


@dataclass(frozen=True)
class Given:
    """What is chosen, or measured elsewhere.

    Attributes:
        calls: Calls to the teacher; training needs no more of them for more users.
        teacher_speed: Tokens a minute that the teacher's limits allow, prompts included.
        epochs: Passes over the kept paths.
        train_speed: Tokens a second that one GPU trains on.
        write_speed: Tokens a second that one GPU writes in batches.
        prompt_price: Price of a million tokens of the teacher's prompts.
        completion_price: Price of a million tokens of its answers.
    """

    calls: int
    teacher_speed: float
    epochs: int
    train_speed: float
    write_speed: float
    prompt_price: float
    completion_price: float


@dataclass(frozen=True)
class Costs:
    """What the stages cost for some number of users.

    Attributes:
        teacher_tokens: Tokens of all calls, prompts included.
        teacher_price: Their price.
        teacher_hours: Hours within the teacher's limits.
        train_hours: GPU hours of training.
        recommend_hours: GPU hours of recommending once for everybody.
        stored_bytes: Bytes in the bucket afterwards, without the model.
    """

    teacher_tokens: float
    teacher_price: float
    teacher_hours: float
    train_hours: float
    recommend_hours: float
    stored_bytes: float


def find_costs(usage: Usage, given: Given, users: int) -> Costs:
    """The costs of all stages for so many users."""
    prompts, answers = usage.prompt_tokens * given.calls, usage.completion_tokens * given.calls
    per_user = usage.dataset_bytes + usage.prediction_bytes
    return Costs(
        teacher_tokens=prompts + answers,
        teacher_price=(prompts * given.prompt_price + answers * given.completion_price) / 1e6,
        teacher_hours=(prompts + answers) / given.teacher_speed / 60,
        train_hours=usage.train_tokens * given.calls * given.epochs / given.train_speed / 3600,
        recommend_hours=usage.output_tokens * users / given.write_speed / 3600,
        stored_bytes=per_user * users + usage.reasoning_bytes * given.calls,
    )


def read_usage(run: Path) -> Usage:
    """What the pipeline in a folder used.

    Raises:
        OSError: If a file of a finished pipeline is missing.
    """
    users = _read(run / "dataset" / "manifest.json")["num_users"]
    asked = _read(run / "reasoning" / "summary.json")
    trained = _read(run / "model" / "run.json")["summary"]
    evaluated = _read(run / "evaluation" / "report" / "metrics.json")
    calls = asked["calls"]
    return Usage(
        dataset_bytes=count_bytes(run / PREPARED) / users,
        reasoning_bytes=count_bytes(run / ASKED) / calls,
        prediction_bytes=count_bytes(run / PREDICTED) / evaluated["num_users"],
        prompt_tokens=asked["prompt_tokens"] / calls,
        completion_tokens=asked["completion_tokens"] / calls,
        train_tokens=trained["num_tokens"] / calls,
        output_tokens=evaluated["generated_tokens"]["fused"],
    )


def count_bytes(folder: Path) -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_table(usage: Usage, given: Given, users: Sequence[int]) -> Iterator[str]:
    """The lines of the table in Markdown."""
    costs = [find_costs(usage, given, count) for count in users]
    rows = {
        f"teacher, tokens of {given.calls:,} calls": [f"{c.teacher_tokens:,.0f}" for c in costs],
        "teacher, price": [f"{c.teacher_price:,.2f}" for c in costs],
        "teacher, hours": [f"{c.teacher_hours:,.1f}" for c in costs],
        "train, GPU hours": [f"{c.train_hours:,.1f}" for c in costs],
        "recommend for everybody, GPU hours": [f"{c.recommend_hours:,.1f}" for c in costs],
        "stored, GB": [f"{c.stored_bytes / 1e9:,.1f}" for c in costs],
    }
    yield "| users | " + " | ".join(f"{count:,}" for count in users) + " |"
    yield "|---|" + "---|" * len(users)
    yield from (f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())


def build_parser() -> argparse.ArgumentParser:
    """The options, each with how its value is found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, help="a folder of msrrec pipeline")
    parser.add_argument("--users", type=int, nargs="+", default=USERS)
    parser.add_argument("--calls", type=int, required=True, help="calls to the teacher: a choice")
    parser.add_argument("--epochs", type=int, default=1, help="train.num_epochs")
    for name, how in (
        ("--teacher-speed", "tokens a minute: teacher.tokens_per_minute, or summary.json's wall_s"),
        ("--train-speed", "tokens/s of a GPU: bench.training --gpu, or run.json of a model"),
        ("--write-speed", "tokens/s of a GPU: speed.tokens_per_s of an evaluation on GPUs"),
        ("--prompt-price", "of a million tokens: the teacher's price list"),
        ("--completion-price", "of a million tokens: the teacher's price list"),
    ):
        parser.add_argument(name, type=float, required=True, help=how)
    return parser


def main() -> int:
    """Print what was measured and what follows."""
    options = vars(build_parser().parse_args())
    run, users = options.pop("run"), options.pop("users")
    usage = read_usage(run)
    for name, value in vars(usage).items():
        print(f"{name} {value:.1f}")
    print(*write_table(usage, Given(**options), users), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
