"""Another version of the model, by the command that operators type, while requests come."""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Sequence

from tests.service.clients import Seen
from tests.service.load import Load, now
from tests.service.misuse import NOTICED_S, expect
from tests.service.site import ADMIN_KEY, Site
from tests.support.nodes import BIN
from tests.support.pages import ROOT

SHARE = 0.5
WATCHED_S = 30.0
"""Seconds of load in which the share is counted."""
ALONE_S = 8.0
"""Seconds of load in which only one version may answer."""
_START_S = 240.0


async def upgrade(site: Site, load: Load) -> str:
    """A second version gets half of the requests and is taken back; a third one becomes live."""
    before = await _names(load, ALONE_S)
    expect(len(before) == 1, f"before the rollout answered {dict(before)}")
    await _order(site, "--model", "embedded", "--share", str(SHARE), "serve.model_name=second")
    shared = await _names(load, WATCHED_S)
    seen = shared["second"] / shared.total()
    expect(set(shared) == {*before, "second"}, f"with a share answered {dict(shared)}")
    expect(abs(seen - SHARE) < SHARE / 2, f"a share of {SHARE} got {dict(shared)}")
    await _order(site, "--back")
    after = await _names(load, ALONE_S)
    expect(set(after) == set(before), f"taken back, and then answered {dict(after)}")
    await _order(site, "--model", "embedded", "serve.model_name=third")
    await _order(site, "--promote")
    last = await _names(load, ALONE_S)
    expect(set(last) == {"third"}, f"promoted, and then answered {dict(last)}")
    return (
        f"with a share of {SHARE:.0%} the second version got {shared['second']} of "
        f"{shared.total()} requests ({seen:.0%}), and none once it was taken back; the third one "
        "was promoted and got all"
    )


async def _names(load: Load, seconds: float) -> Counter[str]:
    """How often each version answered the requests that come in so many seconds."""
    began = now()
    await asyncio.sleep(seconds)
    until = now()
    await load.settled()
    return count_names([one for one in load.seen if began <= one.came <= until])


def count_names(seen: Sequence[Seen]) -> Counter[str]:
    """How often each version answered, by its name.

    Raises:
        BrokenError: If two versions answered equal requests.
    """
    by_request: dict[str, str] = {}
    for one in seen:
        if one.answer is not None:
            name = one.answer["model"]["name"]
            first = by_request.setdefault(str(one.body), name)
            expect(first == name, f"{first} and {name} answered {one.body}")
    return Counter(one.answer["model"]["name"] for one in seen if one.answer is not None)


async def _order(site: Site, *options: str) -> None:
    """Type ``msrrec rollout``."""
    command = [str(BIN / "msrrec"), "rollout", "--url", site.urls[0], *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MSRREC_ADMIN_KEY": ADMIN_KEY}
    told = await asyncio.to_thread(
        subprocess.run, command, env=env, capture_output=True, text=True, timeout=_START_S
    )
    expect(told.returncode == 0, f"rollout {' '.join(options)}: {told.stderr[-300:]}")
    await asyncio.sleep(NOTICED_S)
