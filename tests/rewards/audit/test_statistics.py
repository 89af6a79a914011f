"""Curves, correlations, spreads and intervals against brute force and worked numbers."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from components.contracts.errors import DataError
from components.contracts.intervals import Estimate
from components.rewards.audit.best_of_n import best_of_n, expected, kl
from components.rewards.audit.correlation import (
    ColourCorrelation,
    agreement,
    colour_correlations,
    kendall,
    spearman,
    within_prompts,
)
from components.rewards.audit.resampling import Bootstrap
from components.rewards.audit.sensitivity import Sensitivity, prompt_means, spread


def bootstrap(num_prompts: int, seed: int = 0, num_resamples: int = 2000) -> Bootstrap:
    return Bootstrap(num_prompts, num_resamples, torch.Generator().manual_seed(seed))


def test_the_worked_example_of_the_best_of_n() -> None:
    found = expected(np.array([3.0, 1, 2]), np.array([5.0, 7, 9]), np.zeros(3, int), 3)
    assert found[0] == pytest.approx([7, 19 / 3, 5])


def test_the_best_of_n_is_the_mean_over_all_subsets_with_ties_shared() -> None:
    rng = np.random.default_rng(0)
    prompt_of = np.repeat([0, 1], [6, 7])
    reward, value = rng.integers(0, 4, 13).astype(float), rng.normal(size=13)
    found = expected(reward, value, prompt_of, 6)
    for prompt in (0, 1):
        rows = np.flatnonzero(prompt_of == prompt)
        for n in range(1, 7):
            shown = []
            for subset in combinations(rows, n):
                best = [row for row in subset if reward[row] == max(reward[list(subset)])]
                shown.append(value[best].mean())
            assert found[prompt, n - 1] == pytest.approx(np.mean(shown))


def judged(num_prompts: int = 20, num_images: int = 5) -> tuple[np.ndarray, np.ndarray]:
    score = np.random.default_rng(2).normal(size=num_prompts * num_images)
    return score, np.repeat(np.arange(num_prompts), num_images)


def test_the_judge_itself_captures_all_and_its_opposite_as_much_below_nothing() -> None:
    score, prompt_of = judged()
    correct = (score > 0).astype(float)
    found = best_of_n(score, score, correct, prompt_of, 5, bootstrap(20))
    assert found.captured == Estimate(1.0, 1.0, 1.0)
    assert found.captured_correct == Estimate(1.0, 1.0, 1.0)
    assert [point.value for point in found.score.picked] == pytest.approx(found.score.oracle)
    assert found.peak == found.num_images == 5 and found.fall.value == 0
    opposite = best_of_n(-score, score, correct, prompt_of, 5, bootstrap(20))
    assert opposite.captured.value < -0.5 and opposite.peak == 1 and opposite.fall.above_zero
    # However it chooses, its own figure rises.
    rises = [point.value for point in opposite.reward.picked]
    assert rises[0] == 0 and rises == sorted(rises)


def test_a_reward_without_an_opinion_captures_nothing() -> None:
    score, prompt_of = judged()
    found = best_of_n(0 * score, score, 0 * score, prompt_of, 5, bootstrap(20))
    assert found.captured.value == pytest.approx(0, abs=1e-12)
    assert found.captured_correct is None, "the judge calls nothing correct"


def test_the_goodhart_gap_is_the_fall_from_the_peak() -> None:
    # In rising reward the judge says 0, 0, 1, 0.6. Best of 1: 0.4. Best of 2, weights 0, 1/6, 2/6,
    # 3/6: 1/3 + 0.3. Best of 3, weights 0, 0, 1/4, 3/4: 0.25 + 0.45. Best of 4: 0.6.
    prompts = np.repeat(np.arange(6), 4)
    score, reward = np.tile([0, 0, 1, 0.6], 6), np.tile([1.0, 2, 3, 4], 6)
    found = best_of_n(reward, score, score.round(), prompts, 4, bootstrap(6))
    assert [point.value for point in found.score.picked] == pytest.approx([0.4, 19 / 30, 0.7, 0.6])
    assert found.peak == 3 and found.fall.value == pytest.approx(0.1)
    assert found.gain.value == pytest.approx(0.2) and found.oracle_gain == pytest.approx(0.6)
    assert found.captured.value == pytest.approx(1 / 3)


def test_a_judge_that_tells_nothing_apart_is_refused() -> None:
    score, prompt_of = judged()
    with pytest.raises(DataError, match="all images of a prompt the same score"):
        best_of_n(score, 0 * score, 0 * score, prompt_of, 5, bootstrap(20))


def test_kl_of_the_best_of_one_is_nothing() -> None:
    assert [kl(n) for n in (1, 2, 4)] == pytest.approx([0, 0.1931, 0.6363], abs=1e-4)


def test_the_spread_is_that_within_a_prompt() -> None:
    values, prompt_of = np.array([1.0, 3, 5, 5]), np.array([0, 0, 1, 1])
    assert spread(values, prompt_of) == pytest.approx(1.0)
    assert spread(values + 100 * prompt_of, prompt_of) == pytest.approx(1.0)
    assert prompt_means(values, prompt_of) == pytest.approx([2, 5])


@pytest.mark.parametrize(
    ("reward", "judge", "shortcut"),
    [(0.8, -0.3, 0.8), (0.8, 0.0, 0.8), (0.8, 0.5, 0.3), (0.8, 1.5, 0.0), (-0.8, -2.0, 0.0)],
)
def test_a_shortcut_is_what_the_judge_does_not_grant(
    reward: float, judge: float, shortcut: float
) -> None:
    def sure(value: float) -> Estimate:
        return Estimate(value, value, value)

    found = Sensitivity("zoom", "+3 %", sure(reward), sure(judge), 0.5)
    assert found.shortcut == pytest.approx(shortcut)
    assert found.name == "zoom +3 %"


def test_rank_correlations_are_those_of_scipy_and_the_worked_one() -> None:
    assert spearman(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(0.5)
    # Pairs of (1, 2, 3) and (1, 3, 2): two agree, one does not.
    assert kendall(np.array([1.0, 2, 3]), np.array([1.0, 3, 2])) == pytest.approx(1 / 3)
    rng = np.random.default_rng(4)
    for _ in range(20):
        x, y = rng.integers(0, 4, 9).astype(float), rng.normal(size=9)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_a_prompt_with_nothing_to_order_is_left_out_and_an_order_of_nothing_counts_zero() -> None:
    measured = np.array([1.0, 2, 3, 5, 5, 5, 1, 2, 3])
    ours = np.array([1.0, 2, 3, 1, 2, 3, 7, 7, 7])
    prompt_of = np.repeat([0, 1, 2], 3)
    found = within_prompts(measured, ours, prompt_of, spearman)
    assert found[0] == pytest.approx(1) and np.isnan(found[1]) and found[2] == 0
    assert agreement(measured, ours, prompt_of, bootstrap(3)).value == pytest.approx(0.5)
    colours = {"grey": np.ones(9), "red": measured}
    (red,) = colour_correlations(colours, ours, -measured, prompt_of, bootstrap(3))
    assert red.statistic == "red" and red.reward.value == pytest.approx(0.5)
    assert red.judge.value == pytest.approx(-1)


@pytest.mark.parametrize(
    ("reward", "judge", "excess"),
    [(0.9, 0.1, 0.8), (0.9, -0.5, 0.9), (-0.7, -0.2, 0.5), (-0.7, 0.2, 0.7), (0.3, 0.6, 0.0)],
)
def test_a_colour_that_the_judge_follows_too_is_no_fault(
    reward: float, judge: float, excess: float
) -> None:
    found = ColourCorrelation(
        "warmth", Estimate(reward, reward, reward), Estimate(judge, judge, judge)
    )
    assert found.excess == pytest.approx(excess)


def test_the_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(5).normal(3, 2, 200)
    found = bootstrap(200).mean(values)
    half = 1.96 * values.std() / 200**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05)
    assert bootstrap(200).mean(values) == found
    assert bootstrap(200, seed=1).mean(values) != found


def test_a_ratio_knows_that_both_sides_are_of_the_same_prompts() -> None:
    base = np.random.default_rng(6).normal(1, 0.5, 50)
    half = bootstrap(50).ratio(base / 2, base)
    assert half is not None
    assert (half.value, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    assert bootstrap(50).ratio(base, 0 * base) is None
    assert bootstrap(50).ratio(base, -base) is None


def test_prompts_that_say_nothing_do_not_count() -> None:
    values = np.array([1.0, np.nan, 3.0, np.nan])
    found = bootstrap(4).mean(values)
    assert found.value == 2 and found.low == 1 and found.high == 3
    with pytest.raises(ValueError, match="no number among 2 prompts"):
        bootstrap(2).mean(np.array([np.nan, np.nan]))
