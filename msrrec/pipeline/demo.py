"""The whole road on the embedded world or a shop's files, each stage as its own command runs it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any

from msrrec import storage
from msrrec.cluster import ray_session
from msrrec.config import EMBEDDED, RunConfig, for_references, without_reasoning
from msrrec.data.dataset import Dataset
from msrrec.errors import EngineError
from msrrec.inference.recommender import Mode
from msrrec.stage import Summary, run_stage

logger = logging.getLogger(__name__)

SERVICE_START_S = 180.0


def run_demo(
    out: str,
    config: RunConfig,
    source: str = "demo",
    interactions: str | None = None,
    items: str | None = None,
) -> Summary:
    """Prepare, synthesize, train twice, evaluate and score, report, serve, and ask once.

    Args:
        out: Folder of everything; finished stages in it are skipped.
        config: Settings of all stages.
        source: As ``prepare`` takes it; ``demo`` is the embedded world.
        interactions: Purchases of any other source.
        items: Their titles.
    """
    begin = time.monotonic()
    with ray_session(config.ray.address, config.ray.num_cpus):
        dataset = _prepare(storage.join(out, "dataset"), config, source, interactions, items)
        reasoning = storage.join(out, "reasoning")
        _synthesize(dataset, reasoning, config)
        model, plain = storage.join(out, "model"), storage.join(out, "model-without-reasoning")
        _train(dataset, reasoning, model, config)
        _train(dataset, None, plain, without_reasoning(config))
        evaluations = storage.join(out, "evaluations")
        systems: tuple[tuple[str, str, tuple[Mode, ...]], ...] = (
            ("random", "random", ()),
            ("popularity", "popularity", ()),
            (EMBEDDED, "backbone zero-shot", ("full",)),
            (plain, "MSR-Rec w/o reason", ("direct",)),
            (model, "MSR-Rec", ("user", "item", "full", "fused")),
        )
        for model_dir, name, variants in systems:
            _evaluate(dataset, model_dir, name, evaluations, config, variants)
        references = storage.join(out, "references")
        _synthesize(dataset, references, for_references(config))
        for _, name, variants in systems:
            if variants:
                _score(dataset, name, evaluations, references, config)
    from msrrec.report.page import report_folder

    report = report_folder(out)
    answer = ask_service(model, dataset, config)
    _show(report, answer, dataset.domain)
    seconds = round(time.monotonic() - begin)
    return {"seconds": seconds, "page": report["page"], "answer": answer["item"]}


def _prepare(
    out: str, config: RunConfig, source: str, interactions: str | None, items: str | None
) -> Dataset:
    from msrrec.data.prepare import prepare

    files = f" --interactions {interactions} --items {items}" if interactions else ""
    _announce(f"prepare --source {source}{files} --out {out}")
    settings = {
        "source": source,
        "interactions": interactions,
        "items": items,
        "data": config.data.model_dump(mode="json"),
    }
    run_stage(
        "prepare", out, settings, lambda: prepare(source, interactions, items, out, config.data)
    )
    return Dataset.load(out)


def _synthesize(dataset: Dataset, out: str, config: RunConfig) -> None:
    from msrrec.synthesis.synthesize import synthesize

    split = config.synthesis.split
    flags = "" if split == "train" else f" synthesis.split={split}"
    _announce(f"synthesize --dataset {dataset.path} --out {out}{flags}")
    settings = _settings(dataset, config, "teacher", "synthesis")
    run_stage("synthesize", out, settings, lambda: synthesize(dataset, out, config, None))


def _train(dataset: Dataset, reasoning: str | None, out: str, config: RunConfig) -> None:
    from msrrec.training.loop import train

    source = f"--reasoning {reasoning}" if reasoning else "train.reasoning=false"
    _announce(f"train --dataset {dataset.path} {source} --out {out}")
    settings = _settings(dataset, config, "model", "train")
    run_stage("train", out, settings, lambda: train(dataset, reasoning, out, config))


def _evaluate(
    dataset: Dataset,
    model: str,
    name: str,
    folder: str,
    config: RunConfig,
    variants: tuple[Mode, ...],
) -> None:
    from msrrec.evaluation.evaluate import evaluate_system

    out = _evaluation(folder, name)
    flags = "".join(f" --variant {v}" for v in variants)
    _announce(f"evaluate --dataset {dataset.path} --model {model} --out {out}{flags}")
    settings = _settings(dataset, config, "inference", "evaluate") | {"variants": list(variants)}
    run_stage(
        "evaluate",
        out,
        settings,
        lambda: evaluate_system(dataset, model, out, config, variants, name=name),
    )


def _score(dataset: Dataset, name: str, folder: str, references: str, config: RunConfig) -> None:
    from msrrec.evaluation.score import score_evaluation

    out = _evaluation(folder, name)
    _announce(f"score {out} --dataset {dataset.path} --references {references}")
    settings = _settings(dataset, config, "evaluate", "judge") | {"references": references}
    run_stage(
        "score",
        storage.join(out, "score"),
        settings,
        lambda: score_evaluation(dataset, out, references, config, None),
    )


def _evaluation(folder: str, name: str) -> str:
    """Where a system's evaluation lies."""
    return storage.join(folder, name.lower().replace("/", "-").replace(" ", "-"))


def _settings(dataset: Dataset, config: RunConfig, *sections: str) -> dict[str, Any]:
    return {
        "dataset_fingerprint": dataset.fingerprint,
        **config.model_dump(mode="json", include=set(sections)),
    }


def _announce(command: str) -> None:
    logger.info("$ msrrec %s", command)


def ask_service(model: str, dataset: Dataset, config: RunConfig) -> dict[str, Any]:
    """Start ``msrrec serve``, ask it for one test user's recommendation over HTTP, and end it."""
    port = config.serve.port
    command = [sys.executable, "-m", "msrrec", "serve", "--model", model, "--port", str(port)]
    command += [
        f"inference.max_new_tokens={config.inference.max_new_tokens}",
        f"inference.max_model_len={config.inference.max_model_len or 'null'}",
        f"ray.num_cpus={config.ray.num_cpus or 'null'}",
    ]
    _announce(" ".join(command[3:]))
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
    """The table, the served recommendation, and where to look next, on stderr."""
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
    console.print(f"Look next: {report['page']} in a browser", markup=False)
