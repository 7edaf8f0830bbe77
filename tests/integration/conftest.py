"""One small model and one vLLM engine for all integration tests."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from msrrec.config import InferenceConfig
from msrrec.models import EMBEDDED_DIR, ModelSource
from tests.support.training import save_base

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from msrrec.engines.vllm import VllmEngine

# The engine shares this process: torch reads the number of threads when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def embedded_source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """The embedded backbone where the package has its weights, else one of its kind, untrained."""
    if (EMBEDDED_DIR / "config.json").is_file():
        return ModelSource("embedded", str(EMBEDDED_DIR), None)
    folder = tmp_path_factory.mktemp("backbone")
    save_untrained(folder)
    return ModelSource("untrained", str(folder), None)


def save_untrained(folder: Path) -> None:
    """A Llama of the embedded backbone's shape with random weights."""
    import torch

    from msrrec.embedded.backbone.pretrain import build_model
    from msrrec.embedded.backbone.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Red Lamp, Blue Shoe and Oak Table.\n"] * 100)
    tokenizer.save_pretrained(folder)
    build_model(tokenizer).save_pretrained(folder)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a base model that trains in a second."""
    folder = str(tmp_path_factory.mktemp("base"))
    save_base(folder)
    return folder


@pytest.fixture(scope="session")
def vllm_engine(embedded_source: ModelSource) -> "VllmEngine":
    """The one real engine, in this process; requests may bind their outputs to answers."""
    from msrrec.engines.vllm import VllmEngine

    # Tests compare its figures with those of float32, also where the processor has bfloat16.
    options = {"dtype": "float32"}
    config = InferenceConfig(max_new_tokens=48, constrained=True, vllm_kwargs=options)
    return VllmEngine(embedded_source, config)


@pytest.fixture
def page() -> "Iterator[Page]":
    """A page in a real Chromium; tests that need one are skipped where there is none."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed; `make browser` installs Debian's")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(120_000)
        yield page
        browser.close()
