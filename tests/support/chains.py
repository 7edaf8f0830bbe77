"""Eight users whose chains are whole but one, and a model that follows its chain."""

import re
from pathlib import Path

import pyarrow as pa

from msrrec import schema, storage
from msrrec.data.dataset import Dataset
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction, write_predictions
from msrrec.reasoning.prompts import render_answers, render_reasoning
from msrrec.schema import Example
from tests.support.engine import listed_candidates
from tests.support.results import evaluation_result, system_id, variant_result

ITEMS = {
    "tent": ("Old Tent", "Camping"),
    "mug": ("Blue Mug", "Kitchen"),
    "pan": ("Iron Pan", "Kitchen"),
    "stove": ("Red Stove", "Kitchen"),
    "hat": ("Green Hat", "Clothes"),
    "lamp": ("Desk Lamp", "Lights"),
}
TITLES = ["Red Stove", "Green Hat", "Desk Lamp"]
STEPS = (
    "The user mostly buys Kitchen.",
    "(1) Kitchen; (2) Clothes; (3) Lights.",
    "From Kitchen: (1).",
    "(1) fits best.",
    "(1) Red Stove. It matches Kitchen.",
)
CHAIN = render_reasoning("full", STEPS).strip()
NUM_USERS = 8


def write_shop(folder: Path) -> Dataset:
    """Eight users who bought a tent, a mug and a pan, and then a stove."""
    path = f"{folder}/dataset"
    items = [{"item_id": k, "title": t, "categories": [c]} for k, (t, c) in ITEMS.items()]
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema.ITEMS))
    history, candidates = ("tent", "mug", "pan"), ("stove", "hat", "lamp")
    rows = [vars(Example(f"e{n}", f"u{n}", history, "stove", candidates)) for n in range(NUM_USERS)]
    storage.write_table(f"{path}/test.parquet", pa.Table.from_pylist(rows, schema.EXAMPLES))
    manifest = {"schema_version": 1, "domain": "Home", "fingerprint": "f00"}
    storage.write_json(f"{path}/manifest.json", manifest)
    return Dataset.load(path)


def write_chains(folder: Path) -> str:
    """An evaluation whose chains all name the stove; the last user's breaks off."""
    place = f"{folder}/evaluation"
    texts = [CHAIN] * (NUM_USERS - 1) + [CHAIN.partition("Step 4")[0].strip()]
    rows = [
        Prediction(f"e{n}", SideOutput("full", "", text, 0, None, 1), 0)
        for n, text in enumerate(texts)
    ]
    lists = {f"e{n}": ("stove", "hat", "lamp") for n in range(NUM_USERS)}
    write_predictions(f"{place}/predictions/full.parquet", rows, lists)
    system = system_id("m", "trained")
    evaluation_result(system, {"full": variant_result()}, num_users=8).save(place)
    return place


def write_model(folder: Path) -> str:
    """A folder that looks like a trained model."""
    (folder / "model" / "merged").mkdir(parents=True)
    (folder / "model" / "merged" / "config.json").write_text("{}")
    (folder / "model" / "config.json").write_text('{"kind": "msrrec", "domain": "Home"}')
    return str(folder / "model")


def follow_chain(prompt: str, seed: int) -> str:
    """Answer by the last number of the chain; without one, by whether the pan was bought."""
    asked, _, chain = prompt.rpartition("[reasoning_start]\n")
    numbers = re.findall(r"\((\d)\)", chain)
    by_history = 0 if "- Iron Pan" in asked else 2
    return write_answer(prompt, int(numbers[-1]) - 1 if numbers else by_history)


def write_answer(prompt: str, index: int) -> str:
    answer = render_answers(listed_candidates(prompt))[index]
    if prompt.endswith("[reasoning_end]\n"):
        return answer
    return f"Step 5. Recommendation: ({index + 1}).\n[reasoning_end]\n{answer}"
