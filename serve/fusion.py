"""The fusion deployment: the ingress in front of the engines, by default one for both sides."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from fastapi import FastAPI
from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from msrrec import loading
from msrrec.config import InferenceConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import first_line
from msrrec.inference.recommender import DEFAULT_DOMAIN, Recommender
from msrrec.log import REQUEST_ID, setup
from msrrec.models import ModelSource
from serve.adapters import Adapter, Answering, adapt
from serve.fan_out import EngineClient, EngineLost, FanOut
from serve.figures import Figures, ask_versions, find_routing
from serve.ingress import Api, Settings, build_http
from serve.limits import overloaded
from serve.metrics import merge
from serve.readiness import Readiness, Teller, readiness
from serve.rollout_cluster import Blueprint, RayDesk
from serve.shop import ShopArgs, open_shop
from serve.stored import ChangedUser
from serve.version import ServedModel

logger = logging.getLogger(f"msrrec.{__name__}")

_SHARED_S = 2.0
"""Seconds that a purchase waits until other replicas know of it."""


class Fusion:
    """The ingress: builds both sides' requests, sends them and fuses the outputs.

    It holds the tokenizer but no weights.
    """

    def __init__(
        self,
        source: ModelSource,
        model: ServedModel,
        blueprint: Blueprint,
        user: DeploymentHandle,
        item: DeploymentHandle,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        args = blueprint.args
        inference, limits = args.answering, args.serve
        told = args.told_purchases, args.copied_purchases, args.changes
        shop = ShopArgs(args.index, args.recommendations, args.recommend, *told)
        setup(as_json=limits.log_format == "json")
        self._engines = {user.deployment_name, item.deployment_name}
        client = RemoteEngineClient(user)
        is_shared = len(self._engines) == 1
        clients = {"user": client, "item": client if is_shared else RemoteEngineClient(item)}
        fan_out = make_fan_out(source, inference, clients)
        settings = Settings(
            model,
            source.domain or DEFAULT_DOMAIN,
            fan_out.recommender.max_model_len,
            limits,
            blueprint.keys,
            shop.settings.confidence_temperature,
            source.examples,
        )
        self._api = Api(
            settings,
            fan_out,
            open_shop(shop, limits.max_candidates),
            [make_answering(one, inference, clients) for one in adapters],
        )
        self._desk = RayDesk(replace(blueprint, changes=self._api.shop.changes))
        self._may_sleep = limits.min_replicas == 0
        if limits.fusion_replicas > 1:
            self._api.share = self._share

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve to get the ASGI application."""
        return build_http(self._api, Teller(self._ask_readiness).tell, self._collect, self._desk)

    async def figures(self) -> Figures:
        """This replica's metrics; called on all replicas when one is asked for them."""
        context = serve.get_replica_context()
        version = self._api.settings.model.version
        families = self._api.metrics.families()
        return Figures(context.app_name, version, context.replica_id.unique_id, families)

    async def count_open(self) -> int:
        """Requests that are at work or wait here."""
        return self._api.admission.ongoing + self._api.admission.queued

    async def _collect(self) -> list[Metric]:
        """The metrics of all replicas of all versions that answer, its own in any case."""
        own, routing = await self.figures(), await find_routing()
        apps = [one.app for one in routing.answering] if routing else [own.app]
        found = [own, *await ask_versions(apps)]
        return merge({(one.version, one.replica): one.families for one in found})

    async def take_user(self, sender: str, user_id: str, changed: ChangedUser) -> None:
        """Learn what another replica knows of a user; called on all replicas."""
        if sender != serve.get_replica_context().replica_id.unique_id:
            await self._api.shop.take(user_id, changed)

    async def _share(self, user_id: str, changed: ChangedUser) -> None:
        """Tell all replicas of a user's purchases and offers."""
        context = serve.get_replica_context()
        own = context.replica_id.unique_id
        try:
            handle = serve.get_deployment_handle(context.deployment, context.app_name)
            told = handle.broadcast("take_user", own, user_id, changed)
            await told.results_async(timeout_s=_SHARED_S, return_exceptions=True)
        except (TimeoutError, RayError, RayServeException) as error:  # the purchase itself is kept
            logger.warning("other replicas do not know of a purchase (%s)", first_line(error))

    def _ask_readiness(self) -> Readiness:
        name = serve.get_replica_context().app_name
        deployments = serve.status().applications[name].deployments
        engines = (deployments[engine] for engine in self._engines)
        return readiness(engines, may_sleep=self._may_sleep)


class RemoteEngineClient:
    """A client that calls an engine deployment through its handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._generate = handle.generate
        self._stream = handle.options(stream=True).stream

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """The whole outputs; see ``fan_out.EngineClient``."""
        with _translated():
            response = self._generate.remote(requests, REQUEST_ID.get())
            try:
                return cast(list[Generation], await response)
            except asyncio.CancelledError:
                response.cancel()
                raise

    async def stream(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Generation]]]:
        """Pieces, and the whole outputs; see ``fan_out.EngineClient``."""
        with _translated():
            response = self._stream.remote(requests, REQUEST_ID.get())
            try:
                async for news in response:
                    yield news
            except (asyncio.CancelledError, GeneratorExit):
                response.cancel()
                raise


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn Ray's exceptions into those of ``fan_out.EngineClient``."""
    try:
        yield
    except BackPressureError as error:
        raise overloaded() from error
    except DeploymentUnavailableError as error:
        raise overloaded("the engines of this service can't start; see its log") from error
    except (RayActorError, ReplicaUnavailableError) as error:
        raise EngineLost("the engine's process ended") from error


def make_answering(
    adapter: Adapter, inference: InferenceConfig, clients: Mapping[str, EngineClient]
) -> Answering:
    """What answers for the domain of an adapter.

    It gives no confidences, as their temperature was learned for the default model.
    """
    asking = adapt(clients, adapter.domain)
    return Answering(
        adapter.model,
        adapter.source.domain or DEFAULT_DOMAIN,
        make_fan_out(adapter.source, inference, asking),
        examples=adapter.source.examples,
        asked_as=adapter.domain,
    )


def make_fan_out(
    source: ModelSource, inference: InferenceConfig, clients: Mapping[str, EngineClient]
) -> FanOut:
    """What asks engines for the outputs of a model, prompted as it was trained.

    Raises:
        ModelError: If tokenizer or config can't be loaded.
    """
    tokenizer, max_model_len = load_tokenizer(source, inference)
    recommender = Recommender(
        tokenizer, max_model_len=max_model_len, form=source.form, config=inference
    )
    return FanOut(recommender, clients)


def load_tokenizer(source: ModelSource, config: InferenceConfig) -> tuple[Any, int]:
    """A model's tokenizer, and the maximum tokens of prompt and output of its engine.

    Raises:
        ModelError: If tokenizer or config can't be loaded.
    """
    from msrrec.engines.vllm import engine_options

    tokenizer = loading.load_tokenizer(source)
    model_config = loading.load_config(source).get_text_config()
    bare = replace(source, adapter=None)  # which may be a URI, and decides no length
    options = engine_options(bare, config, model_config, on_gpu=True)
    return tokenizer, int(options["max_model_len"])
