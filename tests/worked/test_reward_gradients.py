"""Losses and draws of the methods that differentiate rewards or weigh samples, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from components.finetuning.algorithms.alignprop import (
    AlignProp,
    AlignPropSettings,
    FixedTruncation,
    NormalTruncation,
    UniformTruncation,
)
from components.finetuning.algorithms.hive import HIVESettings
from components.finetuning.algorithms.lee2023 import Lee2023Settings
from components.finetuning.algorithms.refl import StepWindow
from components.finetuning.experience.prompt_classification import near_misses
from components.finetuning.losses import reward_gradient, sample_weights
from components.finetuning.prompt_pool import PromptPool
from components.rewards.losses.prompts import prompt_classification_loss

REWARD = [1.0, 4.0, 2.5]


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


@pytest.mark.parametrize(
    ("loss", "value", "gradient"),
    [
        # -(1 + 4 + 2.5)/3
        (lambda r: checked(reward_gradient.negative_reward)(r), -2.5, [-1.0, -1.0, -1.0]),
        # (1 + 2 + 0.5)/3
        (lambda r: checked(reward_gradient.margin_loss)(r, 2.0), 3.5 / 3, [-1.0, 1.0, 1.0]),
        # (1 + 0 + 0)/3
        (lambda r: checked(reward_gradient.hinge_loss)(r, 2.0), 1 / 3, [-1.0, 0.0, 0.0]),
    ],
    ids=["negative", "margin", "hinge"],
)
def test_three_ways_to_want_more(loss, value, gradient):
    reward = torch.tensor(REWARD, requires_grad=True)
    found = loss(reward)
    assert float(found.detach()) == pytest.approx(value)
    (slope,) = torch.autograd.grad(found, reward)
    assert (3 * slope).tolist() == pytest.approx(gradient)


def test_exponential_weights():
    reward = torch.tensor([0.0, math.log(3)])
    found = checked(sample_weights.exponential_weights)(reward, 1.0)
    assert found.tolist() == pytest.approx([0.5, 1.5])
    found = sample_weights.exponential_weights(reward, 0.5)
    assert found.tolist() == pytest.approx([0.2, 1.8])
    # A shift of all rewards says nothing, and cannot overflow.
    found = sample_weights.exponential_weights(reward + 1000, 1.0)
    assert found.tolist() == pytest.approx([0.5, 1.5], rel=1e-4)


def test_reward_levels_are_equal_parts_of_the_ranking():
    reward = torch.tensor([5.0, 1.0, 9.0, 1.0])
    levels = checked(sample_weights.reward_levels)
    assert levels(reward, 2).tolist() == [1, 0, 1, 0]
    assert levels(reward, 4).tolist() == [2, 0, 3, 0]
    assert levels(torch.arange(10).float(), 5).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert levels(torch.arange(5).float().flip(0), 2).tolist() == [1, 1, 0, 0, 0]
    assert levels(torch.ones(3), 2).tolist() == [0, 0, 0]


def test_the_probability_of_the_own_prompt():
    score = torch.tensor([[2 * math.log(3), 0.0, -math.inf], [0.0, 0.0, 0.0]])
    found = checked(sample_weights.prompt_probability)(score, 2.0)
    assert found.tolist() == pytest.approx([0.75, 1 / 3])


def test_prompt_classification_loss():
    loss = checked(prompt_classification_loss)
    score = torch.tensor([[2 * math.log(3), 0.0], [0.0, 0.0]])
    both, first = torch.tensor([True, True]), torch.tensor([True, False])
    value = -math.log(0.75)
    assert float(loss(score, first)) == pytest.approx(0.5 * value)
    assert float(loss(score, both)) == pytest.approx(0.25 * (value + math.log(2)))
    assert float(loss(score, both, 2.0, 1.0)) == pytest.approx(0.5 * (value + math.log(2)))
    # At temperature 1 the first row is 9 : 1.
    assert float(loss(score, first, 1.0, 1.0)) == pytest.approx(-math.log(0.9))
    # (P - 1)/T on the true prompt, P/T on the other, and nothing on a bad image.
    score = score.requires_grad_()
    (slope,) = torch.autograd.grad(loss(score, first, 2.0, 1.0), score)
    assert slope.flatten().tolist() == pytest.approx([-0.125, 0.125, 0.0, 0.0])
    assert float(loss(score.detach(), torch.tensor([False, False]))) == 0.0


def test_the_number_of_steps_of_a_normal_truncation():
    found = NormalTruncation(mean=1.0, std=1.0).probabilities(2)
    assert found.tolist() == pytest.approx([0.5, 0.5])
    found = NormalTruncation(mean=2.0, std=1.0).probabilities(2)
    assert found.tolist() == pytest.approx([0.2848, 0.7152], abs=1e-4)
    # The code: the first step of 50 is int(N(42, 5)), drawn again until there is such a step.
    generator = torch.Generator().manual_seed(0)
    first = (42 + 5 * torch.randn(200_000, generator=generator, dtype=torch.float64)).floor()
    first = first[(first >= 0) & (first < 50)].long()
    drawn = torch.bincount(50 - first, minlength=51)[1:] / len(first)
    torch.testing.assert_close(
        NormalTruncation().probabilities(50), drawn.double(), atol=0.004, rtol=0
    )


def test_the_number_of_steps_of_the_other_truncations():
    assert UniformTruncation(lowest=2, highest=3).probabilities(4).tolist() == [0, 0.5, 0.5, 0]
    assert FixedTruncation(grad_steps=3).probabilities(4).tolist() == [0, 0, 1, 0]
    with pytest.raises(ValueError, match="highest 1 is below lowest 2"):
        UniformTruncation(lowest=2, highest=1)


def kept(draw_per: str, seed: int, truncation=None) -> torch.Tensor:
    truncation = truncation or UniformTruncation(lowest=1, highest=4)
    settings = AlignPropSettings(truncation=truncation, draw_per=draw_per)
    return AlignProp(settings, None).kept(6, 4, torch.Generator().manual_seed(seed))


def test_what_alignprop_keeps():
    two = kept("batch", 0, FixedTruncation(grad_steps=2))
    assert two.tolist() == [[False, False, True, True]] * 6
    for seed in range(5):
        for draw_per in ("batch", "image", "step"):
            found = kept(draw_per, seed)
            assert found.shape == (6, 4)
            # The last step always counts: there is a gradient.
            assert bool(found[:, -1].all())
            suffix = bool((found.int().diff(dim=1) >= 0).all())
            assert suffix or draw_per == "step"
            assert draw_per == "image" or bool((found == found[0]).all())
    assert len({tuple(row) for row in kept("image", 0).tolist()}) > 1
    assert any(bool((kept("step", seed).int().diff(dim=1) < 0).any()) for seed in range(5))
    # Step s of 4 is kept with probability (s + 1)/4 when K is uniform over 1..4.
    share = torch.stack([kept("step", seed)[0] for seed in range(400)]).float().mean(0)
    torch.testing.assert_close(share, torch.tensor([0.25, 0.5, 0.75, 1.0]), atol=0.08, rtol=0)


def test_both_countings_of_refls_window_are_one():
    assert StepWindow().positions(40) == range(30, 40)
    window = StepWindow(first=1, last=10, counted_from="image")
    assert window.positions(40) == range(30, 40)
    assert window.positions(12) == range(2, 12)
    assert (StepWindow().min_steps, window.min_steps) == (40, 10)
    assert StepWindow(first=1, last=2, counted_from="image").positions(5) == range(3, 5)
    with pytest.raises(ValueError, match="last 2 is below first 3"):
        StepWindow(first=3, last=2)
    with pytest.raises(ValueError, match="counted from the image the last step is 1"):
        StepWindow(first=0, last=2, counted_from="image")


@pytest.mark.parametrize(
    ("transform", "expected"),
    [("raw", [-1.0, 0.0, 2.0]), ("non_negative", [0.0, 1.0, 3.0]), ("binary", [0.0, 0.0, 1.0])],
)
def test_weights_of_lee_et_al(transform, expected):
    settings = Lee2023Settings(reward_transform=transform)
    assert settings.weights(torch.tensor([-1.0, 0.0, 2.0])).tolist() == expected


def test_phrases_of_hive():
    settings = HIVESettings(form="conditional")
    assert settings.phrases[0] == ", image quality is one out of five"
    assert settings.phrases[-1] == ", image quality is five out of five"
    plain = HIVESettings(level_names=("1", "2", "3"), phrase=" {level}", inference_phrase="")
    assert plain.phrases == (" 1", " 2", "")
    assert settings.weights(torch.tensor([1.0, 7.0])).tolist() == [1.0, 1.0]
    for wrong, message in (
        ({"phrase": " good"}, "phrase must hold"),
        ({"level_names": ("1", "1")}, "a phrase of its own"),
        ({"level_names": ("1", "2"), "phrase": " {level}", "inference_phrase": " 1"}, "of its own"),
        ({"num_images": 5, "group_size": 2}, "multiple of group_size"),
    ):
        with pytest.raises(ValueError, match=message):
            HIVESettings(**wrong)


def test_near_misses_share_most_words():
    pool = PromptPool(
        ["a blue car", "a red car", "two cars", "a red fox", "a blue car", "a blue bus"],
        ["x", "x", "x", "x", "x", "y"],
    )
    # The bus is of another category, and the same words are no other prompt.
    found = near_misses(pool, 0, 5, torch.Generator().manual_seed(0))
    assert found == [1, 3, 2]
    assert near_misses(pool, 0, 2, torch.Generator().manual_seed(0)) == [1, 3]
    assert near_misses(pool, 5, 2, torch.Generator()) == []
    equal = PromptPool(["a b", "a c", "a d", "a e"], ["x"] * 4)
    first = {near_misses(equal, 0, 1, torch.Generator().manual_seed(seed))[0] for seed in range(9)}
    assert first == {1, 2, 3}
