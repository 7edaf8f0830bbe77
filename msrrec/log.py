"""Logging and progress on stderr; stdout is for results."""

import json
import logging
import os
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime

from msrrec.errors import hide_credentials

_QUIET = {
    "RAY_COLOR_PREFIX": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


REQUEST_ID: ContextVar[str] = ContextVar("msrrec_request_id", default="")
"""The id of the request that is being worked on; empty where there is none."""


def setup(level: int = logging.INFO, *, as_json: bool = False) -> None:
    """Show this project's log lines on stderr; the root logger belongs to the host process.

    Args:
        level: Lines below it are left out.
        as_json: Whether each line is a JSON object, which then names its request.
    """
    logger = logging.getLogger("msrrec")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        logger.propagate = False
    for ours in logger.handlers:
        if type(ours) is logging.StreamHandler:
            ours.stream = sys.stderr  # which a host process may have replaced since
            ours.setFormatter(
                _JsonFormatter() if as_json else _Formatter("%(asctime)s %(message)s", "%H:%M:%S")
            )
    logger.setLevel(level)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return hide_credentials(super().format(record))


class _JsonFormatter(logging.Formatter):
    """A JSON object a line; ``extra={"fields": {...}}`` of a log call adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := REQUEST_ID.get():
            entry["request_id"] = request_id
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return hide_credentials(json.dumps(entry, ensure_ascii=False))


class Progress:
    """A counter of finished work that logs progress and remaining time every few seconds.

    ``with Progress("synthesize", 1500, "answers") as progress: progress.advance()``
    """

    def __init__(self, name: str, total: int | None, unit: str, every_s: float = 5.0) -> None:
        self.name, self.total, self.unit, self.every_s = name, total, unit, every_s
        self.done = 0
        self._begin = self._last = time.monotonic()
        self._logger = logging.getLogger("msrrec.progress")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count finished work and log progress if the last line is old enough."""
        self.done += count
        if time.monotonic() - self._last >= self.every_s:
            self._show(note)

    def _show(self, note: str = "") -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._begin
        of_total = f" of {self.total:,}" if self.total else ""
        eta = ""
        if self.total and 0 < self.done < self.total:
            eta = f", {elapsed * (self.total - self.done) / self.done:.0f} s to go"
        tail = f" ({note})" if note else ""
        self._logger.info(
            "%s: %s%s %s in %.0f s%s%s",
            self.name,
            f"{self.done:,}",
            of_total,
            self.unit,
            elapsed,
            eta,
            tail,
        )


def quiet_libraries() -> None:
    """Hide log lines of Ray, Serve, vLLM and torch in this process and its child processes.

    Environment variables that the user has set are kept.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("ray.serve", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).addFilter(_is_warning)  # Serve sets the level of its own again


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
