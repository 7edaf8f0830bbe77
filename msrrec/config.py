"""Every setting and its default; nothing else in the project repeats one.

Order of precedence: these defaults, then the YAML file, then ``section.key=value`` overrides.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from msrrec.errors import ConfigError

EMBEDDED = "embedded"
"""The name of the backbone that ships with the package."""


class Config(BaseModel):
    """Base of every config: immutable, no unknown keys, field docs under the field."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(Config):
    """How raw purchases become a dataset."""

    k_core: int = Field(default=5, ge=1)
    """Least events of every user and item, to the fixed point, on the whole category; 1 keeps
    all."""
    num_users: int = Field(default=1500, ge=0)
    """Users sampled after the k-core; 0 keeps all."""
    min_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with fewer events before sampling; unset, a user with fewer than 3 is an
    error."""
    max_user_events: int | None = Field(default=None, ge=3)
    """Leave out users with more events before sampling."""
    history_length: int = Field(default=10, ge=1)
    """Latest events that a prompt shows."""
    train_examples_per_user: int = Field(default=1, ge=0)
    """Latest training events of a user that become examples; 0 takes all with a history."""
    num_negatives: int = Field(default=5, ge=1)
    """Items beside the target in each candidate set, never touched by the user in any split."""
    missing_items: Literal["error", "drop"] | None = None
    """What happens to events whose item has no title; unset: dropped and counted for amazon, an
    error for the other sources."""
    domain: str | None = None
    """What prompts call the shop, such as Electronics; unset: the name of the interactions file."""
    seed: int = Field(default=0, ge=0)
    """Decides users and candidates, whatever the number of workers."""
    demo_users: int = Field(default=1500, ge=20)
    """Users of the embedded world (``--source demo``)."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        low, high = self.min_user_events, self.max_user_events
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_user_events ({low}) must not exceed max_user_events ({high})")
        return self


class EndpointConfig(Config):
    """One large model that writes reasoning paths: where it is, how it samples, what it costs."""

    engine: Literal["api", "vllm"] = "api"
    """api: an OpenAI-compatible API; vllm: the weights ``model`` names, loaded by every actor."""
    base_url: str | None = None
    """Such as https://api.deepseek.com/v1; unset: the offline teacher, started on loopback."""
    model: str = "deepseek-reasoner"
    """The model's name at that API; for vllm a folder, a hub name or ``embedded``."""
    api_key_env: str = "TEACHER_API_KEY"
    """The environment variable that holds the key."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the calls, beside the other teachers' weights, while all of them have room."""
    temperature: float = Field(default=0.6, ge=0, le=2)
    """Sampling temperature."""
    max_tokens: int = Field(default=4096, ge=16)
    """Most tokens of one answer, reasoning of the model's own included."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Calls begun per minute by all actors together."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Tokens per minute of all actors together, prompts and answers."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Of a million prompt tokens, in any currency."""
    completion_price: float | None = Field(default=None, ge=0)
    """Of a million answered tokens, in the same currency."""

    @model_validator(mode="after")
    def _check_prices(self) -> "EndpointConfig":
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("prompt_price and completion_price go together; found only one")
        return self


class TeacherConfig(EndpointConfig):
    """The teacher, or several, and how calls to them are made."""

    others: tuple[EndpointConfig, ...] = ()
    """More teachers, each with the settings above: they share the calls by weight, and where one
    fails the next is asked."""
    concurrency: int = Field(default=64, ge=1)
    """Most calls in flight per actor and teacher; fewer while the teacher throttles."""
    timeout_s: float = Field(default=300.0, gt=0)
    """One try of one call."""
    max_retries: int = Field(default=5, ge=0)
    """Tries after the first, with exponential backoff, on transport errors and 5xx; a teacher that
    throttles (429) is waited for."""

    @property
    def endpoints(self) -> tuple[EndpointConfig, ...]:
        """All teachers, this one first."""
        own = {name: getattr(self, name) for name in EndpointConfig.model_fields}
        return (EndpointConfig(**own), *self.others)

    @model_validator(mode="after")
    def _check_others(self) -> "TeacherConfig":
        for n, other in enumerate(self.others):
            if other.engine == "api" and other.base_url is None:
                raise ValueError(f"others[{n}] lacks a base_url; only the first teacher may")
        return self


