"""Manifests, serve configs and launcher: they are valid and agree with each other."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.pins import FILES, read_pins
from msrrec.config import JudgeConfig, ServeConfig, TeacherConfig
from tests.support.manifests import (
    CLUSTER,
    OVERLAYS,
    ROOT,
    STAGES,
    build,
    containers,
    find,
    find_all,
    find_faults,
    ray_clusters,
    selects,
    templates,
    values_of,
)

SERVICES = ("overlays/gpu/service", "overlays/kind/service")
KUBERNETES = "1.32"
GIVEN_BY_OTHERS = {"msrrec-tls"}
"""Secrets that an operator of certificates makes."""


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def runbook() -> str:
    return (CLUSTER / "RUNBOOK.md").read_text(encoding="utf-8")


def launcher() -> dict[str, Any]:
    return dict(load("cluster/launcher.yaml"))


def serve_args(name: str) -> Any:
    """The application's arguments in an overlay's service."""
    config = yaml.safe_load(find(name, "RayService")["spec"]["serveConfigV2"])
    return config["applications"][0]["args"]


def all_templates(name: str) -> dict[str, Any]:
    """The pod templates of an overlay's Ray cluster by group."""
    return templates(ray_clusters()[name])


# Each against its schema


@pytest.mark.parametrize("name", [*OVERLAYS, *STAGES])
def test_custom_resources_are_valid_for_kuberay(name: str) -> None:
    custom = [resource for resource in build(name) if resource["apiVersion"] == "ray.io/v1"]
    assert len(custom) == 1
    assert find_faults(custom[0]) == []


def test_a_misspelled_field_is_not_valid_for_kuberay() -> None:
    manifest = find("stages/train.yaml", "RayJob")
    (fault,) = find_faults({**manifest, "spec": {**manifest["spec"], "backOffLimit": 1}})
    assert fault.startswith("$.spec: Additional properties are not allowed ('backOffLimit'")


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_own_resources_are_valid(name: str) -> None:
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="pip install kubernetes-validate"
    )
    for resource in build(name):
        group = resource["apiVersion"].split("/")[0]
        if group not in ("ray.io", "monitoring.coreos.com"):
            kubernetes.validate(resource, KUBERNETES, strict=True)
        assert resource["metadata"]["namespace"] == "msrrec"


def serve_configs() -> dict[str, Any]:
    files = {path.name: load(f"serve/configs/{path.name}") for path in configs()}
    built = {name: find(name, "RayService")["spec"]["serveConfigV2"] for name in SERVICES}
    return files | {name: yaml.safe_load(text) for name, text in built.items()}


