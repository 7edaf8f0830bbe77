"""All stages on the embedded world or a shop's files, each run as by its own command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from msrrec.cluster import ray_session
from msrrec.config import RunConfig, for_arm, for_references
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, EngineError
from msrrec.inference.recommender import Mode
from msrrec.pipeline.stages import StageRunner, announce
from msrrec.stage import Summary

SERVICE_START_S = 180.0


def run_demo(
    out: str, config: RunConfig, preset: str, source: str, files: Mapping[str, str | None]
) -> Summary:
    """Run all stages, serve the trained model, and request one recommendation.

    Args:
        out: Output folder; finished stages in it are skipped.
        config: Settings of all stages.
        preset: The preset or file that the settings started from.
        source: As ``prepare`` takes it; ``demo`` is the embedded world.
        files: ``interactions`` and ``items`` of any other source.
    """
    begin, stages = time.monotonic(), StageRunner(out, config, preset)
    names = ("reasoning", "references", "model", "model-without-reasoning")
    reasoning, references, model, plain = map(stages.place, names)
    with ray_session(*config.ray.session):
        stages.prepare(source, files)
        stages.synthesize(reasoning, config)
        stages.train(model, reasoning, config)
        stages.train(plain, reasoning, for_arm(config, "none"))
        for name in ("random", "popularity"):
            stages.evaluate_baseline(_evaluation(stages, name), name)
        systems: tuple[tuple[str, str, tuple[Mode, ...]], ...] = (
            (config.model.name_or_path, "backbone zero-shot", ("full",)),
            (plain, "MSR-Rec w/o reason", ("direct",)),
            (model, "MSR-Rec", ("user", "item", "full", "fused")),
        )
        for place, name, variants in systems:
            stages.evaluate(_evaluation(stages, name), place, variants, name)
        stages.synthesize(references, for_references(config))
        for _, name, _ in systems:
            stages.score(_evaluation(stages, name), references)
    from msrrec.report.page import report_folder

    report = report_folder(out)
    dataset = Dataset.load(stages.dataset)
    refuse_used_port(config.serve.host, config.serve.port)
    answer = ask_service(model, dataset, config)
    _show(report, answer, dataset.domain)
    seconds = round(time.monotonic() - begin)
    return {"seconds": seconds, "page": report["page"], "answer": answer["item"]}


def _evaluation(stages: StageRunner, name: str) -> str:
    """Folder of a system's evaluation."""
    return stages.place("evaluations", name.lower().replace("/", "-").replace(" ", "-"))


def refuse_used_port(host: str, port: int) -> None:
    """Refuse a port on which another program listens, as it would be asked in place of the model.

    Raises:
        ConfigError: If there is one.
    """
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise ConfigError(
                f"serve.port={port}: another program listens on {host}:{port}; expected a free "
                "port, so end that program or choose another port"
            )


def ask_service(model: str, dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """Start ``msrrec serve``, request one test user's recommendation over HTTP, and stop it."""
    port = config.serve.port
    command = [sys.executable, "-m", "msrrec", "serve", "--model", model, "--port", str(port)]
    command += [
        f"inference.max_new_tokens={config.inference.max_new_tokens}",
        f"inference.max_model_len={config.inference.max_model_len or 'null'}",
        f"ray.num_cpus={config.ray.num_cpus or 'null'}",
    ]
    announce(command[3:])
    service = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://{config.serve.host}:{port}"
    try:
        _wait_ready(service, url)
        example = dataset.examples("test", limit=1)[0]
        return _post(
            f"{url}/v1/recommend",
            {
                "domain": dataset.domain,
                "history": dataset.titles(example.history),
                "candidates": dataset.titles(example.candidates),
            },
        )
    finally:
        service.send_signal(signal.SIGINT)
        try:
            service.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(service.pid, signal.SIGKILL)


def _wait_ready(service: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + SERVICE_START_S
    while time.monotonic() < deadline:
        if service.poll() is not None:
            raise EngineError(f"the service ended with exit code {service.returncode}; see its log")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise EngineError(f"{url}: not ready after {SERVICE_START_S:.0f} s; see the service's log")


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return dict(json.load(response))


def _show(report: Summary, answer: dict[str, Any], domain: str) -> None:
    """Print the table, the served recommendation, and the report's path on stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(stderr=True, width=100)
    table = Table(title=f"{escape(domain)}, test users (95% intervals in brackets)")
    table.add_column("system")
    for column in ("HitRatio@1", "ValidRatio", "users"):
        table.add_column(column, justify="right")
    for row in report["systems"]:
        shares = (row["hit_ratio"], row["valid_ratio"])
        cells = (
            f"{s['value']:.4f} [{s['low']:.3f}, {s['high']:.3f}]".replace("[", r"\[")
            for s in shares
        )
        table.add_row(row["label"], *cells, str(row["num_users"]))
    console.print(table)
    for warning in report["warnings"]:
        console.print(f"WARNING: {warning}", markup=False, style="bold red")
    for finding in report["findings"]:
        console.print(finding, markup=False)
    console.print("The service answered over HTTP:")
    shown = {key: answer[key] for key in ("item", "side", "agreement", "reasoning", "perplexity")}
    console.print_json(data=shown)
    console.print(f"Open {report['page']} in a browser", markup=False)
