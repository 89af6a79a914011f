"""The auxiliary loss that teaches a reward model to read the prompt."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def prompt_classification_loss(
    score: Float[Tensor, "n k"],
    good: Bool[Tensor, " n"],
    temperature: float = 2.0,
    weight: float = 0.5,
) -> Float[Tensor, ""]:
    """The auxiliary term of Lee et al. (2302.12192): a good image's own prompt must win.

        P(prompt i | image) = softmax_i(score / temperature),   loss = - weight · log P(true prompt)

    Mean over good images; 0 where there is none. It teaches a reward model to read the prompt from
    images that were judged once: each gets k - 1 perturbed prompts (another colour, count, place).
    `temperature` 2 and `weight` 0.5 are the paper's, as a note gives them; that the temperature
    divides is UNVERIFIED, and a factor of 2 is temperature 0.5.

    Args:
        score: of each image with its own prompt, column 0, and with perturbed ones.
        good: whether people accepted the image; the others are left out.
        temperature: above 0.
        weight: of this term beside the main loss.

    Worked: scores (2 log 3, 0), temperature 2: P = 3/4, -log 3/4 = 0.2877, half of it 0.1438. A
    second good image with scores (0, 0): log 2 = 0.6931, mean 0.4904, half of it 0.2452. Were the
    second image bad, 0.1438 again.
    """
    surprise = -torch.log_softmax(score / temperature, dim=1)[:, 0]
    return weight * (surprise * good).sum() / good.sum().clamp_min(1)