def configs() -> list[Path]:
    return sorted((ROOT / "serve" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", [*(path.name for path in configs()), *SERVICES])
def test_every_serve_config_is_one_that_serve_and_the_application_accept(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from serve import app

    (application,) = ServeDeploySchema.model_validate(serve_configs()[name]).applications
    module, builder = application.import_path.split(":")
    assert (module, callable(getattr(app, builder))) == ("serve.app", True)
    app.AppArgs.model_validate(application.args)
    assert {deployment.name for deployment in application.deployments} <= {"Fusion"}
    if application.args.get("serve", {}).get("fusion_replicas", 1) > 1:
        (fusion,) = application.deployments
        assert fusion.max_replicas_per_node == 1  # the loss of a node is that of one of them


def test_the_launcher_is_valid_for_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(launcher())
    validate_config(prepared)
    nodes = prepared["available_node_types"]
    assert {name: node["max_workers"] for name, node in nodes.items()} == {
        "head": 0,
        "cpu": 8,
        "gpu": 8,
    }
    assert all(node["min_workers"] == 0 for node in nodes.values())


# Serve configs


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


def test_the_service_on_kubernetes_is_that_of_the_serve_config() -> None:
    text = find("overlays/gpu/service", "RayService")["spec"]["serveConfigV2"]
    assert yaml.safe_load(text) == load("serve/configs/cluster.yaml")


# Agreement


def test_ray_is_the_same_everywhere() -> None:
    versions = {spec["rayVersion"] for spec in ray_clusters().values()}
    for name in FILES:
        versions |= {
            pin.split("==")[1] for pin in read_pins(ROOT / name) if pin.startswith("ray==")
        }
    assert len(versions) == 1
    (version,) = versions
    assert f'"ray[data,train,serve]=={version}"' in (ROOT / "pyproject.toml").read_text()
    assert version in runbook()


@pytest.mark.parametrize(("place", "tag"), [("gpu", ""), ("kind", "-cpu")])
def test_every_pod_has_the_one_image_of_its_place(place: str, tag: str) -> None:
    image = launcher()["docker"]["image"]
    for name in OVERLAYS:
        if name.split("/")[1] == place:
            found = {c["image"] for t in all_templates(name).values() for c in containers(t)}
            assert found == {image + tag}
    assert f"IMAGE={image}\n" in runbook()


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_image_is_of_whatever_version_comes(name: str) -> None:
    for image in values_of(build(name), "image"):
        assert re.search(r":v?\d+\.\d+\.\d+", image), image


def test_every_cluster_asks_for_its_token() -> None:
    for spec in ray_clusters().values():
        assert spec["authOptions"] == {"mode": "token", "secretName": "msrrec-ray-token"}
    start = launcher()
    for commands in (start["head_start_ray_commands"], start["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/.ray/auth_token" in commands[-1]
    mounted = start["file_mounts"]
    assert mounted["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for path in mounted:
        assert path.replace("/home/ray", "~") in start["setup_commands"][0]
    assert start["setup_commands"][0].startswith("chmod 600 ")


def secrets_named(name: str) -> set[str]:
    """Names of the Secrets that an overlay's resources read and don't make themselves."""
    resources = build(name)
    named = {ref["name"] for ref in values_of(resources, "secretRef")}
    named |= {ref["name"] for ref in values_of(resources, "secretKeyRef")}
    named |= set(values_of(resources, "secretName"))
    return named - {secret["metadata"]["name"] for secret in find_all(name, "Secret")}


def test_secrets_of_the_manifests_are_those_that_the_runbook_makes() -> None:
    made = set(re.findall(r"kubectl create secret generic (\S+)", runbook()))
    named = set().union(*map(secrets_named, OVERLAYS))
    assert named - GIVEN_BY_OTHERS == made
    for secret in named:
        assert f"`{secret}`" in runbook(), secret


def test_keys_are_in_secrets_under_the_names_that_settings_read() -> None:
    for key in (TeacherConfig().api_key_env, JudgeConfig().api_key_env, ServeConfig().api_key_env):
        assert f"--from-literal={key}=" in runbook()
    assert serve_args("overlays/gpu/service")["serve"]["api_key_env"] == ServeConfig().api_key_env


@pytest.mark.parametrize("name", OVERLAYS)
def test_drivers_have_every_key_and_the_service_those_that_it_needs(name: str) -> None:
    wanted = {"msrrec-hub", "msrrec-storage"}
    is_service = name.endswith("service")
    wanted |= {"msrrec-service"} if is_service else {"msrrec-teacher", "msrrec-judge"}
    for template in all_templates(name).values():
        refs = [ref for c in containers(template) for ref in values_of(c["envFrom"], "secretRef")]
        assert {ref["name"] for ref in refs} == wanted
        required = {ref["name"] for ref in refs if not ref.get("optional")}
        assert required == ({"msrrec-service"} if is_service else set())


def test_stages_find_each_others_results() -> None:
    entries = {path: find(path, "RayJob")["spec"]["entrypoint"].split() for path in STAGES}
    pipeline = find("overlays/gpu/pipeline", "RayJob")["spec"]["entrypoint"].split()
    out = pipeline[pipeline.index("--out") + 1]
    assert entries["stages/report.yaml"][-1] == out

    def folder(stage: str, option: str) -> str:
        words = entries[f"stages/{stage}.yaml"]
        return words[words.index(option) + 1]

    assert folder("prepare", "--out") == f"{out}/dataset"
    for stage in ("synthesize", "train", "evaluate", "index", "recommend"):
        assert folder(stage, "--dataset") == f"{out}/dataset"
    assert folder("index", "--out") == folder("recommend", "--index")
    assert folder("synthesize", "--out") == folder("train", "--reasoning") == f"{out}/reasoning"
    model = folder("train", "--out")
    assert model == folder("evaluate", "--model") == folder("recommend", "--model")
    assert model == f"{out}/model"
    assert {serve_args(name)["model_dir"] for name in SERVICES} == {model}


# Groups and what they ask for


@pytest.mark.parametrize("name", [n for n in OVERLAYS if not n.endswith("service")])
def test_groups_of_the_batch_cluster_may_stand_at_zero(name: str) -> None:
    spec = ray_clusters()[name]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"]["version"] == "v2"
    for group in spec["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0) < (group["maxReplicas"], 1)
    groups = [group["groupName"] for group in spec["workerGroupSpecs"]]
    assert groups == (["cpu", "gpu"] if name.startswith("overlays/gpu") else ["cpu"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_task_runs_beside_a_head(name: str) -> None:
    assert ray_clusters()[name]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_pipelines_cluster_is_the_batch_cluster() -> None:
    for place in ("gpu", "kind"):
        clusters = ray_clusters()
        assert clusters[f"overlays/{place}/pipeline"] == clusters[f"overlays/{place}"]
        assert not find_all(f"overlays/{place}/pipeline", "RayCluster")


def test_as_many_gpus_as_engines() -> None:
    args = serve_args("overlays/gpu/service")
    limits = ServeConfig.model_validate(args["serve"])
    (group,) = ray_clusters()["overlays/gpu/service"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == args["gpus_per_engine"] == 1
    # Two sides, an engine a pod.
    assert (group["minReplicas"], group["maxReplicas"]) == (
        2 * limits.min_replicas,
        2 * limits.max_replicas,
    )


def test_no_single_process_answers_on_a_cluster_with_gpus() -> None:
    limits = ServeConfig.model_validate(serve_args("overlays/gpu/service")["serve"])
    assert min(limits.fusion_replicas, limits.min_replicas) >= 2


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_disruption_budget_counts_pods_that_exist_by_a_number(name: str) -> None:
    budget = find(name, "PodDisruptionBudget")["spec"]
    # maxUnavailable and shares need a controller whose scale can be read; a RayCluster has none.
    assert isinstance(budget["minAvailable"], int)
    assert set(budget) == {"minAvailable", "selector"}
    taken = {g for g, t in all_templates(name).items() if selects(budget["selector"], t["labels"])}
    assert taken == ({"engines"} if name.endswith("service") else {"headgroup"})


def test_drains_take_one_engine_at_a_time() -> None:
    (group,) = ray_clusters()["overlays/gpu/service"]["workerGroupSpecs"]
    budget = find("overlays/gpu/service", "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == group["minReplicas"] - 1


@pytest.mark.parametrize("name", SERVICES)
def test_an_engine_that_must_go_may_end_its_requests(name: str) -> None:
    deadline_s = ServeConfig.model_validate(serve_args(name)["serve"]).deadline_s
    spec = all_templates(name)["engines"]["spec"]
    (container,) = spec["containers"]
    script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    (drained,) = re.findall(r"^ray drain-node .*--deadline-remaining-seconds (\d+);", script)
    (slept,) = re.findall(r"; sleep (\d+)$", script)
    assert float(drained) == float(slept) >= deadline_s
    assert spec["terminationGracePeriodSeconds"] > float(slept)
    service = find(name, "RayService")["spec"]
    assert service["rayClusterDeletionDelaySeconds"] > deadline_s


@pytest.mark.parametrize("name", SERVICES)
def test_the_heads_state_outlives_it_and_is_not_the_next_clusters(name: str) -> None:
    options = ray_clusters()[name]["gcsFaultToleranceOptions"]
    host, port = options["redisAddress"].split(":")
    assert host in [service["metadata"]["name"] for service in find_all(name, "Service")]
    assert port == "6379"
    assert "externalStorageNamespace" not in options
    assert find(name, "RayService")["spec"]["upgradeStrategy"] == {"type": "NewCluster"}


# Pods


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_run_as_the_images_user_without_further_rights(name: str) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)", (CLUSTER / "Dockerfile").read_text(), re.MULTILINE)
    for template in all_templates(name).values():
        context = template["spec"]["securityContext"]
        assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
        assert context["runAsNonRoot"] is True
        for container in containers(template):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_kubernetes_itself_is_reached_from_heads_alone(name: str) -> None:
    for group, template in all_templates(name).items():
        mounted = template["spec"].get("automountServiceAccountToken", True)
        assert mounted == (group == "headgroup")  # for the autoscaler


@pytest.mark.parametrize("name", OVERLAYS)
def test_caches_are_on_a_volume(name: str) -> None:
    (cache,) = re.findall(r"XDG_CACHE_HOME=(\S+)", (CLUSTER / "Dockerfile").read_text())
    for group, template in all_templates(name).items():
        for container in containers(template):
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert mounts[cache] == "cache"
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        on_disk = name.startswith("overlays/gpu") and group in ("gpu", "engines")
        assert ("ephemeral" in volumes["cache"]) == on_disk
    assert f":{cache}" in " ".join(launcher()["docker"]["run_options"])


# Who may reach what


def policies(name: str) -> list[dict[str, Any]]:
    return [policy["spec"] for policy in find_all(name, "NetworkPolicy")]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_ray_pod_lets_only_named_peers_in(name: str) -> None:
    for template in all_templates(name).values():
        (policy,) = [p for p in policies(name) if selects(p["podSelector"], template["labels"])]
        assert policy["policyTypes"] == ["Ingress"]
        assert all(rule["from"] for rule in policy["ingress"])
        unbounded = [rule for rule in policy["ingress"] if "ports" not in rule]
        # Any port is open to the pods of the same cluster alone.
        assert [rule["from"] for rule in unbounded] == [[{"podSelector": policy["podSelector"]}]]


@pytest.mark.parametrize("name", OVERLAYS)
def test_open_ports_are_ports_of_the_pods(name: str) -> None:
    listening = {
        port["containerPort"]
        for template in all_templates(name).values()
        for container in containers(template)
        for port in container["ports"]
    }
    for policy in policies(name):
        opened = {port["port"] for rule in policy["ingress"] for port in rule.get("ports", [])}
        if "app.kubernetes.io/part-of" in policy["podSelector"]["matchLabels"]:
            assert opened <= listening
    http = [yaml.safe_load(s["spec"]["serveConfigV2"]) for s in find_all(name, "RayService")]
    assert all(config["http_options"]["port"] in listening for config in http)


def test_clients_come_through_the_ingress_and_reach_no_figures() -> None:
    (rule,) = find("overlays/gpu/service", "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["path"] == "/v1"
    assert path["backend"]["service"]["name"] == "msrrec-serve-svc"


# Figures


def test_monitors_read_ports_that_pods_have() -> None:
    pods = [t for name in OVERLAYS if "gpu" in name for t in all_templates(name).values()]
    for monitor in find_all("overlays/gpu", "PodMonitor"):
        taken = [t for t in pods if selects(monitor["spec"]["selector"], t["labels"])]
        assert taken
        named = {p["name"] for t in taken for c in containers(t) for p in c["ports"]}
        assert {e["port"] for e in monitor["spec"]["podMetricsEndpoints"]} <= named


def served_figures() -> set[str]:
    """Names under which the service shows its figures."""
    from serve.admission import AdmissionControl
    from serve.metrics import Metrics, render
    from serve.sharing import SharedAnswers
    from serve.version import ServedModel

    metrics = Metrics(AdmissionControl(1, 1), [("", ServedModel("m", "v"))], SharedAnswers(1, 1, 0))
    text = render(metrics.families()).decode()
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    return {
        name + suffix
        for name, kind in kinds.items()
        for suffix in (("_bucket", "_count", "_sum", "") if kind == "histogram" else ("",))
    }


def test_every_figure_of_runbook_and_dashboard_is_served() -> None:
    dashboard = (CLUSTER / "monitoring" / "msrrec.json").read_text()
    for text in (runbook(), dashboard):
        named = set(re.findall(r"\bmsrrec_[a-z_]+", text))
        assert named
        assert named <= served_figures()


def test_the_dashboard_is_one_that_grafanas_sidecar_loads() -> None:
    config = find("overlays/gpu", "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    board = yaml.safe_load(config["data"]["msrrec.json"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) == 16
    assert all(target["expr"] for panel in board["panels"] for target in panel["targets"])


def test_the_laptops_bucket_is_made_for_the_jobs() -> None:
    (container,) = find("overlays/kind", "Deployment")["spec"]["template"]["spec"]["containers"]
    (hook,) = values_of(container, "command")
    compile(hook[-1], "postStart", "exec")
    (run,) = (entry["value"] for entry in container["env"] if entry["name"] == "RUN")
    job = find("overlays/kind/pipeline", "RayJob")["spec"]["entrypoint"].split()
    assert job[job.index("--out") + 1] == run
    (service,) = find_all("overlays/kind", "Service")
    address = find("overlays/kind", "Secret")["stringData"]["AWS_ENDPOINT_URL"]
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert address == f"http://{name}:{port}"
