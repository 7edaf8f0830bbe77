"""The README's road on a small shop's files, command by command as a person types it."""

import csv
import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import ROOT, Block, find_blocks, split_commands

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

HEADING = "Your own purchases"
NUM_USERS, PURCHASES = 40, 8
KINDS = ("Tent", "Headlamp", "Chef Knife", "Guitar", "Notebook", "Desk Lamp")
MAKES = ("Small", "Large", "Red", "Quiet", "Folding")
SMALL = {
    "synthesize": ["ray.num_cpus=4"],
    "train": ["train.sides=[full]"],
    "evaluate": ["evaluate.num_users=6", "inference.max_new_tokens=96"],
    "recommend": ["inference.max_new_tokens=96", "inference.max_model_len=768"],
}
"""Settings that a command gets beside those of the README, so that it ends soon."""
SMALL_RECOMMENDER = """\
from functools import partial

from msrrec import Recommender
from msrrec.config import InferenceConfig

small = InferenceConfig(max_new_tokens=96, max_model_len=768)
Recommender.from_pretrained = partial(Recommender.from_pretrained, config=small)
"""
"""The same for the example in Python, put before it."""


def write_shop(folder: Path) -> None:
    """Two tables as a shop exports them; everybody buys eight items in a row of the catalogue."""
    titles = [f"{make} {kind}" for kind, make in product(KINDS, MAKES)]
    begin = datetime(2024, 1, 1, 9, 30, tzinfo=UTC)
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["SKU", "Title"])
        rows.writerows([f"P-{n:03d}", title] for n, title in enumerate(titles))
    with (folder / "purchases.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Email", "SKU", "Created at"])
        for user, step in product(range(NUM_USERS), range(PURCHASES)):
            number = (user * 7 + step) % len(titles)
            time = begin + timedelta(days=step, minutes=user)
            rows.writerow([f"u{user}@shop.example", f"P-{number:03d}", time.isoformat(" ")])


def run(folder: Path, *words: str) -> str:
    """The stdout of a command that must succeed."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
    env.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, timeout=420, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr[-4000:]}"
    return done.stdout


def type_command(folder: Path, words: list[str], *settings: str) -> dict[str, Any]:
    """The JSON summary of one command of the README."""
    program, name, *arguments = words
    assert program == "msrrec"
    small = SMALL.get(name, [])
    out = run(folder, sys.executable, "-m", "msrrec", name, *arguments, *small, *settings)
    return dict(json.loads(out.splitlines()[-1]))


def of_the_road(*languages: str) -> list[Block]:
    return [block for block in find_blocks("README.md", *languages) if block.heading == HEADING]


def test_a_shop_goes_from_two_tables_to_a_recommendation(ray_local: None, tmp_path: Path) -> None:
    """The first command that needs a Ray starts its own; the others share one, to end sooner."""
    import ray

    write_shop(tmp_path)
    shared = f"ray.address={ray.get_runtime_context().gcs_address}"
    commands = [words for block in of_the_road("sh") for words in split_commands(block.text)]
    names = [words[1] for words in commands]
    road = ["prepare", "synthesize", "train", "evaluate", "report", "recommend"]
    assert names == [*road, "index", "recommend"]
    found = {
        words[1]: type_command(tmp_path, words, *[shared] * (words[1] in ("train", "evaluate")))
        for words in commands[:-1]
    }

    items = len(KINDS) * len(MAKES)
    prepared = found["prepare"]
    assert (prepared["num_users"], prepared["num_items"]) == (NUM_USERS, items)
    assert prepared["num_interactions"] == NUM_USERS * PURCHASES
    assert found["synthesize"]["calls"] == NUM_USERS
    assert 0 < found["synthesize"]["kept"] < NUM_USERS
    assert (tmp_path / "runs/model/adapter/adapter_model.safetensors").is_file()
    assert {row["num_users"] for row in found["report"]["systems"]} == {6}
    assert (tmp_path / "runs/report/index.html").is_file()
    recommended = found["recommend"]
    assert recommended["item"] in (None, "Headlamp", "Lip Balm")
    assert recommended["sides"].keys() == {"user", "item"}
    everybody = type_command(tmp_path, commands[-1], shared, "recommend.num_candidates=6")
    assert (everybody["users"], everybody["offered"]) == (NUM_USERS, NUM_USERS)
    assert (tmp_path / "runs/offers/index.html").is_file()

    (block,) = of_the_road("python")
    (tmp_path / "ask.py").write_text(SMALL_RECOMMENDER + block.text)
    said = run(tmp_path, sys.executable, "ask.py").splitlines()
    assert any(line.split()[0] in ("0", "1", "None") for line in said if line.strip())
