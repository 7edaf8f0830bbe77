"""Stages one after the other into one folder, each run as by its own command."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from msrrec import storage
from msrrec.config import RunConfig, changed_settings, load_config
from msrrec.inference.recommender import Mode
from msrrec.stage import (
    EVALUATE,
    EVALUATE_BASELINE,
    PREPARE,
    SCORE,
    SYNTHESIZE,
    TRAIN,
    Call,
    Stage,
    Summary,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageRunner:
    """Runs stages into one folder, each as its own command would, and says which command that is.

    Attributes:
        out: Output folder of all stages.
        config: Settings of all stages.
        preset: Value of ``--config`` that these settings started from; None for the defaults.
        keys: API keys by the names of their environment variables.
    """

    out: str
    config: RunConfig
    preset: str | None
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    def run(self, row: Stage, call: Call, command: Sequence[str]) -> Summary:
        """Run a stage, and log the command that does the same."""
        changed = changed_settings(call.config, load_config(self.preset), row.config_sections)
        preset = ["--config", self.preset] if self.preset else []
        announce([*command, *preset, *changed])
        return row.run(replace(call, keys=self.keys))

    def place(self, *parts: str) -> str:
        """A folder inside the output folder."""
        return storage.join(self.out, *parts)

    @property
    def dataset(self) -> str:
        """Folder of the dataset."""
        return self.place("dataset")

    def prepare(self, source: str, files: Mapping[str, str | None]) -> Summary:
        """Prepare the dataset."""
        inputs = {name: path for name, path in files.items() if path is not None}
        call = Call(self.dataset, self.config, inputs, {"source": source})
        named = [word for name, path in inputs.items() for word in (f"--{name}", path)]
        return self.run(PREPARE, call, ["prepare", "--source", source, *named, "--out", call.out])

    def synthesize(self, out: str, config: RunConfig) -> Summary:
        """Synthesize reasoning paths."""
        call = Call(out, config, {"dataset": self.dataset})
        command = ["synthesize", "--dataset", self.dataset, "--out", out]
        return self.run(SYNTHESIZE, call, command)

    def train(self, out: str, reasoning: str | None, config: RunConfig) -> Summary:
        """Train a model."""
        inputs = {"dataset": self.dataset} | ({"reasoning": reasoning} if reasoning else {})
        named = ["--reasoning", reasoning] if reasoning else []
        command = ["train", "--dataset", self.dataset, *named, "--out", out]
        return self.run(TRAIN, Call(out, config, inputs), command)

    def evaluate_baseline(self, out: str, name: str) -> Summary:
        """Evaluate a baseline."""
        call = Call(out, self.config, {"dataset": self.dataset}, {"system": name})
        command = ["evaluate", "--dataset", self.dataset, "--model", name, "--out", out]
        return self.run(EVALUATE_BASELINE, call, command)

    def evaluate(
        self, out: str, model: str, variants: Sequence[Mode], name: str | None = None
    ) -> Summary:
        """Evaluate a model; ``name`` is its name in tables."""
        inputs = {"dataset": self.dataset, "model": model}
        call = Call(out, self.config, inputs, {"variants": list(variants), "name": name})
        command = ["evaluate", "--dataset", self.dataset, "--model", model, "--out", out]
        named = ["--name", name] if name else []
        chosen = [word for variant in variants for word in ("--variant", variant)]
        return self.run(EVALUATE, call, [*command, *named, *chosen])

    def score(self, evaluation: str, references: str) -> Summary:
        """Score the reasoning of an evaluation against the references."""
        inputs = {"dataset": self.dataset, "evaluation": evaluation, "references": references}
        command = ["score", evaluation, "--dataset", self.dataset, "--references", references]
        return self.run(SCORE, Call(evaluation, self.config, inputs), command)


def announce(command: Sequence[str]) -> None:
    """Log a command as a person would type it."""
    logger.info("$ msrrec %s", shlex.join(command))
