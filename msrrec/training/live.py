"""Metrics written during a run: JSON lines, and TensorBoard event files on request.

A resumed run first rewrites the metrics of its checkpoint, so no step is missing or appears twice.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from msrrec import storage
from msrrec.training.checkpoint import METRICS, MetricsRow, write_metrics

EVENTS = "tensorboard"
_UPLOADED_EVERY_S = 5.0
"""Seconds between uploads of the metrics to an object store, which can't append."""


class Live:
    """A writer of metrics into a model's folder during training.

    Args:
        folder: The model's folder.
        rows: Metrics so far.
        tensorboard: Whether to write event files too.
    """

    def __init__(self, folder: str, rows: list[MetricsRow], *, tensorboard: bool) -> None:
        self._folder, self._rows = folder, list(rows)
        self._appends = not storage.is_object_store(folder)
        write_metrics(folder, rows)
        self._written = time.monotonic()
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # half a second

            self._place = storage.join(folder, EVENTS)
            storage.delete_folder(self._place)
            self._here = self._place if self._appends else tempfile.mkdtemp(prefix="msrrec-")
            self._events = SummaryWriter(self._here, flush_secs=5)
            self._add_events(rows)

    def update(self, rows: list[MetricsRow]) -> None:
        """Write the rows that were not written yet; ``rows`` only grows."""
        new = rows[len(self._rows) :]
        if not new:
            return
        self._rows += new
        self._add_events(new)
        if self._appends:
            path = Path(storage.join(self._folder, METRICS))
            with path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
        elif time.monotonic() - self._written >= _UPLOADED_EVERY_S:
            write_metrics(self._folder, self._rows)
            self._written = time.monotonic()

    def close(self) -> None:
        """Write what is not written yet."""
        if not self._appends:
            write_metrics(self._folder, self._rows)
        if self._events is not None:
            self._events.close()
            if not self._appends:
                storage.copy_folder(self._here, self._place)
                shutil.rmtree(self._here)

    def _add_events(self, rows: Iterable[MetricsRow]) -> None:
        if self._events is None:
            return
        for row in rows:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self._events.add_scalar(name, value, row["step"])
