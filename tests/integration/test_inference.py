"""Generation by the real vLLM, and batch inference through Ray Data."""

from typing import TYPE_CHECKING, Any

import pytest

from msrrec import perplexity
from msrrec.config import InferenceConfig
from msrrec.data.dataset import Dataset
from msrrec.engines.base import GenerationRequest
from msrrec.errors import ConfigError, EngineError
from msrrec.inference.batch import predict
from msrrec.inference.decoding import Query
from msrrec.inference.recommender import Recommender
from msrrec.schema import Example, Item
from tests.fake_engine import SOURCE, build_broken, build_deadly, build_fake

if TYPE_CHECKING:
    from msrrec.engines.vllm import VllmEngine
    from msrrec.models import ModelSource

pytestmark = pytest.mark.integration

TITLES = ("Red Lamp", "Blue Shoe", "Oak Table", "Steel Pan", "Green Tea", "Wool Hat", "Glass Vase")


@pytest.fixture
def queries() -> list[Query]:
    return [
        Query(f"user-{n}", "Home", (TITLES[n % 7], TITLES[(n + 1) % 7]), TITLES[n % 2 : n % 2 + 6])
        for n in range(12)
    ]


@pytest.fixture
def recommender(vllm_engine: "VllmEngine") -> Recommender:
    return Recommender(
        vllm_engine.tokenizer,
        max_model_len=vllm_engine.max_model_len,
        answer_format="number_title",
        config=InferenceConfig(max_new_tokens=48),
        engine=vllm_engine,
    )


def score_with_transformers(path: str, prompt: tuple[int, ...], output: tuple[int, ...]) -> Any:
    """Natural log-probabilities of the output tokens at temperature 1, by a plain forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *output]])).logits[0]
    logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, torch.tensor(output)[:, None])[:, 0].tolist()


def test_perplexity_from_vllm_is_that_of_transformers_although_sampling_is_tempered(
    vllm_engine: "VllmEngine",
    recommender: Recommender,
    queries: list[Query],
    embedded_source: "ModelSource",
) -> None:
    # The sides of a query share a cached prefix, which a wrong cache would show here.
    requests = [recommender.build_request(q, s) for q in queries[:3] for s in ("user", "item")]
    assert {request.temperature for request in requests} == {0.7}
    compared = 0
    for request, generation in zip(requests, vllm_engine.generate(requests), strict=True):
        if generation.token_ids:
            expected = score_with_transformers(
                embedded_source.path, request.prompt_ids, generation.token_ids
            )
            assert generation.token_logprobs == pytest.approx(expected, abs=1e-3)
            assert perplexity(generation.token_logprobs) == pytest.approx(
                perplexity(expected), abs=1e-3
            )
            compared += 1
    assert compared >= 3


def test_a_sample_does_not_depend_on_its_batch(
    recommender: Recommender, queries: list[Query]
) -> None:
    together = recommender.generate(queries, ("user", "item"))
    backwards = recommender.generate(queries[::-1], ("user", "item"))
    alone = recommender.generate(queries[5:6], ("item",))[0]["item"]
    assert backwards[::-1] == together
    assert alone == together[5]["item"]


def test_another_seed_gives_other_samples(recommender: Recommender, queries: list[Query]) -> None:
    request = recommender.build_request(queries[0], "user")
    others = [GenerationRequest(request.prompt_ids, seed, 24, temperature=1.5) for seed in range(8)]
    assert recommender.engine is not None
    assert len({g.token_ids for g in recommender.engine.generate(others)}) > 4


def test_outputs_end_at_the_end_token_or_at_the_limit(
    vllm_engine: "VllmEngine", recommender: Recommender, queries: list[Query]
) -> None:
    requests = [recommender.build_request(query, "user") for query in queries]
    for generation in vllm_engine.generate(requests):
        assert vllm_engine.tokenizer.eos_token_id not in generation.token_ids
        assert len(generation.token_logprobs) == len(generation.token_ids)
        if generation.finish_reason == "length":
            assert len(generation.token_ids) == 48
        else:
            assert generation.finish_reason == "stop"
            assert len(generation.token_ids) < 48


def test_a_prompt_beyond_the_model_is_an_engine_error(vllm_engine: "VllmEngine") -> None:
    too_long = GenerationRequest((5,) * (vllm_engine.max_model_len + 1), 0, 8, 0.7)
    with pytest.raises(EngineError, match="vLLM failed"):
        vllm_engine.generate([too_long])


def make_dataset(num_users: int) -> tuple[Dataset, list[Example]]:
    items = {f"i{n}": Item(f"i{n}", title) for n, title in enumerate(TITLES)}
    items["blank"] = Item("blank", "\u200b")
    manifest = {"domain": "Home", "fingerprint": "f"}
    examples = [
        Example(f"u{n}", f"u{n}", ("i0", f"i{1 + n % 3}"), "i4", ("i2", "i4", "i5", "i6"))
        for n in range(num_users)
    ]
    return Dataset("/data", manifest, items), examples


@pytest.mark.usefixtures("ray_local")
def test_batch_inference_does_not_depend_on_batches_or_engines() -> None:
    dataset, examples = make_dataset(23)
    one = predict(examples, dataset, SOURCE, ("user", "item"), InferenceConfig(), build_fake)
    small = InferenceConfig(batch_size=4, num_engines=2)
    two = predict(examples, dataset, SOURCE, ("user", "item"), small, build_fake)
    assert two == one
    assert [(p.example_id, p.output.side) for p in one[:3]] == [
        ("u0", "user"),
        ("u0", "item"),
        ("u1", "user"),
    ]
    assert len(one) == 46
    assert {p.output.index for p in one} == {0, 1, 2, 3}


@pytest.mark.usefixtures("ray_local")
def test_a_bad_row_becomes_an_error_and_the_others_are_answered() -> None:
    dataset, examples = make_dataset(5)
    examples[2] = Example("bad", "bad", ("blank",), "i4", ("i2", "i4"))
    predictions = predict(examples, dataset, SOURCE, ("user",), InferenceConfig(), build_fake)
    assert [p.error is not None for p in predictions] == [False, False, True, False, False]
    assert predictions[2].error == "history[0]: the title is blank; expected visible text"
    assert predictions[2].output.index is None


@pytest.mark.usefixtures("ray_local")
def test_an_engine_that_cannot_start_fails_the_run_with_its_reason() -> None:
    dataset, examples = make_dataset(3)
    with pytest.raises(EngineError, match=r"^fake: the weights are a picture of weights$"):
        predict(examples, dataset, SOURCE, ("user",), InferenceConfig(), build_broken)


@pytest.mark.usefixtures("ray_local")
def test_an_engine_that_ends_its_process_every_time_fails_the_run() -> None:
    dataset, examples = make_dataset(3)
    with pytest.raises(EngineError, match="fake: batch inference failed"):
        predict(examples, dataset, SOURCE, ("user",), InferenceConfig(), build_deadly)


@pytest.mark.usefixtures("ray_local")
def test_more_engines_than_the_cluster_holds_are_refused_at_once() -> None:
    dataset, examples = make_dataset(300)
    config = InferenceConfig(num_engines=200, batch_size=1)
    with pytest.raises(ConfigError, match=r"num_engines \(200\) needs 200 CPUs"):
        predict(examples, dataset, SOURCE, ("user",), config, build_fake)
