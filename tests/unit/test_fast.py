"""The mode ``fast``: candidates by their likelihood right after the prompt, without any text."""

import math
from typing import NoReturn

import pytest

from msrrec.config import InferenceConfig, PromptConfig
from msrrec.engines.base import Generation
from msrrec.errors import DataError
from msrrec.inference.ranking import rank_candidates
from msrrec.inference.recommender import Recommender
from msrrec.reasoning.encoding import Query
from tests.support.cli import Commands
from tests.support.engine import CharTokenizer, FakeEngine, recommender
from tests.support.service import World, error_of, events_of

CANDIDATES = ("Red Lamp", "Blue Shoe", "Oak Table")


def write_nothing(prompt: str, seed: int) -> NoReturn:
    raise AssertionError("nothing is to be written")


def test_the_likeliest_number_after_the_direct_prompt_is_recommended() -> None:
    engine = FakeEngine(write_nothing)
    found = recommender(engine).recommend(["Steel Pan"], CANDIDATES, mode="fast")
    assert (found.index, found.side, found.agreement) == (2, "direct", "one_valid")
    # Each number is twice as likely as the one before: 1, 2 and 4 parts of 7.
    ranked = rank_candidates(found)
    assert [one.index for one in ranked] == [2, 1, 0]
    assert [one.score for one in ranked] == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    (output,) = found.sides
    assert (output.text, output.reasoning, output.perplexity, output.num_tokens) == (
        "",
        "",
        None,
        1,
    )
    direct = recommender(engine).build_request(
        Query("request", "Shopping", ("Steel Pan",), CANDIDATES), "direct"
    )
    assert engine.prompts == ["".join(map(chr, direct.prompt_ids)) + "[reasoning_end]\n("]


def test_likelihoods_that_are_no_numbers_recommend_nothing() -> None:
    query = Query("q", "Home", ("Steel Pan",), CANDIDATES)
    asked = recommender(FakeEngine(write_nothing)).build_fast(query)
    broken = Generation((0,), (-0.5,), "length", None, (-1.0, math.nan, -2.0))
    assert asked.read([broken]).index is None


def test_whole_titles_are_weighed_only_where_answers_are_bound() -> None:
    query = Query("q", "Home", ("Steel Pan",), CANDIDATES)
    form = PromptConfig(answer_format="title")

    def build(config: InferenceConfig) -> Recommender:
        return Recommender(CharTokenizer(), max_model_len=4096, form=form, config=config)

    with pytest.raises(DataError, match=r"^mode: fast .*constrained"):
        build(InferenceConfig()).build_fast(query)
    asked = build(InferenceConfig(constrained=True)).build_fast(query)
    assert len(asked.scoring.requests) == 3


def test_the_command_ranks_without_a_word_and_for_one_customer_alone(
    msrrec: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Recommender, "from_pretrained", lambda *_: recommender(FakeEngine(write_nothing))
    )
    titles = [part for title in CANDIDATES for part in ("--candidate", title)]
    ended = msrrec("recommend", "--model", "m", "--history", "Pan", *titles, "--mode", "fast")
    assert (ended.code, ended.summary["item"]) == (0, "Oak Table")
    assert [row["index"] for row in ended.summary["ranking"]] == [2, 1, 0]
    everybody = ("--dataset", "d", "--index", "i", "--out", "o", "--mode", "fast")
    refused = msrrec("recommend", "--model", "m", *everybody)
    assert refused.code == 2
    assert "--mode fast" in refused.sentence


@pytest.mark.parametrize("stream", [False, True])
def test_the_service_ranks_with_scores_after_one_token(stream: bool) -> None:
    world = World()
    response = world.ask(mode="fast", top_k=2, stream=stream)
    events = events_of(response) if stream else []
    assert [name for name, _ in events] == (["result"] if stream else [])
    answer = events[-1][1] if stream else response.json()
    assert (answer["item"], answer["side"]) == ("Kettle", "direct")
    assert [row["item"] for row in answer["ranking"]] == ["Kettle", "Rope"]
    assert [row["score"] for row in answer["ranking"]] == pytest.approx([4 / 7, 2 / 7])
    assert (answer["usage"]["completion_tokens"], answer["history_used"]) == (1, 1)
    (request,) = world.user.requests
    assert (request.max_new_tokens, world.item.requests) == (1, [])


def test_one_item_alone_has_its_score_too() -> None:
    (best,) = World().ask(mode="fast").json()["ranking"]
    assert (best["item"], best["score"]) == ("Kettle", pytest.approx(4 / 7))


def test_a_lost_engine_is_asked_again_and_a_refusal_names_the_mode() -> None:
    world = World()
    world.user.deaths = 1
    assert world.ask(mode="fast").json()["item"] == "Kettle"
    assert len(world.user.requests) == 2
    world.api.fan_out.recommender.form = PromptConfig(answer_format="title")
    assert error_of(world.ask(mode="fast"))["field"] == "mode"
