"""Rows, losses, networks and training of the systems that learn from the order of purchases."""

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, relu

from bench.sequential import compare_seeds, judge_mean
from msrrec.baselines.choosing import draw_settings
from msrrec.baselines.sequential import loss as losses
from msrrec.baselines.sequential.caser import Caser, CaserNetwork
from msrrec.baselines.sequential.esasrec import ESasRec, LigrBlock
from msrrec.baselines.sequential.gru4rec import Gru4Rec
from msrrec.baselines.sequential.loss import (
    binary_loss,
    gbce_loss,
    sampled_softmax_loss,
    softmax_loss,
)
from msrrec.baselines.sequential.rows import Purchases
from msrrec.baselines.sequential.sasrec import SasRec
from msrrec.baselines.sequential.sasrec_official import (
    Block,
    GSasRec,
    SasRecOfficial,
    SasRecOneBlock,
)
from msrrec.baselines.sequential.system import SPACE, TrialJob, read_checkpoint
from msrrec.baselines.sequential.trainer import (
    FitSettings,
    Fitted,
    Trial,
    draw_negatives,
    iter_batches,
    train_epoch,
    train_trial,
)
from msrrec.errors import ModelError
from msrrec.retrieval.sequential.network import Network, encode_histories, pad_right
from msrrec.schema import Example

SYSTEMS = (SasRec, Gru4Rec, Caser, SasRecOfficial, SasRecOneBlock, GSasRec, ESasRec)
TRIAL = Trial(learning_rate=0.01, dropout=0.0, size=8)
LENGTH = 4


def build(system: Any, num_items: int = 12, num_users: int = 3, trial: Trial = TRIAL) -> Network:
    torch.manual_seed(0)
    network: Network = system.network(num_items, num_users, LENGTH, trial)
    return network


@given(
    st.lists(st.lists(st.integers(1, 99), max_size=15), min_size=1, max_size=6),
    st.integers(1, 5),
    st.integers(0, 9),
)
def test_every_event_but_a_users_first_is_a_target_once_after_the_one_before_it(
    sequences: list[list[int]], length: int, seed: int
) -> None:
    rows = Purchases(sequences).rows(length, np.random.default_rng(seed))
    assert rows.inputs.shape == rows.targets.shape == (len(rows), length)
    found: dict[int, list[int]] = {}
    for user, inputs, targets in zip(rows.users, rows.inputs, rows.targets, strict=True):
        codes, width = sequences[user - 1], int((inputs > 0).sum())
        assert not inputs[width:].any()  # padding stands on the right
        supervised = np.flatnonzero(targets)
        assert supervised.tolist() == list(range(supervised[0], width))
        for place in supervised:
            index = len(found.setdefault(int(user), [])) + 1
            history = codes[:index]
            assert inputs[: place + 1].tolist() == history[-int(place) - 1 :]
            assert place + 1 >= min(index, length - length // 2)
            found[int(user)].append(int(targets[place]))
    for user, codes in enumerate(sequences, 1):
        assert found.get(user, []) == codes[1:]


def test_a_short_history_is_one_row_and_a_long_one_is_cut_at_different_places() -> None:
    purchases = Purchases([[1, 2, 3], list(range(1, 12))])
    cuts = set()
    for seed in range(30):
        rows = purchases.rows(4, np.random.default_rng(seed))
        assert (rows.users == 1).sum() == 1
        cuts.add(int((rows.targets[1] > 0).sum()))
    assert cuts == {1, 2, 3, 4}


def test_histories_keep_their_latest_events_and_are_padded_on_the_right() -> None:
    assert pad_right([[1, 2, 3, 4], [5]], 3).tolist() == [[2, 3, 4], [5, 0, 0]]


@pytest.mark.parametrize("chunk_values", [1, 25, 1 << 20])
def test_the_softmax_loss_and_its_gradients_are_those_of_cross_entropy(
    chunk_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_VALUES", chunk_values)
    torch.manual_seed(0)
    states = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    table = torch.randn(9, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 3, 8, 1, 0, 5])
    expected = cross_entropy(states @ table.T, targets)
    wanted = torch.autograd.grad(3 * expected, (states, table))
    loss = softmax_loss(states, table, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * loss, (states, table)), wanted)


