"""Sampling and scoring in plain torch agree with transformers."""

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bench.real_decoding import Decoder  # noqa: E402
from msrrec.config import TrainConfig  # noqa: E402
from msrrec.training.model import add_lora  # noqa: E402

PROMPTS = ([1, 5, 9, 7], [1, 8], [1, 3, 3, 3, 11, 12, 13])
END = 2


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    tuned = add_lora(LlamaForCausalLM(config), TrainConfig(seed=1))
    with torch.no_grad():
        for weight in tuned.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    return tuned.eval()


@pytest.fixture(scope="module")
def decoder(model: Any) -> Decoder:
    return Decoder(model, torch.device("cpu"), torch.float32, END, 64)


def log_likelihood(model: Any, prefix: list[int], text: list[int]) -> float:
    """The sum of a text's log-probabilities after a prefix, by transformers."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prefix, *text]])).logits[0, len(prefix) - 1 : -1]
    logprobs = logits.log_softmax(-1)
    return float(sum(row[token] for row, token in zip(logprobs, text, strict=True)))


def test_answers_that_share_a_row_do_not_see_each_other(model: Any, decoder: Decoder) -> None:
    answers = [[[4, 6, END], [4], [10, 11]], [[7, END]], [[5, 5, 5, 5, END], [3, END]]]
    scores = decoder.score(PROMPTS, answers)
    expected = [
        tuple(log_likelihood(model, prefix, answer) for answer in some)
        for prefix, some in zip(PROMPTS, answers, strict=True)
    ]
    for found, values in zip(scores, expected, strict=True):
        assert found == pytest.approx(values, abs=1e-4)


def test_greedy_outputs_are_the_likeliest_tokens_one_after_another(
    model: Any, decoder: Decoder
) -> None:
    generations = decoder.sample(PROMPTS, 6, 0.0, 0, slots=40)
    for prompt, generation in zip(PROMPTS, generations, strict=True):
        ids = list(prompt)
        for token in generation.token_ids:
            with torch.no_grad():
                assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_sampled_tokens_carry_their_log_probability_at_temperature_1(
    model: Any, decoder: Decoder
) -> None:
    for prompt, generation in zip(PROMPTS, decoder.sample(PROMPTS, 8, 0.7, 3, 100), strict=True):
        text = [*generation.token_ids, *([END] if generation.finish_reason == "stop" else [])]
        total = math.fsum((*generation.token_logprobs, generation.end_logprob or 0.0))
        assert total == pytest.approx(log_likelihood(model, prompt, text), abs=1e-4)


def test_a_temperature_of_1_draws_tokens_as_often_as_they_are_likely(
    model: Any, decoder: Decoder
) -> None:
    prompt, count = PROMPTS[0], 4000
    drawn = decoder.sample([prompt] * count, 1, 1.0, 0, 10**6)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    found = torch.zeros(40)
    for generation in drawn:
        found[generation.token_ids[0] if generation.token_ids else END] += 1 / count
    assert float((found - expected).abs().max()) < 0.04
