"""What ``msrrec compare`` can run, by name: baselines, models, their ablations, and teachers.

Each system says what decides its result and how it is evaluated into a folder; the rest is
``compare``'s.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from msrrec import schema, storage
from msrrec.baselines import BASELINES, hash_code
from msrrec.comparison.recsaver import evaluate_verified
from msrrec.comparison.teacher import Prompt, evaluate_teacher
from msrrec.config import RunConfig, without_reasoning
from msrrec.data.dataset import Dataset
from msrrec.errors import ConfigError
from msrrec.evaluation.audit import hash_weights
from msrrec.evaluation.evaluate import evaluate, evaluate_baseline
from msrrec.inference.recommender import Mode
from msrrec.models import locate_base, locate_model, read_settings
from msrrec.stage import Summary, run_stage

_INFERENCE = ("inference.*", "reasoning.*", "titles", "engines.*")
"""The code that decides what a model answers."""
_TEACHER = (
    "comparison.teacher",
    "comparison.recsaver",
    "reasoning.*",
    "titles",
    "embedded.offline_teacher",
)
MODELS, ANSWERS = "models", "teacher"
"""Folders of what is trained on the spot, and of the teacher's answers, which are paid for once."""


@dataclass(frozen=True)
class System:
    """One row of the table that is to be.

    Attributes:
        name: What the table calls it.
        settings: All that decides its result beside the dataset; JSON values only.
        evaluate: Evaluates it into a folder.
        needs_ray: Whether Ray must be running for that.
    """

    name: str
    settings: Mapping[str, Any]
    evaluate: Callable[[str], Summary]
    needs_ray: bool = False


@dataclass(frozen=True)
class Run:
    """What all systems of a comparison share.

    Attributes:
        out: Folder of everything.
        reasoning: Folder of ``msrrec synthesize``, for systems that learn from it on the spot.
        keys: API keys by the names of their environment variables.
        overwrite: Train again what is trained.
    """

    dataset: Dataset
    out: str
    config: RunConfig
    reasoning: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    overwrite: bool = False

    @property
    def users(self) -> dict[str, Any]:
        """Who is evaluated, and on which order of candidates."""
        names = {"split", "num_users", "permutation", "negatives", "num_negatives"}
        return self.config.evaluate.model_dump(include=names)

    def sections(self, *names: str) -> dict[str, Any]:
        """Some sections of the settings."""
        return self.config.model_dump(mode="json", include=set(names))


def find_systems(names: Sequence[str], run: Run) -> list[System]:
    """The systems of some names.

    Raises:
        ConfigError: If a name is unknown, doubled, lacks what it needs, or there is none.
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
    known = ", ".join((*BASELINES, *MAKERS))
    raise ConfigError(
        f"--systems: {name!r} is unknown; expected some of {known}, or NAME=FOLDER of a model"
    )


def _baseline(name: str, run: Run) -> System:
    entry, config = BASELINES[name], run.config
    settings = {
        "system": name,
        "code": entry.code_hash(),
        "seed": config.inference.seed,
        "evaluate": run.users,
        **entry.chosen(config),
        **(_weights(config) if entry.tunes else {}),
    }
    work = partial(_evaluate_baseline, name, run)
    return System(name, settings, work, needs_ray=entry.needs_ray)


def _weights(config: RunConfig) -> dict[str, Any]:
    source = locate_base(config.model)
    return {"weights": hash_weights(source), "revision": source.revision}


def _evaluate_baseline(name: str, run: Run, out: str) -> Summary:
    return evaluate_baseline(run.dataset, name, out, run.config)


def _model(label: str, folder: str, run: Run, modes: Sequence[Mode] | None = None) -> System:
    """A trained model's folder in the modes that it was trained for, or a base model zero-shot."""
    source = locate_model(folder, run.config.model)
    settings = {
        "system": "model",
        "code": hash_code(*_INFERENCE),
        "model_dir": folder,
        "weights": hash_weights(source),
        "revision": source.revision,
        "modes": list(modes or _modes(folder)),
        "evaluate": run.users,
        **run.sections("inference"),
        "answer_format": source.answer_format,
    }
    return System(label, settings, partial(_evaluate_model, label, folder, run, modes), True)


def _evaluate_model(
    label: str, folder: str, run: Run, modes: Sequence[Mode] | None, out: str
) -> Summary:
    chosen = modes or _modes(folder)
    return evaluate(run.dataset, folder, out, run.config, chosen, name=label)


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
    """MSR-Rec, trained on the spot where no folder of these settings is."""
    reasoning = run.reasoning if config.train.reasoning else None
    if config.train.reasoning and reasoning is None:
        raise ConfigError(
            "--systems: msrrec is trained on the spot and needs --reasoning, the folder made by "
            "`msrrec synthesize`; or name a trained model as NAME=FOLDER"
        )
    trained = {
        "code": hash_code("training.*", "reasoning.*"),
        "reasoning": None if reasoning is None else hash_paths(reasoning),
        **_weights(config),
        **config.model_dump(mode="json", include={"model", "train"}),
    }
    settings = {
        **trained,
        "system": label,
        "code": hash_code("training.*", *_INFERENCE),
        "evaluate": run.users,
        **run.sections("inference"),
    }
    work = partial(_train_and_evaluate, label, run, config, reasoning, trained)
    return System(label, settings, work, True)


def hash_paths(reasoning: str) -> str:
    """16 hexadecimal digits of the kept paths.

    Raises:
        DataError: If the folder holds none.
    """
    content = storage.read_bytes(storage.join(reasoning, schema.PATHS_FILE))
    return hashlib.sha256(content).hexdigest()[:16]


def _train_and_evaluate(
    label: str,
    run: Run,
    config: RunConfig,
    reasoning: str | None,
    trained: Mapping[str, Any],
    out: str,
) -> Summary:
    from msrrec.training.loop import train  # torch and Ray Train

    folder = storage.join(run.out, MODELS, out.rstrip("/").rsplit("/", 1)[1])
    run_stage(
        "train",
        folder,
        {**trained, "dataset_fingerprint": run.dataset.fingerprint},
        lambda: train(run.dataset, reasoning, folder, config),
        overwrite=run.overwrite,
    )
    return evaluate(run.dataset, folder, out, run.config, _modes(folder), name=label)


def _teacher(label: str, prompt: Prompt, run: Run) -> System:
    local = [e.model for e in run.config.teacher.endpoints if e.engine == "vllm"]
    settings = {
        "system": label,
        "code": hash_code(*_TEACHER),
        "prompt": prompt,
        "evaluate": run.users,
        **run.sections("teacher", "synthesis", *(["inference"] if local else [])),
        "weights": [hash_weights(locate_model(model)) for model in local],
        "answer_format": run.config.model.answer_format,
    }
    return System(label, settings, partial(_ask_teacher, prompt, run), True)


def _ask_teacher(prompt: Prompt, run: Run, out: str) -> Summary:
    answers = storage.join(run.out, ANSWERS, prompt)
    return evaluate_teacher(run.dataset, out, answers, run.config, run.keys, prompt)


def _verified(run: Run) -> System:
    system = _teacher("RecSAVER verified", "plain", run)
    settings = {**system.settings, "samples": run.config.evaluate.recsaver_samples}

    def work(out: str) -> Summary:
        answers = storage.join(run.out, ANSWERS, "plain")  # whose answers are the first samples
        return evaluate_verified(run.dataset, out, answers, run.config, run.keys)

    return replace(system, settings=settings, evaluate=work)


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
