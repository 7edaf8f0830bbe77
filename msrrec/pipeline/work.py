"""The work of each stage: from what a call names to the library's own function.

Everything heavy is imported when its stage runs.
"""

from contextlib import nullcontext as no_ray
from typing import TYPE_CHECKING

from msrrec.cluster import ray_session
from msrrec.data.dataset import Dataset
from msrrec.stage import Call, Summary

if TYPE_CHECKING:
    from msrrec.data.sources import Inputs


def check_prepare(call: Call) -> None:
    """Refuse files that are not there and settings that the source would ignore.

    Raises:
        MsrRecError: If there are any.
    """
    _find_inputs(call)


def prepare(call: Call) -> Summary:
    """Raw purchases to a dataset; Ray is started where they are many."""
    from msrrec.data.prepare import prepare

    named = call.inputs.get("interactions"), call.inputs.get("items")
    is_large = _find_inputs(call).needs_ray
    with ray_session(call.config.ray.address, call.config.ray.num_cpus) if is_large else no_ray():
        return prepare(call.options["source"], *named, call.out, call.config.data)


def _find_inputs(call: Call) -> "Inputs":
    from msrrec.data.prepare import check

    named = call.inputs.get("interactions"), call.inputs.get("items")
    return check(call.options["source"], *named, call.out, call.config.data)


def check_synthesize(call: Call) -> None:
    """Refuse weights of a teacher that are missing or damaged.

    Raises:
        ModelError: If they are.
    """
    from msrrec.models import locate_model
    from msrrec.weights import check_source

    for endpoint in call.config.teacher.endpoints:
        if endpoint.engine == "vllm":
            check_source(locate_model(endpoint.model))


def synthesize(call: Call) -> Summary:
    """A dataset to reasoning paths."""
    from msrrec.synthesis.synthesize import synthesize

    return synthesize(_dataset(call), call.out, call.config, call.keys)


def check_train(call: Call) -> None:
    """Refuse reasoning that is missing, and a base model that is missing or not whole.

    Raises:
        ConfigError: If reasoning is to be trained on and none is named.
        ModelError: If the settings name no model, or one whose files are damaged.
    """
    from msrrec.errors import ConfigError
    from msrrec.models import locate_base
    from msrrec.weights import check_source

    if call.config.train.reasoning and "reasoning" not in call.inputs:
        raise ConfigError(
            "--reasoning: missing; give the folder made by `msrrec synthesize`, "
            "or set train.reasoning=false to train without"
        )
    check_source(locate_base(call.config.model))


def probe_train(call: Call) -> None:
    """Refuse a base model whose tensors are not all there, or places of LoRA that are tied.

    Raises:
        ConfigError: If the places are tied.
        ModelError: If the model is not whole.
    """
    from msrrec.models import locate_base
    from msrrec.training.model import probe_for_training

    probe_for_training(locate_base(call.config.model), call.config.train.lora)


def train(call: Call) -> Summary:
    """A dataset and its paths to a model."""
    from msrrec.training.loop import train

    return train(_dataset(call), call.inputs.get("reasoning"), call.out, call.config)


def check_evaluate(call: Call) -> None:
    """Refuse a model that is missing or whose files are damaged.

    Raises:
        ModelError: If it is.
    """
    from msrrec.models import locate_model
    from msrrec.weights import check_source

    check_source(locate_model(call.inputs["model"], call.config.model))


def probe_evaluate(call: Call) -> None:
    """Refuse a model whose tokenizer, chat template or tensors are not whole.

    Raises:
        ModelError: If they are not.
    """
    from msrrec.loading import probe_for_inference
    from msrrec.models import locate_model

    probe_for_inference(locate_model(call.inputs["model"], call.config.model))


def evaluate(call: Call) -> Summary:
    """A model to its figures on the frozen examples."""
    from msrrec.evaluation.evaluate import evaluate

    return evaluate(
        _dataset(call),
        call.inputs["model"],
        call.out,
        call.config,
        call.options["variants"],
        name=call.options["name"],
    )


def evaluate_baseline(call: Call) -> Summary:
    """A baseline to its figures on the frozen examples."""
    from msrrec.evaluation.evaluate import evaluate_baseline

    return evaluate_baseline(_dataset(call), call.options["system"], call.out, call.config)


def score(call: Call) -> Summary:
    """An evaluation's reasoning against the teacher's."""
    from msrrec.evaluation.score import score_evaluation

    key = call.keys.get(call.config.judge.api_key_env)
    return score_evaluation(_dataset(call), call.out, call.inputs["references"], call.config, key)


def sweep(call: Call) -> Summary:
    """Training and evaluation at several weights of the losses."""
    from msrrec.pipeline.sweep import sweep

    return sweep(
        call.inputs["dataset"],
        call.inputs["reasoning"],
        call.out,
        call.config,
        call.options["variants"],
    )


def _dataset(call: Call) -> Dataset:
    return Dataset.load(call.inputs["dataset"])
