"""Kubernetes manifests as kustomize builds them, and the schemas that they are held to."""

import functools
import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
OVERLAYS = tuple(
    f"overlays/{place}{part}" for place in ("gpu", "kind") for part in ("", "/pipeline", "/service")
)
STAGES = tuple(sorted(f"stages/{path.name}" for path in (CLUSTER / "stages").glob("*.yaml")))

Resource = dict[str, Any]


def find_kustomize() -> list[str]:
    """The command that builds a folder; the test is skipped where there is none."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            return command
    pytest.skip("neither kubectl nor kustomize here")


@functools.cache
def build(name: str) -> tuple[Resource, ...]:
    """What is applied for a folder of overlays or a file of stages, below ``cluster/``."""
    path = CLUSTER / name
    if path.is_file():
        return (yaml.safe_load(path.read_text(encoding="utf-8")),)
    done = subprocess.run(
        [*find_kustomize(), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.load_all(done.stdout, yaml.CSafeLoader))


def find(name: str, kind: str) -> Resource:
    """The only resource of a kind in a build."""
    (found,) = (resource for resource in build(name) if resource["kind"] == kind)
    return found


def find_all(name: str, kind: str) -> list[Resource]:
    """Every resource of a kind in a build."""
    return [resource for resource in build(name) if resource["kind"] == kind]


def ray_spec(resource: Resource) -> Resource | None:
    """The specification of the Ray cluster in a custom resource, if it has one."""
    spec = resource["spec"] if resource["apiVersion"] == "ray.io/v1" else {}
    if resource["kind"] == "RayCluster":
        return dict(spec)
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig")


def ray_clusters() -> dict[str, Resource]:
    """The specifications of all Ray clusters, by overlay."""
    found = {}
    for name in OVERLAYS:
        (found[name],) = filter(None, map(ray_spec, build(name)))
    return found


def templates(spec: Resource) -> dict[str, Resource]:
    """The pod templates of a Ray cluster by group, with the labels that KubeRay adds."""
    groups = {"headgroup": spec["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {name: _labelled(name, group["template"]) for name, group in groups.items()}


def _labelled(group: str, template: Resource) -> Resource:
    kind = "head" if group == "headgroup" else "worker"
    added = {"ray.io/node-type": kind, "ray.io/group": group, "ray.io/cluster": "msrrec"}
    labels = {**template["metadata"]["labels"], **added}
    return {"labels": labels, "spec": template["spec"]}


def containers(template: Resource) -> Iterator[Resource]:
    """All containers of a pod template."""
    yield from template["spec"].get("initContainers", [])
    yield from template["spec"]["containers"]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    exist = (e for e in selector.get("matchExpressions", []) if e["operator"] == "Exists")
    return exact and all(expression["key"] in labels for expression in exist)


def values_of(tree: object, key: str) -> Iterator[Any]:
    """The values under a key, anywhere in a tree."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(tree, Sequence) and not isinstance(tree, str):
        for value in tree:
            yield from values_of(value, key)


def job_commands() -> list[tuple[str, ...]]:
    """The commands that the manifests' jobs run, as ``msrrec`` takes them.

    URIs become names, as even a dry run might look there.
    """
    files = (yaml.safe_load_all(path.read_text()) for path in sorted(CLUSTER.rglob("*.yaml")))
    texts = sorted(set(_strings(list(map(list, files)))))
    jobs = (text.split() for text in texts if text.startswith("python -m jobs."))
    return [
        ("msrrec", module.removeprefix("jobs."), *(w.replace("s3://", "$") for w in words))
        for _, _, module, *words in jobs
    ]


def _strings(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        yield from _strings(list(tree.values()))
    elif isinstance(tree, Sequence):
        for value in tree:
            yield from _strings(value)


@functools.cache
def kuberay_schema(kind: str) -> Resource:
    """KubeRay's schema of a custom resource, closed against unknown fields."""
    data = os.environ.get("MSRREC_DATA")
    files = Path(data).parent / "kuberay" if data else None
    if files is None or not files.is_dir():
        pytest.skip("KubeRay's schemas are not beside MSRREC_DATA")
    with gzip.open(files / f"{kind.lower()}s-1.6.yaml.gz", "rt", encoding="utf-8") as file:
        text = file.read()
    (first, *_) = re.findall(r"^  - .*?(?=^  - |\Z)", text, re.MULTILINE | re.DOTALL)
    (version,) = yaml.load(first, yaml.CSafeLoader)  # the first is v1; the others are older
    assert version["name"] == "v1"
    return _closed(version["schema"]["openAPIV3Schema"])


def _closed(schema: Resource) -> Resource:
    """A schema whose objects have no fields but those named, as the API server would prune them."""
    closed = {key: _closed_part(key, value) for key, value in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def _closed_part(key: str, value: object) -> object:
    if key == "properties" and isinstance(value, Mapping):
        return {name: _closed(schema) for name, schema in value.items()}
    if key in ("items", "additionalProperties") and isinstance(value, dict):
        return _closed(value)
    return value


def find_faults(resource: Resource) -> list[str]:
    """Where a custom resource differs from KubeRay's schema, each with its path."""
    validator = jsonschema.Draft202012Validator(kuberay_schema(resource["kind"]))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(resource)]
