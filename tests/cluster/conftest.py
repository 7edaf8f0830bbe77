"""One cluster of nodes that share no files, one bucket, and one run that nothing happens to."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stand_in import running as serving
from msrrec.data.dataset import Dataset
from tests.support.amazon import amazon_files
from tests.support.cluster_runs import CONCURRENCY, CONFIG, NUM_ACTORS, Site
from tests.support.nodes import running
from tests.support.object_store import ObjectStore
from tests.support.pages import ROOT
from tests.support.slow_teacher import SlowTeacher


@pytest.fixture(scope="session")
def site(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The cluster with everything around it."""
    bucket = object_store.make_bucket()
    for file, content in amazon_files(200).items():
        object_store.client().put_object(Bucket=bucket, Key=f"raw/{file}", Body=content)
    teacher = SlowTeacher(lambda: Dataset.load(object_store.uri(bucket, "calm/dataset")))
    hidden = tmp_path_factory.mktemp("hidden")
    env = {
        **object_store.environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(hidden),
    }
    with (
        serving(teacher.server) as server,
        running(tmp_path_factory.mktemp("nodes"), hidden, env) as nodes,
    ):
        project = tmp_path_factory.mktemp("project")
        copy_project(project)
        numbers = {"concurrency": CONCURRENCY, "num_actors": NUM_ACTORS}
        (project / "small.yaml").write_text(CONFIG.format(url=server.url, **numbers))
        yield Site(nodes, object_store, bucket, teacher, project)


def copy_project(folder: Path) -> None:
    """The packages, and of the tests what jobs of the tests need."""
    for name in ("msrrec", "jobs", "serve", "tests/support"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)


@pytest.fixture(scope="session")
def calm(site: Site) -> str:
    """Name of the run that nothing happens to, by the runbook's stages."""
    site.run_block("Stage by stage", "calm")
    return "calm"
