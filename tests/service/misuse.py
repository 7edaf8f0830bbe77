"""Faults of clients and operators: slow and half-open bodies, keys, changes of the catalogue."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from tests.service.clients import ASK
from tests.service.load import Load
from tests.service.site import ADMIN_KEY, PORT, Site
from tests.support.retrieval import SHOP

BODY_TIMEOUT_S = 10.0
"""The service's default, and what a half-open body is held to."""
_SPARE_S = 5.0
NOTICED_S = 2.5
"""Seconds within which every process must know of a key, an item or another version, as it looks
once a second at least."""


Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Act = Callable[[str, str, bytes], Awaitable[float]]


class BrokenError(Exception):
    """Something else happened than the row claims."""


def expect(is_so: bool, message: str) -> None:
    """Raise BrokenError with a message unless something is so."""
    if not is_so:
        raise BrokenError(message)


async def slow_clients(site: Site, load: Load) -> str:
    """Bodies that stop or drip, and streams that nobody reads or that are left half-way."""
    whole = json.dumps({**load.bodies[0], "mode": "fused", "stream": True}).encode()
    hosts = [site.nodes.address(name) for name in site.nodes.workers]

    async def many(act: Act, number: int) -> list[float]:
        return await asyncio.gather(
            *(act(hosts[n % len(hosts)], load.balancer.key, whole) for n in range(number))
        )

    found = await asyncio.gather(
        many(_stop_body, 20), many(_drip_body, 10), many(_read_nothing, 20), many(_leave, 20)
    )
    return (
        f"20 half-open bodies got 408 after {max(found[0]):.0f} s at most, 10 dripping ones after "
        f"{max(found[1]):.0f} s; 20 streams were not read and 20 left half-way"
    )


@contextlib.asynccontextmanager
async def _connect(host: str, key: str, length: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection(host, PORT)
    head = (
        f"POST {ASK} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode())
    try:
        yield reader, writer
    finally:
        writer.close()


async def _stop_body(host: str, key: str, whole: bytes) -> float:
    return await _send_part(host, key, whole, drips=False)


async def _drip_body(host: str, key: str, whole: bytes) -> float:
    return await _send_part(host, key, whole, drips=True)


async def _send_part(host: str, key: str, whole: bytes, *, drips: bool) -> float:
    """Send half of a body, or a byte now and then; the seconds until 408."""
    async with _connect(host, key, len(whole)) as (reader, writer):
        writer.write(whole[: len(whole) // 2])
        began, status = time.monotonic(), asyncio.ensure_future(reader.readline())
        for n in range(int(2 * (BODY_TIMEOUT_S + _SPARE_S))):
            if status.done():
                break
            if drips:
                writer.write(whole[len(whole) // 2 + n :][:1])
            await asyncio.wait([status], timeout=0.5)
        expect(status.done(), "a body that was never whole got no answer")
        expect(b" 408 " in status.result(), f"a body that was never whole got {status.result()!r}")
        return time.monotonic() - began


async def _read_nothing(host: str, key: str, whole: bytes) -> float:
    async with _connect(host, key, len(whole)) as (_, writer):
        writer.write(whole)
        await asyncio.sleep(BODY_TIMEOUT_S)
    return 0.0


async def _leave(host: str, key: str, whole: bytes) -> float:
    async with _connect(host, key, len(whole)) as (reader, writer):
        writer.write(whole)
        await reader.readline()
    return 0.0


async def rotate_keys(site: Site, load: Load) -> str:
    """Strangers ask while the key is changed as the documentation says: add, move, remove."""
    old, new = load.balancer.key, "second key"
    strangers = {"none": None, "wrong": "Bearer wrong", "other scheme": f"Basic {old}"}
    for name, value in strangers.items():
        for status in await _statuses(site, load, value):
            expect(status == 401, f"key {name}: {status}")
    site.keys_file.write_text(f"{old}\n{new}\n")
    await asyncio.sleep(NOTICED_S)
    load.balancer.key = new
    await asyncio.sleep(NOTICED_S)
    site.keys_file.write_text(f"{new}\n")
    removed = time.monotonic()
    while set(await _statuses(site, load, f"Bearer {old}")) != {401}:
        expect(time.monotonic() - removed < NOTICED_S, "the removed key still opens the service")
        await asyncio.sleep(0.2)
    took = time.monotonic() - removed
    return f"strangers got 401; the removed key was refused after {took:.1f} s"


async def _statuses(site: Site, load: Load, authorization: str | None) -> list[int]:
    """The statuses of a cheap question, several times at each proxy so that all replicas answer."""
    headers = {} if authorization is None else {"Authorization": authorization}
    asked = [load.balancer.http.get(f"{url}/v1/models", headers=headers) for url in site.urls * 4]
    return [response.status_code for response in await asyncio.gather(*asked)]


async def change_catalogue(site: Site, load: Load) -> str:
    """Items come and go while requests without candidates are answered from the catalogue."""
    asked = 0
    for n in range(6):
        item, url = f"new-{n}", site.urls[n % 2]
        await _change(load, "PUT", f"{url}/v1/items/{item}", {"title": f"Camping stove gas {n}"})
        await asyncio.sleep(NOTICED_S)
        rows = await _ask_catalogue(load)
        expect(all(item in row for row in rows), f"{item} is not offered by every replica: {rows}")
        await _change(load, "DELETE", f"{url}/v1/items/{item}")
        await asyncio.sleep(NOTICED_S)
        rows += await _ask_catalogue(load)
        known = set(SHOP) | {item}
        expect(all(row <= known for row in rows), f"offered what is not in the catalogue: {rows}")
        expect(all(item not in row for row in rows[4:]), f"{item} is offered after its end: {rows}")
        asked += len(rows)
    return f"6 items were put and deleted; {asked} answers from the catalogue held each in time"


async def _change(load: Load, method: str, url: str, body: Mapping[str, str] | None = None) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    response = await load.balancer.http.request(method, url, json=body, headers=headers)
    expect(response.status_code == 200, f"{method}: {response.status_code} {response.text[:200]}")


async def _ask_catalogue(load: Load) -> list[set[str]]:
    """The ids that each of four answers offers."""
    body = {"history": [{"id": "stove"}], "top_k": 10, "mode": "fast"}
    found = await asyncio.gather(*(load.balancer.ask(body) for _ in range(4)))
    load.seen += found
    for one in found:
        expect(one.answer is not None, f"the catalogue gave no answer: {one.why}")
    return [{row["id"] for row in one.answer["ranking"]} for one in found if one.answer]


def stores_catalogue(site: Site) -> str:
    """The path of a catalogue of six items that all nodes see."""
    from msrrec.retrieval.folder import save_index
    from tests.support.retrieval import build_shop_index, write_shop_dataset

    path = site.folder / "index"
    if not path.exists():
        dataset = write_shop_dataset(site.folder / "shop")
        save_index(build_shop_index(dataset, "weights.words=3"), str(path))
    return str(path)
