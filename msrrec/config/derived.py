"""Settings of runs that are derived from another run's settings."""

from msrrec.config.run import RunConfig
from msrrec.config.train import Arm


def for_arm(config: RunConfig, arm: Arm) -> RunConfig:
    """Settings of an arm of MSR-Rec, which are those of the chains."""
    return config.model_copy(update={"train": config.train.model_copy(update={"arm": arm})})


def for_references(config: RunConfig) -> RunConfig:
    """Settings for the teacher's reference paths of the evaluated users, one completion each."""
    evaluate = config.evaluate
    update = {"split": evaluate.split, "num_examples": evaluate.num_users, "tau": None}
    synthesis = config.synthesis.model_copy(update=update)
    return config.model_copy(update={"synthesis": synthesis})