def test_the_softmax_loss_bears_scores_that_exp_does_not() -> None:
    states = torch.tensor([[1000.0]], requires_grad=True)
    loss = softmax_loss(states, torch.tensor([[1.0], [0.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny))
    assert torch.autograd.grad(loss, states)[0].item() == 1.0


def test_the_binary_loss_holds_each_target_against_one_negative() -> None:
    states, table = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 5.0], [-1.0, 7.0]])
    # scores 2 and -1: -ln σ(2) - ln(1 - σ(-1))
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))
    found = binary_loss(states, table, torch.tensor([0]), torch.tensor([1]))
    assert found.item() == pytest.approx(expected)


def test_the_sampled_softmax_is_a_softmax_over_target_and_negatives() -> None:
    states = torch.tensor([[1.0], [1.0]])
    table = torch.tensor([[0.0], [math.log(2)], [math.log(3)], [9.0]])
    negatives = torch.tensor([[0, 2, 2]])
    # first: e^s is 2 against 1, 3 and 3: -ln(2 / 9); second: item 2 is its target, so that only
    # item 0 counts against it: -ln(3 / 4)
    expected = (math.log(9 / 2) + math.log(4 / 3)) / 2
    found = sampled_softmax_loss(states, table, torch.tensor([1, 2]), negatives)
    assert found.item() == pytest.approx(expected)


def test_consecutive_positions_share_negatives_and_the_next_group_has_others() -> None:
    states = torch.ones(3, 1)
    table = torch.tensor([[0.0], [math.log(2)], [math.log(3)]])
    targets, negatives = torch.tensor([0, 0, 0]), torch.tensor([[1], [2]])
    # the first ceil(3 / 2) positions: 1 against 2; the third one: 1 against 3
    expected = (2 * math.log(3) + math.log(4)) / 3
    found = sampled_softmax_loss(states, table, targets, negatives)
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
def test_the_negatives_of_a_step_are_many_of_a_large_catalogue(loss: Any) -> None:
    network, purchases = build(SasRecOneBlock, num_items=2000), Purchases([[1, 2, 3]] * 40)
    settings = FitSettings(LENGTH, 80, 1, 1, 0, loss)
    optimizer = torch.optim.Adam(network.parameters())
    train_epoch(network, purchases, settings, optimizer, np.random.default_rng(0))
    moved = network.items.weight.grad
    assert moved is not None
    # 5 groups of 256 draws reach 1 - (1 - 1 / 2000)^1280 = 47% of the items, one group 12%
    assert 0.4 < float((moved[1:] != 0).any(1).float().mean()) < 0.55


def test_the_calibrated_loss_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    states, table = torch.randn(4, 3), torch.randn(9, 3)
    targets, negatives = torch.tensor([0, 5, 5, 8]), torch.tensor([[5, 1, 2, 1]])
    share = 4 / 8  # negatives over the items beside the target
    power = share * (0.75 * (1 - 1 / share) + 1 / share)  # the paper's formula: 0.625
    assert power == pytest.approx(0.625)
    total = 0.0
    for state, target in zip(states, targets.tolist(), strict=True):
        total -= power * math.log(torch.sigmoid(state @ table[target]).item())
        for negative in negatives[0].tolist():
            if negative != target:
                total -= math.log(1 - torch.sigmoid(state @ table[negative]).item())
    found = gbce_loss(states, table, targets, negatives, calibration=0.75)
    assert found.item() == pytest.approx(total / 4 / 5, rel=1e-5)
    # with as many negatives as items the power is 1, whatever t is
    every = torch.arange(9).repeat(1, 2)
    plain = gbce_loss(states, table, targets, every, calibration=0.0)
    torch.testing.assert_close(gbce_loss(states, table, targets, every, calibration=1.0), plain)


def test_a_block_of_sasrecs_authors_adds_to_what_it_normalised() -> None:
    block = Block(4, 0.0).eval()
    for layer in (block.value, block.first, block.second):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    # attention and feed-forward net add nothing: what is left is the input, normalised
    mean, deviation = 3.0, math.sqrt((4 + 1 + 0 + 9) / 4)
    expected = (x - mean) / deviation
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_a_ligr_block_adds_through_gates_to_what_came_in() -> None:
    block = LigrBlock(2, 0.0).eval()
    for layer in (block.qkv, block.mix, block.gate_attention, block.gate_wide):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.zeros_(block.narrow.weight)
    torch.nn.init.constant_(block.mix.bias, 4.0)
    x = torch.tensor([[[1.0, -1.0], [0.5, 3.0]]])
    # the gate of an open question is a half: 0.5 x 4 is added, and the feed-forward net is silent
    torch.testing.assert_close(block(x), x + 2.0)