class SynthesisConfig(Config):
    """How many paths to make, and for how much."""

    tau: int | None = Field(default=None, ge=1)
    """Stop when so many valid paths exist (the paper's threshold); unset: one pass over all."""
    tau_per_user: int | None = Field(default=None, ge=1)
    """Most valid paths of one user."""
    tau_per_category: int | None = Field(default=None, ge=1)
    """Most valid paths whose bought item is of one category, the narrowest that it has."""
    attempts: int = Field(default=1, ge=1)
    """Answers asked for per example while none can be read; one that names another candidate is
    not asked again, so what the user bought decides no retry."""
    max_calls: int | None = Field(default=None, ge=1)
    """Most answers paid for in this output folder, by all runs together."""
    max_total_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in this output folder, prompts and answers."""
    max_cost: float | None = Field(default=None, gt=0)
    """Most money spent in this output folder, in the currency of the prices."""
    num_actors: int = Field(default=1, ge=1)
    """Ray actors that call the teacher."""
    num_examples: int = Field(default=0, ge=0)
    """Examples to ask about, in order; 0 takes all."""
    split: Literal["train", "validation", "test"] = "train"
    """train to teach from; test for the references that reasonings are scored against."""
    prompt: Literal["chain", "plain"] = "chain"
    """chain: the five steps; plain: reasoning without named steps, from which no path is kept."""


class ModelConfig(Config):
    """The student."""

    name_or_path: str = EMBEDDED
    """``embedded``, a folder, or a hub name such as meta-llama/Meta-Llama-3-8B-Instruct."""
    revision: str | None = None
    """The hub's commit."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of the frozen weights; auto: bfloat16 on GPUs, else float32 that is multiplied in bfloat16
    where the processor can."""
    answer_format: Literal["title", "number_title"] = "number_title"
    """How an answer names its item: the paper's title alone, or number and title, which helps small
    models."""


class TrainConfig(Config):
    """Reasoning-enhanced fine-tuning (paper, Eq. 1-2 and implementation details)."""

    alpha: float = Field(default=0.7, ge=0)
    """Weight of the reasoning loss."""
    beta: float = Field(default=0.3, ge=0)
    """Weight of the recommendation loss."""
    reasoning: bool = True
    """False trains MSR-Rec w/o reason: every example is behaviour-only."""
    sides: tuple[Literal["full", "user", "item"], ...] = ("full",)
    """Chains that each kept path teaches: the paper's full one; user and item are cut from its
    steps, for backbones too small to follow an unseen instruction."""
    behaviour: Literal["pruned", "all"] = "pruned"
    """Which users also train on their purchase alone: those without a kept path, or all."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step, over all workers and accumulation steps."""
    micro_batch_size: int = Field(default=4, ge=1)
    """Examples per forward pass of one worker."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with a rising learning rate; it then falls to 0 on a cosine."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the LoRA weights."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm."""
    lora_rank: int = Field(default=8, ge=1)
    """Rank of the LoRA matrices."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale of the LoRA update, divided by the rank."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the LoRA matrices."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers with LoRA matrices by the last part of their names; all of them trains fastest
    on processors."""
    gradient_checkpointing: bool = False
    """Compute each layer again in the backward pass: much less memory, a third more work."""
    compile: bool = False
    """Compile the layers with torch.compile, which takes minutes at the start."""
    attention: Literal["auto", "blocked", "sdpa", "varlen"] = "auto"
    """What computes attention: auto takes the fastest; blocked is made for processors, varlen is
    torch's flash attention over packed rows on GPUs, sdpa works everywhere."""
    max_seq_len: int = Field(default=2048, ge=64)
    """Longest example in tokens; the oldest history goes first, the output is never cut."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers, among which every global batch is dealt."""
    min_workers: int | None = Field(default=None, ge=1)
    """Go on with as few workers where nodes are lost, and with more when they come back; unset:
    wait for all num_workers."""
    use_gpu: bool | None = None
    """Unset: where the cluster has one."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How workers share the model: with ddp each holds all of it; with fsdp its layers' frozen
    weights are spread over their devices, though each reads all of them into its node's memory
    first."""
    load_in_4bit: bool = False
    """Keep the frozen weights in 4 bits while training (QLoRA), where bitsandbytes is installed;
    the merged model has them whole."""
    checkpoint_every_steps: int = Field(default=200, ge=1)
    """Optimizer steps between checkpoints."""
    validate_every_steps: int = Field(default=0, ge=0)
    """Optimizer steps between losses on validation examples; 0: never, as the paper trains all
    epochs and keeps the last."""
    validation_examples: int = Field(default=256, ge=0)
    """Validation examples whose purchase alone is asked for, the first of the split; 0 takes
    all."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint becomes the model: the last, or the one with the least validation loss."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many validations in a row without a lower loss; 0: never."""
    log_every_steps: int = Field(default=10, ge=1)
    """Optimizer steps between lines of metrics.jsonl."""
    tensorboard: bool = False
    """Also write the metrics as event files that TensorBoard shows, into tensorboard/."""
    max_failures: int = Field(default=2, ge=0)
    """Times that lost workers are replaced before the run fails."""
    export_merged: bool = True
    """Also write base and adapter as one model."""
    seed: int = Field(default=0, ge=0)
    """Order of examples, LoRA weights and dropout."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.global_batch_size % self.num_workers:
            raise ValueError(
                f"global_batch_size ({self.global_batch_size}) must be a multiple of "
                f"num_workers ({self.num_workers})"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers ({self.min_workers}) must not exceed num_workers ({self.num_workers})"
            )
        if self.validate_every_steps == 0 and (self.keep == "best" or self.patience):
            raise ValueError(
                f"keep={self.keep} and patience={self.patience} need validate_every_steps, which "
                "is 0"
            )
        if self.load_in_4bit and self.strategy == "fsdp":
            raise ValueError("load_in_4bit=true needs strategy=ddp, as 4-bit weights can't be cut")
        if self.alpha == 0 and self.beta == 0:
            raise ValueError("alpha and beta are both 0, so there is no loss")
        return self


class SweepConfig(Config):
    """The paper's Figure 6: what the weights of the two losses do."""

    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        default=(0.1, 0.3, 0.5, 0.7, 0.9), min_length=1
    )
    """Values of train.alpha; train.beta is the rest to 1, as only their ratio matters to AdamW."""
    split: Literal["validation", "test"] = "validation"
    """Where they are compared: what is chosen on test can't be reported on it."""
    concurrency: int = Field(default=1, ge=1)
    """Runs at a time; each needs train.num_workers and inference.num_engines."""

    @field_validator("alphas")
    @classmethod
    def _check_different(cls, alphas: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(alphas)) < len(alphas):
            raise ValueError("alphas must differ from one another")
        return alphas


