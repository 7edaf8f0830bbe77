"""What is done to the service under load: one table, one small function a fault."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tests.service.load import Load
from tests.service.site import CORE, ENGINE, FUSION, NUM_CPUS, PROXY, Replicas, Site

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
    """

    name: str
    title: str
    engines: Engines
    act: Act


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


async def lose_node(site: Site, load: Load) -> Notes:
    """All processes of a worker end at once; a new machine takes its place."""
    before = await site.wait()
    name = site.nodes.workers[0]
    site.nodes.kill(name)
    await asyncio.sleep(3)
    site.nodes.add(name, NUM_CPUS)
    return await _replaced(site, before)


FAULTS = (
    Fault("engine", "the process of vLLM's engine is killed", "vLLM", _kill(CORE)),
    Fault("engine-replica", "a replica with an engine is killed", "vLLM", _kill(ENGINE)),
    Fault("two-engines", "both engines are killed, two seconds apart", "vLLM", kill_two_engines),
    Fault("fusion", "a Fusion replica is killed", "stand-in", _kill(FUSION)),
    Fault("proxy", "Ray's HTTP proxy of a node is killed", "stand-in", _kill(PROXY)),
    Fault("node", "a worker node is lost", "stand-in", lose_node),
)
"""In the order in which they are done."""
