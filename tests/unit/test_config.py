"""Settings: precedence, errors, and every YAML file that ships."""

from pathlib import Path

import pytest

from msrrec.config import PRESETS, RunConfig, changed_settings, load_config
from msrrec.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_overrides_go_before_the_file_and_the_file_before_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("train:\n  alpha: 0.6\n  beta: 0.4\n")
    config = load_config(file, ["train.alpha=0.9"])
    assert (config.train.alpha, config.train.beta, config.train.num_epochs) == (0.9, 0.4, 5)


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert load_config(overrides=["train.learning_rate=1e-4"]).train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.k_cor=5", ["data.k_cor", "no such setting", "did you mean k_core?"]),
        ("dta.k_core=5", ["dta", "no such section", "did you mean data?"]),
        ("train.lora.rnk=5", ["train.lora.rnk", "did you mean rank?"]),
        ("train.alpha.x=5", ["train.alpha", "x"]),
        ("data.k_core=many", ["data.k_core", "'many'"]),
        ("k_core=5", ["section.key=value"]),
        ("data.k_core", ["section.key=value"]),
        ("train.num_workers=3", ["global_batch_size (32)", "num_workers (3)"]),
        ("data.k_core=[", ["not YAML"]),
        ("train.min_workers=2", ["min_workers (2)", "num_workers (1)"]),
        ("train.keep=best", ["keep=best", "validate_every_steps"]),
    ],
)
def test_a_bad_override_is_one_sentence_that_names_it(override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_four_bit_weights_are_not_cut() -> None:
    with pytest.raises(ConfigError, match="load_in_4bit=true needs strategy=ddp"):
        load_config(overrides=["train.load_in_4bit=true", "train.strategy=fsdp"])


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match="found a list"):
        load_config(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file and no such preset"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"expected a YAML file or one of demo, .*mean demo\?"):
        load_config("demmo")


def test_a_preset_is_found_by_its_name() -> None:
    assert load_config("demo") == load_config(PRESETS / "demo.yaml")


def test_changed_settings_are_what_the_command_line_takes_back() -> None:
    given = ["train.lora.rank=4", 'train.sides=["full", "user"]', "synthesis.tau=null"]
    base = load_config("demo")
    changed = changed_settings(load_config("demo", given), base, ["train", "synthesis"])
    assert changed == ['train.sides=["full", "user"]', "train.lora.rank=4"]
    assert load_config("demo", changed) == load_config("demo", given)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs" / "configs").glob("*.yaml")), ids=str)
def test_every_shipped_config_is_valid(path: Path) -> None:
    assert isinstance(load_config(path), RunConfig)


def test_the_paper_preset_holds_the_papers_settings() -> None:
    config = load_config(ROOT / "jobs" / "configs" / "llama3-8b.yaml")
    train, inference = config.train, config.inference
    assert (train.alpha, train.beta, train.lora.rank, train.lora.alpha) == (0.7, 0.3, 8, 32)
    assert (train.num_epochs, train.global_batch_size, train.sides) == (5, 32, ("full",))
    assert (inference.temperature, inference.max_new_tokens) == (0.7, 1024)
    assert config.prompt.answer_format == "title"


def test_a_nested_setting_leaves_its_neighbours_as_the_section_has_them() -> None:
    lora = load_config(overrides=["tallrec.lora.dropout=0"]).tallrec.lora
    assert (lora.dropout, lora.alpha, lora.targets) == (0.0, 16, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.answer_format=title", "prompt.answer_format"),
        ("tallrec.candidates_first=true", "prompt.order"),
        ("llara.candidates_first=false", "prompt.order"),
        ("train.reasoning=false", "train.arm=chain for true, train.arm=none for false"),
    ],
)
def test_a_setting_that_moved_is_refused_by_its_new_name(old: str, new: str) -> None:
    name = old.partition("=")[0]
    with pytest.raises(ConfigError, match=f"{name}: has moved; expected {new}$"):
        load_config(overrides=[old])
