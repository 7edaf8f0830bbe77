"""All settings and their defaults, one file per section; no default is repeated elsewhere."""

from msrrec.config.base import Config
from msrrec.config.baselines import BaselinesConfig, LlaraConfig, TallrecConfig
from msrrec.config.chat import ChatConfig
from msrrec.config.data import DataConfig
from msrrec.config.derived import for_arm, for_references
from msrrec.config.evaluate import EXAMPLE_SETTINGS, EvaluateConfig
from msrrec.config.inference import InferenceConfig
from msrrec.config.judge import JudgeConfig
from msrrec.config.lora import LoraConfig
from msrrec.config.model import EMBEDDED, ModelConfig
from msrrec.config.prompt import AnswerFormat, InstructionForm, Order, PromptConfig
from msrrec.config.ray import RayConfig
from msrrec.config.recommend import RecommendConfig
from msrrec.config.retrieval import RETRIEVERS, RetrievalConfig, RetrieverName, WeightsConfig
from msrrec.config.run import (
    PRESETS,
    RunConfig,
    changed_settings,
    did_you_mean,
    find_config,
    load_config,
)
from msrrec.config.serve import ServeConfig
from msrrec.config.study import StudyArm, StudyConfig
from msrrec.config.sweep import SweepConfig
from msrrec.config.synthesis import SynthesisConfig
from msrrec.config.teacher import EndpointConfig, TeacherConfig
from msrrec.config.tracking import TrackingConfig
from msrrec.config.train import Arm, TrainConfig

__all__ = [
    "EMBEDDED",
    "EXAMPLE_SETTINGS",
    "PRESETS",
    "RETRIEVERS",
    "AnswerFormat",
    "Arm",
    "BaselinesConfig",
    "ChatConfig",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "EvaluateConfig",
    "InferenceConfig",
    "InstructionForm",
    "JudgeConfig",
    "LlaraConfig",
    "LoraConfig",
    "ModelConfig",
    "Order",
    "PromptConfig",
    "RayConfig",
    "RecommendConfig",
    "RetrievalConfig",
    "RetrieverName",
    "RunConfig",
    "ServeConfig",
    "StudyArm",
    "StudyConfig",
    "SweepConfig",
    "SynthesisConfig",
    "TallrecConfig",
    "TeacherConfig",
    "TrackingConfig",
    "TrainConfig",
    "WeightsConfig",
    "changed_settings",
    "did_you_mean",
    "find_config",
    "for_arm",
    "for_references",
    "load_config",
]
