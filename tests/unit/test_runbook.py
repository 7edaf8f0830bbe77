"""The runbook's blocks are whole commands, work on one set of names, and reach only the bucket."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.manifests import find_kustomize
from tests.support.pages import ROOT, find_blocks, runbook_commands, split_commands

NAMES = {
    "IMAGE": "images.local/lab/msrrec:2.0.1",
    "RAW": "s3://lab/raw/2026",
    "RUN": "s3://lab/runs/7",
    "CONFIG": "embedded",
    "WORKERS": "2",
}
STAGES = ("prepare", "synthesize", "train", "evaluate", "report")


def shell(text: str, folder: Path) -> None:
    """Run a block with this test's names, in a folder."""
    names = "".join(f"{name}={value}\n" for name, value in NAMES.items())
    subprocess.run(["bash", "-euc", names + text], cwd=folder, check=True)


def test_every_block_has_a_heading_of_its_own() -> None:
    blocks = find_blocks("cluster/RUNBOOK.md", "sh")
    assert [block.heading for block in blocks] == list(runbook_commands())


@pytest.mark.parametrize("heading", runbook_commands())
def test_every_block_is_a_whole_shell_script(heading: str) -> None:
    script = runbook_commands()[heading]
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.stderr == ""


def test_every_name_that_a_block_uses_was_given_before() -> None:
    # Keys of one's own accounts, which no page can give.
    given = {"TEACHER_API_KEY", "JUDGE_API_KEY", "HF_TOKEN"}
    for heading, text in runbook_commands().items():
        given |= set(re.findall(r"^(?:export )?(\w+)=", text, re.MULTILINE))
        used = set(re.findall(r"\$\{?([A-Z_]+)", text))
        assert used <= given, heading


def test_the_names_of_the_runbook_are_those_of_this_test() -> None:
    assigned = re.findall(r"^(\w+)=", runbook_commands()["Names"], re.MULTILINE)
    assert set(assigned) == {*NAMES, "OVERLAY"}


def jobs(heading: str) -> list[list[str]]:
    """The submitted commands of a block, from ``python`` on."""
    commands = split_commands(runbook_commands()[heading])
    return [words[words.index("--") + 1 :] for words in commands if words[0] == "ray"]


def test_stages_come_in_order_and_so_does_the_pipeline() -> None:
    modules = [words[2] for words in jobs("Stage by stage")]
    assert modules == [f"jobs.{stage}" for stage in STAGES]
    assert [words[2] for words in jobs("The whole pipeline by hand")] == ["jobs.pipeline"]


@pytest.mark.parametrize("heading", ["Stage by stage", "The whole pipeline by hand"])
def test_jobs_read_and_write_the_bucket_alone(heading: str) -> None:
    for words in jobs(heading):
        files = [w for n, w in enumerate(words) if "/" in w or words[n - 1].startswith("--out")]
        assert all(path.startswith(("$RUN", "$RAW")) for path in files), words


def test_what_is_applied_exists() -> None:
    commands = [words for text in runbook_commands().values() for words in split_commands(text)]
    applied = [words[-1] for words in commands if words[:2] == ["kubectl", "apply"]]
    assert applied == ["$OVERLAY", "$OVERLAY/pipeline", "$OVERLAY/service"]
    page = (ROOT / "cluster" / "RUNBOOK.md").read_text()
    for overlay in set(re.findall(r"OVERLAY=(cluster/[\w/]+)", page)):
        for path in applied:
            folder = path.replace("$OVERLAY", overlay)
            assert (ROOT / folder / "kustomization.yaml").is_file(), folder
    for path in set(re.findall(r"(?:jobs|serve|cluster)/[\w/.-]+\.yaml", page)):
        assert (ROOT / path).is_file(), path


def test_the_manifests_take_other_names(tmp_path: Path) -> None:
    for folder in ("cluster", "serve/configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shell(runbook_commands()["Names in the manifests"], tmp_path)
    texts = {path: path.read_text() for path in tmp_path.rglob("*.yaml")}
    for path, text in texts.items():
        assert "registry.example.com" not in text, path
        assert "my-bucket" not in text, path
    launcher = yaml.safe_load((tmp_path / "cluster" / "launcher.yaml").read_text())
    assert launcher["docker"]["image"] == NAMES["IMAGE"]
    built = subprocess.run(
        [*find_kustomize(), str(tmp_path / "cluster/overlays/gpu/pipeline")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert set(re.findall(r"image: (\S+)", built)) == {NAMES["IMAGE"]}
    (job,) = (r for r in yaml.safe_load_all(built) if r["kind"] == "RayJob")
    words = job["spec"]["entrypoint"].split()
    assert words[words.index("--interactions") + 1] == "s3://lab/raw/2026/reviews.json.gz"
    assert words[words.index("--out") + 1] == "s3://lab/runs/7"
