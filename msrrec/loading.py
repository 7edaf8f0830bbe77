"""Tokenizers and causal language models from their files; what can't be trusted is refused.

transformers draws tensors that the files lack at random and only warns. Everything that loads a
model does so here, so that a model is either whole or an error of one sentence.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msrrec.config import InferenceConfig
from msrrec.errors import ModelError, first_line
from msrrec.hub import use_token
from msrrec.models import EMBEDDED_DIR, ModelSource, fetch_source
from msrrec.reasoning.encoding import encode_prompt
from msrrec.reasoning.template import pin_date

_SHOWN = 3


class IncompleteError(ModelError):
    """The files lack tensors that the model has."""


def load_tokenizer(source: ModelSource) -> Any:
    """The tokenizer of a model, its chat template held to one day and seen to work.

    Raises:
        ModelError: If it is missing or broken, its chat template fails or drops the prompt, or it
            gives tokens that the model has no embedding for.
    """
    from transformers import AutoTokenizer  # seconds to import

    use_token(source.hub_token)
    here = fetch_source(source, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(here.path, revision=source.revision)
    except Exception as error:  # the tokenizers library raises plain Exception
        raise ModelError(f"{source.path}: no tokenizer there ({first_line(error)})") from error
    pin_date(tokenizer, source.template_date)
    check_vocabulary(tokenizer, load_config(source).get_text_config(), source.path)
    return tokenizer


def load_config(source: ModelSource) -> Any:
    """The transformers config of a model.

    Raises:
        ModelError: If it can't be read.
    """
    from transformers import AutoConfig

    use_token(source.hub_token)
    here = fetch_source(source, weights=False)
    try:
        return AutoConfig.from_pretrained(here.path, revision=source.revision)
    except Exception as error:  # a stranger's config fails in any way
        raise ModelError(
            f"{source.path}: no readable config.json ({first_line(error)}); expected a model in "
            "the Hugging Face format"
        ) from error


def check_vocabulary(tokenizer: Any, config: Any, where: str) -> None:
    """Refuse a tokenizer that may give tokens beyond the model's embeddings.

    Special tokens beyond them, such as one for padding, do no harm where no prompt has them.

    Args:
        tokenizer: Of the model.
        config: Of its text part.
        where: What errors call the model.

    Raises:
        ModelError: If a word, the end token or the prompt's frame is beyond them.
    """
    rows = int(getattr(config, "vocab_size", 0) or 0)
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(n for n, token in added if token.special)}
    beyond = {n: word for word, n in tokenizer.get_vocab().items() if n >= rows > 0}
    used = {tokenizer.eos_token_id, *encode_prompt(tokenizer, "")}
    wrong = sorted(n for n in beyond if n not in special or n in used)
    if wrong:
        raise ModelError(
            f"{where}: its tokenizer has the token {beyond[wrong[0]]!r} ({wrong[0]}), and the "
            f"model has embeddings for {rows:,} tokens; expected tokenizer and weights of one model"
        )


def count_parameters(source: ModelSource) -> int | None:
    """Number of a model's parameters, from its config alone; None where that can't be told."""
    import torch  # seconds to import
    from transformers import AutoModelForCausalLM

    try:
        with _quiet(), torch.device("meta"):
            return int(AutoModelForCausalLM.from_config(load_config(source)).num_parameters())
    except Exception:  # an architecture that only an engine knows, or a config that can't be had
        return None


def load_causal(source: ModelSource, **options: Any) -> Any:
    """The causal language model of a source, with every tensor from its files.

    Args:
        source: The adapter is left out.
        options: Of ``from_pretrained``; ``device_map="meta"`` reads headers and no weights.

    Raises:
        IncompleteError: If the files lack tensors.
        ModelError: If the weights are missing, damaged, or of no causal language model.
    """
    import torch  # seconds to import
    from transformers import AutoModelForCausalLM

    use_token(source.hub_token)
    here = fetch_source(source)
    try:
        with _quiet():
            model, found = AutoModelForCausalLM.from_pretrained(
                here.path, revision=source.revision, output_loading_info=True, **options
            )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # safetensors, pickle and strangers' configs each have their own
        raise ModelError(
            f"{source.path}: its weights can't be loaded ({first_line(error)}); expected those of "
            "a causal language model, whole and of the shapes in config.json"
        ) from error
    refuse_missing(source, list(found["missing_keys"]), list(found["unexpected_keys"]))
    return model


def refuse_missing(source: ModelSource, missing: list[str], unexpected: list[str]) -> None:
    """Refuse a model whose files lack tensors.

    Raises:
        IncompleteError: If any is missing; names the first of them.
    """
    if not missing:
        return
    first = ", ".join(sorted(missing)[:_SHOWN]) + (" and others" if len(missing) > _SHOWN else "")
    others = "".join(f"; they hold others, such as {name}" for name in sorted(unexpected)[:1])
    raise IncompleteError(
        f"{source.path}: its weights lack {len(missing)} tensors ({first}), which would be drawn "
        f"at random{others}; copy or download the whole model, or rename its tensors"
    )


def check_end_token(tokenizer: Any, where: str) -> None:
    """Refuse a tokenizer without an end token for outputs that are bound to given answers.

    Raises:
        ModelError: If it has none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{where}: its tokenizer has no end token, which must follow every answer; expected "
            "one, or inference.constrained=false (of a service, serve.constrained=false) and no "
            "likelihoods"
        )


def probe_for_inference(source: ModelSource, config: InferenceConfig) -> None:
    """Refuse before an engine starts what it would refuse late or load in part.

    Architectures that transformers doesn't know and quantised weights are left to the engine.

    Args:
        source: The model.
        config: Says whether outputs are bound to given answers, which need an end token.

    Raises:
        ModelError: If tokenizer, chat template or weights are not whole.
    """
    tokenizer = load_tokenizer(source)
    if config.binds_outputs:
        check_end_token(tokenizer, source.path)
    is_known_whole = source.path == str(EMBEDDED_DIR) or source.is_ours
    if is_known_whole or getattr(load_config(source), "quantization_config", None):
        return
    if not Path(source.path).is_dir():
        return  # a hub's files come when the engine loads them, which names what is missing
    try:
        load_causal(source, device_map="meta")
    except IncompleteError:
        raise
    except ModelError:
        return


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report of what is missing: the error says it."""
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
