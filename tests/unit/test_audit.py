from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from msrrec import schema, storage
from msrrec.config import PromptConfig
from msrrec.data.dataset import Dataset
from msrrec.evaluation.audit import (
    audit_examples,
    audit_systems,
    audit_variants,
    hash_predictions,
)
from msrrec.evaluation.results import Check, EvaluationResult
from msrrec.evaluation.systems import SystemKind
from msrrec.fingerprint import hash_weights
from msrrec.inference.fusion import SideOutput
from msrrec.inference.predictions import Prediction
from msrrec.metrics.ranking import rank_metrics
from msrrec.models import ModelSource
from msrrec.schema import Example
from tests.support.results import evaluation_result, system_id, variant_result

CANDIDATES = ("a", "b", "c")


def example(
    user: int, target: str, candidates: Sequence[str] = CANDIDATES, history: str = "h"
) -> Example:
    return Example(f"e{user}", f"u{user}", (history,), target, tuple(candidates))


SOUND = [example(0, "a"), example(1, "b"), example(2, "c")]


def write(folder: Path, test: Sequence[Example], train: Sequence[Example] = ()) -> Dataset:
    """A catalogue in which ``a`` and ``twin`` read the same."""
    titles = {"a": "Red Lamp", "twin": " red  LAMP.", "b": "B", "c": "C", "h": "H", "d": "D"}
    items = [{"item_id": k, "title": v} for k, v in titles.items()]
    path = str(folder)
    storage.write_table(f"{path}/items.parquet", pa.Table.from_pylist(items, schema=schema.ITEMS))
    for split, examples in (("train", train), ("validation", ()), ("test", test)):
        table = pa.Table.from_pylist([vars(e) for e in examples], schema=schema.EXAMPLES)
        storage.write_table(f"{path}/{split}.parquet", table)
    storage.write_json(
        f"{path}/manifest.json", {"schema_version": 1, "domain": "D", "fingerprint": "f"}
    )
    return Dataset.load(path)


def failed(checks: Sequence[Check]) -> dict[str, str]:
    return {check.name: check.text for check in checks if not check.ok}


def test_sound_examples_pass_every_check(tmp_path: Path) -> None:
    checks = audit_examples(write(tmp_path, SOUND), SOUND)
    assert [check.name for check in checks] == ["Candidates", "Negatives", "Leakage", "Slots"]
    assert failed(checks) == {}


def test_two_titles_that_read_the_same_are_found(tmp_path: Path) -> None:
    examples = [*SOUND, example(3, "a", ("a", "twin", "b"))]
    found = failed(audit_examples(write(tmp_path, examples), examples))
    assert found == {
        "Candidates": "every candidate list holds its target once and no title twice: not so for e3"
    }


def test_a_negative_that_the_user_bought_is_found(tmp_path: Path) -> None:
    train = [example(1, "a", ("a", "d"))]  # user 1 bought a, a negative of the test example
    found = failed(audit_examples(write(tmp_path, SOUND, train), SOUND))
    assert list(found) == ["Negatives"]
    assert found["Negatives"].endswith("not so for e1")


def test_a_target_in_the_users_past_is_found(tmp_path: Path) -> None:
    in_history = [*SOUND, example(3, "a", history="a")]
    assert list(failed(audit_examples(write(tmp_path, in_history), in_history))) == ["Leakage"]
    train = [example(2, "c", ("c", "d"))]
    assert list(failed(audit_examples(write(tmp_path, SOUND, train), SOUND))) == ["Leakage"]
    others = [example(7, "c", ("c", "d"))]
    assert failed(audit_examples(write(tmp_path, SOUND, others), SOUND)) == {}


def test_targets_that_always_stand_first_are_found(tmp_path: Path) -> None:
    examples = [example(n, "a") for n in range(20)]
    found = failed(audit_examples(write(tmp_path, examples), examples))
    assert list(found) == ["Slots"]
    assert "slots of 0 to 20 users" in found["Slots"]


EVALUATED = [example(n, "abc"[n % 3]) for n in range(30)]


def hashed(choices: Sequence[str | None], text: str = "t") -> str:
    predictions = [
        Prediction(
            str(n),
            SideOutput("user", f"{text} {c}", "", CANDIDATES.index(c) if c else None, None, 0),
            0,
        )
        for n, c in enumerate(choices)
    ]
    return hash_predictions(EVALUATED[: len(choices)], predictions)


