"""Answers made ahead of time, over HTTP: latency under load, and what purchases leave of them.

    python -m bench.ahead --users 20000 --rate 100 --seconds 30 --purchases 5

Ray Serve, its proxy and the service are the real ones. The engines are stand-ins that take
``--chain-s`` seconds for a chain, and so use no processor time; offers are what retrieval finds.
Requests come at a fixed rate whether or not earlier ones were answered; each names a user alone.
Purchases come beside them, of what the user was offered at a random rank or of any other item.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import aiohttp

from bench.load import open_loop, quantile
from bench.page import summarize
from bench.record import Aim, Result, Row, add_option, keep
from msrrec import storage
from msrrec.config import DataConfig, InferenceConfig, RecommendConfig, RetrievalConfig
from msrrec.data.dataset import Dataset
from msrrec.data.prepare import prepare
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.models import locate_model
from msrrec.recommendations.rows import Offer, to_table
from msrrec.retrieval.build import build_index
from msrrec.retrieval.folder import save_index
from msrrec.retrieval.index import Index

TOP_K, REASONING = 10, "Step 1. " + "It goes with what was bought before. " * 15
ITEM_SHARE = 0.5
"""Share of purchases that are of an offered item."""


class SleepingEngine:
    """Names the first candidate after some seconds."""

    def __init__(self, chain_s: float) -> None:
        from transformers import AutoTokenizer

        from msrrec.models import EMBEDDED_DIR

        self._tokenizer, self._chain_s = AutoTokenizer.from_pretrained(EMBEDDED_DIR), chain_s

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Generation]:
        """The whole output in one piece."""
        yield await self.generate(request)

    async def generate(self, request: GenerationRequest) -> Generation:
        """The whole output."""
        if request.next_ids:
            scores = tuple(-1.0 - n for n in range(len(request.next_ids)))
            return Generation((0,), (-1.0,), "length", None, scores)
        await asyncio.sleep(self._chain_s)
        prompt = self._tokenizer.decode(list(request.prompt_ids))
        title = prompt.split("(1) ")[1].split("\n")[0]
        text = f"{REASONING}\n[reasoning_end]\n(1) {title}"
        ids = tuple(self._tokenizer.encode(text, add_special_tokens=False))
        return Generation(ids, (-0.5,) * len(ids), "stop")

    async def check_health(self) -> None:
        """Always healthy."""


@dataclass
class Load:
    """What requests and purchases found.

    Attributes:
        seconds: Latency of each answer.
        offered: What each user was offered last.
        bought: What each user bought.
        answers: How many answers were the night's, renewed, or not stored.
        wrong: Answers that held what the user had bought before they were asked for.
    """

    seconds: list[float] = field(default_factory=list)
    offered: dict[str, list[str]] = field(default_factory=dict)
    bought: dict[str, set[str]] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: int = 0

    async def ask(self, client: aiohttp.ClientSession, user_id: str) -> None:
        """Ask for a user's offers."""
        bought = set(self.bought.get(user_id, ()))
        began = time.perf_counter()
        body = {"user_id": user_id, "top_k": 5}
        async with client.post("/v1/recommend", json=body, raise_for_status=True) as response:
            answer = await response.json()
        self.seconds.append(time.perf_counter() - began)
        found = [row["id"] for row in answer["ranking"]]
        kind = "night" if answer["model"]["version"] == "night" else "renewed"
        self.answers[kind if answer["source"] == "stored" else "live"] += 1
        self.wrong += bool(bought & set(found))
        self.offered[user_id] = found

    async def buy(self, client: aiohttp.ClientSession, user_id: str, item_id: str) -> None:
        """Tell a purchase."""
        body = {"items": [{"id": item_id}]}
        where = f"/v1/users/{user_id}/purchases"
        async with client.post(where, json=body, raise_for_status=True):
            pass
        self.bought.setdefault(user_id, set()).add(item_id)


def make_shop(folder: Path, num_users: int) -> tuple[Index, list[str]]:
    """An index, and offers to every user as of last night; the ids of the users."""
    settings = DataConfig(demo_users=num_users, num_users=num_users)
    prepare("demo", None, None, str(folder / "data"), settings)
    dataset = Dataset.load(str(folder / "data"))
    index = build_index(dataset, RetrievalConfig(purchases="all", tuning_users=200))
    save_index(index, str(folder / "index"))
    users = list(dataset.iter_events())
    found = index.search([items for _, items in users], TOP_K)
    offers = [
        Offer(
            user_id,
            rank,
            one.item_id,
            dataset.items[one.item_id].title,
            1 / (rank + 1),
            "user" if rank == 1 else None,
            REASONING if rank == 1 else None,
            1.5 if rank == 1 else None,
            "night",
            index.version,
            tuple(items[-10:]) if rank == 1 else None,
        )
        for (user_id, items), rows in zip(users, found, strict=True)
        for rank, one in enumerate(rows, 1)
    ]
    storage.write_table(str(folder / "offers/part-00000.parquet"), to_table(offers))
    storage.write_json(str(folder / "offers" / storage.RECORD), {})
    return index, [user_id for user_id, _ in users]


