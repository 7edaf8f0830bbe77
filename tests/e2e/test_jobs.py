"""Every stage as a submitted job, against a real Ray head with token authentication."""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.clusters import end_processes

ROOT = Path(__file__).parents[2]
PORTS = {"gcs": 26379, "dashboard": 28265, "agent": 28365, "client": 28001}
SMALL = [
    "data.demo_users=40",
    "data.num_users=24",
    "data.k_core=1",
    "train.num_epochs=1",
    "train.global_batch_size=4",
    "train.checkpoint_every_steps=1",
    "train.sides=[full,user,item]",
    "inference.max_new_tokens=96",
    "inference.max_model_len=768",
    "evaluate.num_users=6",
]

pytestmark = pytest.mark.integration


class Cluster:
    """A head node of our own, and jobs submitted to it."""

    def __init__(self, folder: Path) -> None:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.temp = Path(f"/tmp/msrrec-{os.getpid()}")  # sockets need a short path
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        }
        self.env.pop("RAY_ADDRESS", None)
        self.url = f"http://127.0.0.1:{PORTS['dashboard']}"
        self.bin = Path(sys.executable).parent

    def start(self) -> None:
        command = [
            *(str(self.bin / "ray"), "start", "--head", "--num-cpus=4"),
            f"--port={PORTS['gcs']}",
            f"--dashboard-port={PORTS['dashboard']}",
            f"--dashboard-agent-listen-port={PORTS['agent']}",  # another Ray may have the usual one
            f"--ray-client-server-port={PORTS['client']}",
            "--dashboard-host=127.0.0.1",
            f"--temp-dir={self.temp}",
            "--disable-usage-stats",
        ]
        subprocess.run(command, check=True, env=self.env, capture_output=True)

    def stop(self) -> None:
        """End the processes of this cluster and of no other."""
        end_processes(str(self.temp))

    def submit(self, *stages: Sequence[str], options: Sequence[str] = ()) -> tuple[int, str]:
        """Submit a job of one stage or several in a row, wait, and give exit code and log."""
        program = " && ".join(shlex.join((sys.executable, "-m", *stage)) for stage in stages)
        command = [
            *(str(self.bin / "ray"), "job", "submit", f"--address={self.url}", *options),
            *("--working-dir", str(ROOT), "--", "sh", "-c", program),
        ]
        deadline = time.monotonic() + 900
        while True:
            done = subprocess.run(command, env=self.env, capture_output=True, text=True)
            log = done.stdout + done.stderr
            if "No available agent" not in log or time.monotonic() > deadline:
                return done.returncode, log
            time.sleep(2)  # on a busy machine the head takes jobs some time after it has started

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        """What the head answers about jobs, faster than Ray's command line begins."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(f"{self.url}/api/jobs/{path}", method=method)
        request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as response:
            return dict(json.load(response))

    def stop_when(self, is_time: Callable[[], bool], job: str) -> str:
        """Stop a job that runs once it is time, as `ray job stop` does, and give its log."""
        wait_until(is_time)
        self.ask(f"{job}/stop", "POST")
        wait_until(lambda: self.ask(job)["status"] not in ("PENDING", "RUNNING"))
        assert self.ask(job)["status"] == "STOPPED"
        return str(self.ask(f"{job}/logs")["logs"])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    cluster.stop()


def wait_until(is_time: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not is_time():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def record(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "run.json").read_text())["summary"])


def test_each_stage_runs_as_a_submitted_job(cluster: Cluster, tmp_path: Path) -> None:
    dataset, reasoning, model, evaluation = (
        tmp_path / name for name in ("dataset", "reasoning", "model", "evaluation")
    )
    prepare = ("jobs.prepare", "--source", "demo", "--out", str(dataset), *SMALL)
    jobs = [
        (
            prepare,
            ("jobs.synthesize", "--dataset", str(dataset), "--out", str(reasoning), *SMALL),
        ),
        (
            (
                *("jobs.train", "--dataset", str(dataset), "--reasoning", str(reasoning)),
                *("--out", str(model), *SMALL),
            ),
        ),
        (
            (
                *("jobs.evaluate", "--dataset", str(dataset), "--model", str(model)),
                *("--out", str(evaluation), *SMALL),
            ),
        ),
        (("jobs.report", str(tmp_path)), run_all(tmp_path)),
    ]
    for stages in jobs:
        code, log = cluster.submit(*stages)
        assert code == 0, log
        assert "succeeded" in log
    assert log.count("is finished; skipped") == 4  # the pipeline knows the stages of their own jobs
    assert record(dataset)["num_users"] == 24
    assert record(reasoning)["kept"] > 0
    fused = pq.read_table(evaluation / "predictions" / "fused.parquet")
    assert fused.num_rows == 6
    assert len(set(fused["example_id"].to_pylist())) == 6
    assert (tmp_path / "report" / "index.html").stat().st_size > 1000
    stop_and_resume(cluster, tmp_path, tmp_path.with_name("stopped"))


def run_all(out: Path) -> tuple[str, ...]:
    return ("jobs.pipeline", "--source", "demo", "--out", str(out), *SMALL)


def stop_and_resume(cluster: Cluster, undisturbed: Path, out: Path) -> None:
    """A pipeline that is stopped while it trains and submitted again trains the same model.

    Everything but the model is copied, so the evaluation counts as finished only if each byte of
    the model is that of the undisturbed one.
    """
    for name in ("dataset", "reasoning", "evaluation"):
        shutil.copytree(undisturbed / name, out / name)
    code, log = cluster.submit(run_all(out), options=["--no-wait", "--submission-id=stopped"])
    assert code == 0, log
    checkpoints = out / "model" / "checkpoints"

    def has_checkpoint() -> bool:
        return any(folder.suffix == "" for folder in checkpoints.glob("*/step-*"))

    log = cluster.stop_when(has_checkpoint, "stopped")
    assert "stopped; run the same command again to continue" in log, log
    assert not (out / "model" / "run.json").exists()
    code, log = cluster.submit(run_all(out), options=["--submission-id=resumed"])
    assert code == 0, log
    assert "train: resuming after step" in log
    assert log.count("is finished; skipped") == 3, log
    made = json.loads((out / "model" / "run.json").read_text())
    assert made["submission_id"] == "resumed"


def test_a_job_with_bad_input_fails_with_one_sentence(cluster: Cluster, tmp_path: Path) -> None:
    code, log = cluster.submit(
        (
            *("jobs.train", "--dataset", str(tmp_path / "none"), "--out", str(tmp_path / "model")),
            "train.arm=none",
        )
    )
    assert code != 0
    assert "holds no manifest.json; expected a folder made by `msrrec prepare`" in log
    assert "Traceback" not in log.split("msrrec:")[-1]
    assert not (tmp_path / "model").exists()