class InferenceConfig(Config):
    """How recommendations are generated."""

    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature; perplexity is always taken at 1."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest output in tokens."""
    constrained: bool = False
    """Whether the title after the reasoning can only be one of the candidates; false decodes freely
    as the paper does, and titles that are no candidate count as misses."""
    num_samples: int = Field(default=1, ge=1)
    """Samples of each side in batch inference; the first is the recommendation, all of them vote in
    the study of fusion rules."""
    candidate_logprobs: bool = False
    """Also the log-likelihood of every candidate after the reasoning, which ranks them all; costs
    as many more tokens as all titles have. Not in the service."""
    unconditional_perplexity: bool = False
    """Also the perplexity of the reasoning without its prompt; costs as many tokens as the
    reasoning has. Not in the service."""
    max_model_len: int | None = Field(default=None, ge=64)
    """Prompt and output together; unset: what the model allows, at most 4,096."""
    seed: int = Field(default=0, ge=0)
    """Each request's own seed follows from this one and its example."""
    batch_size: int = Field(default=256, ge=1)
    """Examples handed to an engine at once in batch inference."""
    num_engines: int = Field(default=1, ge=1)
    """vLLM replicas in batch inference."""
    vllm_kwargs: dict[str, Any] = {}
    """Passed to vLLM under its own names."""

    @property
    def binds_outputs(self) -> bool:
        """Whether any output is kept to given answers."""
        return self.constrained or self.candidate_logprobs or self.unconditional_perplexity


