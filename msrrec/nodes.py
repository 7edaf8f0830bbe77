"""Whether all nodes of a Ray cluster see the same local folder, asked before work or payment."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from msrrec import storage
from msrrec.errors import DataError

_PROBE = ".msrrec-{}.probe"
_TIMEOUT_S = 120


def check_shared(folder: str) -> None:
    """Refuse a local folder to write that some node of the cluster does not see.

    A file is written here and looked for on every other node. A URI is the same everywhere, and a
    cluster of one node has nothing to share; neither is asked for.

    Args:
        folder: The folder; it is created if it does not exist.

    Raises:
        DataError: If a node does not see the file.
    """
    nodes = {} if storage.is_uri(folder) else _other_nodes()
    if not nodes:
        return
    storage.make_folder(folder)
    probe = storage.join(storage.absolute(folder), _PROBE.format(uuid.uuid4().hex[:8]))
    storage.write_bytes(probe, b"")
    try:
        refuse_blind(folder, [os.path.basename(probe)], _look(folder, nodes))
    finally:
        storage.delete_file(probe)


def check_readable(path: str) -> None:
    """Refuse a local folder to read that some node of the cluster lacks.

    Args:
        path: The folder; anything else, such as a hub's name, is not asked for.

    Raises:
        DataError: If a node lacks one of the files directly in it.
    """
    if storage.is_uri(path) or not Path(path).is_dir():
        return
    nodes = _other_nodes()
    if nodes:
        refuse_blind(path, os.listdir(path), _look(path, nodes))


def refuse_blind(folder: str, names: list[str], seen: Mapping[str, list[str] | None]) -> None:
    """Refuse a folder that some node does not see as this one does.

    Args:
        folder: The folder.
        names: What is in it here.
        seen: What is in it on each other node, by the node's address; None if it is missing there.

    Raises:
        DataError: If a node lacks the folder or a name; names the first such node.
    """
    for address, there in sorted(seen.items()):
        missing = sorted({*names} - {*(there or ())})
        if there is None or missing:
            what = "does not exist there" if there is None else f"lacks {missing[0]} there"
            raise DataError(
                f"{folder}: is not the same on node {address}: it {what}; expected a folder that "
                "all nodes share, such as a mounted volume, or a URI such as s3://bucket/folder"
            )


def _other_nodes() -> dict[str, str]:
    """The addresses of the cluster's living nodes but this one, by their ids."""
    import ray

    if not ray.is_initialized():
        return {}
    here = ray.get_runtime_context().get_node_id()
    alive = {n["NodeID"]: str(n["NodeManagerAddress"]) for n in ray.nodes() if n["Alive"]}
    return {node: address for node, address in alive.items() if node != here}


def _look(folder: str, nodes: Mapping[str, str]) -> dict[str, list[str] | None]:
    """What is in a folder on each node, by the node's address; nodes that died are left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(num_cpus=0, max_retries=0)(list_here)
    asked = {
        node: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(storage.absolute(folder))
        for node in nodes
    }
    found = {}
    for node, answer in asked.items():
        try:
            found[nodes[node]] = ray.get(answer, timeout=_TIMEOUT_S)
        except ray.exceptions.RayError:  # a node that is lost can't be asked to work either
            continue
    return found


def list_here(folder: str) -> list[str] | None:
    """The names in a folder on this node; None if there is no such folder."""
    try:
        return os.listdir(folder)
    except OSError:
        return None
