"""Running the command line as a person does, in this process."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

import pytest

from msrrec.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command left.

    Attributes:
        code: Its exit code.
        out: What it wrote to stdout.
        err: What it wrote to stderr, log lines included.
    """

    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of stdout."""
        return dict(json.loads(self.out.splitlines()[-1]))

    @property
    def sentence(self) -> str:
        """What the command says went wrong."""
        return self.err.split("msrrec: ")[-1].strip()


class Commands:
    """Types command lines."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Ended:
        """Run ``msrrec`` with some arguments."""
        self._monkeypatch.setattr("sys.argv", ["msrrec", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = self._capsys.readouterr()
        return Ended(int(ended.value.code or 0), captured.out, captured.err)

    def type(self, line: str) -> Ended:
        """Run a line as it stands in a shell: ``msrrec report runs``."""
        name, *arguments = shlex.split(line)
        assert name == "msrrec", line
        return self(*arguments)
