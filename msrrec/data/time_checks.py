"""Refuses numbers that would be misread as times: dates, years, and days as Excel counts them."""

import re
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

LEAST_SECONDS = 10**8
"""Smallest number that is read as seconds since 1970; it is in March 1973, and no shop's."""
_LARGEST_ORDER = 10**6
"""Numbers below it may be a plain order: 1, 2, 3."""
_SERIALS = (30_000, 60_000)
"""The days from 1982 to 2064 as Excel counts them."""
_PATTERNS = {
    4: ("%Y",),
    6: ("%Y%m", "%y%m%d", "%d%m%y"),
    8: ("%Y%m%d", "%d%m%Y", "%m%d%Y"),
    10: ("%Y%m%d%H",),
    12: ("%Y%m%d%H%M",),
    14: ("%Y%m%d%H%M%S",),
}
"""Formats of dates without separators, by their number of digits."""
_ISO_YEAR = re.compile(r"(\d{4})-?\d{2}-?\d{2}(?!\d)")


def find_misread(numbers: NDArray[np.int64] | NDArray[np.float64]) -> tuple[int, str] | None:
    """The row of a number that is no time since 1970, and what to do about it; None if all are.

    Numbers below a million in all rows are taken for an order, unless all are years, months or days
    as Excel counts them. Zero fits everything.
    """
    if not len(numbers):
        return None
    low, high = int(numbers.argmin()), int(numbers.argmax())
    least, most = float(numbers[low]), float(numbers[high])
    if least >= LEAST_SECONDS and not _pattern_of(least, most):
        return None
    if not least:  # zeros say nothing, so they are left out
        found = find_misread(numbers[numbers != 0])
        return found and (int(np.flatnonzero(numbers != 0)[found[0]]), found[1])
    pattern = _pattern_of(least, most)
    if pattern is not None:
        return high, f"it looks like a date, so set data.timestamp_format={pattern}"
    if _SERIALS[0] <= least and most <= _SERIALS[1]:
        return high, "it looks like a day of Excel, so export the column in a format of dates"
    if least > -_LARGEST_ORDER and most < _LARGEST_ORDER:
        return None
    sizes = np.abs(numbers)
    doubtful = (sizes < LEAST_SECONDS) & (sizes > 0)
    if not doubtful.any():
        return None
    return int(doubtful.argmax()), (
        "data.timestamp_format says how it is written, such as %d%m%Y, or seconds if it is in that "
        "unit"
    )


def _pattern_of(least: float, most: float) -> str | None:
    """The format of dates that the least and the largest number have; None if none."""
    texts = (f"{least:.0f}", f"{most:.0f}")
    for pattern in _PATTERNS.get(len(texts[0]), ()):
        if all(_is_date(text, pattern) for text in texts):
            return pattern
    return None


def _is_date(text: str, pattern: str) -> bool:
    try:
        moment = datetime.strptime(text, pattern)
    except ValueError:
        return False
    return 1900 <= moment.year <= 2100


def is_out_of_range(text: str) -> bool:
    """Whether a text is a date outside of the years that 64 bits of nanoseconds reach."""
    match = _ISO_YEAR.match(text)
    return match is not None and not 1678 <= int(match[1]) <= 2261
