"""What is loaded is whole: tensors, tokens, chat templates, and a merge that changes nothing."""

import json
import os
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from msrrec.config import InferenceConfig, LoraConfig, TrainConfig
from msrrec.errors import ConfigError, ModelError
from msrrec.loading import (
    check_vocabulary,
    load_causal,
    load_tokenizer,
    probe_for_inference,
)
from msrrec.reasoning.encoding import encode_prompt
from msrrec.reasoning.template import pin_date, split_template
from msrrec.training.export import write_merged
from msrrec.training.merging import check_logits, merge_adapter
from msrrec.training.model import add_lora, check_targets, load_base, probe_for_training
from tests.support.models import make_tokenizer, rewrite_weights, save_llama, source_of

PLAIN = (
    "{% for message in messages %}<user>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)
DATED = (
    "{%- if strftime_now is defined %}Today: {{ strftime_now('%d %b %Y') }}\n{%- endif %}" + PLAIN
)


@pytest.fixture
def untied(tmp_path: Path) -> str:
    save_llama(str(tmp_path / "untied"))
    return str(tmp_path / "untied")


@pytest.fixture
def tied(tmp_path: Path) -> str:
    save_llama(str(tmp_path / "tied"), tied=True)
    return str(tmp_path / "tied")


def with_template(text: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("lm_head.weight", r"lack 1 tensors \(lm_head\.weight\)"),
        ("model.norm.weight", r"lack 1 tensors \(model\.norm\.weight\)"),
        ("model.layers.1.mlp.", r"lack 3 tensors \(model\.layers\.1\.mlp\.down_proj\.weight, "),
    ],
)
def test_a_base_without_a_tensor_is_refused_and_the_tensor_named(
    untied: str, lost: str, told: str
) -> None:
    rewrite_weights(untied, lambda found: {k: v for k, v in found.items() if lost not in k})
    for look in (
        lambda: load_base(source_of(untied), "float32", on_gpu=False),
        lambda: probe_for_training(source_of(untied), LoraConfig()),
        lambda: probe_for_inference(source_of(untied), InferenceConfig()),
    ):
        with pytest.raises(ModelError, match=told):
            look()


def test_a_base_with_another_prefix_names_what_the_file_has_instead(untied: str) -> None:
    rewrite_weights(untied, lambda found: {f"student.{k}": v for k, v in found.items()})
    with pytest.raises(ModelError, match=r"lack 21 tensors .*they hold others, such as student\."):
        load_causal(source_of(untied))


def test_whole_models_pass_tied_or_not_and_without_the_prefix_that_transformers_adds(
    untied: str, tied: str
) -> None:
    probe_for_inference(source_of(tied), InferenceConfig())
    load_base(source_of(tied), "float32", on_gpu=False)
    rewrite_weights(untied, lambda found: {k.removeprefix("model."): v for k, v in found.items()})
    probe_for_training(source_of(untied), LoraConfig())


def test_weights_of_another_shape_or_cut_are_one_sentence(untied: str) -> None:
    rewrite_weights(untied, lambda found: found | {"lm_head.weight": torch.zeros(5, 16)})
    with pytest.raises(ModelError, match="can't be loaded"):
        load_causal(source_of(untied))
    os.truncate(f"{untied}/model.safetensors", 9000)
    with pytest.raises(ModelError, match="can't be loaded"):
        load_causal(source_of(untied))


