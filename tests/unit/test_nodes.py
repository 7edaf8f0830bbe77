"""What is said of a local folder that not all nodes share."""

from pathlib import Path

import pytest

from msrrec.errors import DataError
from msrrec.nodes import check_readable, check_shared, list_here, refuse_blind


def test_a_node_that_lacks_the_folder_or_a_file_is_named() -> None:
    refuse_blind("/runs", ["a"], {"10.0.0.1": ["a", "b"]})
    seen = {"10.0.0.1": ["a", "b"], "10.0.0.2": None}
    said = r"/runs: is not the same on node 10\.0\.0\.2: it does not exist there; expected a folder"
    with pytest.raises(DataError, match=said):
        refuse_blind("/runs", ["a"], seen)
    with pytest.raises(DataError, match=r"node 10\.0\.0\.1: it lacks c there"):
        refuse_blind("/runs", ["a", "c"], seen)


def test_a_folder_is_listed_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    assert list_here(str(tmp_path)) == ["x"]
    assert list_here(str(tmp_path / "none")) is None


def test_without_a_cluster_nothing_is_asked_or_created(tmp_path: Path) -> None:
    for path in (str(tmp_path / "out"), "s3://bucket/out"):
        check_shared(path)
        check_readable(path)
    assert list(tmp_path.iterdir()) == []
