"""Engines come and go with the load: from the minimum to the maximum and back."""

import asyncio
import time

from tests.service.load import Load
from tests.service.misuse import expect
from tests.service.site import Site

LOW, HIGH = 1, 3
CALM_RATE, BUSY_RATE = 1.5, 9.0
BUSY_S, PATIENCE_S = 35.0, 90.0
SETTINGS = {
    "min_replicas": LOW,
    "max_replicas": HIGH,
    "target_ongoing_requests": 3,
    "upscale_delay_s": 3,
    "downscale_delay_s": 5,
}
ENGINE = {"seconds": 0.5, "places": 3}
"""One of them does half of the busy load."""


async def scale(site: Site, load: Load) -> str:
    """The load rises sixfold for a while; the service's settings change first, under load too."""
    before_rate, before = load.per_second, site.configuration
    load.per_second = CALM_RATE
    site.change(SETTINGS, ENGINE, engines_per_node=2)
    await _wait_for(site, LOW)
    load.per_second = BUSY_RATE
    began = time.monotonic()
    await _wait_for(site, HIGH)
    up_s = time.monotonic() - began
    await asyncio.sleep(max(0.0, BUSY_S - up_s))
    load.per_second = CALM_RATE
    began = time.monotonic()
    await _wait_for(site, LOW)
    down_s = time.monotonic() - began
    load.per_second = before_rate
    site.configure(before)  # the rows that follow lose an engine, and need the other one
    (app,) = before["applications"]
    await _wait_for(site, app["args"]["serve"]["min_replicas"])
    await site.wait()
    return f"from {LOW} to {HIGH} engines in {up_s:.0f} s, and back in {down_s:.0f} s"


async def _wait_for(site: Site, number: int) -> None:
    began = time.monotonic()
    while True:
        found = await asyncio.to_thread(site.look)
        engines = len(found.running.get("Engine", ()))
        if engines == number and not found.starting.get("Engine"):
            return
        expect(time.monotonic() - began < PATIENCE_S, f"{engines} engines, not {number}")
        await asyncio.sleep(0.5)
