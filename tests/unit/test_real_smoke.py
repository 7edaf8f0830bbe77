"""The attention that runs of the benchmark with a pretrained model use."""

from types import SimpleNamespace
from typing import Any

import pytest

from bench import real_smoke

Step = tuple[float, float, float]
"""Loss, norm of the gradient, tokens per second."""


@pytest.mark.parametrize(
    ("sdpa", "varlen", "chosen"),
    [
        ((1.0, 2.0, 300.0), (1.01, 2.02, 200.0), "sdpa"),  # both agree
        ((1.0, 2.0, 200.0), (1.01, 2.02, 300.0), "varlen"),
        ((1.0, 2.0, 200.0), (1.5, 2.0, 300.0), "sdpa"),  # the second has another loss
        ((1.0, 2.0, 200.0), (float("nan"), 2.0, 300.0), "sdpa"),
        (None, (1.0, 2.0, 100.0), "varlen"),
        (None, None, "sdpa"),
    ],
)
def test_the_fastest_kernel_of_those_that_agree_is_used(
    sdpa: Step | None, varlen: Step | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"sdpa": sdpa, "varlen": varlen}

    def step(bench: Any, spec: Any, examples: Any, kernel: str) -> Step:
        result = found[kernel]
        if result is None:
            raise RuntimeError("no such kernel here")
        return result

    monkeypatch.setattr(real_smoke, "step", step)
    bench: Any = SimpleNamespace(on_gpu=True, free=lambda: None)
    spec: Any = None
    assert real_smoke.choose_kernel(bench, spec, None) == chosen
