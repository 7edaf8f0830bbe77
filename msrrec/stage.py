"""Stages: what each command does, from which inputs, under which settings, and what it left behind.

A stage is one row of ``STAGES``. Whatever runs it (command line, demo, sweep, comparison) runs that
row, so all agree on what "the same run" means. Its identity is content: fingerprints of the inputs
and the settings that decide the result, never paths. The record ``run.json`` is written last.
"""

import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msrrec import storage
from msrrec.cluster import ray_session
from msrrec.config import RunConfig, changed_settings
from msrrec.errors import DataError
from msrrec.fingerprint import FINGERPRINTS, fingerprint_setting
from msrrec.lock import locked
from msrrec.storage import RECORD
from msrrec.versions import versions

logger = logging.getLogger(__name__)

Summary = dict[str, Any]
"""The figures that a command prints as its last line; JSON values only."""


@dataclass(frozen=True)
class Call:
    """One run of a stage.

    Attributes:
        out: The folder to write.
        config: The settings of the run, of which the stage's sections decide the result.
        inputs: Folders and files by the names that the stage gives its inputs.
        options: What else was asked for, such as the variants; JSON values only.
        keys: API keys by the names of their environment variables.
    """

    out: str
    config: RunConfig
    inputs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """What a result follows from: equal identities give equal results.

    Attributes:
        stage: The stage's name, or what else made the folder.
        revision: Raised when the code changes what comes out of the same inputs and settings.
        inputs: Fingerprints of the inputs' contents by name.
        settings: What decides the result beside them; JSON values only.
    """

    stage: str
    inputs: Mapping[str, str | None]
    settings: Mapping[str, Any]
    revision: int = 1


@dataclass(frozen=True)
class Stage:
    """One row of the table.

    Attributes:
        name: The command.
        work: ``module:function``, imported when it runs; takes a ``Call``, returns the summary.
        inputs: The names of its inputs; see ``msrrec.fingerprint`` for what of each one counts.
        sections: Sections of the settings, or ``section.key``, that decide the result.
        needs_ray: Whether the work runs on Ray.
        check: ``module:function`` that refuses in a second what the work would refuse late.
        probe: The same for what takes seconds to see, such as a model's tensors; it runs before Ray
            starts, and not where the result is finished.
        place: Folder inside ``out`` that holds the record, where ``out`` is another stage's.
        revision: See ``Identity``.
    """

    name: str
    work: str
    inputs: tuple[str, ...]
    sections: tuple[str, ...]
    needs_ray: bool = True
    check: str | None = None
    probe: str | None = None
    place: str = ""
    revision: int = 1

    def identity(self, call: Call) -> Identity:
        """What the result of a call follows from.

        Raises:
            MsrRecError: If an input is missing or can't be read.
        """
        inputs = {
            name: FINGERPRINTS[name](call.inputs[name], call.config)
            for name in self.inputs
            if name in call.inputs
        }
        settings = {name: decisive_settings(call.config, name) for name in self.sections}
        return Identity(self.name, inputs, {**settings, **call.options}, self.revision)

    def run(self, call: Call, *, overwrite: bool = False) -> Summary:
        """The summary of a call, from its record where it is finished, else from doing the work.

        A finished result whose inputs have other contents now is made anew.

        Raises:
            DataError: If the folder holds another stage's result, or this one's with other
                settings, or another process is at work there.
        """
        check_out(call.out)
        if self.check:
            resolve_function(self.check)(call)
        out = storage.join(call.out, self.place) if self.place else call.out

        def work() -> Summary:
            if self.probe:
                resolve_function(self.probe)(call)
            function: Callable[[Call], Summary] = resolve_function(self.work)
            if not self.needs_ray:
                return function(call)
            with ray_session(call.config.ray.address, call.config.ray.num_cpus):
                return function(call)

        with locked(call.out):
            return run_once(
                out, self.identity(call), work, overwrite=overwrite, facts=self._describe(call)
            )

    def _describe(self, call: Call) -> dict[str, Any]:
        """How a call was made: its paths, and its settings as the command line takes them."""
        sections = list(dict.fromkeys(name.partition(".")[0] for name in self.sections))
        changed = changed_settings(call.config, RunConfig(), sections)
        return {"arguments": {"out": call.out, **call.inputs}, "changed": changed}


