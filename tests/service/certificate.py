"""A certificate of the online service under load and faults: ``make test-service``.

    python -m tests.service.certificate                      all of it
    python -m tests.service.certificate --only engine,proxy  some rows; the others stay

Real Ray Serve on nodes with addresses of their own, real HTTP through Ray's proxies, and open-loop
load while things are lost. Writes ``certificate.json``, ``certificate.md`` and ``index.html``;
exits with 1 where a claim is broken. Needs root, for the nodes' namespaces.
"""

import argparse
import asyncio
import contextlib
import math
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.service.clients import Balancer, Expected
from tests.service.faults import Engines, Fault, list_faults
from tests.service.load import Load, count, draw_up, make_bodies, now
from tests.service.misuse import stores_catalogue
from tests.service.report import Row, write
from tests.service.site import KEY, Site, can_redis, open_site

CALM_S, SETTLE_S = 6.0, 4.0
"""Seconds of load before a fault, and after all is there again."""
LIMITS = {
    "min_replicas": 2,
    "max_replicas": 2,
    "fusion_replicas": 2,
    "cache_ttl_s": 0,
}
APPS: dict[Engines, tuple[str, dict[str, Any]]] = {
    "vLLM": ("serve.app:build_app", {"inference": {"max_new_tokens": 48, "kv_cache_gib": 0.25}}),
    "stand-in": ("tests.service.stand_in:build_app", {"seconds": 1.5}),
}
RATES: dict[Engines, float] = {"vLLM": 1.0, "stand-in": 6.0}
"""Requests that come in a second."""
NUM_BODIES: dict[Engines, int] = {"vLLM": 24, "stand-in": 48}


@contextlib.asynccontextmanager
async def serving(site: Site, engines: Engines) -> AsyncIterator[Load]:
    """The service with some engines, and load that has not begun."""
    path, arguments = APPS[engines]
    limits = {**LIMITS, "api_keys_file": str(site.keys_file)}
    shop = {"index": stores_catalogue(site)}
    site.deploy(path, {"model_dir": "embedded", "serve": limits, **shop, **arguments})
    tell(f"{engines}: ready with {await site.wait(240)}")
    balancer = Balancer(lambda: site.all_urls, KEY)
    load = Load(balancer, Expected(), make_bodies(NUM_BODIES[engines]), RATES[engines])
    watching = asyncio.create_task(balancer.watch())
    try:
        await load.learn()
        yield load
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await balancer.http.aclose()


async def suffer(site: Site, load: Load, fault: Fault) -> Row:
    """One fault under load."""
    tell(f"{fault.name}: {fault.title}")
    engines: dict[float, int] = {}
    async with load.coming(), watching_engines(site, engines):
        await asyncio.sleep(CALM_S)
        began = now()
        try:
            notes, is_whole = await fault.act(site, load), True
        except Exception as error:  # the row says it, and the others go on
            notes, is_whole = f"{type(error).__name__}: {error}", False
        await asyncio.sleep(SETTLE_S)
    seconds = draw_up(load.seen, {math.floor(t - began): n for t, n in engines.items()}, began)
    tally = count(load.seen, began)
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    row = Row(fault.name, fault.title, fault.engines, tally, notes, is_whole, made, seconds)
    tell(f"{fault.name}: {row.tally} {row.notes}")
    return row


@contextlib.asynccontextmanager
async def watching_engines(site: Site, found: dict[float, int]) -> AsyncIterator[None]:
    """Write down about once a second how many engines run."""

    async def watch() -> None:
        while True:
            running = (await asyncio.to_thread(site.look)).running
            if "Engine" in running:
                found[now()] = len(running["Engine"])
            await asyncio.sleep(0.8)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def run(faults: Sequence[Fault], keep: Callable[[Row], None]) -> None:
    """All rows, on as few services as there are kinds of them; each is kept once it is made."""
    for kind in dict.fromkeys((fault.engines, fault.has_redis) for fault in faults):
        engines, has_redis = kind
        if has_redis and not can_redis():
            tell("no redis-server is installed: a head whose state is in Redis is not measured")
            continue
        with open_site(has_redis=has_redis) as site:
            async with serving(site, engines) as load:
                for fault in faults:
                    if (fault.engines, fault.has_redis) == kind:
                        keep(await suffer(site, load, fault))


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows to make, separated by commas")
    parser.add_argument("--minutes", type=float, default=10, help="length of the mixed load")
    parser.add_argument("--out", type=Path, default=Path("runs/certificate"))
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    faults = list_faults(options.minutes)
    known = [fault.name for fault in faults]
    if unknown := set(wanted) - set(known):
        parser.error(f"--only: found {', '.join(unknown)}; expected some of {', '.join(known)}")
    made: list[Row] = []

    def keep(row: Row) -> None:
        made.append(row)
        write(options.out, [row], known)

    asyncio.run(run([one for one in faults if not wanted or one.name in wanted], keep))
    print((options.out / "certificate.md").read_text())
    return 0 if made and all(row.holds for row in made) else 1


if __name__ == "__main__":
    sys.exit(main())
