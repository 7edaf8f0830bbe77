"""A small Llama of random weights as a GGUF file, as llama.cpp would write it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = ("Ġa", "Ġt", "en", "Ġten", "Ġtent", "ĊĊ")
MERGES = ("Ġ a", "Ġ t", "e n", "Ġt en", "Ġten t", "Ċ Ċ")
SPECIAL = ("<|start|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['content'] }}<|end|>{% endfor %}<|start|>"
)
HEADS, KEY_HEADS = 4, 2


def make_llama() -> Any:
    """Two layers with grouped keys and a tied head; one token a byte, and ``WORDS``."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256 + len(WORDS) + len(SPECIAL),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS,
        max_position_embeddings=256,
        initializer_range=0.5,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def write_gguf(
    path: Path, model: Any, *, quantized: bool = False, without: str = ""
) -> dict[str, torch.Tensor]:
    """Write the model and a byte-level tokenizer as a GGUF file.

    Args:
        path: The file.
        model: From ``make_llama``.
        quantized: Whether matrices are written in Q4_1 instead of float32.
        without: GGUF's name of a tensor that is left out.

    Returns:
        What the matrices in Q4_1 stand for, by the model's own names.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    _write_settings(writer, model.config)
    kind = gguf.GGMLQuantizationType.Q4_1
    rounded = {}
    for name, tensor in model.model.state_dict().items():
        array, told = _arrange(name, tensor.numpy()), _gguf_name(name)
        if told == without:
            continue
        if quantized and array.ndim > 1:
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(told, packed, raw_dtype=kind)
            plain = gguf.quants.quantize(tensor.numpy(), kind)
            rounded[name] = torch.from_numpy(gguf.quants.dequantize(plain, kind))
        else:
            writer.add_tensor(told, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded


def _write_settings(writer: Any, config: Any) -> None:
    from gguf import TokenType
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    plain = [*bytes_to_unicode().values(), *WORDS]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*plain, *SPECIAL])
    types = [TokenType.NORMAL] * len(plain) + [TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(types)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(len(plain))
    writer.add_eos_token_id(len(plain) + 1)
    writer.add_chat_template(TEMPLATE)


def _arrange(name: str, array: Any) -> Any:
    """Rows of queries and keys in GGUF's order: halves of a head are interleaved."""
    heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2], 0)
    if not heads:
        return array
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, array.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def _gguf_name(name: str) -> str:
    """``layers.0.self_attn.q_proj.weight`` is ``blk.0.attn_q.weight``, and so on."""
    if not name.startswith("layers."):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[
            name
        ]
    _, layer, *_, part, _ = name.split(".")
    told = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    return f"blk.{layer}.{told[part]}.weight"
