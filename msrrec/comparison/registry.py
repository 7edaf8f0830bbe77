"""All systems that ``msrrec compare`` can run, by name: baselines, models, ablations, teachers.

Each system defines what decides its result and how it is evaluated into a folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msrrec import storage
from msrrec.baselines import BASELINES
from msrrec.config import RunConfig, did_you_mean, without_reasoning
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.evaluate import evaluate, evaluate_baseline
from msrrec.fingerprint import identify_dataset, identify_model
from msrrec.inference.recommender import Mode
from msrrec.models import locate_base, locate_model, read_settings
from msrrec.stage import TRAIN, Call, Identity, Summary, decisive_settings
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
    """

    name: str
    identity: Identity
    evaluate: Callable[[str], Summary]
    needs_ray: bool = False


@dataclass(frozen=True)
class Run:
    """What all systems of a comparison share.

    Attributes:
        out: Output folder of the comparison.
        reasoning: Folder made by ``msrrec synthesize``, for systems that are trained in the
            comparison.
        keys: API keys by the names of their environment variables.
        overwrite: Whether to train finished models again.
    """

    dataset: Dataset
    out: str
    config: RunConfig
    reasoning: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False

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
        users = self.config.evaluate.model_dump(include=_USERS)
        found = {"dataset": identify_dataset(self.dataset), **(inputs or {})}
        return Identity(
            "compare", found, {"system": system, "evaluate": users, **settings}, revision
        )

    def sections(self, *names: str) -> dict[str, Any]:
        """The settings of some sections that decide a result."""
        return {name: decisive_settings(self.config, name) for name in names}


_USERS = {"split", "num_users", "permutation", "negatives", "num_negatives"}
"""Settings that define the evaluated users and their candidates."""


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
    if equals and label and folder:
        return _model(label, folder, run)
    known = system_names()
    raise ConfigError(
        f"--systems: {name!r} is unknown; expected some of {', '.join(known)}, or NAME=FOLDER of a "
        f"model{did_you_mean(name, known)}"
    )


def _baseline(name: str, run: Run) -> System:
    entry = BASELINES[name]
    settings = {"seed": run.config.inference.seed, **entry.decisive(run.config)}
    identity = run.identity(name, settings, revision=entry.revision)
    work = partial(_evaluate_baseline, name, run)
    return System(name, identity, work, needs_ray=entry.needs_ray)


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
    settings = read_settings(Path(folder))
    if settings is None:
        return ("full",)
    has_reasoning = settings.get("train", {}).get("reasoning", True)
    return ("user", "item", "full", "fused") if has_reasoning else ("direct",)


def _backbone(run: Run) -> System:
    return _model("backbone zero-shot", run.config.model.name_or_path, run, ("full",))


def _constrained(run: Run) -> System:
    inference = run.config.inference.model_copy(update={"constrained": True})
    held = replace(run, config=run.config.model_copy(update={"inference": inference}))
    return _model("backbone constrained", run.config.model.name_or_path, held, ("full",))


def _trained(label: str, run: Run, config: RunConfig) -> System:
    """MSR-Rec, trained unless there is a model with these settings."""
    inputs = {"dataset": run.dataset.path}
    if config.train.reasoning:
        if run.reasoning is None:
            raise ConfigError(
                "--systems: msrrec is trained here and needs --reasoning, the folder made "
                "by `msrrec synthesize`; or name a trained model as NAME=FOLDER"
            )
        inputs["reasoning"] = run.reasoning
    check_source(locate_base(config.model))
    training = Call("", config, inputs)
    learned = TRAIN.identity(training)
    settings = {**learned.settings, **run.sections("inference", "evaluate.gate")}
    work = partial(_train_and_evaluate, label, run, training)
    return System(label, run.identity(label, settings, learned.inputs), work, needs_ray=True)


def _train_and_evaluate(label: str, run: Run, training: Call, out: str) -> Summary:
    folder = storage.join(run.out, MODELS, out.rstrip("/").rsplit("/", 1)[1])
    TRAIN.run(replace(training, out=folder), overwrite=run.overwrite)
    return evaluate(run.dataset, folder, out, run.config, _modes(folder), name=label)


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
    "msrrec": lambda run: _trained("MSR-Rec", run, run.config),
    "msrrec-without-reasoning": lambda run: _trained(
        "MSR-Rec w/o reason", run, without_reasoning(run.config)
    ),
}
"""Systems with a language model."""
