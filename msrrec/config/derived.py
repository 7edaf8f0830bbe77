"""Settings of runs that are derived from another run's settings."""

from msrrec.config.run import RunConfig


def without_reasoning(config: RunConfig) -> RunConfig:
    """Settings of the ablation without reasoning, which sees each purchase equally often."""
    passes = config.train.num_epochs * len(config.train.sides)
    train = config.train.model_copy(update={"reasoning": False, "num_epochs": passes})
    return config.model_copy(update={"train": train})


def for_references(config: RunConfig) -> RunConfig:
    """Settings for the teacher's reference paths of the evaluated users, one completion each."""
    evaluate = config.evaluate
    update = {"split": evaluate.split, "num_examples": evaluate.num_users, "tau": None}
    synthesis = config.synthesis.model_copy(update=update)
    return config.model_copy(update={"synthesis": synthesis})
