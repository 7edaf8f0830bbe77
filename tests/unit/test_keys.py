"""API keys reach who uses them, are refused where they are missing, and are shown nowhere."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from msrrec.chat.keys import find_key, require_key
from msrrec.config import JudgeConfig, ModelConfig, RunConfig, load_config
from msrrec.errors import ConfigError, ModelError
from msrrec.hub import use_token
from msrrec.loading import load_causal, load_tokenizer
from msrrec.loading import load_config as load_config_of
from msrrec.metrics.judge import judge_pairs
from msrrec.models import ModelSource, locate_base
from msrrec.pipeline.work import probe_synthesize
from msrrec.stage import SYNTHESIZE, Call
from msrrec.synthesis.teacher_actor import ActorSettings
from tests.support.dataset import write_dataset

FAR = "teacher.base_url=https://me:word@api.example/v1"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ([], None),  # the offline teacher
        (["teacher.base_url=http://127.0.0.1:8000/v1"], None),
        (["teacher.base_url=http://localhost:8000/v1"], None),
        (["teacher.base_url=http://vllm:8000/v1", "teacher.api_key_env=null"], None),
        ([FAR], "secret"),
    ],
)
def test_a_key_is_asked_for_only_where_a_server_may_want_one(
    settings: list[str], key: str | None
) -> None:
    config = load_config(overrides=settings).teacher
    keys = {"TEACHER_API_KEY": key} if key else {}
    assert find_key(config, keys) == key
    require_key("teacher", config, find_key(config, keys))


def test_a_missing_key_is_refused_before_ray_starts_unless_no_call_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    write_dataset(tmp_path / "in", 12)
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray was started"))
    call = Call(
        str(tmp_path / "out"), load_config(overrides=[FAR]), {"dataset": str(tmp_path / "in")}
    )
    expected = (
        r"teacher\.base_url=https://api\.example/v1: found no API key; expected one in the "
        r"environment variable TEACHER_API_KEY; set it where this command runs"
    )
    with pytest.raises(ConfigError, match=expected):
        SYNTHESIZE.run(call)
    monkeypatch.setattr("msrrec.synthesis.synthesize.estimate_run", lambda *_: {"calls": 0})
    probe_synthesize(call)


def test_a_judge_without_a_key_is_refused_before_the_first_vote(tmp_path: Path) -> None:
    config = JudgeConfig(base_url="https://judge.example/v1")
    with pytest.raises(ConfigError, match=r"judge\.base_url=.*JUDGE_API_KEY"):
        judge_pairs([("a b", "a c")], config, str(tmp_path), None)


def test_keys_are_shown_by_nothing_that_carries_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hub-secret")
    source = locate_base(ModelConfig(name_or_path="meta-llama/Meta-Llama-3-8B-Instruct"))
    config = RunConfig()
    actor = ActorSettings(
        *(config.teacher, ("secret",), "journal", "run", 1, False, config.inference),
        hub_token="hub-secret",
    )
    for carrier in (source, actor, Call("out", config, keys={"TEACHER_API_KEY": "secret"})):
        assert "secret" not in repr(carrier)
    assert pickle.loads(pickle.dumps(source)).hub_token == "hub-secret"


def test_the_hubs_token_is_used_by_a_worker_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    use_token(None)
    assert not os.environ["HF_TOKEN"]
    use_token("from-the-head")
    assert huggingface_hub.get_token() == "from-the-head"
    use_token("another")
    assert huggingface_hub.get_token() == "from-the-head"


@pytest.mark.parametrize("load", [load_config_of, load_tokenizer, load_causal])
def test_whatever_loads_a_model_asks_the_hub_with_its_token(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[ModelSource], object]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(ModelError):
        load(ModelSource("m", "/nowhere", None, hub_token="from-the-head"))
    assert huggingface_hub.get_token() == "from-the-head"
