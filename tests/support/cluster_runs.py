"""A cluster of nodes that share no files with a bucket and a teacher, and what runs on it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.nodes import Job, Nodes
from tests.support.object_store import ObjectStore
from tests.support.pages import runbook_commands
from tests.support.slow_teacher import SlowTeacher

CONCURRENCY, NUM_ACTORS = 4, 3
CONFIG = """\
data: {{num_users: 60, k_core: 1}}
teacher: {{base_url: "{url}", model: stand-in, concurrency: {concurrency}}}
synthesis: {{num_actors: {num_actors}}}
model: {{name_or_path: embedded}}
prompt: {{order: candidates_first, answer_format: number_title}}
train: {{num_epochs: 2, micro_batch_size: 8, sides: [full, user, item], checkpoint_every_steps: 2}}
inference: {{max_new_tokens: 96, max_model_len: 768, batch_size: 8, num_engines: 1}}
evaluate: {{num_users: 48}}
ray: {{wait_s: 120}}
"""


@dataclass(frozen=True)
class Site:
    """Where stages run, and what they read and write.

    Attributes:
        nodes: The cluster, with a head and two workers between two tests.
        store: The server of the bucket.
        bucket: Its name; it holds raw reviews.
        teacher: The teacher of every run.
        project: A copy of what jobs need, with a configuration for a small run.
    """

    nodes: Nodes
    store: ObjectStore
    bucket: str
    teacher: SlowTeacher
    project: Path

    def path(self, name: str) -> str:
        """The URI of a name in the bucket, as jobs have it."""
        return f"s3://{self.bucket}/{name}"

    def names(self, prefix: str) -> list[str]:
        """The objects whose names begin in a way."""
        return [name for name in self.store.names(self.bucket) if name.startswith(prefix)]

    def has_checkpoint(self, model: str) -> bool:
        """Whether training can be resumed; metrics are the last that a checkpoint gets."""
        found = self.names(f"{model}/checkpoints/")
        return any("/step-" in name and name.endswith("metrics.jsonl") for name in found)

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        return self.store.read(self.bucket, name)

    def submit(self, module: str, *arguments: str) -> Job:
        """A job that runs a module with the configuration."""
        command = ["python", "-m", module, *arguments, "--config", "small.yaml"]
        return self.nodes.submit(command, self.project)

    def run_block(self, heading: str, run: str) -> str:
        """Run a block of the runbook with names of our own, from the project's folder."""
        runs = f"RAW={self.path('raw')} RUN={self.path(run)}"
        script = f"set -e\nexport {runs} CONFIG=small.yaml WORKERS=1\n{runbook_commands()[heading]}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.project,
            env=self.nodes.env | {"RAY_API_SERVER_ADDRESS": self.nodes.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def num_calls(self, run: str) -> int:
        """Calls that the teacher was asked in a run."""
        return int(json.loads(self.read(f"{run}/reasoning/summary.json"))["calls"])

    def figures(self, evaluation: str) -> object:
        """HitRatio@1, ValidRatio and the hash of outputs of each variant."""
        found = json.loads(self.read(f"{evaluation}/report/metrics.json"))
        return {
            name: {key: row[key] for key in ("hit_ratio", "valid_ratio", "outputs_hash")}
            for name, row in found["variants"].items()
        }
