"""The Ray Serve application: one fusion deployment in front of the engines.

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
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from msrrec import storage
from msrrec.balancing import LeastBusy
from msrrec.cluster import is_local, ray_session
from msrrec.config import RunConfig
from msrrec.engines.placement import takes_gpu
from msrrec.errors import ConfigError, EngineError
from msrrec.loading import probe_for_inference
from msrrec.models import ModelSource, locate_model
from msrrec.weights import check_source
from serve.adapters import Adapter, check_adapters, locate_adapters
from serve.args import AppArgs
from serve.engine import AsyncEngine, EngineReplica, load_vllm
from serve.figures import INGRESS
from serve.fusion import Fusion
from serve.keys import Keys
from serve.limits import RETRY_AFTER_S
from serve.own_ray import prepare_serve, trace_requests
from serve.rollout_cluster import Blueprint, end_rollouts, find_cause
from serve.scaling import count_places, replica_options, shutdown_seconds
from serve.shop import check_shop
from serve.version import ServedModel, identify_service, name_model

logger = logging.getLogger("msrrec.serve")

APP_NAME = "msrrec"
"""The application's name in Serve; other applications of a cluster are left unchanged."""

_MAX_OPEN = 10_000
"""Open requests per Fusion replica, bodies that are still arriving included. Ray's limit is far
beyond the service's own, which refuses at once, as JSON, and still answers health and metrics."""


def build_app(args: AppArgs) -> Application:
    """The application of a model.

    Raises:
        ModelError: If ``model_dir`` holds no model.
        ConfigError: If the API key is set but empty.
    """
    return build_version(Blueprint(args, Keys.read(args.serve), build_next))


def build_version(blueprint: Blueprint) -> Application:
    """The application of one version; errors as of ``build_app``."""
    args = blueprint.args
    source = locate(args)
    adapters = locate_adapters(args.adapters, source)
    folders = {domain: one.adapter or "" for domain, one in adapters.items()}
    load = partial(load_vllm, source, args.answering, folders, reports=args.serve.engine_metrics)
    return assemble(blueprint, source, load, adapters)


def locate(args: AppArgs) -> ModelSource:
    """The weights that engines load: merged ones, unless adapters are to share their base.

    Raises:
        ModelError: If there is no such model.
    """
    return locate_model(args.model_dir, args.model, args.prompt, merged=not args.adapters)


def build_next(blueprint: Blueprint) -> Application:
    """The application of a version that is to run beside another one.

    Raises:
        ModelError: If there is no such model, or it can't be served.
        ConfigError: If this machine has no room for it.
        DataError: If index or recommendations are missing.
    """
    args = blueprint.args
    check_model(args)
    check_room(args)
    return build_version(blueprint)


def check_model(args: AppArgs) -> ModelSource:
    """Refuse what can't be served, before anything is started, which takes seconds.

    Raises:
        ModelError: If there is no such model or adapter, or it can't be served.
        ConfigError: If two adapters are of one domain.
        DataError: If index or recommendations are missing.
    """
    source = locate(args)
    adapters = locate_adapters(args.adapters, source)
    check_source(source)
    check_adapters(adapters)
    probe_for_inference(source, args.answering)
    check_shop(args.index, args.recommendations)
    return source


def check_room(args: AppArgs) -> None:
    """Refuse a version whose engines this machine has no room for; a cluster may grow.

    Raises:
        ConfigError: If so.
    """
    if not is_local():
        return
    sides = 1 if args.serve.share_engine else 2
    count, each, free = sides * args.serve.min_replicas, _resources(args), ray.available_resources()
    for kind, name in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        if free.get(kind, 0) < count * each[name]:
            raise ConfigError(
                f"{count} more engines need {count * each[name]:g} {kind} beside those of the live "
                f"version, and {free.get(kind, 0):g} of this service's Ray are free; ask for fewer "
                "(serve.min_replicas=1 serve.share_engine=true), or start the service with a "
                "larger ray.num_cpus"
            )


