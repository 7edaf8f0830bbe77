"""Figures beside published ones: ranks, seeds that are not run twice, and the sentence."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bench import published  # noqa: E402
from bench.published import Plan, Training, main, ranks_of, result_of, verdict  # noqa: E402
from bench.sequential import read_events  # noqa: E402
from msrrec.errors import ModelError  # noqa: E402


def test_a_rank_is_among_all_items_but_those_of_the_history() -> None:
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 2.0, 4.0]])
    # first: items 1 and 2 were bought, item 3 alone is above; second: the equal item 3 counts
    # as above, item 4 was bought
    assert ranks_of(scores, [[1, 2], [4]], [4, 2]) == [2, 2]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 3), (1, 0)], ids=["of the target", "of another item"])
def test_a_score_that_is_not_finite_gives_no_rank(wrong: float, place: tuple[int, int]) -> None:
    scores = torch.ones(2, 4)
    scores[place] = wrong
    with pytest.raises(ModelError, match="a score is not finite"):
        ranks_of(scores, [[1, 2], [4]], [4, 2])


@pytest.mark.parametrize(
    ("found", "figure", "words"),
    [
        ([0.10, 0.11, 0.12], 0.13, "below (difference -0.0200, two standard deviations 0.0200)"),
        ([0.10, 0.11, 0.12], 0.12, "inside (difference -0.0100, two standard deviations 0.0200)"),
        ([0.10, 0.11, 0.12], 0.08, "above (difference +0.0300, two standard deviations 0.0200)"),
        ([0.10], 0.08, "above (difference +0.0200, two standard deviations 0.0000)"),
    ],
)
def test_the_sentence_says_where_the_published_figure_lies(
    found: list[float], figure: float, words: str
) -> None:
    assert verdict(found, figure).endswith(words)


def test_a_system_without_a_published_figure_says_so() -> None:
    assert verdict([0.1, 0.2], None) == "0.1500 (0.1000 to 0.2000, seeds: 2), none published"


SEQUENCES = [[(u + n) % 8 + 1 for n in range(6)] for u in range(16)]
PLAN = Plan("esasrec", seed=0, patience=9, max_epochs=3)


def test_a_seed_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of(PLAN, SEQUENCES, tmp_path, math.inf)
    assert result is not None
    assert result.epochs == 3
    assert [file.suffix for file in tmp_path.iterdir()] == [".json"]
    monkeypatch.setattr(published, "Training", None)
    assert result_of(PLAN, SEQUENCES, tmp_path, math.inf) == result
    with pytest.raises(TypeError):  # other data
        result_of(PLAN, SEQUENCES[1:], tmp_path, math.inf)


def test_a_resumed_training_ends_with_the_figures_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Training(PLAN, SEQUENCES)
    while not whole.is_over:
        whole.advance()
    first = Training(PLAN, SEQUENCES)
    first.advance()
    first.save(tmp_path / "state.pt")
    second = Training(PLAN, SEQUENCES)
    second.resume(tmp_path / "state.pt")
    while not second.is_over:
        second.advance()
    assert replace(second.result(), seconds=0.0) == replace(whole.result(), seconds=0.0)
    for name, weights in whole.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], weights, rtol=0, atol=0)


def test_a_training_that_diverged_ends_and_gives_no_figure(tmp_path: Path) -> None:
    training = Training(replace(PLAN, every=3), SEQUENCES)
    with torch.no_grad():
        training.network.items.weight.fill_(math.inf)
    with pytest.raises(ModelError, match=r"learning rate 0\.001: the loss is nan; expected"):
        training.advance()
    assert training.best == -1.0


def test_no_epoch_begins_after_the_deadline(tmp_path: Path) -> None:
    assert result_of(PLAN, SEQUENCES, tmp_path, deadline=-math.inf) is None
    assert not list(tmp_path.iterdir())


def test_validation_is_measured_every_few_epochs_and_at_the_last() -> None:
    training = Training(replace(PLAN, every=2), SEQUENCES)
    figures: list[float] = []
    while not training.is_over:
        training.advance()
        figures.append(training.best)
    assert figures[0] == -1.0
    assert figures[1] >= 0.0
    assert training.epoch == 3


def write_events(folder: Path) -> Path:
    rows = [f"{u},{(u + n) % 8},{n // 2}" for u in range(16) for n in range(6)]
    file = folder / "interactions.csv"
    file.write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return file


def test_purchases_of_one_time_keep_the_files_order_or_are_shuffled(tmp_path: Path) -> None:
    file = str(write_events(tmp_path))
    kept, shuffled = read_events(file, 5), read_events(file, 5, tie_seed=0)
    assert kept[1] == [2, 3, 4, 5, 6, 7]
    assert shuffled != kept
    for one, other in zip(kept, shuffled, strict=True):
        assert [set(one[n : n + 2]) for n in (0, 2, 4)] == [
            set(other[n : n + 2]) for n in (0, 2, 4)
        ]


def test_a_run_prints_a_line_per_system_and_metric(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "MAX_EPOCHS", 1)
    arguments = f"--work {tmp_path} --interactions {write_events(tmp_path)} --published toys"
    main([*arguments.split(), "--systems", "gsasrec", "sasrec-sampled", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "16 users, 8 items, 96 events"
    starts = ["gsasrec, R@10: ", "gsasrec, NDCG@10: ", "gsasrec, best epochs [1]"]
    starts += [start.replace("gsasrec", "sasrec-sampled") for start in starts]
    for line, start in zip(lines[1:], starts, strict=True):
        assert line.startswith(start)
    assert len(list(tmp_path.glob("*.json"))) == 2
