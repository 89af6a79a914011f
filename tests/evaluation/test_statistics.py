"""Intervals against numbers worked by hand, scipy, loops, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from components.evaluation.statistics import (
    Estimate,
    clustered_bootstrap,
    clustered_normal,
    clustered_share,
    correlation,
    hacking_sign,
    wilson_interval,
    win_outcomes,
)

ONE_EACH = np.arange(10)


def clustered_data(
    generator: np.random.Generator, num_clusters: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes whose share differs by cluster, Beta(2, 2), so that its true mean is one half."""
    shares = generator.beta(2.0, 2.0, num_clusters)
    outcomes = generator.random((num_clusters, size)) < shares[:, None]
    return outcomes.astype(float).ravel(), np.repeat(np.arange(num_clusters), size)


def test_wilson_by_hand_and_against_scipy():
    # 8 of 10, z^2 = 3.8415: centre (0.8 + 0.19207) / 1.38415 = 0.71674,
    # half-width 1.95996 * sqrt(0.016 + 0.0096036) / 1.38415 = 0.22658.
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)
    for wins, trials in ((0, 7), (7, 7), (3, 50), (61, 100)):
        known = stats.binomtest(wins, trials).proportion_ci(method="wilson")
        assert wilson_interval(wins / trials, trials) == pytest.approx((known.low, known.high))


def test_the_normal_interval_by_hand():
    # Sums 2, 0, 1 of two values each; mean 0.5; residuals S - mean * N: 1, -1, 0.
    # Variance 3/2 * (1 + 1 + 0) / 6^2 = 1/12, standard error 0.288675.
    values, clusters = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0]), np.array([4, 4, 7, 7, 9, 9])
    found = clustered_normal(values, clusters)
    assert found.value == 0.5
    assert found.high - found.value == pytest.approx(1.959964 * 0.288675, abs=1e-5)
    assert found.low == pytest.approx(1.0 - found.high)


def test_clusters_of_one_give_the_textbook_standard_error():
    values = np.random.default_rng(1).normal(size=10)
    found = clustered_normal(values, ONE_EACH)
    assert found.high - found.value == pytest.approx(1.959964 * stats.sem(values), rel=1e-5)


def test_one_cluster_says_nothing_about_the_spread():
    found = clustered_normal(np.array([0.0, 1.0]), np.array([0, 0]))
    assert found.low == -np.inf and found.high == np.inf


def test_the_bootstrap_equals_a_loop_over_resamples():
    generator = np.random.default_rng(2)
    values = generator.normal(size=11)
    clusters = np.array([0, 0, 0, 1, 2, 2, 3, 3, 3, 3, 4])
    found = clustered_bootstrap(values, clusters, seed=9, num_resamples=400)
    drawn = np.random.default_rng(9).integers(5, size=(400, 5))
    means = [
        np.concatenate([values[clusters == cluster] for cluster in row]).mean() for row in drawn
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == values.mean()


def test_the_bootstrap_agrees_with_scipy_and_the_normal_interval():
    values, clusters = clustered_data(np.random.default_rng(3), 150, 4)
    found = clustered_bootstrap(values, clusters, seed=1, num_resamples=4000)
    per_prompt = values.reshape(150, 4).mean(axis=1)
    known = stats.bootstrap(
        (per_prompt,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=0.006)
    normal = clustered_normal(values, clusters)
    assert (found.low, found.high) == pytest.approx((normal.low, normal.high), abs=0.006)


def test_the_bootstrap_is_seeded():
    # Continuous values: means of a few zeros and ones have so few steps that two seeds can agree.
    values, clusters = np.random.default_rng(4).normal(size=60), np.repeat(np.arange(30), 2)
    once = clustered_bootstrap(values, clusters, seed=5, num_resamples=1000)
    assert once == clustered_bootstrap(values, clusters, seed=5, num_resamples=1000)
    assert once != clustered_bootstrap(values, clusters, seed=6, num_resamples=1000)


def test_values_without_labels_are_refused():
    with pytest.raises(ValueError, match="0 values"):
        clustered_bootstrap(np.array([]), np.array([], dtype=int), seed=0)
    with pytest.raises(ValueError, match="2 values in 3"):
        clustered_normal(np.array([1.0, 2.0]), np.array([1, 2, 3]))


def test_repeating_an_image_adds_no_certainty():
    outcomes = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    once = clustered_share(outcomes, ONE_EACH)
    four_times = clustered_share(np.repeat(outcomes, 4), np.repeat(ONE_EACH, 4))
    # Both are worth nine independent images: ten prompts, less the one that the mean takes.
    assert four_times.value == once.value
    assert (four_times.low, four_times.high) == pytest.approx((once.low, once.high), abs=1e-9)


def test_a_share_of_one_counts_each_prompt_once():
    found = clustered_share(np.ones(40), np.repeat(ONE_EACH, 4))
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(wilson_interval(1.0, 10)[0])


@pytest.mark.parametrize("method", ["bootstrap", "normal", "share"])
def test_95_percent_intervals_hold_the_truth_in_about_95_percent_of_trials(method: str):
    generator, trials, held, naive_held = np.random.default_rng(6), 400, 0, 0
    for trial in range(trials):
        values, clusters = clustered_data(generator, 60, 6)
        if method == "bootstrap":
            found = clustered_bootstrap(values, clusters, seed=trial, num_resamples=300)
        else:
            found = {"normal": clustered_normal, "share": clustered_share}[method](values, clusters)
        held += found.low <= 0.5 <= found.high
        low, high = wilson_interval(values.mean(), len(values))
        naive_held += low <= 0.5 <= high
    # Three standard errors of a share of 400 around 0.95 are 0.033.
    assert 0.915 <= held / trials <= 0.985
    # Counting images as independent would promise too much: the reason for all of this.
    assert naive_held / trials < 0.9


def test_a_tie_is_half_a_win():
    ours, theirs = np.array([0.9, 0.2, 0.5, 0.0]), np.array([0.1, 0.3, 0.5, 0.0])
    assert win_outcomes(ours, theirs).tolist() == [1.0, 0.0, 0.5, 0.5]


def test_correlation_by_hand_and_where_nothing_varies():
    x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    # Centred: (-1, 0, 1) and (-1, 1, 0); product 1, both norms sqrt(2).
    assert correlation(x, y) == pytest.approx(0.5)
    assert correlation(x, -x) == pytest.approx(-1.0)
    assert correlation(x, np.ones(3)) is None
    assert correlation(x[:1], y[:1]) is None


UP, DOWN = Estimate(0.5, 0.1, 0.9), Estimate(-0.5, -0.9, -0.1)
MAYBE_UP, MAYBE_DOWN = Estimate(0.1, -0.2, 0.4), Estimate(-0.1, -0.4, 0.2)


@pytest.mark.parametrize(
    ("reward", "correct", "sign"),
    [
        (UP, DOWN, "yes"),
        (UP, MAYBE_DOWN, "watch"),
        (MAYBE_UP, DOWN, "watch"),
        (UP, UP, "no"),
        (UP, MAYBE_UP, "no"),
        (DOWN, DOWN, "no"),
        (MAYBE_DOWN, MAYBE_DOWN, "no"),
        (DOWN, UP, "no"),
    ],
)
def test_hacking_is_a_reward_that_rises_while_the_verdict_falls(
    reward: Estimate, correct: Estimate, sign: str
):
    assert hacking_sign(reward, correct) == sign
