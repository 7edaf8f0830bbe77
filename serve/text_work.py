"""Work on the text of large requests, done in a thread so that other requests go on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from msrrec.reasoning.encoding import Query

T = TypeVar("T")

_LARGE_CHARS = 8_000
"""Characters of titles from which on a thread is worth its start: about 2 ms of cleaning."""


@lru_cache(maxsize=1)
def _thread() -> ThreadPoolExecutor:
    """One thread for all, as Python runs one at a time and tokenizers are not made for more."""
    return ThreadPoolExecutor(1, thread_name_prefix="text")


async def work_on_text(num_chars: int, work: Callable[[], T]) -> T:
    """The result of some work on a text; a long one is worked on in a thread.

    Args:
        num_chars: Length of the text in characters.
        work: What to do; raises what it raises.
    """
    if num_chars < _LARGE_CHARS:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_thread(), work)


def count_chars(query: Query) -> int:
    """The length of a query's titles in characters."""
    return sum(map(len, (*query.history, *query.candidates)))
