"""The losses of the tasks, compared with numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from lengthwise_training.objectives.losses import (  # noqa: E402
    class_nll,
    cumulative_link,
    edge_renormalised_kernel,
    histogram_kl,
    list_mle,
    overshoot_free,
    pair_logistic,
    pinball,
)

NO, YES = False, True


def marks(*cut: bool) -> Any:
    return torch.tensor(cut)


def test_listmle_is_the_likelihood_of_the_right_order() -> None:
    # Short first: utilities 2, 1, 0 in that order; by hand, log sum exp minus utility at each
    # place: log(e2+e1+e0)-2 + log(e1+e0)-1 + 0
    want = math.log(math.e**2 + math.e + 1) - 2 + math.log(math.e + 1) - 1
    utility = torch.tensor([0.0, 2.0, 1.0])
    length = torch.tensor([300.0, 10.0, 40.0])
    got = list_mle(utility, length, marks(NO, NO, NO), torch.tensor([2, 0, 1]))
    assert float(got) == pytest.approx(want, abs=1e-6)
    wrong = list_mle(-utility, length, marks(NO, NO, NO), torch.tensor([2, 0, 1]))
    assert float(wrong) > float(got)


def test_listmle_is_finite_for_scores_of_any_size() -> None:
    utility = torch.tensor([500.0, 0.0, -500.0], requires_grad=True)
    length = torch.tensor([1.0, 2.0, 3.0])
    loss = list_mle(utility, length, marks(NO, NO, NO), torch.arange(3))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0, abs=1e-6)
    assert bool(torch.isfinite(utility.grad).all())


def test_listmle_breaks_ties_by_the_permutation_given() -> None:
    utility, length = torch.tensor([1.0, 0.0]), torch.tensor([5.0, 5.0])
    first = list_mle(utility, length, marks(NO, NO), torch.tensor([0, 1]))
    second = list_mle(utility, length, marks(NO, NO), torch.tensor([1, 0]))
    assert float(first) == pytest.approx(math.log(1 + math.exp(-1)))
    assert float(second) == pytest.approx(math.log(1 + math.e))


def test_listmle_of_a_cut_answer_requires_only_that_it_comes_after_the_short_ones() -> None:
    length, order = torch.tensor([10.0, 512.0, 512.0]), torch.arange(3)
    cut = marks(NO, YES, YES)
    a = list_mle(torch.tensor([1.0, 0.0, -3.0]), length, cut, order)
    b = list_mle(torch.tensor([1.0, -3.0, 0.0]), length, cut, order)
    assert float(a) == pytest.approx(float(b))
    want = math.log(math.e + 1 + math.exp(-3)) - 1
    assert float(a) == pytest.approx(want)


def test_pairs_are_a_logistic_of_the_scores_difference() -> None:
    score, length = torch.tensor([0.0, 1.0]), torch.tensor([10.0, 20.0])
    want = math.log(1 + math.exp(-1))
    assert float(pair_logistic(score, length, marks(NO, NO))) == pytest.approx(want)


def test_a_pair_whose_shorter_answer_was_cut_is_unknown() -> None:
    score, length = torch.tensor([0.0, 1.0]), torch.tensor([10.0, 20.0])
    assert float(pair_logistic(score, length, marks(YES, NO))) == 0.0
    assert float(pair_logistic(score, length, marks(NO, YES))) > 0.0
    assert float(pair_logistic(score, torch.tensor([20.0, 20.0]), marks(NO, NO))) == 0.0
    assert float(pair_logistic(score, torch.tensor([20.0, 20.0]), marks(NO, YES))) > 0.0


@pytest.mark.parametrize("bins", [16, 1024])
def test_smoothing_loses_no_mass_at_the_edges(bins: int) -> None:
    kernel = edge_renormalised_kernel(bins, 32.0)
    assert torch.allclose(kernel.sum(1), torch.ones(bins), atol=1e-5)
    # A plain convolution keeps 0.57 of an answer of 5 tokens, as in the published system.
    place = torch.arange(1024.0)
    plain = torch.exp(-0.5 * ((place - 5) / 32) ** 2) / (32 * math.sqrt(2 * math.pi))
    assert float(plain.sum()) == pytest.approx(0.57, abs=0.01)


def test_smoothing_by_hand_of_three_bins() -> None:
    # Rows of exp(-d^2/2) over their sums: 1, .6065, .1353.
    a, b = math.exp(-0.5), math.exp(-2.0)
    want = torch.tensor(
        [
            [1 / (1 + a + b), a / (1 + a + b), b / (1 + a + b)],
            [a / (1 + 2 * a), 1 / (1 + 2 * a), a / (1 + 2 * a)],
            [b / (1 + a + b), a / (1 + a + b), 1 / (1 + a + b)],
        ]
    )
    assert torch.allclose(edge_renormalised_kernel(3, 1.0), want, atol=1e-6)


def test_the_histograms_divergence_is_zero_at_the_smoothed_target() -> None:
    kernel = edge_renormalised_kernel(8, 1.0)
    label = torch.tensor([[2, 2, 5, 0]])
    known, cut = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    target = (2 * kernel[2] + kernel[5] + kernel[0]) / 4
    assert float(histogram_kl(target.log()[None], label, cut, known, kernel)) == pytest.approx(
        0.0, abs=1e-6
    )
    even = histogram_kl(torch.zeros(1, 8), label, cut, known, kernel)
    want = float((target * (target * 8).log()).sum())
    assert float(even) == pytest.approx(want, abs=1e-6)


def test_a_histogram_has_a_loss_for_a_cut_answer_only_below_its_cap() -> None:
    kernel = edge_renormalised_kernel(4, 0.0)
    label, known = torch.tensor([[2]]), torch.tensor([[True]])
    cut = torch.tensor([[True]])
    share = torch.tensor([[0.1, 0.3, 0.2, 0.4]])
    got = histogram_kl(share.log(), label, cut, known, kernel)
    assert float(got) == pytest.approx(-math.log(0.6), abs=1e-6)


def test_classes_by_hand_with_weights_and_a_cut_answer() -> None:
    share = torch.tensor([[0.2, 0.3, 0.5]])
    label = torch.tensor([[0, 1]])
    known, weight = torch.tensor([[True, True]]), torch.tensor([2.0, 1.0, 1.0])
    got = class_nll(share.log(), label, torch.tensor([[False, True]]), known, weight)
    want = (2 * -math.log(0.2) + -math.log(0.8)) / 3
    assert float(got) == pytest.approx(want, abs=1e-6)


def test_a_cumulative_link_ignores_thresholds_above_the_class_of_a_cut_answer() -> None:
    score, thresholds = torch.tensor([0.0]), torch.tensor([-1.0, 1.0])
    label, known = torch.tensor([[1]]), torch.tensor([[True]])
    beyond_first = -math.log(1 / (1 + math.exp(-1)))
    ended = cumulative_link(score, thresholds, label, torch.tensor([[False]]), known)
    cut = cumulative_link(score, thresholds, label, torch.tensor([[True]]), known)
    assert float(cut) == pytest.approx(beyond_first)
    assert float(ended) == pytest.approx(beyond_first)  # both sides are alike at 0
    higher = torch.tensor([2.0])
    assert float(cumulative_link(higher, thresholds, label, torch.tensor([[True]]), known)) < float(
        cumulative_link(higher, thresholds, label, torch.tensor([[False]]), known)
    )


@pytest.mark.parametrize(
    ("predicted", "cut", "want"),
    [(4.0, NO, 0.9), (6.0, NO, 0.1), (4.0, YES, 0.9), (6.0, YES, 0.0)],
    ids=["below", "above", "below a cut", "above a cut"],
)
def test_pinball_of_the_ninth_decile(predicted: float, cut: bool, want: float) -> None:
    got = pinball(torch.tensor(predicted), torch.tensor(5.0), torch.tensor(cut), 0.9)
    assert float(got) == pytest.approx(want)


def test_predicting_more_than_a_cut_answer_costs_nothing() -> None:
    error = torch.tensor([-2.0, 3.0, 3.0])
    assert overshoot_free(error, marks(YES, YES, NO)).tolist() == [-2.0, 0.0, 3.0]
