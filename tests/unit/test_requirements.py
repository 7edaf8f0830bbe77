"""The pinned files are complete: set-up installs with `--no-deps`, so nothing may be implied."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from msrrec.packaged import PACKAGED

FOLDER = Path(__file__).parents[2] / "requirements"
# vLLM's and xgrammar's metadata ask for these; none is imported for text models on processors.
NOT_NEEDED = {"torchaudio", "torchcodec", "torchvision", "triton"}


def _pinned(*names: str) -> dict[str, Requirement]:
    lines = [line for name in names for line in (FOLDER / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return {canonicalize_name(item.name): item for item in found}


@pytest.mark.parametrize("names", [("cpu.txt",), ("cpu.txt", "dev.txt")])
def test_every_dependency_of_a_pinned_package_is_pinned(names: tuple[str, ...]) -> None:
    pinned = _pinned(*names)
    missing = set()
    for name, item in pinned.items():
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            pytest.fail(f"{name} is pinned but not installed")
        for text in needed:
            dependency = Requirement(text)
            extras = item.extras or {""}
            if dependency.marker and not any(
                dependency.marker.evaluate({"extra": extra}) for extra in extras
            ):
                continue
            if canonicalize_name(dependency.name) not in pinned:
                missing.add((name, canonicalize_name(dependency.name)))
    assert {dependency for _, dependency in missing} <= NOT_NEEDED, missing


def test_pretrained_models_have_the_same_versions_in_file_extras_and_errors() -> None:
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = {str(item) for item in _pinned("real.txt").values()}
    assert pinned == {*extras["smollm2"], *extras["minilm"]}
    assert pinned == {text for model in PACKAGED.values() for text in model.requirements}


def test_the_reader_of_gguf_files_finds_its_own_dependencies_pinned() -> None:
    # As its metadata has them; the packages of weights need nothing, as only their files are read.
    assert {"numpy", "pyyaml", "requests", "tqdm"} <= _pinned("cpu.txt").keys()
