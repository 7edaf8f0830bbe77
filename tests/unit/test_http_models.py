"""Requests become queries, and outputs become the documented answer."""

import asyncio

import pytest
from pydantic import ValidationError

from msrrec.errors import DataError
from msrrec.inference.fusion import SideOutput, fuse
from msrrec.reasoning.encoding import Query
from serve.batch import BatchRequest
from serve.http_models import (
    MAX_HISTORY,
    Candidates,
    HttpError,
    HttpModel,
    PurchasesBody,
    RecommendRequest,
    from_data_error,
    to_query,
    to_response,
)
from serve.shop import Shop
from serve.version import ServedModel


def request(**changes: object) -> RecommendRequest:
    fields = {"history": ["Camera"], "candidates": ["Lens", "Rope", "Kettle"], **changes}
    return RecommendRequest.model_validate(fields)


def query_of(body: RecommendRequest, domain: str = "Toys", max_candidates: int = 3) -> Query:
    """The query of a request to a service without a catalogue."""
    history, candidates = asyncio.run(Shop(max_candidates).read(body))
    return to_query(body, history, candidates, domain=domain)


def refusal(**changes: object) -> HttpError:
    with pytest.raises(HttpError) as caught:
        query_of(request(**changes), "Shopping", 4)
    return caught.value


def test_a_request_without_domain_or_seed_asks_the_librarys_own_query() -> None:
    query = query_of(request())
    assert (query.key, query.domain) == ("request", "Toys")
    assert (query.history, query.candidates) == (("Camera",), ("Lens", "Rope", "Kettle"))


def test_a_seed_changes_the_key_and_nothing_else() -> None:
    one = query_of(request(seed=1))
    two = query_of(request(seed=2))
    assert one.key != two.key
    assert one.candidates == two.candidates


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"candidates": ["Lens", " \u200b"]}, "candidates[1]"),
        ({"candidates": ["Lens", "Rope", "  ROPE. "]}, "candidates[2]"),
        ({"candidates": ["Tom &amp; Jerry", "tom & jerry"]}, "candidates[1]"),
        ({"candidates": ["a", "b", "c", "d", "e"]}, "candidates"),
        ({"history": ["Camera", ""]}, "history[1]"),
        ({"domain": "\n"}, "domain"),
    ],
)
def test_what_no_model_could_answer_is_refused_with_its_field(
    changes: dict[str, object], field: str
) -> None:
    error = refusal(**changes)
    assert (error.status, error.kind, error.field) == (422, "invalid_request", field)
    assert error.message.startswith(field)


def test_the_number_of_candidates_is_bounded_by_the_config_and_named() -> None:
    assert "found 5; expected at most 4" in refusal(candidates=list("abcde")).message


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "best"},
        {"seed": -1},
        {"seed": "abc"},
        {"seed": "7"},
        {"seed": True},
        {"history": []},
        {"candidates": ["one"]},
        {"history": ["x"] * (MAX_HISTORY + 1)},
        {"history": ["ok", 3]},
        {"domain": "d" * 201},
        {"titles": []},
    ],
)
def test_fields_out_of_range_or_unknown_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        request(**changes)


def test_a_prompt_that_is_too_long_is_laid_to_the_candidates() -> None:
    error = from_data_error(DataError("request: the prompt has 9000 tokens with one history title"))
    assert (error.status, error.field) == (422, "candidates")


def side(name: str, index: int | None, perplexity: float | None, num_tokens: int) -> SideOutput:
    return SideOutput(
        name, f"[reasoning_start]\n{name}", f"why {name}", index, perplexity, num_tokens
    )


def test_an_answer_holds_the_chosen_side_and_both_sides() -> None:
    user, item = side("user", 1, 1.5, 7), side("item", 2, 2.5, 9)
    response = to_response(
        Candidates(("Lens", "Rope", "Kettle"), (None, "r1", "k1")),
        {"user": user, "item": item},
        fuse(user, item),
        model=ServedModel("m", "v1"),
        top_k=1,
        sureness=0.25,
        prompt_tokens=100,
        source="live",
        history_used=1,
        latency_s=0.0123,
    )
    assert response.model_dump() == {
        "item": "Kettle",  # they differ, so the higher perplexity is chosen
        "id": "k1",
        "index": 2,
        "ranking": [{"item": "Kettle", "id": "k1", "index": 2, "score": None}],
        "side": "item",
        "agreement": "differ",
        "reasoning": "why item",
        "perplexity": 2.5,
        "confidence": 0.25,
        "sides": {
            "user": {
                "item": "Rope",
                "index": 1,
                "valid": True,
                "reasoning": "why user",
                "perplexity": 1.5,
                "num_tokens": 7,
            },
            "item": {
                "item": "Kettle",
                "index": 2,
                "valid": True,
                "reasoning": "why item",
                "perplexity": 2.5,
                "num_tokens": 9,
            },
        },
        "source": "live",
        "retrieved": None,
        "history_used": 1,
        "model": {"name": "m", "version": "v1"},
        "usage": {"prompt_tokens": 100, "completion_tokens": 16, "total_tokens": 116},
        "latency_ms": 12.3,
    }


def test_an_answer_without_a_valid_side_recommends_nothing() -> None:
    user, item = side("user", None, None, 0), side("item", None, 3.0, 4)
    response = to_response(
        Candidates(("Lens", "Rope", "Kettle"), (None, "r1", "k1")),
        {"user": user, "item": item},
        fuse(user, item),
        model=ServedModel("m", "v1"),
        top_k=2,
        sureness=None,
        prompt_tokens=1,
        source="live",
        history_used=1,
        latency_s=1,
    )
    assert response.agreement == "none_valid"
    assert response.item is response.index is response.side is None
    assert response.ranking == []
    assert response.reasoning is response.perplexity is None
    assert not response.sides["item"].valid


def test_errors_have_one_form_and_their_headers() -> None:
    full = HttpError(503, "overloaded", "full", retry_after_s=2)
    assert full.body() == {"error": {"type": "overloaded", "message": "full", "field": None}}
    assert full.headers() == {"Retry-After": "2"}
    assert HttpError(401, "unauthorized", "who?").headers() == {"WWW-Authenticate": "Bearer"}
    assert HttpError(422, "invalid_request", "no", "domain").headers() == {}


@pytest.mark.parametrize(
    ("model", "body", "where"),
    [
        (RecommendRequest, {"candidates": [1] * 50_000}, ("candidates", 0)),
        (RecommendRequest, {"candidates": ["a"] * 50_000}, ("candidates",)),
        (RecommendRequest, {"history": [{}] * 50_000}, ("history", 0)),
        (RecommendRequest, dict.fromkeys(map(str, range(50_000))), ("0",)),
        (BatchRequest, {"requests": [1] * 50_000}, ("requests", 0)),
        (BatchRequest, {"requests": [{}] * 50_000}, ("requests",)),
        (PurchasesBody, {"items": [1] * 50_000}, ("items", 0)),
    ],
)
def test_of_a_body_full_of_mistakes_the_first_one_is_told(
    model: type[HttpModel], body: dict[str, object], where: tuple[object, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    # All of them took seconds, in which nobody else was answered.
    assert [error["loc"] for error in caught.value.errors()] == [where]
