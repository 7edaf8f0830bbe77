"""What clients of the HTTP API send and get.

An answer whose sides name no candidate is still an answer: status 200, ``item`` and ``index`` null,
``agreement`` ``none_valid``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from msrrec.config.serve import MAX_CANDIDATES
from msrrec.errors import DataError
from msrrec.inference.fusion import Agreement, Recommendation, SideOutput
from msrrec.inference.ranking import rank_candidates
from msrrec.inference.recommender import RequestMode
from msrrec.reasoning.encoding import Query, check_query
from msrrec.reasoning.prompts import Side
from msrrec.recommendations.rows import Offer
from msrrec.titles import clean_title
from serve.version import ServedModel

MAX_HISTORY = 1000
"""Maximum number of history titles per request; a prompt shows the latest that fit."""

MAX_TOP_K = 100
"""Maximum number of items of a ranking."""

UserId = Annotated[str, Path(min_length=1, max_length=200)]
"""A user in a path, whom a request can name as well."""
ItemId = Annotated[str, Path(min_length=1)]
"""An item in a path."""

_FIELD = re.compile(r"(?:mode|history|candidates)(?:\[\d+\])?")


class ErrorBody(TypedDict):
    """The JSON body of every error: its ``type``, ``message`` and ``field``."""

    error: dict[str, str | None]


class HttpError(Exception):
    """An error that becomes the client's HTTP response."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        field: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message
        self.field, self.retry_after_s, self.allow = field, retry_after_s, allow

    def body(self) -> "ErrorBody":
        """The JSON body."""
        return {"error": {"type": self.kind, "message": self.message, "field": self.field}}

    def headers(self) -> dict[str, str]:
        """The HTTP headers that belong to the status."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        if self.allow is not None:
            return {"Allow": self.allow}
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def invalid(field: str, message: str) -> HttpError:
    """A 422 error about one field."""
    return HttpError(422, "invalid_request", message, field)


def internal_error() -> HttpError:
    """What a client learns of an exception that nobody expected."""
    return HttpError(500, "internal_error", "the service failed on this request")


class HttpModel(BaseModel):
    """Base of requests and responses: refuses unknown fields.

    Of a list of a request the first wrong element is told alone (``fail_fast``), and of unknown
    fields the first one, as a body may have a hundred thousand, whose errors would take seconds.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_further_unknown(cls, value: object) -> object:
        """Leave one unknown field, which is enough for a refusal."""
        if not isinstance(value, dict) or len(value) <= len(cls.model_fields):
            return value
        first = next((name for name in value if name not in cls.model_fields), None)
        return {k: v for k, v in value.items() if k in cls.model_fields or k == first}


def _check_whole(text: str) -> str:
    """The text, unless it holds half of a surrogate pair, which no answer could spell."""
    half = next((c for c in text if "\ud800" <= c <= "\udfff"), None)
    if half is not None:
        raise PydanticCustomError(
            "half_character",
            "found half of a character ({code}), as in a text that was cut within an emoji; "
            "expected whole characters; cut the text elsewhere",
            {"code": f"U+{ord(half):04X}"},
        )
    return text


Text = Annotated[str, AfterValidator(_check_whole)]
"""Text that can be sent back."""


class Named(HttpModel):
    """An item by its title, its id in the service's catalogue, or both; a text is a title."""

    id: Text | None = None
    title: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        if isinstance(value, str):
            return {"title": _check_whole(value)}
        if not isinstance(value, dict | Named):
            raise PydanticCustomError(
                "named", "expected a title, or an object with an id, a title or both"
            )
        return value

    @model_validator(mode="after")
    def _is_named(self) -> "Named":
        if self.id is None and self.title is None:
            raise PydanticCustomError("named", "expected an id, a title or both; found neither")
        return self


NamedItem = Annotated[
    Named,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"id": {"type": "string"}, "title": {"type": "string"}},
                    "additionalProperties": False,
                    "minProperties": 1,
                },
            ],
            "description": "A title; or an object with an id of the catalogue, a title or both.",
        }
    ),
]


Source = Literal["live", "joined", "cached", "stored"]


