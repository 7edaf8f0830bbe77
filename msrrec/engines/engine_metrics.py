"""vLLM's own metrics of an engine, as Ray's; vLLM is imported with this module."""

import copy
from typing import Any

from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


class EngineMetrics(RayPrometheusStatLogger):  # type: ignore[misc]
    """All of vLLM's metrics but the seconds between two tokens.

    Those are a record of Ray's for every token. The mean of each output, which vLLM reports too,
    tells nearly as much.
    """

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Called by vLLM after each step."""
        if iteration_stats is not None:
            iteration_stats = copy.copy(iteration_stats)  # others get the same one
            iteration_stats.inter_token_latencies_iter = []
        super().record(scheduler_stats, iteration_stats, *args, **kwargs)
