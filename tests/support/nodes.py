"""A Ray cluster of several nodes on this machine that share no files and can be killed.

Each node lives in namespaces of its own and has its own host name: what is written under the hidden
folder on one node is not there on another, and killing a node ends all its processes at once, as
when a machine is lost. Namespaces need root.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.network import Network

_PATIENCE = {
    # A node is lost after five looks at it fail; one that is only slow has 10 s for each.
    "RAY_health_check_period_ms": "500",
}
BIN = Path(sys.executable).parent
PORTS = {"gcs": 27379, "dashboard": 29265, "agent": 29365, "client": 29001}


def can_isolate() -> bool:
    """Whether this user may make nodes with files of their own."""
    command = ["unshare", "--fork", "--pid", "--uts", "--mount", "--mount-proc", "true"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    return False


@dataclass
class Nodes:
    """A head without processors of its own, and workers.

    Attributes:
        folder: Folder for tokens and logs of the nodes.
        hidden: Folder whose contents each node has for itself.
        env: Environment of all nodes, and of those who submit jobs.
        network: Where each node has an address of its own; None for that of this machine.
    """

    folder: Path
    hidden: Path
    env: dict[str, str]
    network: Network | None = None
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    temps: list[Path] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        folder: Path,
        hidden: Path,
        env: dict[str, str],
        workers: int = 2,
        network: Network | None = None,
    ) -> "Nodes":
        """Start the head and some workers."""
        folder.mkdir(parents=True, exist_ok=True)
        hidden.mkdir(parents=True, exist_ok=True)
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        private = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        nodes = cls(folder, hidden, inherited | _PATIENCE | env | private, network)
        nodes.start_head()
        nodes.add_workers(workers)
        return nodes

    @property
    def url(self) -> str:
        """Address for submitted jobs."""
        return f"http://{self.address('head')}:{PORTS['dashboard']}"

    def address(self, name: str) -> str:
        """The address of a node."""
        return self.network.addresses[name] if self.network else "127.0.0.1"

    def start_head(self) -> None:
        """Start the head; its agent takes drivers, which need no processor of Ray's."""
        self._start(
            "head",
            [
                *("--head", "--num-cpus=0", f"--port={PORTS['gcs']}"),
                *("--dashboard-host=0.0.0.0" if self.network else "--dashboard-host=127.0.0.1",),
                f"--dashboard-port={PORTS['dashboard']}",
                f"--dashboard-agent-listen-port={PORTS['agent']}",
                f"--ray-client-server-port={PORTS['client']}",
            ],
        )

    def add(self, name: str, *options: str) -> None:
        """Start a worker."""
        address = f"--address={self.address('head')}:{PORTS['gcs']}"
        self._start(name, [address, *(options or ("--num-cpus=2",))])

    def add_workers(self, number: int) -> None:
        """Start workers under names of their own."""
        for _ in range(number):
            self.add(f"worker{len(self.temps)}")

    @property
    def workers(self) -> list[str]:
        """Names of all nodes but the head."""
        return [name for name in self.running if name != "head"]

    def working(self, title: str) -> list[str]:
        """Names of the workers on which a process runs whose title has a word, as Ray sets it."""
        return [name for name in self.workers if any(title in t for t in self.titles(name))]

    def titles(self, name: str) -> list[str]:
        """What the processes of a node are called by Ray, which names them by what they run."""
        return [title for title in self.processes(name).values() if title.startswith("ray::")]

    def processes(self, name: str) -> dict[int, str]:
        """The command line of each process of a node, by its id on this machine."""
        found = {}
        for process in psutil.Process(self.running[name].pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                found[process.pid] = " ".join(process.cmdline())
        return found

    def _start(self, name: str, options: Sequence[str]) -> None:
        temp = Path(f"/tmp/n{os.getpid()}-{len(self.temps)}")  # sockets need a short path
        self.temps.append(temp)
        start = [
            *(str(BIN / "ray"), "start", "--block", "--disable-usage-stats"),
            *(f"--temp-dir={temp}", "--object-store-memory=500000000", *options),
        ]
        hide = f"mount -t tmpfs none {shlex.quote(str(self.hidden))} && hostname {name}"
        isolate = ["unshare", "--fork", "--pid", "--uts", "--kill-child", "--mount", "--mount-proc"]
        enter = self.network.enter(name) if self.network else []
        if self.network:
            start.append(f"--node-ip-address={self.address(name)}")
        command = [*enter, *isolate, "sh", "-c", f"{hide} && exec {shlex.join(start)}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)
        self.running[name] = process

    def kill(self, name: str) -> None:
        """Lose a node: all its processes end at once, without a farewell."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def kill_workers(self) -> None:
        """Lose all nodes but the head within a moment, as when a cloud takes its spot machines."""
        for name in self.workers:
            self.running[name].send_signal(signal.SIGKILL)
        for name in self.workers:
            self.kill(name)

    def restart(self, workers: int = 2) -> None:
        """Lose every node, the head too, and start new ones that know nothing of the old."""
        for name in list(self.running):
            self.kill(name)
        self.start_head()
        self.add_workers(workers)
        self.wait(workers + 1)

    def stop(self) -> None:
        """End all nodes."""
        for name in list(self.running):
            self.kill(name)
        for temp in self.temps:
            shutil.rmtree(temp, ignore_errors=True)

    def count(self) -> int:
        """Number of nodes that the head takes for alive."""
        command = [
            str(BIN / "ray"),
            "list",
            "nodes",
            f"--address={self.url}",
            "--filter=state=ALIVE",
        ]
        told = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        return told.stdout.count("ALIVE")

    def wait(self, number: int, seconds: float = 120) -> None:
        """Wait until so many nodes are alive.

        Raises:
            TimeoutError: If they are not in time.
        """
        deadline = time.monotonic() + seconds
        while self.count() < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.count()} of {number} nodes after {seconds} s")
            time.sleep(1)

    def submit(self, command: Sequence[str], folder: Path) -> "Job":
        """Submit a job from a folder and follow it."""
        submit = [
            *(str(BIN / "ray"), "job", "submit", f"--address={self.url}"),
            *("--working-dir", str(folder), "--", *command),
        ]
        log = self.folder / f"job-{secrets.token_hex(4)}.log"
        with log.open("wb") as file:
            return Job(subprocess.Popen(submit, env=self.env, stdout=file, stderr=file), log)


@dataclass(frozen=True)
class Job:
    """A submitted job that is followed into a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self) -> tuple[int, str]:
        """The exit code of following it, which is 0 if it succeeded, and its log."""
        return self.process.wait(), self.log.read_text()

    def leave(self) -> None:
        """Follow it no longer, as its cluster is gone."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(folder: Path, hidden: Path, env: dict[str, str]) -> Iterator[Nodes]:
    """Nodes for the length of a block."""
    nodes = Nodes.start(folder, hidden, env)
    try:
        nodes.wait(3)
        yield nodes
    finally:
        nodes.stop()
