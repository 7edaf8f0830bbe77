"""All systems that ``msrrec compare`` can run, by name: baselines, models, ablations, teachers.

Each system defines what decides its result and how it is evaluated into a folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from msrrec import storage
from msrrec.baselines import BASELINES
from msrrec.comparison.predictions_file import (
    FILE_ENDINGS,
    PredictionsFile,
    evaluate_file,
    read_predictions_file,
)
from msrrec.config import EXAMPLE_SETTINGS, Arm, RunConfig, StudyArm, did_you_mean, for_arm
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.evaluate import evaluate, evaluate_baseline
from msrrec.evaluation.results import RateTrial
from msrrec.fingerprint import fingerprint_setting, identify_dataset, identify_model
from msrrec.inference.recommender import Mode
from msrrec.models import locate_base, locate_model, read_arm, read_settings
from msrrec.stage import EVALUATE, TRAIN, Call, Identity, Summary, decisive_settings
from msrrec.weights import check_source

if TYPE_CHECKING:
    from msrrec.comparison.teacher import Prompt

MODELS, ANSWERS = "models", "teacher"
"""Folders of models trained in the comparison, and of the teacher's completions, which are paid for
once."""


@dataclass(frozen=True)
class System:
    """One row of the table to be made.

    Attributes:
        name: Name of the system in the table.
        identity: What decides its result.
        evaluate: Function that evaluates it into a folder.
        needs_ray: Whether Ray must be running for the evaluation.
        models: Folders of the models that it trains.
    """

    name: str
    identity: Identity
    evaluate: Callable[[str], Summary]
    needs_ray: bool = False
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What all systems of a comparison share.

    Attributes:
        out: Output folder of the comparison.
        reasoning: Folder made by ``msrrec synthesize``, for systems that are trained in the
            comparison.
        keys: API keys by the names of their environment variables.
        overwrite: Whether to train finished models again.
        trained: Folders of the models that this run has trained or found.
    """

    dataset: Dataset
    out: str
    config: RunConfig
    reasoning: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    overwrite: bool = False
    trained: set[str] = field(default_factory=set)

    def identity(
        self,
        system: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str | None] | None = None,
        revision: int = 1,
    ) -> Identity:
        """What decides a system's result.

        Args:
            system: Name of the system.
            settings: Settings that decide it, besides the evaluated users and their candidates.
            inputs: Fingerprints of its inputs besides the dataset.
            revision: Revision of its code.
        """
        users = self.config.evaluate.model_dump(include=set(EXAMPLE_SETTINGS))
        users["index"] = users["index"] and fingerprint_setting(users["index"])
        found = {"dataset": identify_dataset(self.dataset), **(inputs or {})}
        return Identity(
            "compare", found, {"system": system, "evaluate": users, **settings}, revision
        )

    def sections(self, *names: str) -> dict[str, Any]:
        """The settings of some sections that decide a result."""
        return {name: decisive_settings(self.config, name) for name in names}


def system_names() -> tuple[str, ...]:
    """All names that ``--systems`` takes, in the order of the table."""
    return (*BASELINES, *MAKERS)


def find_systems(names: Sequence[str], run: Run) -> list[System]:
    """The systems with the given names.

    Raises:
        ConfigError: If a name is unknown, repeated or lacks what it needs, or there are no names.
    """
    systems = [_find(name, run) for name in names]
    found = [system.name for system in systems]
    doubled = sorted({name for name in found if found.count(name) > 1})
    if doubled or not systems:
        what = f"found {doubled[0]!r} twice" if doubled else "found none"
        raise ConfigError(f"--systems: {what}; expected names such as popularity,sasrec, each once")
    return systems


def _find(name: str, run: Run) -> System:
    if name in BASELINES:
        return _baseline(name, run)
    if name in MAKERS:
        return MAKERS[name](run)
    label, equals, folder = name.partition("=")
    if equals and label and folder.lower().endswith(FILE_ENDINGS):
        return _file(label, folder, run)
    if equals and label and folder:
        return _model(label, folder, run)
    known = system_names()
    raise ConfigError(
        f"--systems: {name!r} is unknown; expected some of {', '.join(known)}, NAME=FOLDER of a "
        f"model, or NAME=FILE of predictions{did_you_mean(name, known)}"
    )


def _baseline(name: str, run: Run) -> System:
    entry = BASELINES[name]
    settings = {"seed": run.config.inference.seed, **entry.decisive(run.config)}
    identity = run.identity(name, settings, revision=entry.revision)
    work = partial(_evaluate_baseline, name, run)
    return System(name, identity, work, needs_ray=entry.needs_ray)


