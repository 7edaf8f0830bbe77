"""The machine that a figure was measured on."""

import os
import platform
from pathlib import Path
from typing import Any

from msrrec.processor import NATIVE_BFLOAT16, fast_dtype, processor_flags


def hardware() -> dict[str, Any]:
    """What the processor is, and what it computes fast in."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    flags = sorted(NATIVE_BFLOAT16 & processor_flags())
    return {
        "processor": sorted(models) or [platform.machine()],
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": flags,
        "amx": sorted(flag for flag in processor_flags() if flag.startswith("amx")),
        "dtype": fast_dtype(),
    }
