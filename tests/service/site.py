"""The service under test: Ray's nodes with addresses of their own, and Serve on them.

Nothing here is connected to Ray: the service is deployed and asked for its state over the REST API
of Serve, and what is to be lost is found among the processes of each node.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.network import Network
from tests.support.nodes import BIN, Nodes
from tests.support.pages import ROOT

PORT = 8000
_REDIS_PORT = 26379
KEY = "first key"
ADMIN_KEY = "key of an operator"
NUM_CPUS = "--num-cpus=5"
"""Of each worker, so that one holds the whole service when the other is lost."""
APP = "msrrec"

ENGINE = "ServeReplica:msrrec:Engine"
FUSION = "ServeReplica:msrrec:Fusion"
PROXY = "ProxyActor"
CORE = "EngineCore"
"""Words in the titles of processes: replicas, proxies, and the process of vLLM's engine."""


@dataclass(frozen=True)
class Replicas:
    """What Serve says of the service.

    Attributes:
        running: Ids of the running replicas by deployment.
        starting: Number of others, by deployment.
        proxies: Ids of the healthy proxies' actors.
        is_healthy: Whether every deployment has what it should have.
    """

    running: Mapping[str, frozenset[str]] = field(default_factory=dict)
    starting: Mapping[str, int] = field(default_factory=dict)
    proxies: frozenset[str] = frozenset()
    is_healthy: bool = False

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> "Replicas":
        """From the answer of Serve's REST API."""
        app = told["applications"].get(APP, {"status": "", "deployments": {}})
        running, starting = {}, {}
        for name, one in app["deployments"].items():
            states = {r["replica_id"]: r["state"] for r in one["replicas"]}
            running[name] = frozenset(key for key, state in states.items() if state == "RUNNING")
            starting[name] = len(states) - len(running[name])
        proxies = told["proxies"].values()
        healthy = frozenset(p["actor_id"] for p in proxies if p["status"] == "HEALTHY")
        steady = all(one["status"] == "HEALTHY" for one in app["deployments"].values())
        whole = app["status"] == "RUNNING" and steady and not any(starting.values())
        return cls(running, starting, healthy, whole and len(healthy) == len(proxies))


