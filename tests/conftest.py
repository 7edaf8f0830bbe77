"""Fixtures for every tier: one Ray for the whole session, and where real data lies."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support import google_store as google
from tests.support.cli import Commands
from tests.support.google_store import GoogleStore
from tests.support.object_store import ObjectStore, serve

hypothesis.settings.register_profile("any-machine", deadline=None)  # a busy one is no failure
hypothesis.settings.load_profile("any-machine")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # a report costs 2 s by default
# A process for every training, which waits for a cloud's notice that it takes a node back.
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of our own with two cores, ended after the session; no other process is touched."""
    from msrrec.cluster import ray_session
    from serve.own_ray import prepare_serve

    prepare_serve()  # as `msrrec serve` has it
    with ray_session(num_cpus=4):
        yield


@pytest.fixture
def msrrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line, run in this process: ``msrrec("report", folder).summary``."""
    # A command changes the environment, which is that of all tests.
    monkeypatch.setattr("msrrec.command.ask_for_token", lambda address: None)
    return Commands(monkeypatch, capsys)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data named by MSRREC_DATA; tests that need it are skipped without."""
    folder = os.environ.get("MSRREC_DATA")
    if not folder:
        pytest.skip("MSRREC_DATA is not set; it names the folder of real purchases")
    return Path(folder)


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """One S3-compatible server for all tests."""
    with serve() as store:
        yield store


@pytest.fixture(scope="session")
def google_store() -> Iterator[GoogleStore]:
    """One server for all tests that speaks as Google Cloud Storage does."""
    with google.serve() as store:
        yield store


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    """The URI of a new bucket, whose options hold address and credentials."""
    return object_store.uri(object_store.make_bucket())