def _file(label: str, path: str, run: Run) -> System:
    """The choices in a file, which count by its content."""
    given = read_predictions_file(path)
    identity = run.identity("file", {"label": label}, {"file": given.digest})
    work = partial(_evaluate_file, label, given, run)
    return System(label, identity, work)


def _evaluate_file(label: str, given: PredictionsFile, run: Run, out: str) -> Summary:
    return evaluate_file(run.dataset, label, given, out, run.config)


def _evaluate_baseline(name: str, run: Run, out: str) -> Summary:
    return evaluate_baseline(run.dataset, name, out, run.config)


def _model(label: str, folder: str, run: Run, modes: Sequence[Mode] | None = None) -> System:
    """A trained model's folder in the modes that it was trained for, or a base model zero-shot."""
    chosen = modes or _modes(folder)
    source = locate_model(folder, run.config.model, run.config.prompt)
    check_source(source)
    inputs = {"model": identify_model(source)}
    settings = {"modes": list(chosen), **run.sections("inference", "evaluate.gate")}
    work = partial(_evaluate_model, label, folder, run, chosen)
    return System(label, run.identity("model", settings, inputs), work, needs_ray=True)


def _evaluate_model(label: str, folder: str, run: Run, modes: Sequence[Mode], out: str) -> Summary:
    return evaluate(run.dataset, folder, out, run.config, modes, name=label)


def _modes(folder: str) -> tuple[Mode, ...]:
    settings = read_settings(folder)
    return ("full",) if settings is None else modes_of(read_arm(settings))


def modes_of(arm: Arm) -> tuple[Mode, ...]:
    """What is read of a model of an arm, the row that stands for it last."""
    return ("direct",) if arm in ("none", "facts") else ("user", "item", "full", "fused")


def _backbone(run: Run) -> System:
    return _model("backbone zero-shot", run.config.model.name_or_path, run, ("full",))


def _constrained(run: Run) -> System:
    inference = run.config.inference.model_copy(update={"constrained": True})
    held = replace(run, config=run.config.model_copy(update={"inference": inference}))
    return _model("backbone constrained", run.config.model.name_or_path, held, ("full",))


def _trained(label: str, arm: Arm, run: Run, modes: Sequence[Mode] = ()) -> System:
    """An arm of MSR-Rec, trained unless there is a model with these settings.

    Args:
        label: Name of the system in the table.
        arm: What it learns to write before its answers.
        run: The comparison.
        modes: What is read of it; empty for what its arm was trained for.
    """
    inputs = {"dataset": run.dataset.path}
    if run.reasoning is not None:
        inputs["reasoning"] = run.reasoning
    elif arm != "none":
        raise ConfigError(
            f"--systems: {label} is trained here and needs --reasoning, the folder made "
            "by `msrrec synthesize`; or name a trained model as NAME=FOLDER"
        )
    check_source(locate_base(run.config.model))
    config = for_arm(run.config, arm)
    trainings = [Call("", _with_rate(config, rate), inputs) for rate in _rates(run.config)]
    learned = TRAIN.identity(trainings[0])
    chosen = tuple(modes) or modes_of(arm)
    settings = {
        **learned.settings,
        **run.sections("inference", "evaluate.gate", "baselines.arm_learning_rates"),
        **(run.sections("baselines.arm_validation_users") if len(trainings) > 1 else {}),
        "modes": list(chosen),
    }
    work = partial(_train_and_evaluate, label, run, trainings, chosen)
    identity = run.identity(label, settings, learned.inputs)
    models = tuple(_model_folder(run, training) for training in trainings)
    return System(label, identity, work, needs_ray=True, models=models)


def study_arm(arm: StudyArm, run: Run, reading: Mode) -> System:
    """An arm of a study, named after it.

    Args:
        arm: What it learns to write; ``direct`` is trained as ``chain`` and answers directly.
        run: The comparison.
        reading: What is read of arms that write before they answer.

    Raises:
        ConfigError: If it is trained on reasoning and there is none.
    """
    if arm == "direct":
        return _trained(arm, "chain", run, ("direct",))
    return _trained(arm, arm, run, () if modes_of(arm) == ("direct",) else (reading,))


def _rates(config: RunConfig) -> tuple[float, ...]:
    """The learning rates to try, the same for every arm."""
    return config.baselines.arm_learning_rates or (config.train.learning_rate,)


