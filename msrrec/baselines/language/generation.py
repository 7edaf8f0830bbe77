"""Generation with a tuned model in Ray actors: greedy texts, or next-token probabilities.

It uses transformers and not vLLM, as prompts may contain item vectors besides tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import RayError
from ray.util import ActorPool

from msrrec import log
from msrrec.config import InferenceConfig
from msrrec.engines.placement import engine_resources
from msrrec.errors import EngineError, last_line
from msrrec.training.loop import raise_for_user
from msrrec.training.worker import TrainingJob, cores_per_worker

_BATCH_TOKENS, _BATCH_TOKENS_ON_GPU = 8192, 65536
"""Maximum number of prompt tokens processed at once, padding included."""


@dataclass(frozen=True)
class OutputSpec:
    """What to generate after each prompt.

    Attributes:
        max_new_tokens: Maximum number of tokens to generate, greedily.
        max_length: Maximum number of tokens of prompt and output together; None for no limit.
        choices: Token ids whose next-token probabilities are returned instead; empty to generate
            text.
        num_scored: Number of tokens at a prompt's end whose log-probabilities are returned instead;
            fewer of a shorter prompt, whose first token has none. 0 to generate text.
    """

    max_new_tokens: int = 0
    max_length: int | None = None
    choices: tuple[int, ...] = ()
    num_scored: int = 0


class TunedGenerator:
    """Generates with a tuned model in this process."""

    def __init__(self, model: Any, eos_id: int, device: torch.device | str = "cpu") -> None:
        self.model, self.eos_id, self.device = model.to(device).eval(), eos_id, device

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], spec: OutputSpec) -> list[list[float]]:
        """The generated token ids without the end token; or what else the spec asks for.

        Prompts are padded on the left and masked, with positions that start at each prompt's own
        beginning, so the output does not depend on the batch.
        """
        ids, mask = pad_left(prompts, self.eos_id, self.device)
        if spec.choices:
            last_BE = self._read(ids, mask)[:, -1]
            found: list[list[float]] = self._choose(last_BE, spec.choices).tolist()
            return found
        if spec.num_scored:
            hidden_BTE = self._read(ids, mask)
            counts = [min(spec.num_scored, len(prompt) - 1) for prompt in prompts]
            rows = zip(hidden_BTE, ids, counts, strict=True)
            return [self._score(hidden_TE, row, count) for hidden_TE, row, count in rows]
        room = spec.max_new_tokens
        if spec.max_length is not None:
            room = min(room, max(1, spec.max_length - ids.shape[1]))
        written = self._write(ids, mask, room)[:, ids.shape[1] :].tolist()
        ends = [row.index(self.eos_id) if self.eos_id in row else len(row) for row in written]
        return [row[:end] for row, end in zip(written, ends, strict=True)]

    def _read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last layer's states, (B, T, E)."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        read = self.model.get_decoder()(input_ids=ids, attention_mask=mask, position_ids=positions)
        states: torch.Tensor = read.last_hidden_state
        return states

    def _score(self, hidden_TE: torch.Tensor, ids_T: torch.Tensor, count: int) -> list[float]:
        """Natural log-probabilities of a row's last tokens, in float32."""
        if not count:
            return []
        head = self.model.get_output_embeddings()
        logits = head(hidden_TE[-count - 1 : -1]).float()
        own = logits.gather(1, ids_T[-count:, None])[:, 0]
        found: list[float] = (own - logits.logsumexp(1)).tolist()
        return found

    def _choose(self, hidden_BE: torch.Tensor, choices: Sequence[int]) -> torch.Tensor:
        """Probabilities of the choices, (B, C), in float32, as bfloat16 causes ties."""
        head = self.model.get_output_embeddings()
        logits_BC = hidden_BE.float() @ head.weight[list(choices)].float().T
        if getattr(head, "bias", None) is not None:
            logits_BC = logits_BC + head.bias[list(choices)].float()
        found: torch.Tensor = logits_BC.double().softmax(-1)
        return found

    def _write(self, ids: torch.Tensor, mask: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
        from transformers import GenerationConfig

        greedy = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.eos_id,
            pad_token_id=self.eos_id,
            use_cache=True,
        )
        written: torch.Tensor = self.model.generate(
            ids, attention_mask=mask, generation_config=greedy
        )
        return written


