"""What the actors of a run share."""

from msrrec.config import InferenceConfig, load_config
from msrrec.synthesis.pruning import Judgement
from msrrec.synthesis.teacher_actor import ActorSettings, build_teachers
from msrrec.synthesis.verdicts import status_of


def test_actors_share_the_rates_and_each_has_its_own_calls_in_flight() -> None:
    config = load_config(
        None,
        [
            *("teacher.base_url=http://a/v1", "teacher.concurrency=7"),
            *("teacher.requests_per_minute=600", "teacher.tokens_per_minute=6000"),
            "teacher.others=[{base_url: 'http://b/v1', requests_per_minute: 60}]",
        ],
    )
    settings = ActorSettings(
        teacher=config.teacher,
        keys=(None, None),
        journal="journal",
        run="run",
        num_actors=2,
        is_offline=False,
        inference=InferenceConfig(),
    )
    first, second = build_teachers(settings).members
    # 600 a minute are 10 a second, 5 of them for each of two actors
    assert (first.limiter.requests_per_s, first.limiter.tokens_per_s) == (5, 50)
    assert (second.limiter.requests_per_s, second.limiter.tokens_per_s) == (0.5, None)
    assert first.limiter.most == second.limiter.most == 7


def test_only_what_could_not_be_read_may_be_asked_again() -> None:
    assert status_of(Judgement("kept")) == "valid"
    assert status_of(Judgement("inconsistent", "not the target")) == "settled"
    for verdict in ("incomplete", "malformed", "empty", "truncated", "refused", "ambiguous"):
        assert status_of(Judgement(verdict)) == "unreadable"  # type: ignore[arg-type]
