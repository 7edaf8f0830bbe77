"""Points of a sweep on a real Ray Tune."""

from pathlib import Path

import pytest

from msrrec.errors import DataError
from msrrec.sweep import run_points

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


def test_every_point_runs_once_and_what_one_raises_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(alpha: float) -> None:
        import ray.data

        # needs a processor, which the trial itself has not
        rows = ray.data.range(2).map_batches(lambda batch: batch, num_cpus=1).take_all()
        with (tmp_path / f"{alpha}").open("a") as file:
            file.write(f"{len(rows)} rows\n")

    run_points(run, [0.3, 0.7], tmp_path, 2)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {"0.3": "2 rows\n", "0.7": "2 rows\n"}
    assert "tune" not in capsys.readouterr().out  # nor of the folder that Tune had

    def refuse(alpha: float) -> None:
        raise DataError(f"alpha {alpha}: refused")

    with pytest.raises(DataError, match=r"^alpha 0\.5: refused$"):
        run_points(refuse, [0.5], tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2
