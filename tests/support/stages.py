"""Stand-ins for the work of all stages, which write the least that later stages read."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from msrrec import stage
from msrrec.data.dataset import Dataset
from msrrec.models import write_settings
from msrrec.stage import Call
from tests.support.dataset import write_dataset
from tests.support.models import write_safetensors
from tests.support.training import write_paths


class StandIns:
    """Stages whose work is done in no time.

    Attributes:
        worked: Names of the stages' functions, in the order in which they worked.
        before: Called with each name before its work, such as to fail.
    """

    def __init__(self) -> None:
        self.worked: list[str] = []
        self.before: Callable[[str], None] = lambda name: None

    def resolve(self, place: str) -> Any:
        """In place of ``stage.resolve_function``."""
        name = place.rpartition(":")[2]

        def run(call: Call) -> dict[str, Any]:
            if name.startswith(("check", "probe")) or name.endswith("_settings"):
                return {}
            self.before(name)
            self.worked.append(name)
            write_result(name, call)
            return {"out": call.out}

        return run


def write_result(name: str, call: Call) -> None:
    out = Path(call.out)
    out.mkdir(parents=True, exist_ok=True)
    if name == "prepare":
        write_dataset(out, 12)
    elif name == "synthesize":
        write_paths(str(out), Dataset.load(call.inputs["dataset"]), 2)
    elif name == "train":
        write_model(out)
    elif name.startswith("evaluate"):
        (out / "predictions").mkdir()
        (out / "predictions" / "some.parquet").write_bytes(str(out).encode())


def write_model(out: Path) -> None:
    (out / "merged").mkdir()
    (out / "merged" / "config.json").write_text("{}")
    write_safetensors(out / "merged" / "model.safetensors", (str(out),))
    write_settings(
        str(out), {"prompt": {"answer_format": "title"}, "domain": "Shop", "base_model": "embedded"}
    )


@contextlib.contextmanager
def no_ray(*_: Any) -> Iterator[None]:
    yield


def put_stand_ins(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> StandIns:
    """Put stand-ins in the place of all stages, of Ray and of the report.

    Args:
        monkeypatch: Pytest's.
        module: The module of the pipeline that opens a session with Ray.
    """
    stand_ins = StandIns()
    monkeypatch.setattr(stage, "resolve_function", stand_ins.resolve)
    for opens_ray in (stage, module):
        monkeypatch.setattr(opens_ray, "ray_session", no_ray)
    page = {"page": "index.html", "systems": [], "warnings": [], "findings": ["One finding."]}
    monkeypatch.setattr("msrrec.report.page.report_folder", lambda folder: page)
    return stand_ins
