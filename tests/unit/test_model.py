"""The base model: what can't be loaded is refused."""

import pytest

from msrrec.config import TrainConfig
from msrrec.errors import ConfigError
from msrrec.training import model


def test_four_bit_weights_need_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def find_spec(name: str) -> None:
        asked.append(name)

    monkeypatch.setattr(model, "find_spec", find_spec)
    model.check_4bit(TrainConfig())
    with pytest.raises(ConfigError, match=r"^train\.load_in_4bit=true: bitsandbytes is not inst"):
        model.check_4bit(TrainConfig(load_in_4bit=True))
    assert asked == ["bitsandbytes"]
