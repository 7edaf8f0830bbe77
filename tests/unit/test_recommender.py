import math
from collections.abc import Sequence
from dataclasses import replace

import pytest

from msrrec.config import InferenceConfig, PromptConfig
from msrrec.engines.base import Generation, GenerationRequest
from msrrec.errors import DataError
from msrrec.inference.recommender import MODES, Recommender, sides_of
from msrrec.reasoning.encoding import Query
from msrrec.reasoning.prompts import render_context, render_prompt
from tests.support.engine import FakeEngine, answer_by_seed, recommender

CANDIDATES = ("Red Lamp", "Blue Shoe", "Oak Table")


def choose_by_side(prompt: str, seed: int) -> str:
    """The user side names the first candidate, all others the last."""
    number, title = (1, "Red Lamp") if "side of the user" in prompt else (3, "Oak Table")
    return f"Because.\n[reasoning_end]\n({number}) {title}"


def query(key: str, *candidates: str) -> Query:
    return Query(key, "Home", ("Steel Pan",), candidates or CANDIDATES)


def test_fusion_generates_both_sides_and_every_other_mode_its_own() -> None:
    assert [sides_of(mode) for mode in MODES] == [
        ("user", "item"),
        ("user",),
        ("item",),
        ("full",),
        ("direct",),
        ("direct", "user", "item"),
    ]


@pytest.mark.parametrize(
    ("mode", "index", "side"),
    [("user", 0, "user"), ("item", 2, "item"), ("direct", 2, "direct"), ("fused", 0, "user")],
)
def test_a_mode_takes_its_own_sides_choice(mode: str, index: int, side: str) -> None:
    # Fused: the sides differ at equal perplexity, which falls to the user side.
    found = recommender(FakeEngine(choose_by_side)).recommend(["Steel Pan"], CANDIDATES, mode=mode)  # type: ignore[arg-type]
    assert (found.index, found.side) == (index, side)


def test_the_sides_of_a_query_stand_together_behind_one_shared_prefix() -> None:
    engine = FakeEngine(choose_by_side)
    recommender(engine).generate([query("a"), query("b", "Tea", "Hat")], ("user", "item"))
    contexts = [
        render_context("Home", ["Steel Pan"], titles) for titles in (CANDIDATES, ("Tea", "Hat"))
    ]
    assert len(engine.prompts) == 4
    assert all(prompt.startswith(contexts[0]) for prompt in engine.prompts[:2])
    assert all(prompt.startswith(contexts[1]) for prompt in engine.prompts[2:])


def test_the_prompt_is_the_one_of_the_reasoning_package() -> None:
    engine = FakeEngine(choose_by_side)
    recommender(engine).generate([query("a")], ("item",))
    expected = render_prompt("item", "Home", ["Steel Pan"], CANDIDATES)
    assert engine.prompts == [expected + "\n[reasoning_start]\n"]


def test_samples_do_not_depend_on_their_neighbours() -> None:
    queries = [query(f"u{n}") for n in range(9)]
    together = recommender(FakeEngine(answer_by_seed)).generate(queries, ("user", "item"))
    backwards = recommender(FakeEngine(answer_by_seed)).generate(queries[::-1], ("item", "user"))
    assert backwards[::-1] == together
    assert len({output["user"].index for output in together}) > 1


def test_a_refused_query_leaves_the_others_alone() -> None:
    queries = [query("good"), query("bad", "Tea", " "), query("fine")]
    results = recommender(FakeEngine(choose_by_side)).generate_each(queries, ("user", "item"))
    assert [type(result["user"]).__name__ for result in results] == [
        "SideOutput",
        "DataError",
        "SideOutput",
    ]
    with pytest.raises(DataError, match=r"candidates\[1\]: the title is blank"):
        recommender(FakeEngine(choose_by_side)).generate(queries, ("user",))


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    small = recommender(FakeEngine(choose_by_side, max_model_len=200))
    with pytest.raises(DataError, match="expected at most 136"):
        small.recommend(["Steel Pan"], CANDIDATES)


