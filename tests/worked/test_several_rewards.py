"""Several rewards in one, against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from components.finetuning.experience.scoring import groups_of
from components.finetuning.losses.several import combined_in_groups, combined_with_gradient
from components.rewards.scorers.several import weighted_sum


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


def test_parts_are_normalised_within_groups_by_hand():
    parts = torch.tensor([[1.0, 3.0, 5.0, 5.0], [10.0, 30.0, 2.0, 0.0]])
    found = checked(combined_in_groups)(parts, [1.0, 0.5], torch.tensor([0, 0, 1, 1]))
    assert found.reward.tolist() == pytest.approx([-1.5, 1.5, 0.5, -0.5])
    assert found.num_flat_groups.tolist() == [1, 0]


def test_groups_need_not_lie_side_by_side_and_may_differ_in_size():
    parts = torch.tensor([[0.0, 7.0, 3.0, 3.0, 9.0]])
    found = combined_in_groups(parts, [2.0], torch.tensor([0, 1, 0, 0, 1]))
    # Group 0: 0, 3, 3 has mean 2 and deviation √2; group 1: 7, 9 has mean 8 and deviation 1.
    low, high = -2 / 2**0.5, 1 / 2**0.5
    assert found.reward.tolist() == pytest.approx([2 * low, -2.0, 2 * high, 2 * high, 2.0])


def test_the_scale_of_a_part_does_not_matter_and_the_weight_does():
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn((2, 12), generator=generator)
    group = torch.arange(3).repeat_interleave(4)
    found = combined_in_groups(parts, [1.0, 1.0], group).reward
    scaled = parts * torch.tensor([[1000.0], [0.001]]) + torch.tensor([[-5.0], [2.0]])
    torch.testing.assert_close(
        combined_in_groups(scaled, [1.0, 1.0], group).reward, found, rtol=1e-2, atol=1e-2
    )
    # The sum of the raw parts would be the first part, as good as alone.
    raw = weighted_sum(scaled, [1.0, 1.0])
    assert float(torch.corrcoef(torch.stack([raw, parts[0]]))[0, 1]) > 0.999999
    assert abs(float(torch.corrcoef(torch.stack([found, parts[0]]))[0, 1])) < 0.95
    less = combined_in_groups(parts, [1.0, -1.0], group).reward
    more = combined_in_groups(parts, [1.0, 0.0], group).reward
    torch.testing.assert_close(found + less, 2 * more)


def test_the_last_bits_of_a_float_are_no_preference():
    part = torch.tensor([[0.3, 0.3, 20.0, 20.0], [0.3, 0.3, 20.0, 20.0]])
    part[1] = part[1].nextafter(torch.tensor([1.0, 0.0, 30.0, 0.0]))
    assert not torch.equal(part[0], part[1])
    found = combined_in_groups(part, [1.0, 1.0], torch.tensor([0, 0, 1, 1]))
    assert found.reward.tolist() == [0.0] * 4
    assert found.num_flat_groups.tolist() == [2, 2]


def test_a_gradient_is_that_of_parts_on_one_scale():
    parts = torch.tensor([[1.0, 3.0], [10.0, 30.0], [4.0, 4.0]], requires_grad=True)
    found = checked(combined_with_gradient)(parts, [1.0, 0.5, 8.0])
    assert found.reward.tolist() == pytest.approx([-1.5, 1.5])
    assert found.num_flat_groups.tolist() == [0, 0, 1]
    found.reward[1].backward()
    # The statistics are constants: the other image has no part in it.
    torch.testing.assert_close(parts.grad, torch.tensor([[0.0, 1.0], [0.0, 0.05], [0.0, 0.0]]))


def test_a_single_part_is_standardised_too():
    part = torch.tensor([[-2.0, 0.0, 2.0]])
    std = (8 / 3) ** 0.5
    for found in (
        combined_with_gradient(part, [3.0]),
        combined_in_groups(part, [3.0], torch.tensor([0, 0, 0])),
    ):
        assert found.reward.tolist() == pytest.approx([-6 / std, 0.0, 6 / std])


def test_the_weighted_sum_by_hand():
    parts = torch.tensor([[1.0, 2.0], [10.0, 30.0]])
    assert checked(weighted_sum)(parts, [1.0, -0.1]).tolist() == pytest.approx([0.0, -1.0])


def test_images_of_one_prompt_are_a_group():
    assert groups_of(["fox", "fox", "cow", "fox"]).tolist() == [0, 0, 1, 0]
