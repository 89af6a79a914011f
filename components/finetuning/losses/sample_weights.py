"""From rewards to how much each finished sample counts, or to what its prompt says of it."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def exponential_weights(reward: Float[Tensor, " n"], temperature: float) -> Float[Tensor, " n"]:
    """`exp(r / temperature)` divided by its mean over the samples: positive, of mean 1.

    HIVE (arXiv 2303.09618), weighted form; the exponential form and its normalisation are
    UNVERIFIED, the released code multiplies by weights that were computed elsewhere. As target of a
    denoising loss these weights are those of the optimum p · exp(r / temperature) / Z.

    Worked: r = (0, log 3), temperature 1: (1, 3) over its mean 2 gives (0.5, 1.5). Temperature 0.5
    squares them: (1, 9) over 5 gives (0.2, 1.8).
    """
    return len(reward) * torch.softmax(reward / temperature, dim=0)


def reward_levels(reward: Float[Tensor, " n"], num_levels: int) -> Int64[Tensor, " n"]:
    """The level of each sample, 0 for the worst: `num_levels` equal parts of the ranking.

    HIVE (arXiv 2303.09618), conditional form, quantises the reward; where it cuts is UNVERIFIED,
    equal parts need no scale. Equal rewards have equal levels, those of the first in the ranking.

    Worked: r = (5, 1, 9, 1), two levels: 2, 0, 3 and 0 samples are worse, times 2/4 rounded down:
    (1, 0, 1, 0). Four levels: (2, 0, 3, 0).
    """
    worse = torch.searchsorted(reward.sort().values, reward)
    return worse * num_levels // len(reward)


def prompt_probability(score: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, " n"]:
    """The softmax probability of each image's own prompt, column 0, among k prompts.

    Lee et al. (arXiv 2302.12192), prompt classification. A column of -inf is a prompt that is not
    there.

    Worked: scores (2 log 3, 0, -inf) at temperature 2: 3 : 1 : 0, so 0.75.
    """
    return torch.softmax(score / temperature, dim=1)[:, 0]