class RecommendRequest(HttpModel):
    """A request for a recommendation."""

    domain: Text | None = Field(default=None, max_length=200)
    """What the prompt calls the shop; where it has an adapter, that one answers. Unset: the shop
    that the model was trained on."""
    history: list[NamedItem] | None = Field(
        default=None, min_length=1, max_length=MAX_HISTORY, fail_fast=True
    )
    """The user's purchases, oldest first: titles, or objects with ids of the catalogue. If not all
    fit, the oldest are left out."""
    user_id: Text | None = Field(default=None, min_length=1, max_length=200)
    """A user whose recommendations the service holds, in place of a history."""
    candidates: list[NamedItem] | None = Field(
        default=None, min_length=2, max_length=MAX_CANDIDATES, fail_fast=True
    )
    """What to choose from, all different. Unset: the service's catalogue, if it has one."""
    mode: RequestMode = "fused"
    """fused: both sides and their fusion; routed: the direct answer, or fused where it is unsure,
    by the service's inference.route_threshold; fast: the candidates by their likelihood without any
    reasoning; any other value: one chain alone."""
    top_k: int = Field(default=1, ge=1, le=MAX_TOP_K)
    """Number of items in ``ranking``, the recommended one first. With 1, the candidates are scored
    by the mode fast alone."""
    stream: bool = False
    """Answer with server-sent events."""
    seed: int | None = Field(default=None, ge=0, le=2**31 - 1)
    """Seed of the sampling; the same request with the same seed gets the same answer."""
    deadline_ms: int | None = Field(default=None, ge=1, le=86_400_000)
    """Milliseconds in which the client needs the answer; at most the service's serve.deadline_s,
    which is the default. A request that can't be answered in time is refused at once."""

    def seconds(self, most: float) -> float:
        """Seconds that the answer may take, at most ``most``."""
        return most if self.deadline_ms is None else min(most, self.deadline_ms / 1000)

    model_config = ConfigDict(
        strict=True,  # the type that the document names, and not what could be read as one
        json_schema_extra={
            "examples": [
                {
                    "domain": "Electronics",
                    "history": ["Trail Camera 12MP", "Rechargeable AA Batteries, 8 Pack"],
                    "candidates": ["Battery Charger, 4 Slots", "Garden Hose", "Novel, Paperback"],
                    "mode": "fused",
                    "stream": False,
                }
            ]
        },
    )


class ItemBody(HttpModel):
    """An item of the catalogue."""

    title: Text = Field(min_length=1)
    categories: list[Text] = Field(default_factory=list, max_length=100, fail_fast=True)
    brand: Text | None = None


class PurchasesBody(HttpModel):
    """What a user bought."""

    items: list[NamedItem] = Field(min_length=1, max_length=MAX_HISTORY, fail_fast=True)
    """Oldest first; ids of the catalogue, or titles."""


class SideAnswer(HttpModel):
    """The output of one side."""

    item: str | None
    """The candidate that it names; null if the output is invalid."""
    index: int | None
    """0-based index of that candidate in ``candidates``."""
    valid: bool
    reasoning: str
    perplexity: float | None
    """Perplexity of the reasoning tokens at temperature 1, at least 1; null without reasoning."""
    num_tokens: int


class RankedItem(HttpModel):
    """One candidate of a ranking."""

    item: str
    """The candidate's title, as spelled in the request."""
    id: str | None
    """Its id in the catalogue; null where it has none."""
    index: int | None
    """Its 0-based place in ``candidates``; null if the request gave none."""
    score: float | None
    """Its probability after the reasoning, the mean over both sides: 0 to 1, and 1 over all
    candidates. Null where the candidates were not scored."""


