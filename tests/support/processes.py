"""Processes that tests wait for and end."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil


def workers(of: psutil.Process) -> Iterator[psutil.Process]:
    """The training workers among the descendants of a process."""
    for process in of.children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                yield process
        except psutil.NoSuchProcess:
            continue


def wait_until(happens: Callable[[], Any], seconds: float = 900) -> None:
    """Far longer than any of it takes where other programs want the cores."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)
