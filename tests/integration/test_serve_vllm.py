"""The service as ``msrrec serve`` runs it, on the real engine and the embedded backbone."""

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from safetensors.numpy import save_file

from msrrec import storage
from msrrec.config import load_config
from msrrec.errors import ConfigError, ModelError
from msrrec.models import ModelSource
from tests.support.object_store import ObjectStore

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]

ROOT = Path(__file__).parents[2]
BODY = {
    "domain": "Electronics",
    "history": ["Trail Camera 12MP", "Rechargeable AA Batteries"],
    "candidates": ["Battery Charger", "Garden Hose", "Paperback Novel", "Tea Kettle"],
}


@dataclass(frozen=True)
class Service:
    """The command at work, and its address."""

    process: subprocess.Popen[str]
    url: str


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, list[Span]]]:
    """Where the service sends its traces."""
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def service(
    embedded_source: ModelSource,
    object_store: ObjectStore,
    collector: tuple[str, list[Span]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """The command, as a person starts it, with a model in a bucket; the last test ends it."""
    model = object_store.uri(object_store.make_bucket(), "model")
    storage.copy_folder(embedded_source.path, model)
    cache = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    env = os.environ | cache | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[0]}
    command = [
        *(sys.executable, "-m", "msrrec", "serve", "--model", model, "--port", "0"),
        *("--config", "embedded", "inference.max_new_tokens=48"),
        *("serve.cache_ttl_s=0", "serve.trace_share=1"),
    ]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:  # ends with the service
                lines.append(line)
                if found := re.search(r"serving .* at (http://\S+); interrupt to stop", line):
                    break
            assert found, "".join(lines)
            yield Service(process, found[1])
        finally:
            process.kill()


@contextlib.contextmanager
def collecting() -> Iterator[tuple[str, list[Span]]]:
    """A collector of traces on loopback: its address, and the spans that arrived."""
    spans: list[Span] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def read_ray_metrics(pid: int) -> str:
    """What the processes below one export for Prometheus."""
    texts = []
    for child in psutil.Process(pid).children(recursive=True):
        for one in child.net_connections():
            if one.status == "LISTEN" and "agent" in " ".join(child.cmdline()).lower():
                with contextlib.suppress(httpx.HTTPError):
                    texts.append(httpx.get(f"http://127.0.0.1:{one.laddr.port}/metrics").text)
    return "\n".join(texts)


def test_vllm_answers_and_streams_the_same_and_agrees_with_itself(service: Service) -> None:
    with httpx.Client(base_url=service.url, timeout=900) as client:
        first = client.post("/v1/recommend", json=BODY)
        assert first.status_code == 200
        again = client.post("/v1/recommend", json=BODY)
        streamed = client.post("/v1/recommend", json={**BODY, "stream": True})
    result = json.loads(streamed.text.strip().split("\n")[-1].removeprefix("data: "))
    answers = [{**a, "latency_ms": 0} for a in (first.json(), again.json(), result)]
    assert answers[0] == answers[1] == answers[2]  # seeded, whatever else is in the batch
    sides = answers[0]["sides"]
    assert list(sides) == ["user", "item"]
    for side in sides.values():
        assert side["num_tokens"] <= 48
        assert (side["perplexity"] is None) == (side["num_tokens"] == 0)
        assert side["perplexity"] is None or side["perplexity"] >= 1
        assert side["valid"]
        assert BODY["candidates"][side["index"]] == side["item"]


def test_rays_own_ports_turn_strangers_away(service: Service) -> None:
    children = psutil.Process(service.process.pid).children(recursive=True)
    (store,) = (child for child in children if child.name() == "gcs_server")
    (port,) = {one.laddr.port for one in store.net_connections() if one.status == "LISTEN"}
    code = f"import ray; ray.init(address='127.0.0.1:{port}', logging_level='ERROR')"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=env, capture_output=True, text=True)
    assert found.returncode == 1
    assert "Failed to connect to Ray cluster" in found.stderr


def test_vllm_ranks_fast_as_it_answers_directly(service: Service) -> None:
    with httpx.Client(base_url=service.url, timeout=900) as client:
        fast, direct = (
            client.post("/v1/recommend", json={**BODY, "mode": mode, "top_k": 4}).json()
            for mode in ("fast", "direct")
        )
    assert [len(one["ranking"]) for one in (fast, direct)] == [4, 4]
    assert sum(row["score"] for row in fast["ranking"]) == pytest.approx(1, abs=1e-6)
    assert fast["item"] == fast["ranking"][0]["item"]
    assert fast["usage"]["completion_tokens"] == 1
    by_item = {row["item"]: row["score"] for row in direct["ranking"]}
    if not direct["sides"]["direct"]["reasoning"]:  # a free model may reason where none is asked
        assert by_item == pytest.approx({r["item"]: r["score"] for r in fast["ranking"]}, abs=0.01)


def test_the_engines_figures_of_the_dashboard_are_exported(service: Service) -> None:
    board = (ROOT / "cluster" / "monitoring" / "msrrec.json").read_text()
    named = set(re.findall(r"\bray_vllm_\w+", board))
    assert len(named) >= 5
    named.add("ray_vllm_request_time_per_output_token_seconds")
    end, found = time.monotonic() + 60, ""
    while not all(name in found for name in named):
        assert time.monotonic() < end, named - set(re.findall(r"ray_vllm_\w+", found))
        time.sleep(0.5)  # Ray exports what its processes report every few seconds
        found = read_ray_metrics(service.process.pid)
    assert "inter_token" not in found  # which would be a record for every token


def test_a_clients_trace_goes_on_through_the_service(
    service: Service, collector: tuple[str, list[Span]]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    httpx.post(f"{service.url}/v1/recommend", json=BODY, headers=headers, timeout=300)
    end, names = time.monotonic() + 60, ""
    while not all(part in names for part in ("proxy_http_request", "Fusion", "Engine generate")):
        assert time.monotonic() < end, names
        time.sleep(0.5)  # spans are sent every few seconds
        names = " / ".join(one.name for one in collector[1] if one.trace_id.hex() == trace)


def test_the_command_answers_over_http_until_it_is_interrupted(service: Service) -> None:
    with httpx.Client(base_url=service.url, timeout=300) as client:
        assert client.get("/readyz").status_code == 200
    service.process.send_signal(signal.SIGINT)
    _, rest = service.process.communicate(timeout=300)
    assert "stopping" in rest
    assert service.process.returncode == 0


def test_a_folder_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    from serve.app import running

    with pytest.raises(ModelError, match=r"config\.json"), running(str(tmp_path), load_config()):
        pass


def test_a_taken_port_is_refused_before_anything_starts(embedded_source: ModelSource) -> None:
    from serve.app import running

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = load_config(None, [f"serve.port={taken.getsockname()[1]}"])
        with (
            pytest.raises(ConfigError, match=r"serve\.port"),
            running(embedded_source.path, config),
        ):
            pass


def test_weights_that_can_t_be_read_end_in_one_sentence(tmp_path: Path) -> None:
    from serve.app import running

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"of.another.model": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    config = load_config(None, ["serve.port=0"])
    with pytest.raises(ModelError) as caught, running(str(tmp_path), config):
        pass
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