class Usage(HttpModel):
    """Token counts over all sides."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ModelAnswer(HttpModel):
    """The model that answered."""

    name: str | None
    """Its name; null if the answer was made ahead of time by another version."""
    version: str
    """Changes with all that decides an answer beside the request: weights, prompts, settings and
    code."""


class RecommendResponse(HttpModel):
    """The recommendation with the outputs of all sides."""

    item: str | None
    """The recommended candidate as spelled in the request; null if no side is valid."""
    id: str | None
    """Its id in the catalogue; null where it has none."""
    index: int | None
    """Its 0-based place in ``candidates``; null if the request gave none."""
    ranking: list[RankedItem]
    """The best ``top_k`` candidates. Fusion decides the first, scores decide the rest; empty if
    ``top_k`` is 1 and no side is valid."""
    side: Literal["user", "item", "full", "direct"] | None
    """The side whose output was chosen."""
    agreement: Agreement | None
    """``agree``: both sides named this item, and the lower perplexity was chosen. ``differ``: they
    named different ones, and the higher was chosen. ``one_valid``: only one side named a candidate,
    or only one was asked. ``none_valid``: there is no recommendation. Null if it was made ahead of
    time."""
    reasoning: str | None
    perplexity: float | None
    confidence: float | None
    """How likely the item is to be right, 0 to 1; null unless the service has a temperature for it
    (``recommend.confidence_temperature``)."""
    sides: dict[str, SideAnswer]
    """Outputs by side, for the sides of the requested mode."""
    source: Source
    """``live``: computed for this request. ``joined``: computed for an equal request that came
    while it was at work. ``cached``: computed for an equal one a while ago. ``stored``: made ahead
    of time, and still true of the purchases that are known."""
    retrieved: int | None
    """Number of items of the catalogue that were proposed; null if the request gave candidates."""
    history_used: int | None
    """Number of the latest purchases that every side's prompt shows; the older ones did not fit.
    Null if it was made ahead of time."""
    model: ModelAnswer
    usage: Usage
    latency_ms: float


class ErrorDetail(HttpModel):
    """What went wrong."""

    type: str
    message: str
    field: str | None
    """The invalid field of the request, such as ``candidates[3]``."""


class ErrorResponse(HttpModel):
    """The body of every response with a status from 400."""

    error: ErrorDetail


@dataclass(frozen=True)
class Candidates:
    """What is chosen from.

    Attributes:
        titles: Their titles.
        ids: Their ids in the catalogue; None where one has none.
        retrieved: Whether the catalogue proposed them.
    """

    titles: tuple[str, ...]
    ids: tuple[str | None, ...]
    retrieved: bool = False


def to_query(
    request: RecommendRequest, history: Sequence[str], candidates: Candidates, *, domain: str
) -> Query:
    """The query of a request.

    Args:
        request: The parsed request.
        history: The titles of its purchases.
        candidates: What to choose from.
        domain: Domain to use if the request has none.

    Raises:
        HttpError: 422 that names the invalid field.
    """
    if request.domain is not None and not clean_title(request.domain):
        raise invalid("domain", "domain: the text is blank; expected a name, or no domain at all")
    key = "request" if request.seed is None else f"request {request.seed}"
    shop = request.domain or domain
    query = Query(key, shop, tuple(history), candidates.titles)
    try:
        check_query(query)
    except DataError as error:
        raise from_data_error(error) from error
    return query


def from_data_error(error: DataError) -> HttpError:
    """422 for a query that is refused; if the prompt is too long, the field is ``candidates``."""
    where = str(error).partition(":")[0]
    return invalid(where if _FIELD.fullmatch(where) else "candidates", str(error))


def to_response(
    candidates: Candidates,
    outputs: Mapping[Side, SideOutput],
    decision: Recommendation,
    *,
    model: ServedModel,
    top_k: int,
    source: Source,
    sureness: float | None,
    prompt_tokens: int,
    history_used: int,
    latency_s: float,
) -> RecommendResponse:
    """The answer to a query; ``sureness`` is its confidence, if that is known."""
    chosen = decision.chosen
    completion_tokens = sum(output.num_tokens for output in outputs.values())
    best = None if decision.index is None else _ranked(candidates, decision.index, None)
    return RecommendResponse.model_validate(
        {
            "item": best.item if best else None,
            "id": best.id if best else None,
            "index": best.index if best else None,
            "ranking": _rank(candidates, decision, top_k),
            "side": decision.side,
            "agreement": decision.agreement,
            "reasoning": chosen.reasoning if chosen else None,
            "perplexity": chosen.perplexity if chosen else None,
            "confidence": sureness,
            "sides": {side: _side(output, candidates) for side, output in outputs.items()},
            "source": source,
            "retrieved": len(candidates.titles) if candidates.retrieved else None,
            "history_used": history_used,
            "model": ModelAnswer(name=model.name, version=model.version),
            "usage": Usage(
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                total_tokens=prompt_tokens + completion_tokens,
            ),
            "latency_ms": round(latency_s * 1000, 1),
        }
    )


def from_offers(
    offers: Sequence[Offer], *, model: ServedModel, top_k: int, latency_s: float
) -> RecommendResponse:
    """The answer from offers that were made ahead of time, at least one.

    They name the version of their model; it has a name where it is that of the service.
    """
    best = offers[0]
    ranking = [
        RankedItem(item=offer.title, id=offer.item_id, index=None, score=offer.score)
        for offer in offers[:top_k]
    ]
    return RecommendResponse.model_validate(
        {
            "item": best.title,
            "id": best.item_id,
            "index": None,
            "ranking": ranking,
            "side": best.side,
            "agreement": None,
            "reasoning": best.reasoning,
            "perplexity": best.perplexity,
            "confidence": best.confidence,
            "sides": {},
            "source": "stored",
            "retrieved": None,
            "history_used": None,
            "model": ModelAnswer(
                name=model.name if best.model == model.version else None, version=best.model
            ),
            "usage": Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0),
            "latency_ms": round(latency_s * 1000, 1),
        }
    )


def _side(output: SideOutput, candidates: Candidates) -> SideAnswer:
    return SideAnswer(
        item=None if output.index is None else candidates.titles[output.index],
        index=None if candidates.retrieved else output.index,
        valid=output.is_valid,
        reasoning=output.reasoning,
        perplexity=output.perplexity,
        num_tokens=output.num_tokens,
    )


def _rank(candidates: Candidates, decision: Recommendation, top_k: int) -> list[RankedItem]:
    """The best candidates, or the recommended one alone where there are no scores."""
    ranked = [
        _ranked(candidates, one.index, one.score) for one in rank_candidates(decision)[:top_k]
    ]
    if ranked or decision.index is None:
        return ranked
    return [_ranked(candidates, decision.index, None)]


def _ranked(candidates: Candidates, index: int, score: float | None) -> RankedItem:
    return RankedItem(
        item=candidates.titles[index],
        id=candidates.ids[index],
        index=None if candidates.retrieved else index,
        score=score,
    )
