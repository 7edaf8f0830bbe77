"""The loss of the head, on which Ray keeps its state and Serve its controller."""

import asyncio
import time

import httpx

from tests.service.load import Load
from tests.service.misuse import expect
from tests.service.site import ENGINE, Site

ALONE_S = 40.0
"""Seconds without a head in which every request must be answered."""
_END_S = 60.0
"""Further seconds in which the end of the workers is looked for."""
_ABSENT_S = 15.0


async def lose_head(site: Site, load: Load) -> str:
    """Without a store of Ray's state nothing comes back; an engine is lost too, for good."""
    engines = (await site.wait()).running["Engine"]
    expect(len(engines) == 2, f"{len(engines)} engines before the fault; expected two")
    site.nodes.kill("head")
    began = time.monotonic()
    await asyncio.sleep(ALONE_S / 2)
    site.kill(ENGINE)
    await asyncio.sleep(ALONE_S / 2)
    load.per_second = 1e-6
    while time.monotonic() - began < ALONE_S + _END_S:
        if not any(await asyncio.gather(*(_answers(load, url) for url in site.urls))):
            after = time.monotonic() - began
            ended = f"all workers had ended {after:.0f} s after the head"
            return f"one engine of two went on alone; {ended}"
        await asyncio.sleep(1)
    return f"one engine of two went on alone; the workers lived for {ALONE_S + _END_S:.0f} s"


async def _answers(load: Load, url: str) -> bool:
    try:
        return (await load.balancer.http.get(f"{url}/-/healthz", timeout=2)).status_code == 200
    except httpx.HTTPError:
        return False


async def restart_head(site: Site, load: Load) -> str:
    """Ray's state is in a Redis: a new head finds it, and replaces an engine that is lost then."""
    site.nodes.kill("head")
    await asyncio.sleep(_ABSENT_S)
    site.nodes.start_head()
    began = time.monotonic()
    before = await site.wait()
    back_s = time.monotonic() - began
    site.kill(ENGINE)
    began = time.monotonic()
    after = await site.wait(before=before)
    kept = before.running["Engine"] & after.running["Engine"]
    expect(len(kept) == 1, f"of the two engines {len(kept)} were kept")
    return (
        f"the new head knew all after {back_s:.0f} s, and replaced an engine in "
        f"{time.monotonic() - began:.0f} s"
    )
