"""Serve configs, manifests and runbook: they parse, agree with each other and name what exists."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from msrrec.config import ServeConfig

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
RAY = "2.60.0"


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def pods(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The pod specs of a RayCluster's groups."""
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def clusters() -> dict[str, dict[str, Any]]:
    """RayCluster specs by kind of manifest."""
    return {
        "RayCluster": load("cluster/raycluster.yaml")["spec"],
        "RayService": load("cluster/rayservice.yaml")["spec"]["rayClusterConfig"],
    }


@pytest.mark.parametrize("path", sorted((ROOT / "serve" / "configs").glob("*.yaml")), ids=str)
def test_every_serve_config_is_one_that_serve_and_the_application_accept(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve import app

    config = load(str(path.relative_to(ROOT)))
    (application,) = ServeDeploySchema.model_validate(config).applications
    module, name = application.import_path.split(":")
    assert (module, callable(getattr(app, name))) == ("serve.app", True)
    app.AppArgs.model_validate(application.args)


def test_unknown_application_arguments_are_refused() -> None:
    from serve.app import AppArgs

    with pytest.raises(ValueError, match="share_engines"):
        AppArgs.model_validate({"model_dir": "x", "serve": {"share_engines": True}})


def test_more_engines_when_idle_than_under_load_are_refused() -> None:
    with pytest.raises(ValueError, match=r"min_replicas \(2\) must not exceed max_replicas \(1\)"):
        ServeConfig(min_replicas=2)


def test_the_builders_argument_is_typed_for_serve() -> None:
    from serve.app import AppArgs, build_app

    assert build_app.__annotations__["args"] is AppArgs  # a string would turn off validation


def test_the_services_manifest_carries_the_cluster_config() -> None:
    manifest = load("cluster/rayservice.yaml")
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == load("serve/configs/cluster.yaml")


def test_kinds_versions_and_images_agree() -> None:
    for kind in clusters():
        manifest = load(f"cluster/{kind.lower()}.yaml")
        assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    image = load("cluster/launcher.yaml")["docker"]["image"]
    for spec in clusters().values():
        assert spec["rayVersion"] == RAY
        for pod in pods(spec):
            containers = [*pod["containers"], *pod.get("initContainers", [])]
            assert {container["image"] for container in containers} == {image}
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert f"rayproject/ray:{RAY}-py311-gpu" in dockerfile
    assert f"ray[data,train,serve]=={RAY}" in (ROOT / "pyproject.toml").read_text()
    assert f"-t {image}" in dockerfile
    assert f"docker push {image}" in (CLUSTER / "RUNBOOK.md").read_text()


def test_every_cluster_asks_for_its_token_and_no_secret_is_spelled_out() -> None:
    for spec in clusters().values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "msrrec-ray-token"}
    start = load("cluster/launcher.yaml")
    for commands in (start["head_start_ray_commands"], start["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in commands[-1]
    assert start["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_secrets_of_the_manifests_are_those_that_the_runbook_makes() -> None:
    runbook = (CLUSTER / "RUNBOOK.md").read_text()
    made = set(re.findall(r"kubectl create secret generic (\S+)", runbook))
    named = set(re.findall(r"secretName: (\S+)|secret(?:Key)?Ref: { name: ([\w-]+)", _manifests()))
    assert {first or second for first, second in named} == made


def test_the_services_nodes_have_the_key_under_the_configured_name() -> None:
    args = load("serve/configs/cluster.yaml")["applications"][0]["args"]
    key = ServeConfig.model_validate(args["serve"]).api_key_env
    for pod in pods(clusters()["RayService"]):
        (container,) = pod["containers"]
        names = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"]}
        assert names[key] == {"name": "msrrec-api-key", "key": "api_key"}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert args["model_dir"] in mounts


def test_gpu_workers_start_on_demand_and_ask_for_what_an_engine_needs() -> None:
    args = load("serve/configs/cluster.yaml")["applications"][0]["args"]
    for spec in clusters().values():
        assert spec["enableInTreeAutoscaling"] is True
        gpu = next(g for g in spec["workerGroupSpecs"] if g["groupName"] == "gpu")
        assert gpu["minReplicas"] < gpu["maxReplicas"]
        (container,) = gpu["template"]["spec"]["containers"]
        assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == args["gpus_per_engine"]
    engines = 2 * ServeConfig.model_validate(args["serve"]).max_replicas
    (group,) = clusters()["RayService"]["workerGroupSpecs"]
    assert engines * args["gpus_per_engine"] == group["maxReplicas"]


def test_every_command_and_config_that_the_runbook_names_exists() -> None:
    runbook = (CLUSTER / "RUNBOOK.md").read_text()
    stages = set(re.findall(r"python -m jobs\.(\w+)", runbook))
    assert {"prepare", "synthesize", "train", "evaluate"} <= stages
    for stage in stages:
        assert (ROOT / "jobs" / f"{stage}.py").is_file(), stage
    for path in re.findall(r"(?:jobs|serve|cluster)/[\w/.-]+\.yaml", runbook):
        assert (ROOT / path).is_file(), path


def test_every_figure_that_the_runbook_names_is_served() -> None:
    source = (ROOT / "serve" / "metrics.py").read_text()
    named = set(re.findall(r"msrrec_[a-z_]+", (CLUSTER / "RUNBOOK.md").read_text()))
    for figure in named:
        assert f'"{figure.removesuffix("_total")}"' in source, figure


def _manifests() -> str:
    return "".join(path.read_text() for path in sorted(CLUSTER.glob("ray*.yaml")))
