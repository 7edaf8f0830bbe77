"""All sections together, and how a run's settings come about.

Order of precedence: the defaults, then the YAML file, then ``section.key=value`` overrides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from msrrec.config.base import Config
from msrrec.config.baselines import BaselinesConfig, LlaraConfig, TallrecConfig
from msrrec.config.data import DataConfig
from msrrec.config.evaluate import EvaluateConfig
from msrrec.config.inference import InferenceConfig
from msrrec.config.judge import JudgeConfig
from msrrec.config.model import ModelConfig
from msrrec.config.ray import RayConfig
from msrrec.config.serve import ServeConfig
from msrrec.config.sweep import SweepConfig
from msrrec.config.synthesis import SynthesisConfig
from msrrec.config.teacher import TeacherConfig
from msrrec.config.train import TrainConfig
from msrrec.errors import ConfigError, first_line

PRESETS = Path(__file__).parents[2] / "jobs" / "configs"
"""YAML files of settings that ship beside the package."""


class RunConfig(Config):
    """Everything that a command may be told."""

    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    tallrec: TallrecConfig = TallrecConfig()
    llara: LlaraConfig = LlaraConfig()
    judge: JudgeConfig = JudgeConfig()
    serve: ServeConfig = ServeConfig()
    ray: RayConfig = RayConfig()


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The defaults, changed by a YAML file and then by ``section.key=value`` overrides.

    Raises:
        ConfigError: If the file is no YAML mapping, or a key or value is not allowed.
    """
    settings: dict[str, Any] = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(settings, override)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "config"
        where = f"{path}: " if path is not None else ""
        raise ConfigError(
            f"{where}{key}: {first['msg']} (found {first['input']!r}); "
            "see `msrrec <command> --help` for the settings"
        ) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({first_line(error)})") from error
    if settings is not None and not isinstance(settings, dict):
        found = type(settings).__name__
        raise ConfigError(f"{path}: found a {found}; expected sections of settings")
    return settings or {}


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"{override!r}: expected section.key=value, such as data.k_core=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML ({first_line(error)})") from error
    section = settings
    for n, part in enumerate(parts[:-1], 1):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"{override!r}: {'.'.join(parts[:n])!r} is not a section")
    section[parts[-1]] = value
