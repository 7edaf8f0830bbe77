"""The stages with every folder on a server that speaks as Google Cloud Storage does."""

from pathlib import Path

import pytest

from tests.integration.test_object_store import (
    SETTINGS,
    evaluate_and_report,
    prepare_and_ask,
    same_contents,
    train,
)
from tests.support.cli import Commands
from tests.support.google_store import GoogleStore
from tests.support.training import settings_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def test_google_cloud_storage_gives_what_a_disk_gives(
    tmp_path: Path, google_store: GoogleStore, msrrec: Commands
) -> None:
    here, there = str(tmp_path / "runs"), google_store.make_bucket()
    for root in (here, there):
        prepare_and_ask(msrrec, root)
        ended = msrrec(*train(root), *settings_for("embedded", *SETTINGS))
        assert ended.code == 0, ended.err
        evaluate_and_report(msrrec, root)
    same_contents(here, there)
