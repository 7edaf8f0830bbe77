"""All stages on the embedded world or a shop's files, each run as by its own command."""

import json
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msrrec import storage
from msrrec.cluster import ray_session
from msrrec.config import (
    RunConfig,
    changed_settings,
    for_arm,
    for_references,
    load_config,
)
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError, EngineError
from msrrec.inference.recommender import Mode
from msrrec.stage import (
    EVALUATE,
    EVALUATE_BASELINE,
    PREPARE,
    SCORE,
    SYNTHESIZE,
    TRAIN,
    Call,
    Stage,
    Summary,
)

logger = logging.getLogger(__name__)

SERVICE_START_S = 180.0


@dataclass(frozen=True)
class Road:
    """One run of all stages.

    Attributes:
        out: Output folder of all stages.
        config: Settings of all stages.
        preset: Value of ``--config`` that these settings started from.
    """

    out: str
    config: RunConfig
    preset: str

    def run(self, row: Stage, call: Call, command: Sequence[str]) -> Summary:
        """Run a stage, and log the command that does the same."""
        changed = changed_settings(call.config, load_config(self.preset), row.config_sections)
        announce([*command, "--config", self.preset, *changed])
        return row.run(call)

    def place(self, *parts: str) -> str:
        """A folder inside the output folder."""
        return storage.join(self.out, *parts)

    @property
    def dataset(self) -> str:
        """Folder of the dataset."""
        return self.place("dataset")

    def prepare(self, source: str, files: Mapping[str, str | None]) -> None:
        """Prepare the dataset."""
        inputs = {name: path for name, path in files.items() if path is not None}
        call = Call(self.dataset, self.config, inputs, {"source": source})
        named = [word for name, path in inputs.items() for word in (f"--{name}", path)]
        self.run(PREPARE, call, ["prepare", "--source", source, *named, "--out", call.out])

    def synthesize(self, name: str, config: RunConfig) -> str:
        """Synthesize reasoning paths into a folder of that name."""
        call = Call(self.place(name), config, {"dataset": self.dataset})
        command = ["synthesize", "--dataset", self.dataset, "--out", call.out]
        self.run(SYNTHESIZE, call, command)
        return call.out

    def train(self, name: str, reasoning: str | None, config: RunConfig) -> str:
        """Train a model into a folder of that name."""
        inputs = {"dataset": self.dataset} | ({"reasoning": reasoning} if reasoning else {})
        call = Call(self.place(name), config, inputs)
        named = ["--reasoning", reasoning] if reasoning else []
        command = ["train", "--dataset", self.dataset, *named, "--out", call.out]
        self.run(TRAIN, call, command)
        return call.out

    def evaluate_baseline(self, name: str) -> None:
        """Evaluate a baseline."""
        call = Call(self.evaluation(name), self.config, {"dataset": self.dataset}, {"system": name})
        command = ["evaluate", "--dataset", self.dataset, "--model", name, "--out", call.out]
        self.run(EVALUATE_BASELINE, call, command)

    def evaluate(self, model: str, name: str, variants: Sequence[Mode]) -> None:
        """Evaluate a model; ``name`` is its name in tables."""
        inputs = {"dataset": self.dataset, "model": model}
        options = {"variants": list(variants), "name": name}
        call = Call(self.evaluation(name), self.config, inputs, options)
        command = ["evaluate", "--dataset", self.dataset, "--model", model, "--out", call.out]
        named = [word for variant in variants for word in ("--variant", variant)]
        self.run(EVALUATE, call, [*command, "--name", name, *named])

    def score(self, name: str, references: str) -> None:
        """Score the reasoning of an evaluation against the references."""
        out = self.evaluation(name)
        inputs = {"dataset": self.dataset, "evaluation": out, "references": references}
        command = ["score", out, "--dataset", self.dataset, "--references", references]
        self.run(SCORE, Call(out, self.config, inputs), command)

    def evaluation(self, name: str) -> str:
        """Folder of a system's evaluation."""
        return self.place("evaluations", name.lower().replace("/", "-").replace(" ", "-"))


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
    begin, road = time.monotonic(), Road(out, config, preset)
    with ray_session(config.ray.address, config.ray.num_cpus):
        road.prepare(source, files)
        reasoning = road.synthesize("reasoning", config)
        model = road.train("model", reasoning, config)
        plain = road.train("model-without-reasoning", reasoning, for_arm(config, "none"))
        for name in ("random", "popularity"):
            road.evaluate_baseline(name)
        systems: tuple[tuple[str, str, tuple[Mode, ...]], ...] = (
            (config.model.name_or_path, "backbone zero-shot", ("full",)),
            (plain, "MSR-Rec w/o reason", ("direct",)),
            (model, "MSR-Rec", ("user", "item", "full", "fused")),
        )
        for place, name, variants in systems:
            road.evaluate(place, name, variants)
        references = road.synthesize("references", for_references(config))
        for _, name, _ in systems:
            road.score(name, references)
    from msrrec.report.page import report_folder

    report = report_folder(out)
    dataset = Dataset.load(road.dataset)
    refuse_used_port(config.serve.host, config.serve.port)
    answer = ask_service(model, dataset, config)
    _show(report, answer, dataset.domain)
    seconds = round(time.monotonic() - begin)
    return {"seconds": seconds, "page": report["page"], "answer": answer["item"]}


def announce(command: Sequence[str]) -> None:
    """Log a command as a person would type it."""
    logger.info("$ msrrec %s", shlex.join(command))


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
