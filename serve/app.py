"""The Ray Serve application: engines of both sides behind one fusion deployment.

``serve run serve.app:build_app model_dir=runs/model`` and the files in ``configs/`` build the same
application as ``msrrec serve``. Annotations must stay real objects in this file: if they were
strings, Serve would pass the builder an unchecked dict.
"""

import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import ray
from ray import serve
from ray.serve import Application

from msrrec import storage
from msrrec.cluster import ray_session
from msrrec.config import (
    Config,
    InferenceConfig,
    ModelConfig,
    PromptConfig,
    RecommendConfig,
    RunConfig,
    ServeConfig,
)
from msrrec.engines.placement import takes_gpu
from msrrec.errors import ConfigError, EngineError
from msrrec.loading import probe_for_inference
from msrrec.models import ModelSource, locate_model
from msrrec.weights import check_source
from serve.engine import AsyncEngine, EngineReplica, load_vllm
from serve.fusion import Fusion
from serve.keys import Keys
from serve.limits import RETRY_AFTER_S
from serve.own_ray import guard_proxies
from serve.scaling import count_places, replica_options, shutdown_seconds
from serve.shop import ShopArgs, check_shop
from serve.tracing import tracing_config
from serve.version import ServedModel, identify_service, name_model

logger = logging.getLogger("msrrec.serve")

APP_NAME = "msrrec"
"""The application's name in Serve; other applications of a cluster are left unchanged."""

_MAX_OPEN = 10_000
"""Open requests per Fusion replica, bodies that are still arriving included. Ray's limit is far
beyond the service's own, which refuses at once, as JSON, and still answers health and metrics."""


class AppArgs(Config):
    """Arguments of the application; the ``args`` of a Serve config file."""

    model_dir: str
    """Folder made by ``msrrec train``, a hub name, any model's folder, or ``embedded``."""
    index: str | None = None
    """Folder made by ``msrrec index``: the catalogue of requests without candidates."""
    recommendations: str | None = None
    """Folder made by ``msrrec recommend``: what is answered to users who are named alone."""
    gpus_per_engine: float | None = None
    """GPUs per engine, also a share of one. Unset: those of ``inference.gpus_per_engine``."""
    model: ModelConfig = ModelConfig()
    """The revision of a base model on a hub."""
    prompt: PromptConfig = PromptConfig()
    """How a base model is prompted; a trained model has its own settings."""
    recommend: RecommendConfig = RecommendConfig()
    """How many candidates the catalogue proposes."""
    inference: InferenceConfig = InferenceConfig()
    """Sampling, lengths and options of vLLM."""
    serve: ServeConfig = ServeConfig()
    """Limits, replicas and the name of the API key's variable; host and port are set by Serve."""

    @property
    def answering(self) -> InferenceConfig:
        """Settings of inference, with the service's own choice of what an answer may name."""
        return self.inference.model_copy(update={"constrained": self.serve.constrained})


def build_app(args: AppArgs) -> Application:
    """The application of a model.

    Raises:
        ModelError: If ``model_dir`` holds no model.
        ConfigError: If the API key is set but empty.
    """
    source = locate_model(args.model_dir, args.model, args.prompt)
    load = partial(load_vllm, source, args.answering, reports=args.serve.engine_metrics)
    return assemble(args, source, load)


def assemble(args: AppArgs, source: ModelSource, load: Callable[[], AsyncEngine]) -> Application:
    """The application with engines started by ``load``, each in its own process."""
    limits = args.serve
    if limits.share_engine:
        user = item = _engine("Engine", args, load, sides=2)
    else:
        user, item = (_engine(name, args, load, sides=1) for name in ("UserEngine", "ItemEngine"))
    keys = Keys.read(limits)
    shop = ShopArgs(args.index, args.recommendations, args.recommend)
    model = ServedModel(
        name_model(args.model_dir, limits.model_name),
        identify_service(source, args.answering, args.recommend),
    )
    logger.info("%s: version %s", model.name, model.version)
    deployment = serve.deployment(
        name="Fusion",
        num_replicas=limits.fusion_replicas,
        graceful_shutdown_timeout_s=shutdown_seconds(limits),
        max_ongoing_requests=_MAX_OPEN,
        max_queued_requests=_MAX_OPEN,
        backpressure_config={"status_code": 503, "retry_after_s": RETRY_AFTER_S},
        ray_actor_options={"num_cpus": 0},  # it mostly waits for engines
        logging_config={"enable_access_log": False},  # the proxy logs each request
        health_check_period_s=5,
    )
    return deployment(serve.ingress()(Fusion)).bind(
        source, model, args.answering, limits, keys, shop, user, item
    )


