"""Losses of methods that differentiate the reward itself: three ways to say "more of it"."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def negative_reward(reward: Float[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean of `-r`: DRaFT (arXiv 2309.17400), AlignProp (arXiv 2310.03739).

    Worked: r = (1, 4) gives -2.5, and -1/2 of gradient for each.
    """
    return -reward.mean()


def margin_loss(reward: Float[Tensor, " b"], target: float) -> Float[Tensor, ""]:
    """Mean of `|target - r|`: the released AlignProp, which wants an aesthetic score of 10.

    Below the target its gradient is that of `negative_reward`; above, images are pulled back.

    Worked: target 2, r = (1, 4): (1 + 2)/2 = 1.5, gradients -1/2 and +1/2.
    """
    return (target - reward).abs().mean()


def hinge_loss(reward: Float[Tensor, " b"], target: float) -> Float[Tensor, ""]:
    """Mean of `max(target - r, 0)`: ReFL (arXiv 2304.05977) with a target of 2.

    An image that has reached the target is left alone.

    Worked: target 2, r = (1, 4): (1 + 0)/2 = 0.5, gradients -1/2 and 0.
    """
    return (target - reward).clamp_min(0).mean()