def run_once(
    out: str,
    identity: Identity,
    work: Callable[[], Summary],
    *,
    overwrite: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Summary:
    """The summary in a folder's record where it is of this identity, else from doing the work.

    Args:
        out: The result's folder.
        identity: What the result follows from.
        work: Makes the result and returns its summary.
        overwrite: Do it again although it is finished.
        facts: What else the record says; it identifies nothing.

    Raises:
        DataError: If the folder holds another stage's result, or one with other settings.
    """
    if not overwrite and (found := _finished(out, identity)) is not None:
        logger.info("%s: %s is finished; skipped (--overwrite runs it again)", identity.stage, out)
        return found
    record = storage.join(out, RECORD)
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
            "versions": versions(),
        },
    )
    return summary


def is_finished(out: str) -> bool:
    """Whether a folder holds a finished result, of whatever identity."""
    return storage.exists(storage.join(out, RECORD))


def _finished(out: str, identity: Identity) -> Summary | None:
    """The summary of the result in a folder; None where there is none or its inputs changed."""
    if not is_finished(out):
        return None
    found = storage.read_json(storage.join(out, RECORD))
    if found.get("command") != identity.stage:
        raise DataError(
            f"{out}: holds the result of `msrrec {found.get('command')}`; choose another --out"
        )
    there, here = found.get("inputs"), dict(identity.inputs)
    if there is None or found.get("revision") != identity.revision:
        logger.info("%s: %s is of another version; running again", identity.stage, out)
        return None
    changed = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if changed:
        what = " and ".join(changed)
        logger.info("%s: %s: other %s than then; running again", identity.stage, out, what)
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
    """Nested settings under dotted names, tuples as lists."""
    if not isinstance(settings, Mapping):
        return {prefix: list(settings) if isinstance(settings, tuple) else settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def decisive_settings(config: RunConfig, name: str) -> Any:
    """The settings of a section, or one ``section.key``, that decide a result; JSON values only.

    Settings of speed and place are left out, and a setting that names a folder counts by what the
    folder holds.
    """
    section, _, key = name.partition(".")
    found = getattr(config, section).decisive(fingerprint_setting)
    return found[key] if key else found


def check_out(out: str) -> None:
    """Refuse an output folder that can't be written, before any work.

    Raises:
        DataError: If it is a file, or lies where nothing can be written.
    """
    storage.check_writable(out)


def resolve_function(place: str) -> Callable[[Call], Any]:
    """The function that ``module:function`` names."""
    module, name = place.split(":")
    found: Callable[[Call], Any] = getattr(importlib.import_module(module), name)
    return found


_EXAMPLES = tuple(
    f"evaluate.{key}" for key in ("split", "num_users", "permutation", "negatives", "num_negatives")
)
_TUNED = ("train", "tallrec", "llara", "baselines")
_WORK = "msrrec.pipeline.work"

PREPARE = Stage(
    "prepare",
    f"{_WORK}:prepare",
    inputs=("interactions", "items"),
    sections=("data",),
    needs_ray=False,  # it starts Ray itself where there is much to read
    check=f"{_WORK}:check_prepare",
)
SYNTHESIZE = Stage(
    "synthesize",
    f"{_WORK}:synthesize",
    inputs=("dataset",),
    sections=("teacher", "synthesis", "model.answer_format"),
    check=f"{_WORK}:check_synthesize",
)
TRAIN = Stage(
    "train",
    f"{_WORK}:train",
    inputs=("dataset", "reasoning"),
    sections=("model", "train"),
    check=f"{_WORK}:check_train",
    probe=f"{_WORK}:probe_train",
)
EVALUATE = Stage(
    "evaluate",
    f"{_WORK}:evaluate",
    inputs=("dataset", "model"),
    sections=("inference", *_EXAMPLES, "evaluate.gate"),
    check=f"{_WORK}:check_evaluate",
    probe=f"{_WORK}:probe_evaluate",
)
EVALUATE_BASELINE = Stage(
    "evaluate",
    f"{_WORK}:evaluate_baseline",
    inputs=("dataset",),
    sections=("inference", *_EXAMPLES, "model", *_TUNED),
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
    place="score",
)
SWEEP = Stage(
    "sweep",
    f"{_WORK}:sweep",
    inputs=("dataset", "reasoning"),
    sections=("sweep", "train", "model", "inference", *_EXAMPLES),
    check=f"{_WORK}:check_train",
    probe=f"{_WORK}:probe_train",
)
STAGES: Sequence[Stage] = (PREPARE, SYNTHESIZE, TRAIN, EVALUATE, EVALUATE_BASELINE, SCORE, SWEEP)
"""Every stage, in the order of the road."""
