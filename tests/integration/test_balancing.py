"""Messages that come at once are shared between engines."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_local")]


@pytest.fixture
def handle() -> Iterator[Any]:
    """Calls two replicas that each tell their process after a while."""
    from ray import serve
    from ray.serve.config import RequestRouterConfig

    from msrrec.balancing import LeastBusy

    class Worker:
        async def __call__(self, seconds: float) -> int:
            await asyncio.sleep(seconds)
            return os.getpid()

    deployment = serve.deployment(
        num_replicas=2,
        max_ongoing_requests=100,
        ray_actor_options={"num_cpus": 0},
        request_router_config=RequestRouterConfig(request_router_class=LeastBusy),
    )
    yield serve.run(deployment(Worker).bind(), name="balanced", route_prefix=None)
    serve.shutdown()


def test_messages_that_come_in_waves_are_shared_about_evenly(handle: Any) -> None:
    async def wave() -> Counter[int]:
        shares = Counter(await asyncio.gather(*(handle.remote(0.1) for _ in range(16))))
        # Serve gives an answer to its caller before it tells the router that a message is over.
        await asyncio.sleep(0.4)
        return shares

    async def waves() -> list[Counter[int]]:
        return [await wave() for _ in range(8)]

    # One choice in some hundred is in vain, so that shares are not always equal.
    most = [max(one.values()) for one in asyncio.run(waves())]
    assert sum(most) / len(most) <= 10, most