def assemble(
    blueprint: Blueprint,
    source: ModelSource,
    load: Callable[[], AsyncEngine],
    adapters: Mapping[str, ModelSource] | None = None,
) -> Application:
    """The application with engines started by ``load``, each in its own process.

    Args:
        blueprint: What the version is built from.
        source: The model.
        load: Starts an engine.
        adapters: Further adapters that the engines have, by domain.
    """
    args = blueprint.args
    limits = args.serve
    if limits.share_engine:
        user = item = _engine("Engine", blueprint, load)
    else:
        user, item = (_engine(name, blueprint, load) for name in ("UserEngine", "ItemEngine"))
    model = _name(args, source, name_model(args.model_dir, limits.model_name))
    beside = [
        Adapter(domain, one, _name(args, one, name_model(args.adapters[domain])))
        for domain, one in (adapters or {}).items()
    ]
    deployment = serve.deployment(
        name=INGRESS,
        num_replicas=limits.fusion_replicas,
        graceful_shutdown_timeout_s=shutdown_seconds(limits),
        max_ongoing_requests=_MAX_OPEN,
        max_queued_requests=_MAX_OPEN,
        backpressure_config={"status_code": 503, "retry_after_s": RETRY_AFTER_S},
        ray_actor_options={"num_cpus": 0},  # it mostly waits for engines
        logging_config={"enable_access_log": False},  # the proxy logs each request
        health_check_period_s=5,
    )
    fusion = deployment(serve.ingress()(Fusion)).options(**blueprint.options.get(INGRESS, {}))
    return fusion.bind(source, model, blueprint, user, item, beside)


def _name(args: AppArgs, source: ModelSource, name: str) -> ServedModel:
    model = ServedModel(name, identify_service(source, args.answering, args.recommend))
    logger.info("%s: version %s", model.name, model.version)
    return model


def _engine(name: str, blueprint: Blueprint, load: Callable[[], AsyncEngine]) -> Application:
    args = blueprint.args
    limits = args.serve
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=count_places(limits),
        ray_actor_options=_resources(args),
        health_check_period_s=2,
        logging_config={"enable_access_log": False},
        graceful_shutdown_timeout_s=shutdown_seconds(limits),
        request_router_config=RequestRouterConfig(request_router_class=LeastBusy),
        **replica_options(limits),
    )
    engine = deployment(EngineReplica).options(**blueprint.options.get(name, {}))
    return engine.bind(load, as_json=limits.log_format == "json")


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
    source = locate(args)
    return takes_gpu(source, "gpus_per_engine=1")


@contextlib.contextmanager
def running(
    model_dir: str,
    config: RunConfig,
    *,
    index: str | None = None,
    recommendations: str | None = None,
    adapters: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run the service within the block; yields its URL once it is ready.

    Args:
        model_dir: As for ``build_app``.
        config: Settings; the sections model, prompt, inference, recommend, serve and ray are used.
        index: Folder of the catalogue's index, or None.
        recommendations: Folder of recommendations made ahead of time, or None.
        adapters: Folders of further models on the same base, by domain.

    Raises:
        ModelError: If ``model_dir`` or an adapter's folder holds no model that can be served.
        ConfigError: If the port is taken, the API key is set but empty, or there is none and other
            machines would be answered.
        DataError: If index or recommendations are missing.
        EngineError: If the engines don't start.
    """
    args = AppArgs(
        model_dir=model_dir,
        adapters=dict(adapters or {}),
        index=index and storage.absolute(index),
        recommendations=recommendations and storage.absolute(recommendations),
        recommend=config.recommend,
        model=config.model,
        prompt=config.prompt,
        inference=config.inference,
        serve=config.serve,
    )
    check_model(args)
    Keys.read(config.serve).check_host(config.serve.host)
    host, port = config.serve.host, free_port(config.serve.host, config.serve.port)
    own_ray = not ray.is_initialized()
    prepare_serve()
    trace_requests(config.serve.trace_share)
    with ray_session(*config.ray.session):
        try:
            serve.start(http_options={"host": host, "port": port})
            end_rollouts()  # those of a service that was killed
            _deploy(build_app(args))
            shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
            yield f"http://{shown}:{port}"
        finally:
            end_rollouts()
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
    adapters: Mapping[str, str] | None = None,
) -> None:
    """Run the service until it is interrupted; arguments and errors as of ``running``.

    ``on_ready`` is called with the URL once the service is ready.
    """
    stop = threading.Event()
    shop = {"index": index, "recommendations": recommendations}
    with running(model_dir, config, **shop, adapters=adapters) as url:
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
        found = serve.status().applications[APP_NAME]
        messages = [str(error), *(one.message for one in found.deployments.values())]
        raise EngineError(f"the service did not start: {find_cause(messages)}") from error
    logger.info("ready after %.0f s", time.monotonic() - began)


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