def start(folder: Path, chain_s: float) -> str:
    """Start the application, and return its URL."""
    from ray import cloudpickle, serve

    import bench.ahead
    from serve import app
    from serve.keys import Keys
    from serve.rollout_cluster import Blueprint

    cloudpickle.register_pickle_by_value(bench.ahead)
    args = app.AppArgs(
        model_dir="embedded",
        index=str(folder / "index"),
        recommendations=str(folder / "offers"),
        recommend=RecommendConfig(num_candidates=10),
        inference=InferenceConfig(max_new_tokens=256, max_model_len=2048),
    )
    port = app.free_port("127.0.0.1", 0)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    load = partial(bench.ahead.SleepingEngine, chain_s)
    blueprint = Blueprint(args, Keys.read(args.serve), app.build_next)
    application = app.assemble(blueprint, locate_model("embedded"), load)
    serve.run(application, name="ahead", route_prefix="/")
    return f"http://127.0.0.1:{port}"


async def drive(url: str, users: list[str], items: list[str], args: argparse.Namespace) -> Load:
    """Requests and purchases at their rates; all answers are waited for."""
    load, rng = Load(), random.Random(0)
    steps = int(args.rate * args.seconds)
    every = max(1, round(args.rate / args.purchases)) if args.purchases else steps + 1
    shoppers = users[: max(20, len(users) // 100)]  # so that who bought something is asked again
    async with aiohttp.ClientSession(url) as client:

        async def act(n: int, begin: float) -> None:
            work = [load.ask(client, rng.choice(shoppers if n % 2 else users))]
            if n % every == every - 1:
                buyer = rng.choice(shoppers)
                own = load.offered.get(buyer) or items
                item_id = rng.choice(own if rng.random() < ITEM_SHARE else items)
                work.append(load.buy(client, buyer, item_id))
            await asyncio.gather(*work)

        for user_id in users[:50]:
            await load.ask(client, user_id)  # warm
        load.seconds, load.answers = [], Counter()
        await open_loop([n / args.rate for n in range(steps)], act)
    return load


def describe(loads: Sequence[Load], args: argparse.Namespace) -> Result:
    """What is kept of the measurements, the longest answer and what purchases left in all."""

    def quantiles(share: float) -> list[float]:
        return [1000 * quantile(load.seconds, share) for load in loads]

    name = f"answer made ahead, {args.rate:g} requests/s"
    rows = [
        Row(f"{name}, p50", quantiles(0.5), (), "", "ms", is_headline=False),
        Row(f"{name}, p99", quantiles(0.99), (), "", "ms", aim=Aim("at most", 20)),
    ]
    answers = sum((load.answers for load in loads), Counter[str]())
    notes = {
        "answers": f"{answers.total():,}",
        "longest_ms": round(1000 * max(max(load.seconds) for load in loads)),
        "purchases": sum(len(items) for load in loads for items in load.bought.values()),
        "renewed_percent": round(100 * answers["renewed"] / answers.total(), 1),
        "wrong": sum(load.wrong for load in loads),
    }
    return Result(rows, len(loads), ("ray", "aiohttp"), notes=notes)


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=100, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--purchases", type=float, default=5, help="purchases a second")
    parser.add_argument("--chain-s", type=float, default=2.0, help="seconds of a chain")
    parser.add_argument("--rounds", type=int, default=2)
    add_option(parser)
    args = parser.parse_args()
    from msrrec.cluster import ray_session

    with tempfile.TemporaryDirectory() as folder, ray_session(num_cpus=4):
        index, users = make_shop(Path(folder), args.users)
        url = start(Path(folder), args.chain_s)
        items = [item.item_id for item in index.catalogue.items]
        loads = [asyncio.run(drive(url, users, items, args)) for _ in range(args.rounds)]
    result = describe(loads, args)
    keep(args.result, result)
    print(summarize(result))


if __name__ == "__main__":
    main()
