"""Settings of runs that are derived from another run's settings."""

from msrrec.config.run import RunConfig
from msrrec.config.train import Arm


def for_arm(config: RunConfig, arm: Arm) -> RunConfig:
    """Settings of an arm of MSR-Rec that sees each purchase in as many steps as the chains do.

    The arm with facts has two examples where the others have one, so its batches are twice as
    large.
    """
    update: dict[str, object] = {"arm": arm}
    if arm == "facts":
        update["global_batch_size"] = 2 * config.train.global_batch_size
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def for_references(config: RunConfig) -> RunConfig:
    """Settings for the teacher's reference paths of the evaluated users, one completion each."""
    evaluate = config.evaluate
    update = {"split": evaluate.split, "num_examples": evaluate.num_users, "tau": None}
    synthesis = config.synthesis.model_copy(update=update)
    return config.model_copy(update={"synthesis": synthesis})