def test_negatives_are_uniform_over_what_the_user_did_not_buy() -> None:
    purchases = Purchases([[1, 2], [3, 4, 4, 1]])
    users = np.repeat([1, 2], 3000)
    rows = draw_negatives(users, purchases, 5, np.random.default_rng(0))
    first, second = np.bincount(rows[:3000], minlength=5), np.bincount(rows[3000:], minlength=5)
    assert first[:2].tolist() == [0, 0]
    assert second[[0, 2, 3]].tolist() == [0, 0, 0]
    # 1000 each of three and 1500 each of two are expected; five deviations are 129 and 137.
    assert abs(first[2:] - 1000).max() < 140
    assert abs(second[[1, 4]] - 1500).max() < 140


def test_a_user_who_bought_everything_still_gets_a_negative() -> None:
    rows = draw_negatives(np.array([1]), Purchases([[1, 2]]), 2, np.random.default_rng(0))
    assert rows[0] in (0, 1)


def test_batches_hold_every_row_once_and_about_so_many_targets() -> None:
    sequences = [list(range(1, 2 + n % 7)) for n in range(100)]
    purchases, rng = Purchases(sequences), np.random.default_rng(0)
    batches = list(iter_batches(purchases.rows(LENGTH, rng), 20, rng))
    assert sum(int((batch.targets > 0).sum()) for batch in batches) == purchases.num_targets
    sizes = [int((batch.targets > 0).sum()) for batch in batches]
    assert min(sizes) >= 15
    assert max(sizes) <= 25


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_state_follows_from_the_events_up_to_it_alone(system: Any) -> None:
    network, users = build(system).eval(), torch.tensor([1, 2])
    short = torch.tensor([[3, 4, 0, 0], [5, 0, 0, 0]])
    long = torch.tensor([[3, 4, 9, 7], [5, 8, 8, 1]])
    a, b = network(short, users), network(long, users)
    torch.testing.assert_close(a[0, :2], b[0, :2])
    torch.testing.assert_close(a[1, 0], b[1, 0])
    torch.testing.assert_close(network(short[:, :2], users), a[:, :2])  # however much is padding
    assert not torch.allclose(network(torch.tensor([[4, 3, 0, 0]]), users[:1])[0, 1], a[0, 1])


def test_casers_sliding_window_is_the_image_of_each_prefix() -> None:
    network = build(Caser).eval()
    assert isinstance(network, CaserNetwork)
    history, users = [3, 4, 9, 7, 2], torch.tensor([2])
    states = encode_histories(network, [history[:n] for n in range(1, 6)], [2] * 5, LENGTH)
    for n, state in enumerate(states, 1):
        codes = ([0] * LENGTH + history[:n])[-LENGTH:]
        image = network.items(torch.tensor([codes]))
        vertical = network.vertical(image[:, None]).flatten(1)
        heights = [relu(c(image.transpose(1, 2))).amax(2) for c in network.horizontal]
        dense = relu(network.first(torch.cat([vertical, *heights], dim=1)))
        expected = relu(network.second(torch.cat([dense, network.users(users)], dim=1)))
        torch.testing.assert_close(state, expected[0])


@pytest.mark.parametrize(
    ("system", "loss", "least"),
    [
        (SasRec, "softmax", 1),
        (Gru4Rec, "softmax", 1),
        (Caser, "softmax", 1),
        (SasRec, "binary", 0.8),
        (SasRecOfficial, "binary", 0.8),
        (SasRecOneBlock, "sampled", 1),
        (GSasRec, "gbce", 1),
        (ESasRec, "sampled", 1),
    ],
)
def test_each_system_learns_a_cycle(system: Any, loss: Any, least: float) -> None:
    # Item n is always followed by n + 1 modulo 12, so the next item is known for certain.
    sequences = [[(start + k) % 12 + 1 for k in range(6)] for start in range(12)] * 4
    network = build(system, num_users=len(sequences), trial=Trial(0.01, 0.0, 16))
    histories = [[n, n % 12 + 1] for n in range(1, 13)]
    targets = torch.tensor([(n + 1) % 12 for n in range(1, 13)])

    def validate(current: Network) -> float:
        states = encode_histories(current, histories, list(range(1, 13)), LENGTH)
        return float(((states @ current.table.T).argmax(1) == targets).float().mean())

    settings = FitSettings(LENGTH, 64, 80, 25, seed=0, loss=loss)
    fitted = train_trial(network, Purchases(sequences), Trial(0.01, 0.0, 16), settings, validate)
    assert fitted.figure >= least  # with one negative a target, a user's own items stay close