def test_requests_carry_the_settings_and_at_most_half_the_model_for_output() -> None:
    engine = FakeEngine(choose_by_side, max_model_len=4000)
    config = InferenceConfig(temperature=0.3, top_p=0.9, seed=7)
    request = recommender(engine, config).build_request(query("a"), "user")
    assert (request.temperature, request.top_p, request.max_new_tokens) == (0.3, 0.9, 1024)
    engine.max_model_len = 1200
    assert recommender(engine, config).build_request(query("a"), "user").max_new_tokens == 600


def test_without_an_engine_it_only_prepares_and_reads() -> None:
    bare = Recommender(
        FakeEngine(choose_by_side).tokenizer,
        max_model_len=4000,
        form=PromptConfig(answer_format="title"),
        config=InferenceConfig(),
    )
    assert bare.build_request(query("a"), "user").prompt_ids
    with pytest.raises(ValueError, match="no engine"):
        bare.recommend(["a"], CANDIDATES)


def test_an_invalid_output_recommends_nothing() -> None:
    silent = recommender(FakeEngine(lambda prompt, seed: "I would rather not say"))
    found = silent.recommend(["Steel Pan"], CANDIDATES, mode="full")
    assert (found.index, found.side, found.agreement) == (None, None, "none_valid")
    assert [side.text for side in found.sides] == ["[reasoning_start]\nI would rather not say"]


def test_candidates_are_scored_after_the_reasoning_and_only_where_asked_for() -> None:
    engine = FakeEngine(choose_by_side)
    plain = recommender(engine).generate([query("a")], ("user",))[0]["user"]
    assert (plain.candidate_logprobs, plain.perplexity_unconditional) == (None, None)
    config = InferenceConfig(candidate_logprobs=True, unconditional_perplexity=True)
    engine = FakeEngine(choose_by_side)
    both = recommender(engine, config).generate([query("a")], ("user", "item"))[0]
    # Of the numbers that may follow, each is twice as likely as the one before it.
    assert both["user"].candidate_logprobs == pytest.approx([math.log(n / 7) for n in (1, 2, 4)])
    assert both["user"].perplexity_unconditional == pytest.approx(math.exp(0.5))
    assert both["user"].index == 0
    assert engine.prompts[2:4] == [p + "Because.\n[reasoning_end]\n(" for p in engine.prompts[:2]]
    assert engine.prompts[4:] == ["[reasoning_start]\n"] * 2


def test_candidates_without_numbers_are_scored_by_their_whole_titles() -> None:
    engine = FakeEngine(choose_by_side)
    by_title = recommender(engine, InferenceConfig(candidate_logprobs=True))
    by_title.form = PromptConfig(answer_format="title")
    output = by_title.generate([query("a")], ("user",))[0]["user"]
    # Every token costs -0.5, the end token -0.25: with quotes Red Lamp has 10, the others 11.
    assert output.candidate_logprobs == pytest.approx((-5.25, -5.75, -5.75))
    assert engine.prompts[1:] == [engine.prompts[0] + "Because.\n[reasoning_end]\n"] * 3


def test_numbers_of_two_digits_take_one_more_token_a_shared_first_digit() -> None:
    engine = FakeEngine(choose_by_side)
    config = InferenceConfig(candidate_logprobs=True)
    titles = [f"Item {chr(ord('a') + n)}" for n in range(12)]
    output = recommender(engine, config).generate([query("a", *titles)], ("user",))[0]["user"]
    found = [math.exp(value) for value in output.candidate_logprobs or ()]
    # The first digit is 1 to 9 with weights 1, 2, 4, ...; after a 1 follow ")", "0", "1" or "2",
    # with weights 1, 2**7, 2**8 and 2**9, as they are so far apart in the table of characters.
    after_one = 1 + 2**7 + 2**8 + 2**9
    expected = [1 / 511 / after_one, *(2**n / 511 for n in range(1, 9))]
    expected += [2**n / 511 / after_one for n in (7, 8, 9)]
    assert found == pytest.approx(expected)
    assert sum(found) == pytest.approx(1)
    assert [prompt[-2:] for prompt in engine.prompts[1:]] == ["\n(", "(1"]