def pad_left(
    prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as rows of equal length, (B, T), and a mask with 1 for tokens and 0 for padding."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for n, prompt in enumerate(prompts):
        ids[n, longest - len(prompt) :] = torch.tensor(prompt)
        mask[n, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


class GeneratorActor:
    """A Ray actor with a generator."""

    def __init__(
        self,
        job: TrainingJob,
        checkpoint: str | None,
        eos_id: int,
        num_actors: int,
        shown: Sequence[int],
    ) -> None:
        log.setup()
        torch.set_num_threads(cores_per_worker(num_actors))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._generator = TunedGenerator(load_tuned(job, checkpoint, device, shown), eos_id, device)

    def generate(self, prompts: Sequence[Sequence[int]], spec: OutputSpec) -> list[list[float]]:
        """The output after each prompt; see ``TunedGenerator.generate``."""
        return self._generator.generate(prompts, spec)


def load_tuned(job: TrainingJob, checkpoint: str | None, device: str, shown: Sequence[int]) -> Any:
    """The backbone with what a checkpoint of its training holds.

    Args:
        job: Says how the backbone is loaded.
        checkpoint: Folder of the matrices; None for the backbone itself.
        device: Where it is to run, which decides the type of its weights.
        shown: A prompt on which the merged model is compared with the two.

    Raises:
        ModelError: If the two merged compute something else than before.
    """
    from msrrec.training.merging import merge_adapter

    base = job.load_base(on_gpu=device != "cpu")
    if checkpoint is None:
        return base
    return merge_adapter(base, checkpoint, list(shown))[0]


def generate_all(
    job: TrainingJob,
    checkpoint: str | None,
    prompts: Sequence[Sequence[int]],
    spec: OutputSpec,
    config: InferenceConfig,
) -> list[list[float]]:
    """The output after each prompt; it does not depend on batches and actors.

    Args:
        job: Defines how the backbone is loaded.
        checkpoint: A checkpoint of its training; None for the untrained backbone.
        prompts: Token ids.
        spec: What to generate after each prompt.
        config: Settings of the run; they say how many actors share the prompts.

    Raises:
        ConfigError: If the cluster can't hold the actors.
        EngineError: If an actor fails.
    """
    from msrrec.training.model import load_tokenizer

    at_most_one = None if config.gpus_per_engine is None else min(config.gpus_per_engine, 1)
    resources = engine_resources(
        config.model_copy(update={"vllm_kwargs": {}, "gpus_per_engine": at_most_one}),
        config.num_engines,
        "inference.num_engines",
        job.source,
    )
    batches = deal(prompts, _BATCH_TOKENS_ON_GPU if "num_gpus" in resources else _BATCH_TOKENS)
    make: Any = ray.remote(**resources)(GeneratorActor)
    eos_id = load_tokenizer(job.source).eos_token_id
    shown = min(prompts, key=len, default=[eos_id])
    arguments = (ray.put(job), checkpoint, eos_id, config.num_engines, shown)
    actors = [make.remote(*arguments) for _ in range(config.num_engines)]
    send: Callable[[Any, Any], Any] = lambda actor, batch: actor.generate.remote(  # noqa: E731
        [prompts[n] for n in batch], spec
    )
    found: dict[int, list[float]] = {}
    try:
        with log.Progress("ask", len(prompts), "prompts") as progress:
            for batch, outputs in zip(batches, ActorPool(actors).map(send, batches), strict=True):
                found |= dict(zip(batch, outputs, strict=True))
                progress.advance(len(batch))
    except RayError as error:
        raise_for_user([error])
        cause = getattr(error, "cause", None) or error
        raise EngineError(f"{job.source.name}: generation failed ({last_line(cause)})") from error
    finally:
        for actor in actors:
            ray.kill(actor)
    return [found[n] for n in range(len(prompts))]


def deal(prompts: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Indices of the prompts in batches, the longest first, to need little padding."""
    order = np.argsort([-len(prompt) for prompt in prompts], kind="stable").tolist()
    batches: list[list[int]] = []
    for place in order:
        if not batches or len(prompts[batches[-1][0]]) * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(place)
    return batches
