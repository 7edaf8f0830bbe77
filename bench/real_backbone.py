"""Does reasoning help a pretrained model on real purchases? Trainings of all arms on one GPU.

    python -m bench.real_backbone smoke --model MODEL --data DATA --out OUT
    python -m bench.real_backbone run --model MODEL --data DATA --out OUT --minutes 9 --workers 6
    python -m bench.real_backbone table --out OUT

``DATA`` holds a folder per dataset with what ``msrrec prepare`` and ``msrrec synthesize`` wrote, as
``dataset`` and ``reasoning``; ``MODEL`` is a Hugging Face folder or a GGUF file, such as that of
``smollm2-135m``. ``smoke`` does every step once in less than a minute and finds out which attention
works. ``run`` has three parts, the later ones as far as time allows:

    trials      of the arms ``none`` and ``chain``, equally many: order of the prompt, learning
                rate, epochs, and whether the next title is also taught without a list. HitRatio@1
                on validation users of the first dataset picks order, epochs and the last for all
                arms, and the rate for each of the two; other arms that write something between the
                markers take the chain's, the rest that of ``none``; a single setting is not tried
    untuned     the model as it is, unless --no-untuned
    main        every arm and seed on test users, dataset by dataset; then ``none`` and ``chain`` in
                the other order

Processes on the one GPU take the next run each, as a model of this size is bound by launches.
Nothing is started that is not expected to end in time; what is finished is on disk:
``hits.parquet`` (one row per dataset, arm, order, seed, reading and user), ``outputs.parquet``
(perplexities and candidates' likelihoods, some texts), ``runs.jsonl`` (settings, losses, tokens,
seconds, HitRatio by reading). The same command continues where it ended.

Examples, loss, optimiser, parsers, fusion and statistics are the product's. Generation is not: it
is ``bench.real_decoding``'s sampling in plain torch at the product's temperature, not vLLM.

``--preset demo --model embedded --sides full,user,item --asked full --sampled`` runs the same arms
with the embedded backbone: a study of several worlds in minutes on a GPU, whose hits ``msrrec study
--hits`` reads.

Readings: ``direct`` is the sampled answer without reasoning, whatever the arm was trained on;
``user`` and ``item`` are those after sampled reasoning; ``fused`` is Eq. 3, ``fused-lower``,
``-joint``, ``-vote`` (with the direct answer as third) and ``-coin`` are other rules.
``X-likelihood`` takes the candidate whose answer is likeliest, without reasoning or after that of
side X (``both``: mean probability over the sides), and ``X-gain`` subtracts the likelihood after
the direct prompt without a history. ``lm-likelihood`` and ``lm-gain`` show no list, as the
baselines of these names.
"""

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from bench.real_pool import Pool, Store
from bench.real_specs import REASONS, Place, Spec
from bench.real_tables import render

ATTENTION = "attention.txt"
SIDES = ("full", "user", "item")
ARMS = ("none", "chain", "placebo", "facts", "filler")


def trial_specs(args: argparse.Namespace) -> list[Spec]:
    """The trials of both arms, from ``order:rate:epochs[:plain]`` each."""
    specs = []
    for trial in args.trials:
        order, rate, epochs, *plain = trial.split(":")
        shared = Spec(
            args.datasets[0],
            "none",
            order,
            args.trial_seed,
            float(rate),
            int(epochs),
            args.rank,
            plain == ["plain"],
            "validation",
            args.trial_users,
            args.max_steps,
        )
        specs += [replace(shared, arm=arm) for arm in ("chain", "none")]
    return specs


def judge(hit_ratio: dict[str, float], arm: str) -> float:
    """What a trial is chosen by: HitRatio@1 of the arm's sampled answers on validation users."""
    sides = SIDES if arm in REASONS else ("direct",)
    found = [hit_ratio[side] for side in sides if side in hit_ratio]
    return sum(found) / len(found)


def choose(store: Store, specs: Sequence[Spec]) -> dict[str, Spec]:
    """The best trial of both arms within the common settings that are best for both together.

    Args:
        store: Holds the finished trials.
        specs: The trials; those that failed do not count.
    """
    finished = [spec for spec in specs if spec.name in store.runs]
    scores = {s: judge(store.runs[s.name]["hit_ratio"], s.arm) for s in finished}
    for spec, score in scores.items():
        print(f"trial {score:.4f} {spec.name}", flush=True)
    groups: dict[tuple[object, ...], dict[str, Spec]] = {}
    for spec in sorted(scores, key=scores.__getitem__):
        groups.setdefault((spec.order, spec.epochs, spec.plain), {})[spec.arm] = spec
    if not groups:
        return dict.fromkeys(("none", "chain"), specs[0])
    whole = [group for group in groups.values() if len(group) == 2] or list(groups.values())
    found = max(whole, key=lambda group: sum(scores[s] for s in group.values()) / len(group))
    first = next(iter(found.values()))
    return {arm: found.get(arm, first) for arm in ("none", "chain")}


