"""Several adapters on one base: the domain of a request chooses which of them answers."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from msrrec import storage
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.engines.lora import adapter_rank
from msrrec.errors import ConfigError, ModelError
from msrrec.fingerprint import identify_model
from msrrec.model_cache import fetch
from msrrec.models import ModelSource, TypicalCustomer, locate_model, read_settings
from msrrec.weights import check_shard
from serve.fan_out import EngineClient, FanOut
from serve.version import ServedModel


@dataclass(frozen=True)
class Adapter:
    """An adapter that answers for a domain.

    Attributes:
        domain: What requests call it.
        source: The service's base with this adapter on top.
        model: Its name and version in answers.
    """

    domain: str
    source: ModelSource
    model: ServedModel


@dataclass(frozen=True)
class Answering:
    """One of the models that a service answers with.

    Attributes:
        model: Its name and version in answers.
        domain: What its prompts call the shop.
        fan_out: Asks the engines for it.
        temperature: Of confidences; None where none are given.
        examples: Customers for those who try it out.
        asked_as: The domain of requests that it answers; None for the default model.
    """

    model: ServedModel
    domain: str
    fan_out: FanOut
    temperature: float | None = None
    examples: tuple[TypicalCustomer, ...] = ()
    asked_as: str | None = None


def fold(domain: str) -> str:
    """What is equal for domains that are the same but for case and spaces."""
    return " ".join(domain.split()).casefold()


def name_adapters(given: Sequence[str]) -> dict[str, str]:
    """Folders of trained models by domain.

    Args:
        given: Each ``DOMAIN=FOLDER``, or ``FOLDER`` for the shop that it was trained on; ``~`` is
            expanded.

    Raises:
        ConfigError: If a domain is blank or given twice.
        ModelError: If a folder that is given alone holds no trained model.
    """
    named: dict[str, str] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or storage.is_uri(name):  # options of a URI have such a sign too
            name, folder = _trained_domain(text), text
        check_domains([*named, name])
        named[name] = storage.absolute(folder)
    return named


def check_domains(domains: Sequence[str]) -> None:
    """Refuse domains of adapters that requests could not tell apart.

    Raises:
        ConfigError: If one is blank, or the last is the same as one before it.
    """
    for n, domain in enumerate(domains):
        if not fold(domain):
            raise ConfigError("adapter: its domain is blank; expected DOMAIN=FOLDER")
        if fold(domain) in map(fold, domains[:n]):
            raise ConfigError(
                f"adapter {domain!r}: there are two for this domain; expected one for each"
            )


def _trained_domain(folder: str) -> str:
    settings = read_settings(folder)
    if settings is None:
        raise _no_model("adapter", folder)
    return settings["domain"]


def locate_adapters(folders: Mapping[str, str], base: ModelSource) -> dict[str, ModelSource]:
    """The adapters of trained models' folders, each on top of the service's base.

    Args:
        folders: By domain.
        base: What the engine loads.

    Raises:
        ConfigError: If two are of one domain.
        ModelError: If a folder holds no trained model, or it was trained on another base.
    """
    check_domains(tuple(folders))
    return {domain: _locate(domain, folder, base) for domain, folder in folders.items()}


def _locate(domain: str, folder: str, base: ModelSource) -> ModelSource:
    where = f"adapter {domain!r}"
    if read_settings(folder) is None:
        raise _no_model(where, folder)
    found = locate_model(folder, merged=False)
    if not _is_same_base(found, base):
        raise ModelError(
            f"{where}: {folder} was trained on {found.path}, and this service runs {base.path}; "
            "expected an adapter of the same base"
        )
    # Its own path of the base need not exist on all nodes.
    return replace(found, path=base.path, revision=base.revision, hub_token=base.hub_token)


def check_adapters(adapters: Mapping[str, ModelSource]) -> None:
    """Refuse adapters that the engine could not load, before it starts.

    Raises:
        ModelError: If a file is missing or not whole, or a rank is too high.
    """
    for source in adapters.values():
        assert source.adapter is not None  # as they were located
        folder = fetch(source.adapter)
        check_shard(Path(folder) / "adapter_model.safetensors")
        adapter_rank(folder)


def _no_model(where: str, folder: str) -> ModelError:
    what = "holds no trained model" if storage.exists(folder) else "no such folder"
    return ModelError(f"{where}: {folder}: {what}; expected a folder made by `msrrec train`")


def _is_same_base(one: ModelSource, other: ModelSource) -> bool:
    """Whether two models have the same base, whose files may lie in two places."""
    if (one.path, one.revision) == (other.path, other.revision):
        return True
    bases = (ModelSource("base", of.path, None, revision=of.revision) for of in (one, other))
    return len(set(map(identify_model, bases))) == 1


def adapt(clients: Mapping[str, EngineClient], adapter: str) -> dict[str, EngineClient]:
    """Clients that ask for an adapter; sides that share one still do."""
    made = {id(client): _AdapterClient(client, adapter) for client in clients.values()}
    return {side: made[id(client)] for side, client in clients.items()}


class _AdapterClient:
    """A client of an engine that asks for one of its adapters; see ``fan_out.EngineClient``."""

    def __init__(self, client: EngineClient, adapter: str) -> None:
        self._client, self._adapter = client, adapter

    async def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """The whole outputs."""
        return await self._client.generate(self._adapted(requests))

    def stream(
        self, requests: Sequence[GenerationRequest]
    ) -> AsyncIterator[list[tuple[int, Generation]]]:
        """Pieces, and the whole outputs."""
        return self._client.stream(self._adapted(requests))

    def _adapted(self, requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
        return [replace(one, adapter=self._adapter) for one in requests]