class EvaluateConfig(Config):
    """What is measured."""

    split: Literal["validation", "test"] = "test"
    """Choose settings on validation; report test."""
    num_users: int = Field(default=0, ge=0)
    """Users evaluated, the first of the split; 0 takes all."""
    permutation: int = Field(default=0, ge=0)
    """Another number than 0 shuffles every candidate list by it: how often the choices then change
    shows what they owe to positions."""
    negatives: Literal["frozen", "uniform", "popular", "category"] = "frozen"
    """Candidates beside the target: those of the dataset; or drawn anew, always the same ones:
    uniformly, by training purchases, or from the target's narrowest category with enough items."""
    num_negatives: int | None = Field(default=None, ge=1)
    """Of sets that are drawn anew; unset: as many as the dataset's have."""
    gate: str | None = None
    """Folder of the same model's evaluation on validation: the study of fusion rules then has a
    gate fitted there."""
    recsaver_samples: int = Field(default=3, ge=2)
    """Rationales that recsaver-verified takes of each user, each of them verified."""
    bertscore_model: str | None = None
    """A name that bert-score knows, such as microsoft/deberta-xlarge-mnli, or a folder; unset: no
    BERTScore."""
    bertscore_layers: int | None = Field(default=None, ge=1)
    """Layer whose output BERTScore compares; a folder needs it."""
    gptscore_model: str | None = None
    """Causal language model of gptscore_logprob: a folder, a hub name or ``embedded``; unset: no
    such score."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        if self.num_negatives is not None and self.negatives == "frozen":
            raise ValueError(
                f"num_negatives ({self.num_negatives}) needs negatives=uniform, popular or category"
            )
        return self


class BaselinesConfig(Config):
    """The systems to compare with that learn or need a model."""

    trials: int = Field(default=4, ge=1)
    """Settings tried by each sequential system, its usual ones first; validation chooses."""
    max_epochs: int = Field(default=200, ge=1)
    """Passes over the training events, at most."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better validation figure after which a trial ends."""
    batch_size: int = Field(default=1024, ge=1)
    """Supervised events of one step, about."""
    history_length: int = Field(default=10, ge=1)
    """Latest events that a sequential system sees."""
    num_workers: int = Field(default=1, ge=1)
    """Ray Train workers; they share the trials among them."""
    embedding_model: str | None = None
    """Sentence-embedding model of the embedding systems: a folder or a hub name."""


class ListConfig(Config):
    """Of systems whose prompts list history and candidates; a prompt about one stays as it is."""

    candidates_first: bool = False
    """List the candidates before the history, unlike the authors.

    A model of few layers compares each purchase with candidates that it has read, and the answer
    sums up the purchases; the other way round it must compare, then choose, which takes more layers
    or far more training.
    """


class TallrecConfig(ListConfig):
    """TALLRec as a system to compare with; what is not here is as in ``train``.

    LoRA as in its authors' code; they tune on 16 to 256 examples, this on the training split.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Peak learning rate of AdamW."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of steps with a rising learning rate."""
    lora_rank: int = Field(default=8, ge=1)
    """Rank of the LoRA matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """Scale of the LoRA update, divided by the rank."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the LoRA matrices."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers with LoRA matrices."""
    train_on_inputs: bool = False
    """Learn to write the prompts as well, as the authors' code does."""


class LlaraConfig(ListConfig):
    """LLaRA as a system to compare with; what is not here is as in ``train``.

    Its SASRec has the settings of ``baselines``.
    """

    learning_rate: float = Field(default=8e-4, gt=0)
    """Peak learning rate of AdamW, for LoRA matrices and projector."""
    num_epochs: int = Field(default=5, ge=1)
    """Passes over the examples."""
    global_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step."""
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    """Share of steps with a rising learning rate."""
    lora_rank: int = Field(default=8, ge=1)
    """Rank of the LoRA matrices."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale of the LoRA update, divided by the rank."""
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the LoRA matrices."""
    lora_targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers with LoRA matrices."""
    projector_weight_decay: float = Field(default=1e-5, ge=0)
    """Weight decay of the projector."""


