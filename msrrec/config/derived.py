"""Settings of runs that follow from another run's."""

from msrrec.config.run import RunConfig


def without_reasoning(config: RunConfig) -> RunConfig:
    """The ablation's settings: no reasoning data, and as many passes over every purchase."""
    passes = config.train.num_epochs * len(config.train.sides)
    train = config.train.model_copy(update={"reasoning": False, "num_epochs": passes})
    return config.model_copy(update={"train": train})


def for_references(config: RunConfig) -> RunConfig:
    """The settings of the teacher's paths for the evaluated users, one answer each."""
    evaluate = config.evaluate
    update = {"split": evaluate.split, "num_examples": evaluate.num_users, "tau": None}
    synthesis = config.synthesis.model_copy(update=update)
    return config.model_copy(update={"synthesis": synthesis})