def test_a_trial_ends_after_its_patience_and_keeps_its_best_epoch() -> None:
    network, figures = build(Gru4Rec), iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    kept: list[torch.Tensor] = []

    def validate(current: Network) -> float:
        kept.append(current.items.weight.detach().clone())
        return next(figures)

    settings = FitSettings(LENGTH, 4, max_epochs=50, patience=3, seed=0)
    fitted = train_trial(network, Purchases([[1, 2, 3], [4, 5]]), TRIAL, settings, validate)
    assert (fitted.figure, fitted.epoch, len(fitted.epoch_s)) == (0.5, 2, 5)
    torch.testing.assert_close(fitted.state["items.weight"], kept[1])


def test_a_trial_that_diverged_ends_with_its_loss() -> None:
    network = build(Gru4Rec)
    torch.nn.init.constant_(network.items.weight, math.inf)
    settings = FitSettings(LENGTH, 4, max_epochs=2, patience=3, seed=0)
    with pytest.raises(ModelError, match=r"with the learning rate 0\.01: the loss is nan"):
        train_trial(network, Purchases([[1, 2, 3], [4, 5]]), TRIAL, settings, lambda _: 0.0)


def test_the_same_seed_trains_the_same_weights() -> None:
    settings = FitSettings(LENGTH, 8, max_epochs=2, patience=9, seed=5)
    purchases = Purchases([list(range(1, 12)), [3, 2, 1]])
    first, second = (
        train_trial(build(SasRec), purchases, TRIAL, settings, lambda _: 0.0) for _ in range(2)
    )
    torch.testing.assert_close(first.state, second.state, rtol=0, atol=0)


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(0, 99))
def test_every_system_gets_as_many_trials_the_usual_one_first(count: int, seed: int) -> None:
    for system in SYSTEMS:
        trials = draw_settings(system.usual, SPACE, count, seed)
        assert trials[0] == system.usual
        assert len(trials) == len(set(trials)) == count


def test_trials_are_named_after_catalogue_and_validation_too() -> None:
    held_out = Example("e", "u", ("a",), "b", ("b", "c"))
    settings = FitSettings(LENGTH, 8, max_epochs=2, patience=9, seed=5)
    codes = {"a": 1, "b": 2, "c": 3}
    job = TrialJob(
        "x", SasRec.network, [TRIAL], settings, Purchases([[1, 2]]), [held_out], codes, {"u": 1}
    )
    others = [
        replace(job, held_out=[replace(held_out, target="c")]),
        replace(job, codes=codes | {"d": 4}),
        replace(job, users={"v": 1}),
    ]
    assert len({one.fingerprint() for one in (job, *others, replace(job))}) == 4


def test_a_trial_reads_back_from_its_checkpoint(tmp_path: Path) -> None:
    class Folder:
        def as_directory(self) -> Any:
            return contextlib.nullcontext(str(tmp_path))

    fitted = Fitted(TRIAL, 0.25, 3, {"w": torch.ones(2)}, [0.5, 0.25])
    torch.save(vars(fitted), tmp_path / "trial-007.pt")
    found = read_checkpoint(Folder())
    assert list(found) == [7]
    assert found[7].facts() == fitted.facts()
    torch.testing.assert_close(found[7].state, fitted.state)


@pytest.mark.parametrize(
    ("ours", "verdict"), [(0.07, "below"), (0.08, "within"), (0.1, "within"), (0.12, "above")]
)
def test_parity_fails_far_above_another_implementation_as_far_below(
    ours: float, verdict: str
) -> None:
    assert judge_mean(ours, [0.09, 0.1, 0.08]) == verdict


def test_parity_compares_our_mean_with_the_range_of_the_other_seeds() -> None:
    ours = [{"recall@10": recall, "ndcg@10": 0.05} for recall in (0.08, 0.14)]
    theirs = [
        {"recall@10": recall, "ndcg@10": ndcg} for recall, ndcg in ((0.09, 0.04), (0.1, 0.06))
    ]
    found = compare_seeds({"ours": ours, "recbole": theirs}, "recbole")
    assert found["recall@10"] == {
        "ours": 0.11,
        "ours_range": [0.08, 0.14],
        "recbole": 0.095,
        "recbole_range": [0.09, 0.1],
        "verdict": "above",
    }
    assert found["ndcg@10"]["verdict"] == "within"
