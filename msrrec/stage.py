"""Stages: the work of each command, its inputs, the settings that decide it, its result.

A stage is one row of ``STAGES``. Command line, demo, sweep and comparison all run the same rows, so
they agree on what "the same run" means. A stage's identity is content: fingerprints of the inputs,
and the settings that decide the result, but never paths. The run record ``run.json`` is written
last.
"""

import hashlib
import importlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from msrrec import storage
from msrrec.cluster import ray_session, submission_id
from msrrec.config import EXAMPLE_SETTINGS, RunConfig, changed_settings
from msrrec.errors import DataError
from msrrec.fingerprint import FINGERPRINTS, fingerprint_setting
from msrrec.lock import locked
from msrrec.processor import processor_name
from msrrec.storage import RECORD
from msrrec.tracking import check_tracking, track
from msrrec.versions import versions

logger = logging.getLogger(__name__)

Summary = dict[str, Any]
"""The figures that a command prints as its last line; JSON values only."""


@dataclass(frozen=True)
class Call:
    """One run of a stage.

    Attributes:
        out: The folder to write.
        config: The settings of the run; only the stage's own sections decide the result.
        inputs: Paths of the inputs, by the stage's names for them.
        options: Further arguments, such as the variants; JSON values only.
        keys: API keys by the names of their environment variables.
    """

    out: str
    config: RunConfig
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Identity:
    """What decides a result: runs with equal identities give equal results.

    Attributes:
        stage: Name of the stage, or of whatever else made the folder.
        revision: Number to raise when changed code gives another result for the same inputs.
        inputs: Fingerprints of the inputs' contents, by name.
        settings: Settings that decide the result; JSON values only.
    """

    stage: str
    inputs: Mapping[str, str | None]
    settings: Mapping[str, Any]
    revision: int = 1

    @property
    def digest(self) -> str:
        """12 hexadecimal digits that differ with any part, for the name of a result's folder."""
        parts = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages.

    Attributes:
        name: Name of the command.
        work: ``module:function``, imported when it runs; takes a ``Call``, returns the summary.
        inputs: Names of its inputs; ``msrrec.fingerprint`` says what part of each one counts.
        sections: Sections of the settings, or ``section.key``, that decide the result.
        needs_ray: Whether the work runs on Ray.
        further: ``module:function`` with further settings that decide the result of a call.
        keeps: Whether a finished result stays whole until a new one replaces it.
        check: ``module:function`` that finds bad input within a second, before the work starts.
        probe: ``module:function`` that finds bad input within seconds, such as a model without some
            tensors; called before Ray starts, and not if the result is finished.
        place: Folder inside ``out`` for the run record, if ``out`` belongs to another stage.
        revision: See ``Identity``.
    """

    name: str
    work: str
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    needs_ray: bool = True
    further: str | None = None
    keeps: bool = False
    check: str | None = None
    probe: str | None = None
    place: str = ""
    revision: int = 1

    def identity(self, call: Call) -> Identity:
        """What decides the result of a call.

        Raises:
            MsrRecError: If an input is missing or can't be read.
        """
        inputs = {
            name: FINGERPRINTS[name](call.inputs[name], call)
            for name in self.inputs
            if name in call.inputs
        }
        settings = {name: decisive_settings(call.config, name) for name in self.sections}
        if self.further:
            settings |= resolve_function(self.further)(call)
        return Identity(self.name, inputs, {**settings, **call.options}, self.revision)

    def run(self, call: Call, *, overwrite: bool = False) -> Summary:
        """The summary of a call: from the run record if it is finished, else by doing the work.

        If the contents of an input have changed, a finished result is made again.

        Raises:
            DataError: If the folder holds another stage's result or one with other settings, or
                another process is writing there.
        """
        check_out(call.out)
        check_tracking(call.config.tracking)
        if self.check:
            resolve_function(self.check)(call)
        out = storage.join(call.out, self.place) if self.place else call.out

        def work() -> Summary:
            if self.probe:
                resolve_function(self.probe)(call)
            summary = self._work(call)
            settings, figures = flatten(identity.settings), flatten(summary)
            track(call.config.tracking, self.name, settings, figures)
            return summary

        with locked(call.out):
            facts: dict[str, object] = {
                "arguments": {"out": call.out, **call.inputs},
                "changed": changed_settings(call.config, RunConfig(), self.config_sections),
            }
            if job := submission_id():
                facts["submission_id"] = job
            identity = self.identity(call)
            return run_once(out, identity, work, overwrite=overwrite, keeps=self.keeps, facts=facts)

    def _work(self, call: Call) -> Summary:
        function: Callable[[Call], Summary] = resolve_function(self.work)
        if not self.needs_ray:
            return function(call)
        with ray_session(*call.config.ray.session):
            return function(call)

    @property
    def config_sections(self) -> tuple[str, ...]:
        """Every section of the settings that its command reads."""
        read = [name.partition(".")[0] for name in self.sections]
        read += ["model", "prompt"] * ("model" in self.inputs)
        read += ["inference"] * (self.name == "synthesize")
        return tuple(dict.fromkeys(read))


def run_once(
    out: str,
    identity: Identity,
    work: Callable[[], Summary],
    *,
    overwrite: bool = False,
    keeps: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Summary:
    """The summary in a folder's run record if it has this identity, else by doing the work.

    Args:
        out: The result's folder.
        identity: What decides the result.
        work: Makes the result and returns its summary.
        overwrite: Do the work again even if it is finished.
        keeps: Whether the old result stays whole until the new one replaces it.
        facts: Further entries of the run record, which are not part of the identity.

    Raises:
        DataError: If the folder holds another stage's result, or one with other settings.
    """
    record = storage.join(out, RECORD)
    before = storage.read_object(record) if is_finished(out) else None
    _check_stage(out, before, identity)
    if before and not overwrite and (found := _finished(out, before, identity)) is not None:
        logger.info("%s: %s is finished; skipped (--overwrite runs it again)", identity.stage, out)
        return found
    if not keeps:
        storage.delete_file(record)  # a killed rerun must not look finished
    begin = time.monotonic()
    summary = work()
    seconds = round(time.monotonic() - begin, 1)
    logger.info("%s: finished in %.0f s, see %s", identity.stage, seconds, out)
    storage.write_json(
        record,
        {
            "command": identity.stage,
            "revision": identity.revision,
            "inputs": dict(identity.inputs),
            "settings": dict(identity.settings),
            **(facts or {}),
            "summary": summary,
            "seconds": seconds,
            "cores": os.cpu_count(),
            "processor": processor_name(),
            "versions": versions(),
        },
    )
    return summary


def is_finished(out: str) -> bool:
    """Whether a folder holds a finished result of any identity."""
    return storage.exists(storage.join(out, RECORD))


def _check_stage(out: str, found: Mapping[str, Any] | None, identity: Identity) -> None:
    """Refuse a folder with another stage's result, whatever was asked for."""
    if found and found.get("command") != identity.stage:
        raise DataError(
            f"{out}: holds the result of `msrrec {found.get('command')}`; choose another --out"
        )


