"""Sends the settings and figures of finished stages to MLflow, if that is asked for.

MLflow is an extra and imported only where it is used. A tracker that fails after the work must not
cost its result, so that is a warning.
"""

import logging
import math
import re
from collections.abc import Mapping
from typing import Any

from msrrec.config import TrackingConfig
from msrrec.errors import ConfigError, first_line

logger = logging.getLogger(__name__)

EXPERIMENT = "msrrec"
_MAX_VALUE_CHARS = 500
"""MLflow refuses longer values of parameters."""


def check_tracking(config: TrackingConfig) -> None:
    """Refuse a tracker that can't be used, before any work.

    Raises:
        ConfigError: If MLflow is asked for and can't be imported.
    """
    if config.mlflow_uri is None:
        return
    try:
        import mlflow  # noqa: F401 (seconds to import)
    except ImportError as error:
        raise ConfigError(
            f"tracking.mlflow_uri={config.mlflow_uri}: MLflow can't be imported "
            f"({first_line(error)}); expected it to be installed; run pip install 'msrrec[mlflow]'"
        ) from error


def track(
    config: TrackingConfig, name: str, settings: Mapping[str, Any], summary: Mapping[str, Any]
) -> None:
    """Send one finished stage to MLflow as a run; nothing where no tracker is set.

    Args:
        config: The section ``tracking``.
        name: Name of the stage.
        settings: Those that decided its result, flat with dotted names.
        summary: Its summary, flat likewise; of it the numbers are sent.
    """
    if config.mlflow_uri is None:
        return
    import mlflow

    try:
        mlflow.set_tracking_uri(config.mlflow_uri)
        mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=name):
            mlflow.set_tag("stage", name)
            mlflow.log_params({_plain(k): str(v)[:_MAX_VALUE_CHARS] for k, v in settings.items()})
            mlflow.log_metrics(read_figures(summary))
    except Exception as error:  # whatever the tracker does, the result stays
        logger.warning("tracking.mlflow_uri=%s: %s", config.mlflow_uri, first_line(error))


def read_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a flat summary, under names that MLflow takes."""
    return {
        _plain(key): float(value)
        for key, value in summary.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _plain(name: str) -> str:
    return re.sub(r"[^\w.\-/ ]", "_", name)
