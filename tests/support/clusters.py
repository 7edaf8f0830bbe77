"""Nodes of a Ray cluster as functions of it report them, and a real one whose groups start at zero.

The real one has Ray's provider of nodes that are processes of this machine.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

PORTS = {"gcs": 26479, "dashboard": 28465, "agent": 28565, "client": 28201}


def show_nodes(
    monkeypatch: pytest.MonkeyPatch, *nodes: Mapping[str, float], is_local: bool = False
) -> None:
    """Have Ray report living nodes with these resources, of a local Ray or of a cluster."""
    labels = {"msrrec.local": "true"} if is_local else {}
    rows = [{"Alive": True, "Resources": dict(node), "Labels": labels} for node in nodes]
    monkeypatch.setattr("ray.nodes", lambda: rows)


@contextlib.contextmanager
def growing_cluster(folder: Path, groups: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """A head without cores, and an autoscaler with groups of nodes that start at zero.

    Args:
        folder: For the token and the configuration.
        groups: Resources of each group's nodes and the most of them, as ``available_node_types`` of
            Ray's cluster launcher.

    Yields:
        The environment in which commands find the cluster.
    """
    (folder / "token").write_text(secrets.token_hex(32))
    temp = Path(f"/tmp/msrrec-grow-{os.getpid()}")  # sockets need a short path
    address = f"127.0.0.1:{PORTS['gcs']}"
    (folder / "autoscaler.json").write_text(json.dumps(_describe(groups, address)))
    env = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_ADDRESS": address,
    }
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--num-cpus=0"),
        *("--node-ip-address=127.0.0.1", f"--port={PORTS['gcs']}", f"--temp-dir={temp}"),
        f"--dashboard-port={PORTS['dashboard']}",
        f"--dashboard-agent-listen-port={PORTS['agent']}",
        f"--ray-client-server-port={PORTS['client']}",
        *("--dashboard-host=127.0.0.1", "--disable-usage-stats"),
        f"--autoscaling-config={folder / 'autoscaler.json'}",
    ]
    started = env | {"RAY_ADDRESS": ""}
    try:
        subprocess.run(command, check=True, env=started, capture_output=True)
        yield env
    finally:
        end_processes(str(temp))
        shutil.rmtree(temp, ignore_errors=True)


def end_processes(mark: str) -> None:
    """End the processes with a mark in their command line, until none is left."""
    for _ in range(5):
        found = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(mark in part for part in process.info["cmdline"] or ())
        ]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        if not found:
            return
        time.sleep(0.5)


def _describe(groups: Mapping[str, Any], address: str) -> dict[str, Any]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return {
        "cluster_name": "growing",
        "max_workers": 8,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 8,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {"ray.head.default": head, **groups},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


def kill_node(cluster: Any, node: Any) -> None:
    """End all processes of a node of Ray's ``Cluster`` at once, as when its power goes."""
    (raylet,) = node.all_processes["raylet"]
    workers = psutil.Process(raylet.process.pid).children(recursive=True)
    cluster.remove_node(node, allow_graceful=False)
    for process in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
