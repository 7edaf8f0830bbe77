"""Metrics of a reasoning against its reference: METEOR, BERTScore, GPTScore.

Each function takes pairs of (hypothesis, reference) and gives one value per pair, in order. They
measure similarity, not correctness.
"""

from collections.abc import Callable, Sequence
from typing import Any

from msrrec.config import ModelConfig
from msrrec.errors import EngineError, ModelError, first_line
from msrrec.loading import load_causal, load_tokenizer
from msrrec.metrics.scores import Pair, Scores
from msrrec.model_cache import fetch
from msrrec.models import ModelSource, local_folder, locate_base
from msrrec.weights import check_place, check_source

_LINK = " In other words, "
"""Text between the two texts of GPTScore, as in its authors' code."""


class _NoWordNet:
    """A replacement for a missing WordNet: no word has a synonym."""

    def synsets(self, _: str) -> list[Any]:
        return []


def meteor(pairs: Sequence[Pair]) -> Scores:
    """METEOR (Banerjee and Lavie 2005) from NLTK, in [0, 1], on lower-cased words.

    Words are runs of letters or of punctuation. Synonyms count if NLTK finds its WordNet corpus;
    otherwise only equal words and equal stems match, and the note says so.
    """
    from nltk.tokenize import wordpunct_tokenize  # NLTK takes a second to import
    from nltk.translate.meteor_score import meteor_score

    wordnet, version = _wordnet()
    values = [
        float(
            meteor_score(
                [wordpunct_tokenize(reference)], wordpunct_tokenize(hypothesis), wordnet=wordnet
            )
        )
        for hypothesis, reference in pairs
    ]
    return Scores(values, f"NLTK, WordNet {version}" if version else "NLTK, without WordNet")


def _wordnet() -> tuple[Any, str | None]:
    """NLTK's WordNet and its version, or a replacement without synonyms."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except (LookupError, OSError, ValueError):  # absent, incomplete, or outside of NLTK_DATA
        return _NoWordNet(), None
    return wordnet, str(wordnet.get_version())


def bertscore(pairs: Sequence[Pair], model: str, num_layers: int | None) -> Scores:
    """BERTScore F1 (Zhang et al. 2019), without idf weights and not rescaled to a baseline.

    Args:
        pairs: Pairs; an empty hypothesis has the value 0.
        model: A model name that bert-score knows, a folder, or ``minilm``.
        num_layers: Number of the layer whose output is compared; required but for a name that
            bert-score knows.

    Raises:
        ModelError: If it names no folder and no hub's model, or the folder's files are damaged.
        EngineError: If bert-score can't be imported or can't use the model.
    """
    try:
        import bert_score  # torch
    except ImportError as error:
        raise EngineError(
            "evaluate.bertscore_model: bert-score can't be imported, though msrrec depends on it; "
            "install msrrec again, or bert-score by itself: pip install bert-score"
        ) from error
    check_place(str(local_folder(model) or model))
    place = fetch(str(local_folder(model) or model))
    written = [n for n, (hypothesis, _) in enumerate(pairs) if hypothesis.strip()]
    values = [0.0] * len(pairs)
    if written:
        hypotheses, references = zip(*(pairs[n] for n in written), strict=True)
        try:
            found = bert_score.score(
                list(hypotheses), list(references), model_type=place, num_layers=num_layers
            )[2]
        except (KeyError, OSError, OverflowError) as error:
            raise EngineError(
                f"evaluate.bertscore_model={model}: bert-score can't use it "
                f"({type(error).__name__}: {first_line(error)}); expected a name that it "
                "knows, or minilm or a folder with evaluate.bertscore_layers set"
            ) from error
        for n, value in zip(written, found.tolist(), strict=True):
            values[n] = value
    return Scores(values, f"bert-score {bert_score.__version__}, {model}, no idf, not rescaled")


def gptscore_logprob(pairs: Sequence[Pair], model: str) -> Scores:
    """GPTScore (Fu et al. 2023): how likely each text is after the other, at most 0.

    It is the mean of two figures: the mean log-probability per token of the hypothesis after the
    reference, and of the reference after the hypothesis. It is not the mark of 0 to 100 that papers
    on recommendation call GPTScore; that is ``judge_0_100``.

    Args:
        pairs: Pairs; long texts are cut to the model's positions. A pair with an empty text has no
            value, as an empty text would always be the most likely one.
        model: What ``model.name_or_path`` takes.

    Raises:
        ModelError: If it names no model, or one that can't be loaded.
    """
    source = locate_base(ModelConfig(name_or_path=model))
    check_source(source)
    continuation = _load_continuation(source)
    values = [_mean_of_both(continuation, *pair) for pair in pairs]
    return Scores(values, f"{model}, mean of both directions")


def _mean_of_both(
    continuation: Callable[[str, str], float], hypothesis: str, reference: str
) -> float | None:
    if not (hypothesis.strip() and reference.strip()):
        return None
    after_reference = continuation(reference + _LINK, hypothesis)
    after_hypothesis = continuation(hypothesis + _LINK, reference)
    return (after_reference + after_hypothesis) / 2


def _load_continuation(source: ModelSource) -> Callable[[str, str], float]:
    """A function for the mean log-probability of a text after a prefix, under a causal model."""
    import torch  # seconds to import

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # A processor computes in float32 whatever type the weights are stored in: many can only imitate
    # bfloat16, slowly, and its rounding moves a score by a hundredth between two of them.
    dtype = "auto" if device == "cuda" else torch.float32
    try:
        tokenizer = load_tokenizer(source)
        network = load_causal(source, dtype=dtype).eval()
    except ModelError as error:
        raise ModelError(f"evaluate.gptscore_model: {error}") from error
    network.to(device)
    longest = getattr(network.config, "max_position_embeddings", 2048)

    def score(prefix: str, text: str) -> float:
        head = tokenizer.encode(prefix, add_special_tokens=False)
        tail = tokenizer.encode(text, add_special_tokens=False)[: longest // 2]
        head = head[-(longest - len(tail)) :]  # keep the words nearest to the text
        ids = torch.tensor([head + tail], device=network.device)
        with torch.inference_mode():
            logits = network(ids).logits[0, len(head) - 1 : -1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        return float(logprobs.gather(1, ids[0, len(head) :, None]).mean())

    return score
