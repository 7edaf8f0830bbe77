"""Parses times in many formats to integers that keep their order.

A whole number is seconds, milliseconds, microseconds or nanoseconds since 1970, recognised by its
size: below 10^11 it is seconds (until the year 5138), and each further unit covers a thousand times
more.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from msrrec.data.time_checks import LEAST_SECONDS, find_misread

IntArray = NDArray[np.int64]

UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
"""Number of ticks per second of each unit."""
_UNIT_ENDS = (10**11, 10**14, 10**17)
"""Absolute values at which one unit ends and the next begins."""
_NS = 10**9
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DECIMAL = r"^[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?$"
_ISO = (
    r"^(?P<date>\d{4}-\d{2}-\d{2})"
    r"(?:[Tt ](?P<hour>\d{2}):(?P<minute>\d{2})"
    r"(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?: ?(?P<zone>[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?))?)?$"
)
_ISO_BASIC = r"^(\d{4})(\d{2})(\d{2})[Tt](\d{2})(\d{2})"
"""ISO 8601 without separators, up to the minute; seconds follow."""
ISO_WITH_ZONE = "ISO 8601 with a zone"
ISO_WITHOUT_ZONE = "ISO 8601 without a zone, taken as UTC"


@dataclass(frozen=True)
class Times:
    """The times of one file.

    Attributes:
        ticks: Shape (E,). Ticks since 1970; 0 where ``bad`` is true.
        bad: Shape (E,). Whether a text can't be read as a time.
        ticks_per_s: Ticks in a second.
        firsts: The first row of each format that occurs: a unit of ``UNITS``, or ISO 8601.
        misread: The row of a number that is no time since 1970, and what to do about it.
    """

    ticks: IntArray
    bad: NDArray[np.bool_]
    ticks_per_s: int
    firsts: Mapping[str, int] = field(default_factory=dict)
    misread: tuple[int, str] | None = None

    @property
    def units(self) -> list[str]:
        """The units of whole numbers that occur."""
        return [name for name in self.firsts if name in UNITS]


def read_integers(numbers: IntArray) -> Times:
    """Times that are whole numbers."""
    firsts = _first_of_units(np.abs(numbers.astype(np.float64)))
    unit = next(iter(firsts), "seconds")
    bad = np.zeros(len(numbers), dtype=bool)
    return Times(numbers, bad, UNITS[unit], firsts, find_misread(numbers))


def read_times(texts: pl.Series, pattern: str | None = None) -> Times:
    """Times that are texts.

    Args:
        texts: No nulls, no outer spaces.
        pattern: Their format for ``datetime.strptime``, or a unit of ``UNITS``; None: recognised.
    """
    if pattern in UNITS:
        return _read_unit(texts, pattern)
    if pattern is not None:
        return _read_pattern(texts, pattern)
    whole = texts.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    if not whole.null_count():
        return read_integers(whole.to_numpy())
    return _read_mixed(texts, whole)


def _read_unit(texts: pl.Series, unit: str) -> Times:
    """Whole or decimal numbers of a given unit, of any size."""
    whole = texts.str.strip_suffix(".0").cast(pl.Int64, strict=False)
    if not whole.null_count():
        bad = np.zeros(len(texts), dtype=bool)
        return Times(whole.to_numpy(), bad, UNITS[unit], {unit: 0})
    ticks_per_s = min(_NS, UNITS[unit] * 10**6)
    values = texts.cast(pl.Float64, strict=False)
    ticks = (values.fill_null(0).fill_nan(0) * (ticks_per_s // UNITS[unit])).to_numpy()
    bad = ~values.is_finite().fill_null(False).to_numpy() | (np.abs(ticks) >= 2.0**63)
    return Times(np.rint(np.where(bad, 0, ticks)).astype(np.int64), bad, ticks_per_s, {unit: 0})


def _read_pattern(texts: pl.Series, pattern: str) -> Times:
    """Times parsed by Python's ``strptime``, each distinct text once; without a zone it is UTC."""
    distinct = texts.unique()
    ticks = [_ticks_of_pattern(text, pattern) for text in distinct]
    read = texts.replace_strict(distinct, pl.Series(ticks, dtype=pl.Int64))
    bad = read.is_null().to_numpy()
    return Times(read.fill_null(0).to_numpy(), bad, UNITS["microseconds"], {pattern: 0})