def test_a_broken_tokenizer_is_one_sentence(untied: str) -> None:
    Path(untied, "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="no tokenizer there"):
        load_tokenizer(source_of(untied))


def test_a_tokenizer_with_words_beyond_the_embeddings_is_refused(untied: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["Kettle"])
    tokenizer.save_pretrained(untied)
    with pytest.raises(ModelError, match=r"the token 'Kettle' \(98\), .* embeddings for 98 tokens"):
        load_tokenizer(source_of(untied))


def test_a_tokenizer_without_an_end_token_is_refused_where_one_must_follow(untied: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(untied)
    free = InferenceConfig(constrained=False, candidate_logprobs=False)
    probe_for_inference(source_of(untied), free)
    with pytest.raises(ModelError, match="has no end token, which must follow every answer"):
        probe_for_inference(source_of(untied), free.model_copy(update={"constrained": True}))
    with pytest.raises(ModelError, match="has no end token; expected one, to learn when to stop"):
        probe_for_training(source_of(untied), LoraConfig())


def test_only_special_tokens_that_no_prompt_has_may_lie_beyond_the_embeddings() -> None:
    class Config:
        vocab_size = 97  # the end token is 97

    with pytest.raises(ModelError, match="'<end>'"):
        check_vocabulary(make_tokenizer(), Config(), "m")
    Config.vocab_size = 98
    padded = make_tokenizer()
    padded.add_special_tokens({"pad_token": "<pad>"})
    check_vocabulary(padded, Config(), "m")
    padded.chat_template = "<pad>" + PLAIN
    with pytest.raises(ModelError, match="'<pad>'"):
        check_vocabulary(padded, Config(), "m")


def test_a_template_that_asks_for_the_date_gets_the_same_one_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = with_template(DATED)
    today = date.today().strftime("%d %b %Y")
    assert split_template(tokenizer)[0] == f"Today: {today}<user>"
    pin_date(tokenizer, "2024-07-26")
    assert split_template(tokenizer) == ("Today: 26 Jul 2024<user>", "<end><model>")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    pin_date(tokenizer, "2031-01-02")  # the first one stays
    assert split_template(tokenizer)[0] == "Today: 26 Jul 2024<user>"


def test_the_date_is_kept_in_the_files_of_a_saved_tokenizer(untied: str) -> None:
    with_template(DATED).save_pretrained(untied)
    first = load_tokenizer(source_of(untied))
    first.save_pretrained(untied)
    again = load_tokenizer(source_of(untied))
    assert encode_prompt(again, "Q") == encode_prompt(first, "Q")
    assert first.decode(encode_prompt(again, "Q")).replace(" ", "").startswith("Today:26Jul2024")


def test_templates_without_a_date_and_tokenizers_without_a_template_stay_as_they_are() -> None:
    tokenizer = with_template(PLAIN)
    pin_date(tokenizer, "2024-07-26")
    assert tokenizer.chat_template == PLAIN
    bare = make_tokenizer()
    pin_date(bare, "2024-07-26")
    assert split_template(bare) == ("", "\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ raise_exception('A system message must come first') }}", "fails .*must come first"),
        ("{% for m in messages %}{{ m.content.parts[0] }}{% endfor %}", "fails on a single"),
        ("{% for m in messages %}{% if m.role == 'human' %}{{ m.content }}{% endif %}{% endfor %}",
         "drops the user's message"),
        ("{{ messages[0].content | upper }}", "drops the user's message"),
        ("{{ messages[0].content }}{{ messages[0].content }}", "shows the message repeatedly"),
        ("{% if %}", "fails on a single"),
    ],
)  # fmt: skip
def test_a_template_that_fails_or_loses_the_message_is_one_sentence(text: str, told: str) -> None:
    with pytest.raises(ModelError, match=told) as raised:
        encode_prompt(with_template(text), "Q")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens", "model.embed_tokens"])
def test_lora_on_one_of_two_tied_matrices_is_refused(tied: str, untied: str, target: str) -> None:
    lora = LoraConfig(targets=("q_proj", target))
    with pytest.raises(ConfigError, match=rf"^lora\.targets: {target} shares its weights"):
        probe_for_training(source_of(tied), lora)
    with pytest.raises(ConfigError, match="shares its weights"):
        add_lora(load_causal(source_of(tied)), TrainConfig(lora=lora))
    probe_for_training(source_of(untied), lora)
    check_targets(load_causal(source_of(tied)), LoraConfig())


def save_adapter(base: str, folder: Path, *targets: str) -> str:
    """An adapter that PEFT itself makes, with matrices far from zero."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model

    model = get_peft_model(
        load_causal(source_of(base)), PeftConfig(r=4, lora_alpha=8, target_modules=list(targets))
    )
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_that_keeps_the_logits_is_written(
    tmp_path: Path, untied: str, dtype: torch.dtype
) -> None:
    adapter = save_adapter(untied, tmp_path / "adapter", "q_proj", "down_proj", "lm_head")
    tokenizer = load_tokenizer(source_of(untied))
    out = tmp_path / "merged"
    out.mkdir()
    write_merged(
        out, load_causal(source_of(untied), dtype=dtype), source_of(untied), adapter, tokenizer
    )
    assert json.loads((out / "config.json").read_text())["use_cache"] is True
    assert load_causal(source_of(str(out))).dtype == dtype


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_a_merge_into_tied_weights_stops_the_export(tmp_path: Path, tied: str, target: str) -> None:
    adapter = save_adapter(tied, tmp_path / "adapter", target)
    with pytest.raises(ModelError, match="the merged model is not the one that was trained"):
        merge_adapter(load_causal(source_of(tied)), adapter, [1, 2, 3])


def test_the_bar_of_a_merge_is_the_root_of_the_types_epsilon() -> None:
    expected = torch.tensor([[3.0, -3.0]], dtype=torch.float64)
    shifted = expected + 5  # the same probabilities
    check_logits(shifted, expected, torch.float32, "m")
    near, far = expected * (1 + 8e-2), expected * (1 + 9e-2)  # 2 ** -3.5 is 8.84e-2
    check_logits(near, expected, torch.bfloat16, "m")
    with pytest.raises(ModelError, match=r"differ by 0\.09 .* at most 0\.088 in torch\.bfloat16"):
        check_logits(far, expected, torch.bfloat16, "m")
    with pytest.raises(ModelError, match=r"at most 0\.00035"):
        check_logits(near, expected, torch.float32, "m")
    with pytest.raises(ModelError, match="differ by nan"):
        check_logits(expected * torch.nan, expected, torch.float32, "m")
