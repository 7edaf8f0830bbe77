"""The recommender that evaluation, the command line and the service all use."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from msrrec.config import InferenceConfig, PromptConfig
from msrrec.engines.base import Engine, Generation, GenerationRequest
from msrrec.errors import ConfigError, DataError
from msrrec.inference.codec import read_generation, reasoning_ids, request_seed
from msrrec.inference.fusion import Recommendation, SideOutput, choose_valid, fuse
from msrrec.inference.routing import CHAINS, route, thinks
from msrrec.inference.scoring import (
    CandidateScoring,
    GeneratedReasoning,
    candidate_logprobs,
    unconditional_perplexities,
)
from msrrec.reasoning.encoding import AnswerChoice, Query, check_query, encode_choice, fit_prompt
from msrrec.reasoning.prompts import Side
from msrrec.titles import show_titles

if TYPE_CHECKING:
    from msrrec.models import ModelSource

_Pending = tuple[int, Side, GenerationRequest]
"""Index of a query, side, and the request for it."""

Mode = Literal["fused", "user", "item", "full", "direct", "routed"]
MODES: tuple[Mode, ...] = get_args(Mode)
"""What is read of generated outputs; evaluations compare them."""

RequestMode = Literal[Mode, "fast"]
"""What one query may ask for: a mode, or ``fast``, which generates no text, see ``FastRequest``."""

DEFAULT_DOMAIN = "Shopping"
"""What prompts call the shop if neither the caller nor the model says."""


def sides_of(mode: Mode) -> tuple[Side, ...]:
    """The sides that a mode generates; a routed one generates the chains for unsure users alone."""
    if mode == "routed":
        return ("direct", *CHAINS)
    return CHAINS if mode == "fused" else (mode,)


@dataclass(frozen=True)
class SideRequest:
    """The request for one side of a query.

    Attributes:
        request: What the engine is asked.
        history_used: Number of the latest purchases that the prompt shows; older ones did not fit.
    """

    request: GenerationRequest
    history_used: int


@dataclass(frozen=True)
class FastRequest:
    """What to ask for the likelihood of each candidate without any reasoning: one token.

    The prompt is that of ``direct``, so the likeliest candidate is its greedy answer.

    Attributes:
        prompt: The prompt of the direct answer.
        scoring: What the engine is asked, and how it is read.
    """

    prompt: SideRequest
    scoring: CandidateScoring

    def read(self, generations: Sequence[Generation]) -> SideOutput:
        """An output of the direct side that names the likeliest candidate and has no text.

        It names none where a likelihood is not a number. Of equal ones the first is named.
        """
        scores = self.scoring.read(generations)
        best = None if scores is None else scores.index(max(scores))
        num_tokens = sum(len(one.token_ids) for one in generations)
        return SideOutput("direct", "", "", best, None, num_tokens, candidate_logprobs=scores)


class Recommender:
    """Builds prompts, generates, measures perplexity and fuses, around one engine.

    In the service it has no engine: the service builds requests with it, sends them to its engine
    deployments, and reads and decides with the same methods.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_model_len: int,
        form: PromptConfig,
        config: InferenceConfig,
        engine: Engine | None = None,
        domain: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.form = form
        self.config = config
        self.engine = engine
        self.domain = domain

    @classmethod
    def from_pretrained(
        cls,
        model_dir: str,
        config: InferenceConfig | None = None,
        form: PromptConfig | None = None,
    ) -> "Recommender":
        """A recommender on vLLM, from a folder made by ``msrrec train`` or from a base model.

        Args:
            model_dir: Folder or hub name.
            config: Settings of inference; None for the defaults.
            form: How a base model is prompted; a trained one has its own settings.

        Raises:
            ModelError: If the folder is missing or not a model.
        """
        from msrrec.loading import probe_for_inference
        from msrrec.models import locate_model
        from msrrec.weights import check_source

        source, chosen = locate_model(model_dir, None, form), config or InferenceConfig()
        check_source(source)
        probe_for_inference(source, chosen)
        return cls.from_source(source, chosen)

    @classmethod
    def from_source(cls, source: "ModelSource", config: InferenceConfig) -> "Recommender":
        """A recommender on vLLM from located weights.

        Raises:
            EngineError: If vLLM can't start with them.
        """
        from msrrec.engines.vllm import VllmEngine  # seconds to import

        engine = VllmEngine(source, config)
        return cls(
            engine.tokenizer,
            max_model_len=engine.max_model_len,
            form=source.form,
            config=config,
            engine=engine,
            domain=source.domain,
        )

    def build_request(self, query: Query, side: Side) -> GenerationRequest:
        """The request for one side, see ``fit_request``."""
        return self.fit_request(query, side).request

    def fit_request(self, query: Query, side: Side) -> SideRequest:
        """The request for one side, see ``fit_requests``."""
        return self.fit_requests(query, (side,))[side]

    def fit_requests(self, query: Query, sides: Iterable[Side]) -> dict[Side, SideRequest]:
        """The request for each side, with as many purchases as fit into its prompt.

        A seed depends on run seed, query and side. The answers that may end an output are the same
        for all sides, and tokenized once.

        Raises:
            DataError: If the query is malformed or a prompt too long.
        """
        check_query(query)
        max_new = min(self.config.max_new_tokens, self.max_model_len // 2)
        choice = None
        if self.config.constrained:
            choice = encode_choice(self.tokenizer, query.candidates, self.form)
            max_new = max(max_new, choice.num_tokens)
        return {side: self._fit(query, side, max_new, choice) for side in sides}

    def _fit(
        self, query: Query, side: Side, max_new: int, choice: AnswerChoice | None
    ) -> SideRequest:
        room = self.max_model_len - max_new
        ids, dropped = fit_prompt(self.tokenizer, side, query, self.form, room)
        request = GenerationRequest(
            prompt_ids=tuple(ids),
            seed=request_seed(self.config.seed, query.key, side),
            max_new_tokens=max_new,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            choice=choice,
        )
        return SideRequest(request, len(query.history) - dropped)

    def read(self, query: Query, side: Side, generation: Generation) -> SideOutput:
        """A side's generation, read as its output."""
        shown = show_titles(query.candidates, self.form.max_title_chars)
        exact_format = self.form.answer_format if self.config.constrained else None
        return read_generation(self.tokenizer, side, shown, generation, exact_format)

    def build_scoring(
        self, query: Query, request: GenerationRequest, generation: Generation
    ) -> CandidateScoring:
        """What to ask for the likelihood of every candidate after a side's reasoning."""
        written = GeneratedReasoning(query, request, reasoning_ids(self.tokenizer, generation))
        return CandidateScoring(self.tokenizer, self.max_model_len, self.form, written)

    def build_fast(self, query: Query) -> FastRequest:
        """What to ask for the mode ``fast``.

        Raises:
            DataError: If the query is malformed or its prompt too long; or if answers are titles,
                whose likelihoods take constrained outputs, and outputs are free.
        """
        if self.form.answer_format == "title" and not self.config.binds_outputs:
            raise DataError(
                "mode: fast needs constrained answers, as this model answers with whole titles; "
                "expected inference.constrained=true (of a service, serve.constrained=true)"
            )
        fitted = self.fit_request(query, "direct")
        asked = GeneratedReasoning(query, fitted.request, ())
        return FastRequest(
            fitted, CandidateScoring(self.tokenizer, self.max_model_len, self.form, asked)
        )

    @staticmethod
    def decide(
        mode: RequestMode, outputs: Mapping[Side, SideOutput], threshold: float | None = None
    ) -> Recommendation:
        """The recommendation of a mode, from the outputs of its sides.

        ``threshold`` is that of ``routed``, see ``route``.
        """
        if mode == "routed":
            return route(outputs, threshold)
        if mode == "fused":
            return fuse(outputs["user"], outputs["item"])
        return choose_valid(outputs["direct" if mode == "fast" else mode])

    def generate(
        self, queries: Sequence[Query], sides: Sequence[Side]
    ) -> list[dict[Side, SideOutput]]:
        """Every side of every query in one engine call, ordered by query, then side.

        The sides of a query share their prefix, so the engine's cache computes history and
        candidates once.

        Raises:
            DataError: If a query is malformed or too long.
            EngineError: If the engine fails.
        """
        return accept(self.generate_each(queries, sides))

    def generate_each(
        self, queries: Sequence[Query], sides: Sequence[Side]
    ) -> list[dict[Side, SideOutput | DataError]]:
        """Like ``generate``, but a refused query gives its error in place of the output.

        Raises:
            EngineError: If the engine fails.
        """
        if self.engine is None:
            raise ValueError("this recommender has no engine; use Recommender.from_pretrained")
        results: list[dict[Side, SideOutput | DataError]] = [{} for _ in queries]
        pending: list[_Pending] = []
        for n, query in enumerate(queries):
            for side in sides:
                try:
                    pending.append((n, side, self.build_request(query, side)))
                except DataError as error:
                    results[n][side] = error
        generations = self.engine.generate([request for _, _, request in pending])
        outputs = self._read_all(queries, pending, generations)
        for (n, side, _), output in zip(pending, outputs, strict=True):
            results[n][side] = output
        return results

    def generate_routed(
        self, queries: Sequence[Query], threshold: float
    ) -> list[dict[Side, SideOutput | DataError]]:
        """The direct answer to every query, and both chains where it is unsure, see ``thinks``.

        Two engine calls; a refused query gives its error as in ``generate_each``.

        Raises:
            EngineError: If the engine fails.
        """
        results = self.generate_each(queries, ("direct",))
        unsure = [
            n
            for n, found in enumerate(results)
            if isinstance(found["direct"], SideOutput) and thinks(found["direct"], threshold)
        ]
        chains = self.generate_each([queries[n] for n in unsure], CHAINS) if unsure else []
        for n, found in zip(unsure, chains, strict=True):
            results[n] |= found
        return results

    def require_threshold(self) -> float:
        """The threshold of the settings, which ``routed`` can't do without.

        Raises:
            ConfigError: If there is none.
        """
        return require_threshold(self.config.route_threshold)

    def _read_all(
        self, queries: Sequence[Query], pending: Sequence[_Pending], generations: list[Generation]
    ) -> list[SideOutput]:
        """The outputs of generations, with the further measurements that the settings request."""
        assert self.engine is not None
        asked = list(zip(pending, generations, strict=True))
        outputs = [self.read(queries[n], side, generation) for (n, side, _), generation in asked]
        if not (self.config.candidate_logprobs or self.config.unconditional_perplexity):
            return outputs
        generated = [
            GeneratedReasoning(queries[n], request, reasoning_ids(self.tokenizer, generation))
            for (n, _, request), generation in asked
        ]
        if self.config.candidate_logprobs:
            scores = candidate_logprobs(self.engine, generated, self.form)
            outputs = [
                replace(output, candidate_logprobs=found)
                for output, found in zip(outputs, scores, strict=True)
            ]
        if self.config.unconditional_perplexity:
            values = unconditional_perplexities(self.engine, generated)
            outputs = [
                replace(output, perplexity_unconditional=value)
                for output, value in zip(outputs, values, strict=True)
            ]
        return outputs

    def recommend(
        self,
        history: Sequence[str],
        candidates: Sequence[str],
        *,
        domain: str | None = None,
        mode: RequestMode = "fused",
    ) -> Recommendation:
        """Recommend one candidate.

        Args:
            history: Titles, oldest first, at least one.
            candidates: Titles, at least two, all different.
            domain: What the prompt calls the shop; None: the shop that the model was trained on.
            mode: ``fused``, ``routed``, one side alone, or ``fast``: the likeliest candidate
                without any reasoning.

        Raises:
            DataError: If history or candidates are invalid.
            ConfigError: If the mode is ``routed`` and the settings have no threshold.
        """
        shop = domain or self.domain or DEFAULT_DOMAIN
        query = Query("request", shop, tuple(history), tuple(candidates))
        if mode == "fast":
            return self._recommend_fast(query)
        if mode == "routed":
            results = self.generate_routed([query], self.require_threshold())
        else:
            results = self.generate_each([query], sides_of(mode))
        return self.decide(mode, accept(results)[0])

    def _recommend_fast(self, query: Query) -> Recommendation:
        if self.engine is None:
            raise ValueError("this recommender has no engine; use Recommender.from_pretrained")
        asked = self.build_fast(query)
        output = asked.read(self.engine.generate(asked.scoring.requests))
        return self.decide("fast", {"direct": output})


def accept(
    results: Sequence[Mapping[Side, SideOutput | DataError]],
) -> list[dict[Side, SideOutput]]:
    """The outputs of queries of which none was refused.

    Raises:
        DataError: The first refusal.
    """
    for result in results:
        for output in result.values():
            if isinstance(output, DataError):
                raise output
    return [{s: o for s, o in r.items() if isinstance(o, SideOutput)} for r in results]


def require_threshold(threshold: float | None) -> float:
    """The threshold of a routed recommendation.

    Raises:
        ConfigError: If there is none.
    """
    if threshold is None:
        raise ConfigError(
            "routed: has no threshold; expected one that validation chose: evaluate the variants "
            "direct and fused with evaluate.split=validation, then give that folder as "
            "evaluate.gate, or the threshold that it prints as inference.route_threshold"
        )
    return threshold