def _ticks_of_pattern(text: str, pattern: str) -> int | None:
    try:
        moment = datetime.strptime(text, pattern)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _read_mixed(texts: pl.Series, whole: pl.Series) -> Times:
    """Whole numbers, decimal numbers and ISO 8601, each text in the format that it has."""
    decimal = texts.str.contains(_DECIMAL) & whole.is_null()
    values = texts.set(~(decimal | whole.is_not_null()), None).cast(pl.Float64, strict=False)
    numbers = values.fill_null(0.0).fill_nan(0.0).to_numpy()
    is_number = values.is_finite().fill_null(False).to_numpy()
    fractional = is_number & (numbers % 1 != 0)
    firsts = _first_of_units(np.abs(numbers) * is_number)
    unit = next(iter(firsts), "seconds")
    iso, is_iso, has_zone = _read_iso(texts)
    is_iso &= ~is_number
    for name, rows in ((ISO_WITH_ZONE, is_iso & has_zone), (ISO_WITHOUT_ZONE, is_iso & ~has_zone)):
        if rows.any():
            firsts[name] = int(rows.argmax())
    ticks_per_s = _NS if is_iso.any() else UNITS[unit]
    if fractional.any():
        ticks_per_s = max(ticks_per_s, min(_NS, UNITS[unit] * 10**6))
    factor = ticks_per_s // UNITS[unit]
    bad = ~(is_number | is_iso) | (fractional & (np.abs(numbers) < LEAST_SECONDS))
    bad |= is_number & (np.abs(numbers) * factor >= 2.0**63)
    safe = np.where(bad, 0.0, numbers)
    whole_parts = np.where(fractional, np.floor(safe), safe).astype(np.int64)
    exact = whole.fill_null(0).to_numpy()
    whole_parts = np.where(whole.is_not_null().to_numpy() & ~bad, exact, whole_parts)
    rest = np.rint((safe - np.floor(safe)) * factor * fractional).astype(np.int64)
    ticks = np.where(is_iso, iso, whole_parts * factor + rest)
    places = np.flatnonzero(is_number)
    found = find_misread(numbers[places])
    misread = found and (int(places[found[0]]), found[1])
    return Times(np.where(bad, 0, ticks), bad, ticks_per_s, firsts, misread)


def _first_of_units(sizes: NDArray[np.float64]) -> dict[str, int]:
    """The first row of each unit, seconds first; zero fits all units and is skipped."""
    ends = np.digitize([sizes.min(initial=np.inf), sizes.max(initial=0)], _UNIT_ENDS)
    if ends[0] == ends[1] and sizes.all():  # fast path: all values have the same unit
        return {list(UNITS)[ends[0]]: 0}
    units = np.digitize(sizes, _UNIT_ENDS)
    units[sizes == 0] = -1
    found = {}
    for place, name in enumerate(UNITS):
        rows = units == place
        if rows.any():
            found[name] = int(rows.argmax())
    return found


def _read_iso(texts: pl.Series) -> tuple[IntArray, NDArray[np.bool_], NDArray[np.bool_]]:
    """Nanoseconds since 1970, whether a text is ISO 8601, and whether it has a zone."""
    if texts.str.contains(_ISO_BASIC).any():
        texts = texts.str.replace(_ISO_BASIC + r"(\d{2})", "${1}-${2}-${3}T${4}:${5}:${6}")
        texts = texts.str.replace(_ISO_BASIC, "${1}-${2}-${3}T${4}:${5}")
    parts = texts.str.extract_groups(_ISO).struct.unnest()
    day = parts["date"].str.to_date("%Y-%m-%d", strict=False).cast(pl.Int64)
    valid = day.is_not_null() & (day.abs() < 106_751)  # the range of nanoseconds in 64 bits
    seconds = day.fill_null(0) * 86_400
    for name, limit, size in (("hour", 23, 3600), ("minute", 59, 60), ("second", 60, 1)):
        part = parts[name].cast(pl.Int64).fill_null(0)
        valid &= part <= limit
        seconds += part * size
    zone = parts["zone"].str.replace_all(":", "").fill_null("Z")
    digits = zone.str.extract(r"(\d+)").fill_null("0").str.pad_end(4, "0").cast(pl.Int64)
    offset = (digits // 100 * 60 + digits % 100) * 60
    seconds -= offset * (1 - 2 * zone.str.starts_with("-").cast(pl.Int64))
    fraction = parts["fraction"].fill_null("").str.pad_end(9, "0").cast(pl.Int64)
    ticks = pl.select(pl.when(valid).then(seconds * _NS + fraction).otherwise(0)).to_series()
    return ticks.to_numpy(), valid.to_numpy(), parts["zone"].is_not_null().to_numpy()


def format_moment(ticks: int, ticks_per_s: int) -> str:
    """A moment in whole seconds, as ISO 8601 in UTC."""
    return f"{np.datetime64(ticks // ticks_per_s, 's')}Z"
