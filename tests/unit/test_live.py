"""What can be watched while a run goes on."""

import json
import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from msrrec.training.live import EVENTS, Live

ROWS: list[dict[str, Any]] = [
    {"step": 1, "loss": 3.5, "loss_rea": None},
    {"step": 2, "loss": 2.5, "loss_rea": 1.5},
    {"step": 3, "loss": 0.5, "loss_rea": 0.25},
]


def scalars(folder: Path) -> list[tuple[int, str, float]]:
    """All values in the event files of a folder, each framed by length and checksums."""
    found = []
    for file in folder.glob("events.out.tfevents.*"):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            content = content[16 + length :]
    return found


def test_lines_come_as_steps_are_done_and_begin_anew_after_a_restart(tmp_path: Path) -> None:
    for restart in (False, True):  # after the first step, whose checkpoint is the last one
        live = Live(str(tmp_path), ROWS[:1], tensorboard=False)
        live.update(ROWS[: 2 + restart])
        live.update(ROWS[: 2 + restart])
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == ROWS[: 2 + restart]
        live.close()
    assert not (tmp_path / EVENTS).exists()


def test_event_files_hold_every_value_once(tmp_path: Path) -> None:
    for done in (1, 2):
        live = Live(str(tmp_path), ROWS[:done], tensorboard=True)
        live.update(ROWS)
        live.close()
    assert sorted(scalars(tmp_path / EVENTS)) == [
        (1, "loss", 3.5),
        (2, "loss", 2.5),
        (2, "loss_rea", 1.5),
        (3, "loss", 0.5),
        (3, "loss_rea", 0.25),
    ]
