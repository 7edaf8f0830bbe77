"""Points of a sweep on a real Ray Tune."""

from pathlib import Path

import pytest

from msrrec.errors import DataError
from msrrec.pipeline.sweep import run_points

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def test_every_point_runs_once_and_what_one_raises_is_raised(tmp_path: Path) -> None:
    def run(alpha: float) -> None:
        with (tmp_path / f"{alpha}").open("a") as file:
            file.write("ran\n")

    run_points(run, [0.3, 0.7], tmp_path, 2)
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {"0.3": "ran\n", "0.7": "ran\n"}

    def refuse(alpha: float) -> None:
        raise DataError(f"alpha {alpha}: refused")

    with pytest.raises(DataError, match=r"^alpha 0\.5: refused$"):
        run_points(refuse, [0.5], tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2