def _engine(name: str, args: AppArgs, load: Callable[[], AsyncEngine], sides: int) -> Application:
    limits = args.serve
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=count_places(limits, sides),
        ray_actor_options=_resources(args),
        health_check_period_s=2,
        logging_config={"enable_access_log": False},
        graceful_shutdown_timeout_s=shutdown_seconds(limits),
        **replica_options(limits, sides),
    )
    return deployment(EngineReplica).bind(load, as_json=limits.log_format == "json")


def _resources(args: AppArgs) -> dict[str, float]:
    """Ray resources of one engine: GPUs by its parallel sizes where it takes any, else one core."""
    gpus = args.gpus_per_engine
    gpus = args.inference.gpus_per_engine if gpus is None else gpus
    if gpus is None:
        options = args.inference.vllm_kwargs
        sizes = (options.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
        gpus = math.prod(sizes) if _takes_gpu(args) else 0
    return {"num_cpus": 1, "num_gpus": gpus}


def _takes_gpu(args: AppArgs) -> bool:
    if not ray.is_initialized():
        return False
    source = locate_model(args.model_dir, args.model, args.prompt)
    return takes_gpu(source, "gpus_per_engine=1")


@contextlib.contextmanager
def running(
    model_dir: str,
    config: RunConfig,
    *,
    index: str | None = None,
    recommendations: str | None = None,
) -> Iterator[str]:
    """Run the service within the block; yields its URL once it is ready.

    Args:
        model_dir: As for ``build_app``.
        config: Settings; the sections model, prompt, inference, recommend, serve and ray are used.
        index: Folder of the catalogue's index, or None.
        recommendations: Folder of recommendations made ahead of time, or None.

    Raises:
        ModelError: If ``model_dir`` holds no model.
        ConfigError: If the port is taken, the API key is set but empty, or there is none and other
            machines would be answered.
        DataError: If index or recommendations are missing.
        EngineError: If the engines don't start.
    """
    args = AppArgs(
        model_dir=model_dir,
        index=index and storage.absolute(index),
        recommendations=recommendations and storage.absolute(recommendations),
        recommend=config.recommend,
        model=config.model,
        prompt=config.prompt,
        inference=config.inference,
        serve=config.serve,
    )
    source = locate_model(model_dir, config.model, config.prompt)
    check_source(source)  # fail before Ray is started, which takes seconds
    probe_for_inference(source, args.answering)
    Keys.read(config.serve).check_host(config.serve.host)
    check_shop(args.index, args.recommendations)
    host, port = config.serve.host, free_port(config.serve.host, config.serve.port)
    own_ray = not ray.is_initialized()
    guard_proxies()
    with ray_session(*config.ray.session):
        try:
            serve.start(
                http_options={"host": host, "port": port},
                tracing_config=tracing_config(config.serve),
            )
            _deploy(build_app(args))
            shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            yield f"http://{shown}:{port}"
        finally:
            serve.delete(APP_NAME)
            if own_ray:
                serve.shutdown()


def run(
    model_dir: str,
    config: RunConfig,
    on_ready: Callable[[str], None] = lambda url: None,
    *,
    index: str | None = None,
    recommendations: str | None = None,
) -> None:
    """Run the service until it is interrupted; arguments and errors as of ``running``.

    ``on_ready`` is called with the URL once the service is ready.
    """
    stop = threading.Event()
    with running(model_dir, config, index=index, recommendations=recommendations) as url:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda *_: stop.set())
        logger.info("serving %s at %s; interrupt to stop", model_dir, url)
        on_ready(url)
        stop.wait()
        logger.info("stopping")


def _deploy(application: Application) -> None:
    began = time.monotonic()
    try:
        serve.run(application, name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        deployments = serve.status().applications[APP_NAME].deployments.values()
        messages = "\n".join([str(error), *(deployment.message for deployment in deployments)])
        raise EngineError(f"the service did not start: {_cause(messages)}") from error
    logger.info("ready after %.0f s", time.monotonic() - began)


def _cause(messages: str) -> str:
    """The line of the replicas' tracebacks that names the error."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("msrrec.errors.")]
    errors = [line for line in lines if "Error: " in line]
    return ours[-1].partition(": ")[2] if ours else [lines[0], *errors][-1]


def free_port(host: str, port: int) -> int:
    """The given port, or a free one for 0.

    Raises:
        ConfigError: If the port is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"serve.port: can't listen on {host}:{port} ({error.strerror}); "
                "choose another one, or 0 for any"
            ) from error
        return int(probe.getsockname()[1])
