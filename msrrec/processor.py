"""The data type that this machine's processor computes fast in.

A processor without instructions for bfloat16 imitates them, and is then far slower than in float32.
"""

import logging
import platform
from collections.abc import Set
from functools import lru_cache
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

NATIVE_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in /proc/cpuinfo of instructions that multiply in bfloat16: two of x86, one of Arm."""


@lru_cache(1)
def processor_flags() -> frozenset[str]:
    """The names of this processor's instruction sets; none where /proc/cpuinfo does not exist."""
    found = [*_cpuinfo("flags"), *_cpuinfo("Features")]
    return frozenset(found[0].split() if found else ())


def _cpuinfo(name: str) -> list[str]:
    """The values of a field of /proc/cpuinfo, core by core."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fields = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in fields if key.strip() == name]


@lru_cache(1)
def processor_name() -> str:
    """This processor's model with its instructions for bfloat16, such as ``AMD EPYC avx512_bf16``.

    Only the machine's kind, such as ``x86_64``, where /proc/cpuinfo names no model.
    """
    models = sorted(set(_cpuinfo("model name"))) or [platform.machine()]
    return " ".join([*models, *sorted(NATIVE_BFLOAT16 & processor_flags())])


def fast_dtype(flags: Set[str] | None = None) -> Literal["bfloat16", "float32"]:
    """bfloat16 where the processor has instructions for it, else float32.

    Args:
        flags: Names of its instruction sets; None for this machine's.
    """
    has_native = NATIVE_BFLOAT16 & (processor_flags() if flags is None else flags)
    return "bfloat16" if has_native else "float32"


def warn_if_imitated(dtype: object, setting: str, flags: Set[str] | None = None) -> None:
    """Log one line if a setting asks for bfloat16 where the processor has to imitate it.

    Args:
        dtype: The value of the setting.
        setting: Its name, such as ``model.dtype``.
        flags: Names of the processor's instruction sets; None for this machine's.
    """
    if dtype == "bfloat16" and fast_dtype(flags) != "bfloat16":
        logger.warning(
            "%s=bfloat16: this processor has none of %s and imitates bfloat16, about ten times "
            "slower than float32; leave the setting out for the faster type",
            setting,
            ", ".join(sorted(NATIVE_BFLOAT16)),
        )
