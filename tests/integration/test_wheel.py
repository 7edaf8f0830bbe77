"""An installed wheel works, whatever the working directory holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's packages."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in files.splitlines():
        is_packaged = name.startswith(("msrrec/", "jobs/", "serve/")) or "/" not in name
        if is_packaged and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source)]
    subprocess.run(build, check=True)
    (wheel,) = wheels.glob("msrrec-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with packages of the same names as ours."""
    for name in ("jobs", "serve"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    return tmp_path


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "msrrec", *arguments],
        env={"PYTHONPATH": str(installed), "PATH": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_presets_and_packages_are_those_of_the_wheel(installed: Path, elsewhere: Path) -> None:
    dry = run(installed, elsewhere, "demo", "--config", "demo", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout.splitlines()[-1])["train"]["sides"] == ["full", "user", "item"]
    (elsewhere / "empty").mkdir()
    served = run(installed, elsewhere, "serve", "--model", "empty")
    assert served.returncode == 2, served.stderr
    assert "holds no config.json" in served.stderr
    assert "not ours" not in served.stderr


def test_the_wheel_has_all_that_pages_and_the_embedded_backbone_need(installed: Path) -> None:
    for pattern in ("*.html", "*.css", "py.typed"):
        ours = {p.relative_to(ROOT) for p in (ROOT / "msrrec").rglob(pattern)}
        assert {p for p in ours if not (installed / p).exists()} == set()
    weights = installed / "msrrec" / "embedded" / "backbone" / "weights"
    assert (weights / "tokenizer.json").exists()
    assert (installed / "serve" / "static" / "index.html").exists()