def _with_rate(config: RunConfig, rate: float) -> RunConfig:
    train = config.train.model_copy(update={"learning_rate": rate})
    return config.model_copy(update={"train": train})


def _train_and_evaluate(
    label: str, run: Run, trainings: Sequence[Call], modes: Sequence[Mode], out: str
) -> Summary:
    models = [_train(run, training) for training in trainings]
    trials = []
    if len(models) > 1:
        trials = [
            RateTrial(
                learning_rate=training.config.train.learning_rate,
                hit_ratio=_validate(label, run, model, modes),
            )
            for training, model in zip(trainings, models, strict=True)
        ]
    best = trials.index(best_trial(trials)) if trials else 0
    return evaluate(
        run.dataset, models[best], out, run.config, modes, name=label, rate_trials=trials
    )


def best_trial(trials: Sequence[RateTrial]) -> RateTrial:
    """The learning rate with the most hits on validation, the first of equals."""
    return max(trials, key=lambda trial: trial.hit_ratio)


def _model_folder(run: Run, training: Call) -> str:
    """The folder of a trained model, which systems with equal settings share."""
    name = f"{training.config.train.arm}-{TRAIN.identity(training).digest}"
    return storage.join(run.out, MODELS, name)


def _train(run: Run, training: Call) -> str:
    """Train a model unless it is finished; its folder."""
    folder = _model_folder(run, training)
    TRAIN.run(replace(training, out=folder), overwrite=run.overwrite and folder not in run.trained)
    run.trained.add(folder)
    return folder


def _validate(label: str, run: Run, model: str, modes: Sequence[Mode]) -> float:
    """HitRatio@1 on validation of the row that stands for a model."""
    num_users = run.config.baselines.arm_validation_users or run.config.evaluate.num_users
    update = {"split": "validation", "gate": None, "num_users": num_users}
    config = run.config.model_copy(
        update={"evaluate": run.config.evaluate.model_copy(update=update)}
    )
    inputs = {"dataset": run.dataset.path, "model": model}
    options = {"variants": list(modes[-1:]), "name": label}
    call = Call("", config, inputs, options)
    name = f"-{modes[-1]}-{EVALUATE.identity(call).digest}-validation"
    summary = EVALUATE.run(replace(call, out=storage.beside(model, name)), overwrite=run.overwrite)
    return float(summary["variants"][modes[-1]]["hit_ratio"]["value"])


def _teacher(label: str, prompt: "Prompt", run: Run) -> System:
    is_local = any(endpoint.engine == "vllm" for endpoint in run.config.teacher.endpoints)
    settings = {
        "asks": prompt,
        **run.sections("teacher", "synthesis", "prompt", *(["inference"] if is_local else [])),
    }
    return System(label, run.identity(label, settings), partial(_ask_teacher, prompt, run), True)


def _ask_teacher(prompt: "Prompt", run: Run, out: str) -> Summary:
    from msrrec.comparison.teacher import evaluate_teacher  # the client takes a second to import

    answers = storage.join(run.out, ANSWERS, prompt)
    return evaluate_teacher(run.dataset, out, answers, run.config, run.keys, prompt)


def _verified(run: Run) -> System:
    system = _teacher("RecSAVER verified", "plain", run)
    samples = {"samples": run.config.evaluate.recsaver_samples}
    identity = replace(system.identity, settings={**system.identity.settings, **samples})

    def work(out: str) -> Summary:
        answers = storage.join(run.out, ANSWERS, "plain")  # its completions are the first samples
        from msrrec.comparison.recsaver import evaluate_verified

        return evaluate_verified(run.dataset, out, answers, run.config, run.keys)

    return replace(system, identity=identity, evaluate=work)


MAKERS: dict[str, Callable[[Run], System]] = {
    "backbone": _backbone,
    "backbone-constrained": _constrained,
    "teacher": partial(_teacher, "teacher zero-shot", "chain"),
    "recsaver": partial(_teacher, "RecSAVER", "plain"),
    "recsaver-verified": _verified,
    "msrrec-without-reasoning": partial(_trained, "MSR-Rec w/o reason", "none"),
    "msrrec-placebo": partial(_trained, "MSR-Rec placebo", "placebo"),
    "msrrec-filler": partial(_trained, "MSR-Rec filler", "filler"),
    "msrrec-facts": partial(_trained, "MSR-Rec facts", "facts"),
    "msrrec-direct": partial(_trained, "MSR-Rec direct", "chain", modes=("direct",)),
    "msrrec": partial(_trained, "MSR-Rec", "chain"),
}
"""Systems with a language model."""