def _finished(out: str, found: Mapping[str, Any], identity: Identity) -> Summary | None:
    """The summary of a folder's result; None if its inputs changed."""
    there, here = found.get("inputs"), dict(identity.inputs)
    if there is None or found.get("revision") != identity.revision:
        logger.info("%s: %s was made by another version; running again", identity.stage, out)
        return None
    changed = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if changed:
        what = " and ".join(changed)
        logger.info("%s: %s: %s changed since then; running again", identity.stage, out, what)
        return None
    _check_settings(out, found["settings"], identity.settings)
    summary = dict(found["summary"])
    return {**summary, "out": out} if "out" in summary else summary  # the folder may have moved


def _check_settings(out: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    there, here = flatten(then), flatten(now)
    differing = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if differing:
        key = differing[0]
        raise DataError(
            f"{out}: holds a finished run with other settings ({key} was {there.get(key)!r}, "
            f"now {here.get(key)!r}); choose another --out, or --overwrite"
        )


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one dictionary with dotted names; tuples become lists."""
    if not isinstance(settings, Mapping):
        return {prefix: list(settings) if isinstance(settings, tuple) else settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def decisive_settings(config: RunConfig, name: str) -> Any:
    """The settings of a section, or one ``section.key``, that decide a result; JSON values.

    Settings of speed and placement are left out. A setting that names a folder counts by the
    folder's contents.
    """
    section, _, key = name.partition(".")
    found = getattr(config, section).decisive(fingerprint_setting)
    return found[key] if key else found


def check_out(out: str) -> None:
    """Refuse an output folder that can't be written, before any work.

    Raises:
        DataError: If it is a file or can't be written.
    """
    storage.check_writable(out)


def resolve_function(place: str) -> Callable[[Call], Any]:
    """The function named by ``module:function``."""
    module, name = place.split(":")
    found: Callable[[Call], Any] = getattr(importlib.import_module(module), name)
    return found


_EXAMPLES = tuple(f"evaluate.{name}" for name in EXAMPLE_SETTINGS)
_WORK = "msrrec.pipeline.work"

PREPARE = Stage(
    "prepare",
    f"{_WORK}:prepare",
    inputs=("interactions", "items"),
    sections=("data",),
    needs_ray=False,  # it starts Ray itself for large inputs
    keeps=True,
    check=f"{_WORK}:check_prepare",
)
INDEX = Stage(
    "index",
    f"{_WORK}:index",
    inputs=("dataset", "extra_items", "sasrec"),
    sections=("retrieval",),
    needs_ray=False,  # it starts Ray itself for large files of items
    further=f"{_WORK}:extra_items_settings",
    keeps=True,
    check=f"{_WORK}:check_index",
)
SYNTHESIZE = Stage(
    "synthesize",
    f"{_WORK}:synthesize",
    inputs=("dataset",),
    sections=("teacher", "synthesis", "prompt"),
    further=f"{_WORK}:local_teacher_settings",
    check=f"{_WORK}:check_synthesize",
    probe=f"{_WORK}:probe_synthesize",
)
TRAIN = Stage(
    "train",
    f"{_WORK}:train",
    inputs=("dataset", "reasoning"),
    sections=("model", "prompt", "train"),
    further=f"{_WORK}:facts_settings",
    check=f"{_WORK}:check_train",
    probe=f"{_WORK}:probe_train",
)
EVALUATE = Stage(
    "evaluate",
    f"{_WORK}:evaluate",
    inputs=("dataset", "model"),
    sections=("inference", *_EXAMPLES, "evaluate.gate"),
    keeps=True,
    check=f"{_WORK}:check_evaluate",
    probe=f"{_WORK}:probe_evaluate",
)
EVALUATE_BASELINE = Stage(
    "evaluate",
    f"{_WORK}:evaluate_baseline",
    inputs=("dataset",),
    sections=_EXAMPLES,
    further=f"{_WORK}:baseline_settings",
    keeps=True,
)
SCORE = Stage(
    "score",
    f"{_WORK}:score",
    inputs=("dataset", "evaluation", "references"),
    sections=(
        *("evaluate.bertscore_model", "evaluate.bertscore_layers", "evaluate.gptscore_model"),
        "judge",
    ),
    needs_ray=False,
    keeps=True,
    place="score",
)
FAITHFULNESS = Stage(
    "faithfulness",
    f"{_WORK}:faithfulness",
    inputs=("dataset", "evaluation", "model"),
    sections=("evaluate.interventions", "evaluate.intervention_users"),
    needs_ray=False,
    further=f"{_WORK}:paraphraser_settings",
    keeps=True,
    check=f"{_WORK}:check_faithfulness",
    place="faithfulness",
)
RECOMMEND = Stage(
    "recommend",
    f"{_WORK}:recommend",
    inputs=("dataset", "index", "model", "users"),
    sections=("recommend", "inference"),
    keeps=True,
    check=f"{_WORK}:check_recommend",
    probe=f"{_WORK}:probe_evaluate",
)
SWEEP = Stage(
    "sweep",
    f"{_WORK}:sweep",
    inputs=("dataset", "reasoning", "references"),
    sections=("sweep", "train", "model", "prompt", "inference", *_EXAMPLES, "evaluate.gate"),
    further=f"{_WORK}:sweep_score_settings",
    check=f"{_WORK}:check_sweep",
    probe=f"{_WORK}:probe_train",
)
STAGES: Sequence[Stage] = (
    *(PREPARE, INDEX, SYNTHESIZE, TRAIN, EVALUATE, EVALUATE_BASELINE),
    *(SCORE, FAITHFULNESS, RECOMMEND, SWEEP),
)
"""All stages, in the order in which they are run."""