@dataclass
class Site:
    """The nodes, and the service on them.

    Attributes:
        nodes: A head without processors, and two workers.
        folder: For the file of keys and others that all nodes see.
        configuration: What was deployed last.
    """

    nodes: Nodes
    folder: Path
    configuration: dict[str, Any] = field(default_factory=dict)

    @property
    def keys_file(self) -> Path:
        return self.folder / "keys"

    def url(self, node: str) -> str:
        """Where the proxy of a node answers."""
        return f"http://{self.nodes.address(node)}:{PORT}"

    @property
    def urls(self) -> list[str]:
        """The proxies of the living workers."""
        return [self.url(name) for name in self.nodes.workers]

    @property
    def all_urls(self) -> list[str]:
        """The proxies of all workers that there ever were, as a load balancer knows them."""
        assert self.nodes.network is not None
        return [self.url(name) for name in self.nodes.network.addresses if name != "head"]

    def deploy(
        self, import_path: str, arguments: Mapping[str, Any], *, engines_per_node: int = 1
    ) -> None:
        """Give Serve the application, or a new version of it; returns at once.

        Replicas of a kind stay on nodes of their own, also when one of two nodes is lost.
        """
        app = {
            "name": APP,
            "route_prefix": "/",
            "import_path": import_path,
            "args": arguments,
            "deployments": [
                {
                    "name": "Fusion",
                    "max_replicas_per_node": 1,
                    "ray_actor_options": {"num_cpus": 1},
                },
                {"name": "Engine", "max_replicas_per_node": engines_per_node},
            ],
        }
        place = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": PORT}}
        self.configure({**place, "applications": [app]})

    def configure(self, configuration: dict[str, Any]) -> None:
        """Give Serve a whole configuration; returns at once."""
        self.configuration = configuration
        self._ask("PUT", configuration)

    def change(self, limits: Mapping[str, Any], others: Mapping[str, Any], **where: int) -> None:
        """Deploy the same with other settings of the section ``serve``, and others beside it."""
        (app,) = self.configuration["applications"]
        serve = {**app["args"]["serve"], **limits}
        self.deploy(app["import_path"], {**app["args"], **others, "serve": serve}, **where)

    def look(self) -> Replicas:
        """What Serve says now; nothing where the head does not answer."""
        try:
            return Replicas.read(self._ask("GET"))
        except (httpx.HTTPError, KeyError, json.JSONDecodeError):
            return Replicas()

    async def wait(self, seconds: float = 200, *, before: Replicas | None = None) -> Replicas:
        """Wait until the service has all replicas, and others than before.

        Raises:
            TimeoutError: If it has not in time.
        """
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            found = await asyncio.to_thread(self.look)
            if found.is_healthy and (before is None or _differs(found, before)):
                return found
            await asyncio.sleep(0.5)
        raise TimeoutError(f"after {seconds:.0f} s: {found}")

    def find(self, word: str) -> list[tuple[str, int]]:
        """The processes of the workers whose title has a word, as pairs of node and id."""
        return [
            (name, pid)
            for name in self.nodes.workers
            for pid, title in self.nodes.processes(name).items()
            if word in title
        ]

    def kill(self, word: str) -> str:
        """Kill the first process whose title has a word; the name of its node."""
        node, pid = self.find(word)[0]
        self.end(pid)
        return node

    def end(self, pid: int) -> None:
        """Kill a process."""
        os.kill(pid, signal.SIGKILL)

    def _ask(self, method: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        token = Path(self.nodes.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        response = httpx.request(
            method,
            f"{self.nodes.url}/api/serve/applications/",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=20,
        )
        response.raise_for_status()
        return response.json() if method == "GET" else {}


def _differs(one: Replicas, other: Replicas) -> bool:
    return (one.running, one.proxies) != (other.running, other.proxies)


def can_redis() -> bool:
    """Whether there is a program that can keep Ray's state."""
    return shutil.which("redis-server") is not None


def environments() -> list[dict[str, str]]:
    """What the service's manifest sets of Ray's settings, for the head and for the workers."""
    manifest = yaml.safe_load((ROOT / "cluster/base/service/rayservice.yaml").read_text())
    cluster = manifest["spec"]["rayClusterConfig"]
    found = []
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        set_here = {one["name"]: one["value"] for one in container["env"]}
        found.append({name: text for name, text in set_here.items() if name.startswith("RAY_")})
    return found


def image_environment() -> dict[str, str]:
    """What the image sets of Ray's settings, on every node."""
    return dict(re.findall(r"\b(RAY_\w+)=(\S+)", (ROOT / "cluster/Dockerfile").read_text()))


@contextlib.contextmanager
def _running_redis(folder: Path, host: str) -> Iterator[dict[str, str]]:
    """What Ray's nodes need in their environment to keep their state in a Redis of our own."""
    command = [
        *("redis-server", "--bind", host, "--port", str(_REDIS_PORT), "--save", ""),
        *("--protected-mode", "no", "--dir", str(folder)),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield {
                "RAY_REDIS_ADDRESS": f"{host}:{_REDIS_PORT}",
                "RAY_gcs_rpc_server_reconnect_timeout_s": "600",  # as KubeRay has it
            }
        finally:
            process.kill()


@contextlib.contextmanager
def open_site(*, has_redis: bool) -> Iterator[Site]:
    """Nodes without a service for the length of a block."""
    with (
        contextlib.closing(Network()) as network,
        tempfile.TemporaryDirectory(prefix="msrrec-service-") as temporary,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(temporary)
        redis = _running_redis(folder, network.gateway)
        (folder / "keys").write_text(KEY + "\n")
        env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            **image_environment(),
            "RAY_worker_niceness": "0",
            "MSRREC_ADMIN_KEY": ADMIN_KEY,
            **environments()[0],
            **(stack.enter_context(redis) if has_redis else {}),
        }
        nodes = Nodes.start(folder / "nodes", folder / "hidden", env, workers=0, network=network)
        try:
            for name in ("one", "two"):
                nodes.add(name, NUM_CPUS)
            nodes.wait(3)
            yield Site(nodes, folder)
        finally:
            nodes.stop()