class JudgeConfig(Config):
    """The language model that marks reasonings, behind an OpenAI-compatible API.

    Not the teacher where it can be helped: models prefer their own words.
    """

    base_url: str | None = None
    """Such as https://api.openai.com/v1; unset: nothing is marked."""
    model: str = "gpt-4o-mini"
    """The model's name at that API."""
    api_key_env: str = "JUDGE_API_KEY"
    """The environment variable that holds the key."""
    votes: int = Field(default=3, ge=1)
    """Answers a reasoning, each with its own seed; their median is its mark."""
    response_format: Literal["json_schema", "json_object"] = "json_schema"
    """json_object where the API knows no schemas."""
    max_tokens: int = Field(default=1024, ge=16)
    """Most tokens of one answer, thinking of the model's own included."""
    concurrency: int = Field(default=32, ge=1)
    """Calls in flight."""
    timeout_s: float = Field(default=120.0, gt=0)
    """One try of one call."""
    max_retries: int = Field(default=5, ge=0)
    """Tries after the first, with exponential backoff."""
    prompt_price: float | None = Field(default=None, ge=0)
    """Of a million prompt tokens, in any currency; both prices give a cost."""
    completion_price: float | None = Field(default=None, ge=0)
    """Of a million answered tokens, in the same currency."""


class ServeConfig(Config):
    """The online service."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(default=8000, ge=0, le=65535)
    """HTTP port."""
    api_key_env: str = "MSRREC_API_KEY"
    """Where this environment variable is set, requests need it as bearer token."""
    min_replicas: int = Field(default=1, ge=0)
    """Engines per side when idle."""
    max_replicas: int = Field(default=1, ge=1)
    """Engines per side under load."""
    share_engine: bool = False
    """One engine deployment for both sides, for small machines."""
    max_ongoing_requests: int = Field(default=64, ge=1)
    """Requests in flight per fusion replica."""
    max_queued_requests: int = Field(default=256, ge=1)
    """Requests waiting before clients get 503 with Retry-After."""
    deadline_s: float = Field(default=60.0, gt=0)
    """Then the client gets 504."""
    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Larger requests get 413."""
    max_candidates: int = Field(default=100, ge=2)
    """More get 422."""

    @model_validator(mode="after")
    def _check(self) -> "ServeConfig":
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas ({low}) must not exceed max_replicas ({high})")
        return self


class RayConfig(Config):
    """The cluster."""

    address: str | None = None
    """Unset: the cluster of the job, or else a Ray of our own on this machine."""
    num_cpus: int | None = Field(default=None, ge=1)
    """Cores of our own Ray."""


class RunConfig(Config):
    """Everything that a command may be told."""

    data: DataConfig = DataConfig()
    teacher: TeacherConfig = TeacherConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    sweep: SweepConfig = SweepConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    tallrec: TallrecConfig = TallrecConfig()
    llara: LlaraConfig = LlaraConfig()
    judge: JudgeConfig = JudgeConfig()
    serve: ServeConfig = ServeConfig()
    ray: RayConfig = RayConfig()


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """The defaults, changed by a YAML file and then by ``section.key=value`` overrides.

    Raises:
        ConfigError: If the file is no YAML mapping, or a key or value is not allowed.
    """
    settings: dict[str, Any] = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(settings, override)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "config"
        where = f"{path}: " if path is not None else ""
        raise ConfigError(
            f"{where}{key}: {first['msg']} (found {first['input']!r}); "
            "see `msrrec <command> --help` for the settings"
        ) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({_first_line(error)})") from error
    if settings is not None and not isinstance(settings, dict):
        found = type(settings).__name__
        raise ConfigError(f"{path}: found a {found}; expected sections of settings")
    return settings or {}


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) != 2 or not all(parts):
        raise ConfigError(f"{override!r}: expected section.key=value, such as data.k_core=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{override!r}: the value is not YAML ({_first_line(error)})") from error
    section = settings.setdefault(parts[0], {})
    if not isinstance(section, dict):
        raise ConfigError(f"{override!r}: {parts[0]!r} is not a section")
    section[parts[1]] = value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
