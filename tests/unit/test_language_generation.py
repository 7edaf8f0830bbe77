"""What a tuned model writes, whatever the batch it is asked in."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from msrrec.baselines.language.generation import OutputSpec, TunedGenerator, deal
from msrrec.baselines.language.items import ITEMS_FROM
from tests.support.language import make_base, make_job

torch.set_num_threads(1)

PROMPTS = [[3, 9, 4], [5, ITEMS_FROM + 1, 6, 8, ITEMS_FROM + 4, 11, 2], [12, 13]]


def make_gpt2() -> Any:
    """A model with learned positions, which tell a prompt's beginning from its padding."""
    torch.manual_seed(1)
    shape = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.5}
    return GPT2LMHeadModel(GPT2Config(**shape))


@pytest.mark.parametrize("spec", [OutputSpec(max_new_tokens=5), OutputSpec(choices=(4, 9, 30))])
@pytest.mark.parametrize("name", ["llama with items", "gpt2"])
def test_what_is_said_does_not_depend_on_the_batch(spec: OutputSpec, name: str) -> None:
    model = make_gpt2() if name == "gpt2" else make_job().load_base(on_gpu=False)
    prompts = [[n % 40 for n in ids] for ids in PROMPTS] if name == "gpt2" else PROMPTS
    generator = TunedGenerator(model, eos_id=1)
    together = generator.generate(prompts, spec)
    alone = [generator.generate([prompt], spec)[0] for prompt in prompts]
    if spec.choices:
        for one, other in zip(together, alone, strict=True):
            assert one == pytest.approx(other, abs=1e-5)
            assert sum(one) == pytest.approx(1)
    else:
        assert together == alone
        assert any(together)


def test_greedy_answers_are_the_likeliest_token_each_time_up_to_the_end() -> None:
    model = make_job().load_base(on_gpu=False).eval()
    ids = list(PROMPTS[1])
    with torch.no_grad():
        while len(ids) < len(PROMPTS[1]) + 5:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    written = ids[len(PROMPTS[1]) :]
    expected = written[: written.index(1)] if 1 in written else written
    assert TunedGenerator(model, eos_id=1).generate([PROMPTS[1]], OutputSpec(max_new_tokens=5)) == [
        expected
    ]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_log_probabilities_are_those_of_the_whole_softmax_whatever_the_batch(name: str) -> None:
    model = (make_gpt2() if name == "gpt2" else make_base()).eval()
    prompts = [[3, 9, 4], [5, 7, 6, 8, 4, 11, 2], [12, 13]]
    found = TunedGenerator(model, eos_id=1).generate(prompts, OutputSpec(num_scored=3))
    assert [len(values) for values in found] == [2, 3, 1]  # a first token follows nothing
    for ids, values in zip(prompts, found, strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [float(logprobs[n - 1, ids[n]]) for n in range(1, len(ids))][-3:]
        assert values == pytest.approx(expected, abs=1e-5)


def test_prompt_and_answer_keep_within_their_length() -> None:
    generator = TunedGenerator(make_gpt2(), eos_id=39)
    for max_length, count in ((5, 2), (3, 1), (99, 4)):
        (ids,) = generator.generate(
            [[1, 2, 3]], OutputSpec(max_new_tokens=4, max_length=max_length)
        )
        assert len(ids) <= count
    (whole,) = generator.generate([[1, 2, 3]], OutputSpec(max_new_tokens=4))
    assert whole[:2] == generator.generate([[1, 2, 3]], OutputSpec(4, max_length=5))[0]


def test_near_choices_don_t_tie_in_bfloat16() -> None:
    model = make_job().load_base(on_gpu=False).to(torch.bfloat16)
    prompts = [[n, n + 1] for n in range(3, 30)]
    hidden = []  # what the model itself makes of a prompt in bfloat16 is each processor's own
    model.get_decoder().register_forward_hook(lambda *call: hidden.append(call[2][0]))
    found = TunedGenerator(model, eos_id=1).generate(prompts, OutputSpec(choices=(4, 9)))
    with torch.no_grad():
        hidden_BE = hidden[0][:, -1].double()
    exact = (hidden_BE @ model.lm_head.weight[[4, 9]].double().T).softmax(-1)
    torch.testing.assert_close(torch.tensor(found).double(), exact, rtol=1e-5, atol=1e-6)


def test_prompts_are_dealt_longest_first_within_the_tokens_of_a_batch() -> None:
    prompts = [[0] * n for n in (3, 9, 4, 10, 2, 30)]
    # 30 alone is over the limit and stands alone; 10 and 9 take 2 * 10; 4, 3 and 2 take 3 * 4.
    assert deal(prompts, 20) == [[5], [3, 1], [2, 0, 4]]
