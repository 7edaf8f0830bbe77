"""What is done to the service under load: one table, one small function a fault."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tests.service.head import lose_head, restart_head
from tests.service.load import Load
from tests.service.misuse import change_catalogue, rotate_keys, slow_clients
from tests.service.scaling import scale
from tests.service.site import CORE, ENGINE, FUSION, NUM_CPUS, PROXY, Replicas, Site
from tests.service.upgrade import upgrade

Notes = str
Act = Callable[[Site, Load], Awaitable[Notes]]
Engines = Literal["vLLM", "stand-in"]


@dataclass(frozen=True)
class Fault:
    """One row of the certificate.

    Attributes:
        name: What ``--only`` names.
        title: What is done.
        engines: What generates text meanwhile.
        act: Does it, and returns once the service has what it should have; says what it measured.
        has_redis: Whether Ray keeps its state in a Redis, which outlives a head.
    """

    name: str
    title: str
    engines: Engines
    act: Act
    has_redis: bool = False


async def _replaced(site: Site, before: Replicas) -> Notes:
    """Wait for a successor."""
    began = asyncio.get_running_loop().time()
    await site.wait(before=before)
    return f"replaced after {asyncio.get_running_loop().time() - began:.0f} s"


def _kill(word: str) -> Act:
    """A fault that kills one process."""

    async def act(site: Site, load: Load) -> Notes:
        before = await site.wait()
        site.kill(word)
        return await _replaced(site, before)

    return act


async def kill_two_engines(site: Site, load: Load) -> Notes:
    """The second is killed while the first is being replaced."""
    before = await site.wait()
    (_, first), (_, second) = site.find(ENGINE)[:2]
    site.end(first)
    await asyncio.sleep(2)
    site.end(second)
    return await _replaced(site, before)


def _lose_node(*, cuts: bool) -> Act:
    """A fault that ends all processes of a worker at once; a new machine takes its place.

    With its network cut nobody is told that connections are over, as where a machine's power goes.
    """

    async def act(site: Site, load: Load) -> Notes:
        before = await site.wait()
        name = site.nodes.workers[0]
        if cuts and site.nodes.network:
            site.nodes.network.cut(name)
        site.nodes.kill(name)
        await asyncio.sleep(3)
        site.nodes.add(f"worker{len(site.nodes.temps)}", NUM_CPUS)
        return await _replaced(site, before)

    return act


def mix(minutes: float, acts: Mapping[str, Act]) -> Act:
    """Some faults in turn, one a minute; the next waits until all is as it was."""

    async def act(site: Site, load: Load) -> Notes:
        clock = asyncio.get_running_loop().time
        began, done = clock(), []
        while clock() - began < 60 * minutes:
            name = list(acts)[len(done) % len(acts)]
            await acts[name](site, load)
            done.append(name)
            await asyncio.sleep(max(0.0, began + 60 * len(done) - clock()))
        return f"{len(done)} faults in {minutes:g} minutes: {', '.join(done)}"

    return act


def list_faults(minutes: float) -> tuple[Fault, ...]:
    """All rows, in the order in which they are made; the mixed load takes so many minutes."""
    mixed = {fault.name: fault.act for fault in FAULTS if fault.name in MIXED}
    title = f"{minutes:g} minutes of load with a fault a minute"
    return (
        *FAULTS,
        Fault("mixed", title, "vLLM", mix(minutes, mixed)),
        # Last of its kind, as the application that the others look at is gone afterwards.
        Fault("upgrade", "versions are rolled out, taken back and promoted", "vLLM", upgrade),
        Fault("head", "the head is lost, without a Redis", "stand-in", lose_head),
        Fault(
            "head-redis", "the head is lost; Redis has its state", "stand-in", restart_head, True
        ),
    )


MIXED = ("engine", "engine-replica", "fusion", "proxy", "node")
FAULTS = (
    Fault("engine", "the process of vLLM's engine is killed", "vLLM", _kill(CORE)),
    Fault("engine-replica", "a replica with an engine is killed", "vLLM", _kill(ENGINE)),
    Fault("two-engines", "both engines are killed, two seconds apart", "vLLM", kill_two_engines),
    Fault("fusion", "a Fusion replica is killed", "stand-in", _kill(FUSION)),
    Fault("proxy", "Ray's HTTP proxy of a node is killed", "stand-in", _kill(PROXY)),
    Fault("node", "all processes of a worker node end", "stand-in", _lose_node(cuts=False)),
    Fault("power", "a worker node falls silent", "stand-in", _lose_node(cuts=True)),
    Fault("slow-clients", "slow clients and half-open bodies", "stand-in", slow_clients),
    Fault("keys", "wrong and missing keys; the key is rotated", "stand-in", rotate_keys),
    Fault("catalogue", "items of the catalogue come and go", "stand-in", change_catalogue),
    Fault("scaling", "sixfold load for a while: engines come and go", "stand-in", scale),
)
"""The faults that stand alone."""
