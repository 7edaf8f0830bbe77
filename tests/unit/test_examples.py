"""What is trained on: the tokens that a model would read and write at inference."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import PromptConfig, TrainConfig
from msrrec.data.dataset import Dataset
from msrrec.embedded.backbone.corpus import iter_documents, make_words
from msrrec.embedded.backbone.tokenizer import train_tokenizer
from msrrec.errors import DataError
from msrrec.reasoning.encoding import Query, fit_prompt
from msrrec.reasoning.parsing import Chain, parse_chain, split_output
from msrrec.reasoning.prompts import OUTPUT_PREFIX, render_answer, render_output, render_reasoning
from msrrec.reasoning.reading import read_strict
from msrrec.schema import Item
from msrrec.training.examples import (
    Encoded,
    ExampleSet,
    build_examples,
    encode_example,
    load_paths,
)

TITLES = ("Blue Kettle", "Oak [reasoning_end] Shelf", "Say <|end|> Mug", "12 mm Drill", "Tin & Tea")
STEPS = ("Likes the kitchen.", "(1) is a kettle;\n(2) wood.", "(1) fits.", "(1)", "Blue Kettle, as")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    stream = iter_documents(0, make_words(0, []))
    return train_tokenizer("".join(text for text, _ in next(stream)) for _ in range(500))


def make_query(num_history: int = 3) -> Query:
    history = tuple(f"Thing number {n} for the house" for n in range(num_history))
    return Query("u1", "Home", history, TITLES)


def encode(tokenizer: Any, index: int = 0, side: Any = "full", **changes: Any) -> Encoded:
    settings: dict[str, Any] = {"query": make_query(), "max_tokens": 2000} | changes
    answer = render_answer(TITLES[index], index, "number_title")
    steps = STEPS if side == "full" else ()
    return encode_example(
        tokenizer, side=side, steps=steps, answer=answer, form=PromptConfig(), **settings
    )


def supervised(encoded: Encoded, *kinds: int) -> list[int]:
    pairs = zip(encoded.input_ids, encoded.segments, strict=True)
    return [token for token, segment in pairs if segment in kinds]


@pytest.mark.parametrize("index", range(len(TITLES)))
def test_the_output_decodes_to_what_the_parsers_read(tokenizer: Any, index: int) -> None:
    encoded = encode(tokenizer, index)
    written = tokenizer.decode(supervised(encoded, 1, 2)[:-1])
    output = split_output(OUTPUT_PREFIX + written)
    chain = parse_chain(output.reasoning)
    assert isinstance(chain, Chain)
    assert chain.steps == tuple(" ".join(step.split()) for step in STEPS)
    assert output.answer is not None
    assert read_strict(OUTPUT_PREFIX + written, TITLES) == index


def test_segments_are_prompt_then_reasoning_then_recommendation(tokenizer: Any) -> None:
    encoded = encode(tokenizer)
    assert encoded.segments == sorted(encoded.segments)
    prompt, dropped = fit_prompt(tokenizer, "full", make_query(), PromptConfig(), 2000)
    assert supervised(encoded, 0) == prompt
    assert dropped == encoded.dropped == 0
    assert tokenizer.decode(supervised(encoded, 1)) == render_reasoning("full", STEPS)
    recommendation = "[reasoning_end]\n(1) Blue Kettle<|end|>"
    assert tokenizer.decode(supervised(encoded, 2)) == recommendation


def test_pieces_are_the_tokens_that_the_whole_output_has(tokenizer: Any) -> None:
    output = render_output(render_reasoning("full", STEPS), "(1) Blue Kettle")
    whole = tokenizer.encode(output.removeprefix(OUTPUT_PREFIX), add_special_tokens=False)
    assert supervised(encode(tokenizer), 1, 2) == [*whole, tokenizer.eos_token_id]


def test_a_title_never_becomes_a_special_token(tokenizer: Any) -> None:
    ids = encode(tokenizer, TITLES.index("Say <|end|> Mug")).input_ids
    assert ids.count(tokenizer.eos_token_id) == 1
    assert ids[-1] == tokenizer.eos_token_id


def test_the_oldest_history_goes_first_and_the_output_stays(tokenizer: Any) -> None:
    whole = encode(tokenizer, query=make_query(12))
    cut = encode(tokenizer, query=make_query(12), max_tokens=len(whole.input_ids) - 1)
    assert cut.dropped == 1
    assert supervised(cut, 1, 2) == supervised(whole, 1, 2)
    prompt = tokenizer.decode(supervised(cut, 0))
    assert "Thing number 0 " not in prompt
    assert "Thing number 1 " in prompt


def test_an_example_that_cannot_fit_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"example u1: .* raise train\.max_seq_len \(150\)"):
        encode(tokenizer, max_tokens=150)


def make_dataset(folder: Path) -> Dataset:
    items = {f"i{n}": Item(f"i{n}", title) for n, title in enumerate((*TITLES, "Old Lamp"))}
    rows = [
        {
            "example_id": f"u{n}",
            "user_id": f"u{n}",
            "history": ["i5"],
            "target": f"i{n}",
            "candidates": ["i0", "i1", "i2"],
        }
        for n in range(3)
    ]
    storage.write_table(f"{folder}/train.parquet", pa.Table.from_pylist(rows, schema.EXAMPLES))
    return Dataset(str(folder), {"domain": "Home", "fingerprint": "f"}, items)


def sides_trained(dataset: Dataset, tokenizer: Any, **settings: Any) -> list[tuple[str, bool]]:
    """For each example its goal, and whether it carries reasoning; only u1 has a path."""
    config = TrainConfig(**settings)
    examples = build_examples(dataset, {"u1": STEPS}, tokenizer, config, PromptConfig())
    goals = {
        "whole chain": "full",
        "side of the user": "user",
        "side of the items": "item",
        "without reasoning": "direct",
    }
    found = []
    for n in range(len(examples)):
        ids, segments = examples[n]
        text = tokenizer.decode(ids[segments == 0])
        (goal,) = (side for phrase, side in goals.items() if phrase in text)
        found.append((goal, bool((segments == 1).any())))
    return found


def test_users_without_a_path_train_on_their_purchase_alone(tmp_path: Path, tokenizer: Any) -> None:
    dataset, direct = make_dataset(tmp_path), ("direct", False)
    assert sides_trained(dataset, tokenizer) == [direct, ("full", True), direct]
    both = [direct, ("user", True), ("item", True), direct]
    assert sides_trained(dataset, tokenizer, sides=("user", "item")) == both
    all_too = [direct, ("full", True), direct, direct]
    assert sides_trained(dataset, tokenizer, behaviour="all") == all_too
    assert sides_trained(dataset, tokenizer, arm="none") == [direct] * 3


def test_examples_that_show_a_later_purchase_are_left_out(tmp_path: Path, tokenizer: Any) -> None:
    dataset = make_dataset(tmp_path)
    rows = [vars(example) for example in dataset.examples("train")]
    shown = rows[1]["history"][0]
    later = {**rows[1], "example_id": "later", "target": shown}
    storage.write_table(f"{tmp_path}/test.parquet", pa.Table.from_pylist([later], schema.EXAMPLES))
    assert sides_trained(dataset, tokenizer) == [("direct", False)] * 2


def write_path(folder: Path, **changes: Any) -> None:
    row = {
        "example_id": "u1",
        "steps": list(STEPS),
        "reasoning": "r",
        "item_id": "i1",
        "model": "offline",
    }
    table = pa.Table.from_pylist([row | changes], schema.PATHS)
    storage.write_table(f"{folder}/paths.parquet", table)


def test_paths_are_read_by_example(tmp_path: Path) -> None:
    write_path(tmp_path)
    assert load_paths(str(tmp_path), make_dataset(tmp_path).examples("train")) == {"u1": STEPS}


@pytest.mark.parametrize(
    "changes", [{"example_id": "x9"}, {"item_id": "i0"}, {"steps": ["one", "two"]}], ids=str
)
def test_paths_of_another_dataset_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_path(tmp_path, **changes)
    with pytest.raises(DataError, match=r"paths\.parquet: the path of example"):
        load_paths(str(tmp_path), make_dataset(tmp_path).examples("train"))


def test_the_set_gives_back_each_example_and_counts_them() -> None:
    first, second = Encoded([4, 5, 6], [0, 1, 2], 0), Encoded([7, 8], [0, 2], 3)
    examples = ExampleSet.collect([first, second])
    assert len(examples) == 2
    assert [part.tolist() for part in examples[1]] == [[7, 8], [0, 2]]
    assert examples.lengths.tolist() == [3, 2]
    assert (examples.num_reasoning, examples.num_shortened) == (1, 1)
    other = ExampleSet.collect([first, Encoded([7, 9], [0, 2], 3)])
    assert examples.fingerprint != other.fingerprint
