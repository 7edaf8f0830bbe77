import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from msrrec.errors import EngineError, ModelError
from msrrec.metrics.text import bertscore, gptscore_logprob, meteor
from msrrec.models import EMBEDDED_DIR
from msrrec.packaged import PACKAGED, PackagedModel
from tests.support.models import write_safetensors


def test_meteor_of_known_pairs() -> None:
    found = meteor(
        [
            ("the cat sat down", "the cat sat down"),
            ("the cat", "the cat sat down"),
            ("lamps", "lamp"),
            ("", "the cat"),
            ("red lamp", "blue kettle"),
        ]
    )
    # All four match in one chunk: 1 - 0.5 * (1/4)³. Two of four: P = 1, R = 1/2,
    # F = PR / (0.9 P + 0.1 R) = 0.52632, times 1 - 0.5 * (1/2)³. A stem: 1 - 0.5.
    expected = [1 - 0.5 / 64, 0.5 / 0.95 * (1 - 0.5 / 8), 0.5, 0.0, 0.0]
    assert found.values == pytest.approx(expected)
    assert found.note.startswith("NLTK")


def test_meteor_reads_punctuation_and_case_as_words_do() -> None:
    assert meteor([("The CAT, sat.", "the cat , sat .")]).values == pytest.approx([1 - 0.5 / 125])


def test_without_wordnet_the_note_says_so_and_synonyms_don_t_count(tmp_path: Path) -> None:
    code = (
        "import json; from msrrec.metrics.text import meteor\n"
        "found = meteor([('a car', 'a auto')])\n"
        "print(json.dumps([found.values[0], found.note]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"NLTK_DATA": str(tmp_path), "PATH": "", "HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        check=True,
    )
    value, note = json.loads(done.stdout)
    # one of two words: P = R = F = 1/2, one chunk of one match: times 1 - 0.5
    assert value == pytest.approx(0.25)
    assert note == "NLTK, without WordNet"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of random weights that knows five words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "lamp", "blue", "large", "sofa"]
    tokenizer = BertTokenizerFast(vocab={word: n for n, word in enumerate(words)})
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    BertModel(config).eval().save_pretrained(str(folder))
    return str(folder)


def test_bertscore_is_the_greedy_matching_of_token_vectors(bert: str) -> None:
    pytest.importorskip("bert_score")
    import torch
    from transformers import AutoModel, AutoTokenizer

    pairs = [("red lamp", "large red lamp"), ("blue sofa", "red lamp"), ("red lamp", "red lamp")]
    tokenizer, model = AutoTokenizer.from_pretrained(bert), AutoModel.from_pretrained(bert).eval()

    def vectors(text: str) -> torch.Tensor:
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden, dim=-1)

    expected = []
    for hypothesis, reference in pairs:
        # [CLS] and [SEP] may be matched but have no weight of their own in bert-score
        likeness = vectors(hypothesis) @ vectors(reference).T
        precision, recall = likeness.max(1).values[1:-1].mean(), likeness.max(0).values[1:-1].mean()
        expected.append(float(2 * precision * recall / (precision + recall)))
    found = bertscore(pairs, bert, 2)
    assert found.values == pytest.approx(expected, abs=1e-5)
    assert found.values[2] == pytest.approx(1.0, abs=1e-5)
    assert "no idf, not rescaled" in found.note


def test_bertscore_takes_a_packaged_model(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, "minilm", PackagedModel(("msrrec==0",), "msrrec", bert))
    pairs = [("red lamp", "red"), ("red", "red")]
    found = bertscore(pairs, "minilm", 2)
    assert found.values == bertscore(pairs, bert, 2).values
    assert "minilm" in found.note
    assert bert not in found.note


def test_an_empty_reasoning_has_bertscore_zero(bert: str) -> None:
    pytest.importorskip("bert_score")
    values = bertscore([("", "red lamp"), ("red", "red")], bert, 2).values
    assert values == [0.0, pytest.approx(1.0, abs=1e-5)]
    assert bertscore([(" ", "red lamp")], bert, 2).values == [0.0]


def test_bertscore_says_what_it_needs(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"a folder with evaluate\.bertscore_layers set"):
        bertscore([("red", "red")], bert, None)
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(EngineError, match="pip install bert-score"):
        bertscore([("red", "red")], bert, 2)


def test_gptscore_is_the_mean_log_probability_in_both_directions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hypothesis, reference = "The user mostly buys Fishing.", "The user likes Fishing."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # the reference's precision
    found = gptscore_logprob([(hypothesis, reference)], str(EMBEDDED_DIR))
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_DIR)
    model = AutoModelForCausalLM.from_pretrained(EMBEDDED_DIR, dtype=torch.float32).eval()
    expected = 0.0
    for first, second in ((reference, hypothesis), (hypothesis, reference)):
        head = tokenizer.encode(first + " In other words, ", add_special_tokens=False)
        tail = tokenizer.encode(second, add_special_tokens=False)
        total = 0.0
        for n, token in enumerate(tail):  # one token after the other
            ids = torch.tensor([head + tail[:n]])
            with torch.inference_mode():
                logits = model(ids).logits[0, -1].float()
            total += float(torch.log_softmax(logits, dim=-1)[token])
        expected += total / len(tail) / 2
    # logits three times as large as the score, through five layers of a few roundings each
    assert found.values == pytest.approx([expected], rel=100 * torch.finfo(torch.float32).eps)
    assert found.values[0] < 0
    assert found.note.endswith("mean of both directions")


def test_an_empty_text_has_no_gptscore() -> None:
    pairs = [("", "red lamp"), (" \n", "red lamp"), ("red lamp", ""), ("red lamp", "red lamp")]
    *empty, written = gptscore_logprob(pairs, str(EMBEDDED_DIR)).values
    assert empty == [None, None, None]
    assert written is not None
    assert written < 0


def test_long_texts_fit_into_the_model() -> None:
    values = gptscore_logprob(
        [("Red lamp. " * 2000, "Blue sofa. " * 2000)], str(EMBEDDED_DIR)
    ).values
    assert math.isfinite(values[0])


def test_a_missing_model_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        gptscore_logprob([("a", "b")], str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="holds no weights"):
        gptscore_logprob([("a", "b")], str(tmp_path))
    write_safetensors(tmp_path / "model.safetensors", ("a",))
    with pytest.raises(ModelError, match=r"^evaluate\.gptscore_model: .*no tokenizer there"):
        gptscore_logprob([("a", "b")], str(tmp_path))
