"""Work with storage on behalf of a request, whose client may leave, or find it full."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

from msrrec.errors import DataError
from serve.http_models import HttpError
from serve.limits import RETRY_AFTER_S

logger = logging.getLogger(f"msrrec.{__name__}")

T = TypeVar("T")

_running: set["asyncio.Task[Any]"] = set()
"""The event loop itself holds tasks by weak references alone."""


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """The result of some work that goes on to its end if whoever waits for it leaves.

    A thread can't be stopped. So work that reads what is new in one could, if it ended half-way,
    know something for read that was never applied.
    """
    task = asyncio.ensure_future(work)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return await asyncio.shield(task)


@contextlib.contextmanager
def keeping(what: str) -> Iterator[None]:
    """Refuse a request if the storage refuses within the block.

    Raises:
        HttpError: 503 with Retry-After.
    """
    try:
        yield
    except (DataError, OSError) as error:
        logger.error("a %s can't be kept: %s", what, error)
        message = f"the {what} could not be kept; tell it again"
        raise HttpError(503, "not_kept", message, retry_after_s=RETRY_AFTER_S) from error