def main_specs(args: argparse.Namespace, chosen: dict[str, Spec]) -> list[Spec]:
    """Every arm and seed, by value: the main arms before the last one, one seed after the other."""
    specs = []
    for arms, seed, dataset in itertools.product(
        (args.arms[:4], args.arms[4:]), args.seeds, args.datasets
    ):
        for arm in arms:
            if arm == "facts" and dataset in args.no_facts:
                continue
            base = chosen["chain" if arm in REASONS else "none"]
            test = {"split": "test", "users": args.users}
            specs.append(replace(base, dataset=dataset, arm=arm, seed=seed, **test))
    return specs


def other_specs(
    args: argparse.Namespace, chosen: dict[str, Spec], trials: Sequence[Spec], store: Store
) -> list[Spec]:
    """The two main arms in the orders that were not chosen, at the best rates of these orders."""
    specs = []
    for order in dict.fromkeys(spec.order for spec in trials):
        if order != chosen["chain"].order:
            best = choose(store, [spec for spec in trials if spec.order == order])
            specs += main_specs(argparse.Namespace(**{**vars(args), "arms": list(best)}), best)
    return specs


def untuned_specs(args: argparse.Namespace) -> list[Spec]:
    """The model as it is, on test users; orders of the trials."""
    orders = dict.fromkeys(trial.split(":")[0] for trial in args.trials)
    return [
        Spec(dataset, "untuned", order, 0, users=args.users)
        for dataset in args.datasets
        for order in orders
    ]


def run(args: argparse.Namespace) -> None:
    """Do what time allows."""
    deadline = time.monotonic() + 60 * args.minutes
    place = make_place(args)
    print(json.dumps(asdict(place)), flush=True)
    store = Store(Path(args.out))
    trials = trial_specs(args)
    with Pool(place, args.workers, store, deadline) as pool:
        if len(args.trials) > 1:  # a single setting needs no choice
            pool.add(trials)
        if args.untuned:
            pool.add(untuned_specs(args))
        pool.wait(trials)
        chosen = choose(store, trials)
        print({arm: spec.name for arm, spec in chosen.items()}, flush=True)
        specs = main_specs(args, chosen) + other_specs(args, chosen, trials, store)
        pool.add(specs)
        pool.wait(specs)
    table(args)


def table(args: argparse.Namespace) -> None:
    """Print the tables, and write them beside the runs."""
    text = render(Path(args.out))
    Path(args.out, "table.md").write_text(text, encoding="utf-8")
    print(text, flush=True)


def smoke(args: argparse.Namespace) -> None:
    """Do every step once."""
    from bench.real_smoke import check  # torch

    kernel = check(make_place(args), args.datasets[0])
    Path(args.out).mkdir(parents=True, exist_ok=True)
    Path(args.out, ATTENTION).write_text(kernel, encoding="utf-8")


def make_place(args: argparse.Namespace) -> Place:
    """Where runs find what they need; the attention is that of ``smoke`` if it was run."""
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    kernel = Path(args.out, ATTENTION)
    attention = args.attention or (kernel.read_text() if kernel.exists() else "auto")
    sizes = args.slots, args.micro_batch, args.global_batch
    sides = tuple(args.sides), tuple(args.asked)
    how = args.preset, args.sampled
    return Place(args.model, args.data, device, *sizes, attention, *sides, *how)


def words(text: str) -> list[str]:
    """A comma-separated list."""
    return [word for word in text.split(",") if word]


def numbers(text: str) -> list[int]:
    """Likewise, of whole numbers."""
    return [int(word) for word in words(text)]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.real_backbone")
    parser.add_argument("command", choices=("run", "smoke", "table"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--preset", default="smollm2", help="settings that are not varied here")
    parser.add_argument("--sides", type=words, default=["user", "item"])
    parser.add_argument("--asked", type=words, default=[], help="sides of inference, if not all")
    parser.add_argument("--sampled", action="store_true", help="read no likelihoods")
    parser.add_argument("--data")
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--device")
    parser.add_argument("--attention", choices=("varlen", "sdpa", "blocked"))
    parser.add_argument("--slots", type=int, default=250_000, help="tokens sampled at once")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--global-batch", type=int, default=32)
    parser.add_argument("--datasets", type=words, default=["toys", "electronics-1m"])
    parser.add_argument("--no-facts", type=words, default=[], help="datasets without categories")
    parser.add_argument("--arms", type=words, default=list(ARMS))
    parser.add_argument("--untuned", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--users", type=int, default=0, help="test users; 0: all")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--trial-seed", type=int, default=100)
    parser.add_argument("--trial-users", type=int, default=1000)
    parser.add_argument(
        "--trials",
        type=words,
        default=[
            "candidates_first:3e-4:1",
            "candidates_first:1e-3:1",
            "candidates_first:1e-3:2",
            "history_first:1e-3:1",
            "candidates_first:1e-3:1:plain",
        ],
        help="order:rate:epochs[:plain]",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    given = parse()
    {"run": run, "smoke": smoke, "table": table}[given.command](given)
