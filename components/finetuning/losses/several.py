"""Several rewards become one: each is normalised on its own before the weights apply.

    part k, image i of group g      z_ki = (r_ki - mean_g r_k) / std_g r_k
    what a method learns from       r_i  = Σ_k w_k z_ki

This is the first half of GDPO (arXiv 2601.05242): a sum of raw rewards is ruled by the one with the
largest spread, and a sum that is normalised afterwards cannot tell which part an image was good at.
Its second half, a last standardisation over the whole round, is the choice of advantage `batch`.
Standard deviations are the population's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.finetuning.losses.advantages import group_mean

FLAT = 1e-6
"""A part whose values in a group lie nearer than this, relative to their size, has no spread: what
differs are the last bits of a float32, and dividing by that would make noise of them."""


class Combined(NamedTuple):
    """One reward of several parts."""

    reward: Float[Tensor, " b"]
    num_flat_groups: Int64[Tensor, " r"]
    """Groups in which each part tells no two images apart; it counts for nothing there."""


def combined_in_groups(
    parts: Float[Tensor, "r b"], weights: Sequence[float], group: Int64[Tensor, " b"]
) -> Combined:
    """The weighted sum of the parts, each with mean 0 and standard deviation 1 in every group.

    `group` numbers the prompt of each image with 0, 1, 2 ...

    Worked: parts (1, 3 | 5, 5) and (10, 30 | 2, 0) in groups (0, 0 | 1, 1) with weights 1 and 0.5.
    Normalised they are (-1, 1 | 0, 0) and (-1, 1 | 1, -1), where the first part is flat in group 1:
    the reward is (-1.5, 1.5 | 0.5, -0.5), flat groups are (1, 0).
    """
    total, flat = torch.zeros_like(parts[0]), []
    for part, weight in zip(parts, weights, strict=True):
        centred = part - group_mean(part, group)
        std = group_mean(centred.square(), group).sqrt()
        varies = _varies(part, group)
        # 0/0 where a group is flat: not taken.
        total = total + weight * torch.where(varies[group], centred / std, 0.0)
        flat.append((~varies).sum())
    return Combined(total, torch.stack(flat))


def combined_with_gradient(parts: Float[Tensor, "r b"], weights: Sequence[float]) -> Combined:
    """The same over one batch, for gradients: mean and standard deviation are constants of it.

    Only one image or two are drawn of a prompt where gradients go through the reward, so that the
    batch stands in for the group. The statistics are detached: what is raised is the weighted sum
    of the parts, each on the scale of its own spread.

    Worked: parts (1, 3) and (10, 30) with weights 1 and 0.5 give (-1.5, 1.5); the slopes of the
    second value in its two parts are 1/1 and 0.5/10.
    """
    total, flat = torch.zeros_like(parts[0]), []
    one_group = torch.zeros(parts.shape[1], dtype=torch.long, device=parts.device)
    for part, weight in zip(parts, weights, strict=True):
        seen = part.detach()
        varies = bool(_varies(seen, one_group))
        if varies:
            total = total + weight * (part - seen.mean()) / seen.std(correction=0)
        flat.append(torch.tensor(0 if varies else 1, device=parts.device))
    return Combined(total, torch.stack(flat))


def _varies(part: Float[Tensor, " b"], group: Int64[Tensor, " b"]) -> Bool[Tensor, " g"]:
    num_groups = int(group.max()) + 1
    lowest = part.new_full((num_groups,), torch.inf).scatter_reduce(0, group, part, "amin")
    highest = part.new_full((num_groups,), -torch.inf).scatter_reduce(0, group, part, "amax")
    return highest - lowest > FLAT * highest.abs()
