"""Settings of experiment tracking."""

from typing import ClassVar

from msrrec.config.base import Config


class TrackingConfig(Config):
    """Settings of experiment tracking, which never affect a result."""

    runtime: ClassVar[frozenset[str]] = frozenset({"mlflow_uri"})

    mlflow_uri: str | None = None
    """Tracking URI of MLflow, such as sqlite:///mlflow.db or http://host:5000; the settings and
    figures of every finished stage are sent there. Unset: nothing is sent anywhere."""
