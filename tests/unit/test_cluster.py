"""A Ray of our own: what it asks of strangers, and one sentence where it can't be had."""

import os
import platform
import signal
import subprocess
import sys
from typing import Any

import pytest
import ray

from msrrec.cluster import WORKER_ENVIRONMENT, ask_for_token, ray_session
from msrrec.errors import ConfigError, EngineError
from tests.support.clusters import show_nodes


@pytest.fixture(autouse=True)
def _no_ray_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of the same process may have left their Ray running, which would be used."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    "error", [RuntimeError("no node\nof many"), OSError(28, "No space left on device")], ids=repr
)
def test_a_ray_that_does_not_start_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(EngineError, match="Ray did not start on this machine") as caught,
        ray_session(),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: Any) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(ray, "init", fail)
    with (
        pytest.raises(EngineError, match=r"ray\.address=10\.0\.0\.9:6379: no Ray cluster"),
        ray_session("10.0.0.9:6379"),
    ):
        pass


def test_a_session_leaves_sigterm_to_the_process_that_opened_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def handle(*_: Any) -> None: ...

    def init(**_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr("msrrec.cluster.quiet_ray_data", lambda: None)
    show_nodes(monkeypatch, {"CPU": 1.0})
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with ray_session():
            assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_cluster_without_a_core_is_refused_where_nothing_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    monkeypatch.setattr("msrrec.cluster.quiet_ray_data", lambda: None)
    show_nodes(monkeypatch, {"memory": 1.0})
    with (
        pytest.raises(ConfigError, match=r"Ray's tasks: .* room for 0 × CPU; expected 1"),
        ray_session("10.0.0.9:6379"),
    ):
        pass
    assert ended == [True]


FAULTS = """
import resource
def use():
    b"x" * (1 << 26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
begin = use()
print(max(use() - begin for _ in range(2)))
"""
"""Prints how many pages had to be got again for the same 64 MB."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_workers_of_training_keep_memory_that_a_step_frees() -> None:
    environment = os.environ | WORKER_ENVIRONMENT
    command = [sys.executable, "-c", FAULTS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of 32,768 pages in two rounds


def test_a_local_ray_asks_for_a_token_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    ask_for_token("10.0.0.7:6379")
    assert "RAY_AUTH_MODE" not in os.environ
    ask_for_token(None)
    assert os.environ["RAY_AUTH_MODE"] == "token"
    first = os.environ["RAY_AUTH_TOKEN"]
    assert len(first) == 64
    ask_for_token(None)
    assert os.environ["RAY_AUTH_TOKEN"] == first


def test_the_token_is_asked_for_before_ray_is_imported() -> None:
    code = "import sys, msrrec.cli; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("command", "run"),
    [
        ("demo", "msrrec.pipeline.demo.run_demo"),
        ("prepare --source demo --out x", "msrrec.cli.run_stage"),
    ],
)
def test_a_command_asks_for_a_token_before_it_works(command: str, run: str) -> None:
    module, _, name = run.rpartition(".")
    code = (
        f"import os, sys, msrrec.cli, {module} as at\n"
        "def told(*_, **__):\n"
        "    print(os.environ['RAY_AUTH_MODE'], len(os.environ['RAY_AUTH_TOKEN']))\n"
        "    print('ray' in sys.modules)\n"
        "    return {}\n"
        f"at.{name} = told\n"
        "msrrec.cli.main()"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ended = subprocess.run(
        [sys.executable, "-c", code, *command.split()], env=env, capture_output=True, text=True
    )
    assert ended.stdout.splitlines()[:2] == ["token 64", "False"], ended.stderr