def audit(**variants: Sequence[str | None]) -> dict[str, str]:
    metrics = {name: rank_metrics(EVALUATED, chosen) for name, chosen in variants.items()}
    hashes = {name: hashed(chosen) for name, chosen in variants.items()}
    return failed(audit_variants(1 / 3, metrics, hashes))


def test_variants_that_say_nothing_are_found() -> None:
    right: list[str | None] = ["a", "b", "c"] * 10
    assert audit(good=right) == {}
    assert "not so for first" in audit(first=["a"] * 30)["Chance"]
    assert list(audit(first=["a"] * 30)) == ["Chance", "Position"]
    assert audit(quiet=[*right[:24], *[None] * 6])["Validity"].endswith("quiet (80.0%)")
    assert audit(user=right, item=right)["Variants"].endswith("not so for user and item")


def test_a_hash_follows_text_and_choice() -> None:
    assert hashed(["a", "b"]) == hashed(["a", "b"])
    assert hashed(["a", "b"]) != hashed(["b", "a"])
    assert hashed(["a", None]) != hashed(["a", None], "other")


def test_the_weights_hash_changes_with_any_byte_of_model_and_adapter(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    plain = ModelSource("m", str(base), None)
    adapted = ModelSource("m", str(base), str(adapter))
    hashes = [hash_weights(plain), hash_weights(adapted)]
    (adapter / "model.safetensors").write_bytes(b"Weights")
    hashes.append(hash_weights(adapted))
    assert len({*hashes}) == 3
    assert None not in hashes
    assert hash_weights(ModelSource("m", "hub/name", None)) is None


def metrics(
    label: str,
    kind: SystemKind,
    weights: str | None,
    outputs: str,
    seed: int = 0,
    name: str | None = None,
) -> EvaluationResult:
    return evaluation_result(
        system_id(label, kind, name=name),
        {"full": variant_result(outputs_hash=outputs)},
        weights=weights,
        inference={"seed": seed},
    )


def test_systems_that_loaded_the_same_weights_or_said_the_same_are_found() -> None:
    random, base = metrics("random", "baseline", None, "o9"), metrics("base", "base", "w0", "o0")
    trained = metrics("MSR-Rec", "trained", "w1", "o1")
    assert failed(audit_systems([random, base, trained])) == {}
    mixed = failed(audit_systems([random, base, trained, metrics("other", "trained", "w1", "o1")]))
    assert mixed["Weights"].endswith("not so for MSR-Rec and other")
    assert mixed["Outputs"].endswith("not so for MSR-Rec full and other full")
    readings = [
        metrics("MSR-Rec", "trained", "w1", "o1", name="msrrec-constrained"),
        metrics("MSR-Rec direct", "trained", "w1", "o2", name="msrrec-direct-constrained"),
        metrics("MSR-Rec routed", "trained", "w1", "o3", name="msrrec-routed"),
    ]
    assert failed(audit_systems([random, base, *readings])) == {}
    again = [metrics(label, "trained", "w1", label, name="msrrec") for label in ("first", "second")]
    assert failed(audit_systems([random, base, *again]))["Weights"].endswith("first and second")
    another_seed = metrics("MSR-Rec", "trained", "w1", "o2", seed=1)
    assert failed(audit_systems([random, base, trained, another_seed])) == {}


def test_one_model_read_with_and_without_its_reasoning_is_no_mix_up() -> None:
    controls = [metrics("random", "baseline", None, "o9"), metrics("base", "base", "w0", "o0")]
    whole, direct = (
        metrics(name, "trained", "w1", outputs).model_copy(
            update={"system": system_id(name, "trained")}
        )
        for name, outputs in (("msrrec", "o1"), ("msrrec-direct", "o2"))
    )
    assert failed(audit_systems([*controls, whole, direct])) == {}


def test_models_that_were_prompted_in_different_forms_are_told() -> None:
    base, trained = metrics("base", "base", "w0", "o0"), metrics("MSR-Rec", "trained", "w1", "o1")
    assert base.model is not None
    turned = base.model.model_copy(update={"form": PromptConfig(order="candidates_first")})
    other = base.model_copy(update={"model": turned})
    assert "Prompts" not in failed(audit_systems([base, trained]))
    found = failed(audit_systems([other, trained]))
    assert found["Prompts"].endswith("not so for base and MSR-Rec")


def test_a_trained_model_alone_lacks_its_controls(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = failed(audit_systems([metrics("MSR-Rec", "trained", "w1", "o1")]))
    assert list(found) == ["Control"]
    assert found["Control"].endswith("not so for random, the untrained backbone")
    assert found["Control"] in caplog.text