def test_a_constrained_request_has_room_for_its_longest_answer() -> None:
    config = InferenceConfig(constrained=True, max_new_tokens=8)
    engine = FakeEngine(choose_by_side)
    request = recommender(engine, config).build_request(query("a"), "user")
    assert request.choice is not None
    answers = [engine.tokenizer.decode(ids) for ids in request.choice.answers]
    assert answers == ["(1) Red Lamp", "(2) Blue Shoe", "(3) Oak Table"]
    assert engine.tokenizer.decode(request.choice.closing) == "[reasoning_end]\n"
    assert request.max_new_tokens == 16 + 13 + 1


def test_the_answers_of_a_query_are_tokenized_once_for_all_sides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = recommender(FakeEngine(choose_by_side), InferenceConfig(constrained=True))
    each = {side: made.fit_request(query("a"), side) for side in sides_of("fused")}
    texts: list[str] = []
    encode = made.tokenizer.encode

    def count(text: str, **options: object) -> list[int]:
        texts.append(text)
        return list(encode(text, **options))

    monkeypatch.setattr(made.tokenizer, "encode", count)
    assert made.fit_requests(query("a"), sides_of("fused")) == each
    assert sum(text == "[reasoning_end]\n" for text in texts) == 1


def test_an_answer_to_the_letter_is_its_candidate_where_outputs_are_bound() -> None:
    # "(2) Lamp" could also be the second candidate by its number.
    titles = ("(2) Lamp", "Lamp")
    engine = FakeEngine(lambda prompt, seed: "Why\n[reasoning_end]\n(2) Lamp")
    for constrained, index in ((True, 0), (False, None)):
        bound = recommender(engine, InferenceConfig(constrained=constrained))
        bound.form = PromptConfig(answer_format="title")
        assert bound.generate([query("a", *titles)], ("user",))[0]["user"].index == index


def test_figures_that_are_no_numbers_are_missing() -> None:
    class Broken(FakeEngine):
        def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
            found = super().generate(requests)
            return [
                replace(
                    one,
                    token_logprobs=(math.nan,) * len(one.token_ids),
                    next_logprobs=(math.nan,) * len(one.next_logprobs),
                )
                if one.end_logprob is not None or one.next_logprobs
                else one
                for one in found
            ]

    config = InferenceConfig(
        max_new_tokens=64, candidate_logprobs=True, unconditional_perplexity=True
    )
    (found,) = recommender(Broken(choose_by_side), config).generate([query("a")], ("user",))
    output = found["user"]
    assert output.index == 0
    assert output.candidate_logprobs is output.perplexity_unconditional is None


def test_an_answer_is_matched_to_the_title_that_was_shown() -> None:
    long = "Oak Table With Four Chairs"
    engine = FakeEngine(lambda prompt, seed: "Why\n[reasoning_end]\n(2) Oak Table With…")
    cut = recommender(engine)
    cut.form = PromptConfig(max_title_chars=16)
    asked = query("a", "Red Lamp", long)
    assert cut.generate([asked], ("user",))[0]["user"].index == 1
    assert "\n(2) Oak Table With…\n" in engine.prompts[0]
    whole = recommender(engine)
    assert whole.generate([asked], ("user",))[0]["user"].index is None


def test_without_the_chat_template_a_prompt_stands_bare() -> None:
    engine = FakeEngine(choose_by_side)
    engine.tokenizer.chat_template = "any"  # type: ignore[attr-defined]
    bare = recommender(engine)
    bare.form = PromptConfig(use_chat_template=False)
    bare.generate([query("a")], ("item",))
    assert engine.prompts[0].startswith("Domain: Home\n")
