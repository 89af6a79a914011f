"""Losses on preferences. Pure: tensors in, tensors out."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def bradley_terry_loss(
    score_a: Float[Tensor, " n"],
    score_b: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the Bradley-Terry model, mean over pairs, in nats.

        P(a over b) = sigmoid(score_a - score_b)
        loss        = - y log P(a over b) - (1 - y) log P(b over a)

    `preference` is y: 1 where a was preferred, 0 where b was, 0.5 for a tie. A tie counts as half
    a win each and so pulls the two scores together. `label_smoothing` moves every y towards 0.5 by
    that part, for annotators who err: with 0.1, a win counts 0.95. With y in {0, 1} this is the
    pairwise loss of ImageReward (2304.05977), equation 1; the soft labels are Pick-a-Pic's
    (2305.01569), section 3, up to a constant without gradient.

    Worked by hand:

        equal scores, any y                       log 2                     = 0.6931
        score_a - score_b = log 3, P(a) = 3/4
            y = 1                                 -log 3/4                  = 0.2877
            y = 0                                 -log 1/4                  = 1.3863
            y = 0.5                               (0.2877 + 1.3863) / 2     = 0.8370
            y = 1, label_smoothing 0.1            0.95*0.2877 + 0.05*1.3863 = 0.3426
    """
    target = (1 - label_smoothing) * preference + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(score_a - score_b, target)


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


def fit_scale(
    cosine_margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    low: float = 0.01,
    high: float = 100.0,
) -> float:
    """The factor s that minimises the Bradley-Terry loss of `s * cosine_margin`.

    Temperature scaling (1706.04599, section 4.2): probabilities become honest, every order stays.
    The loss is convex in s and its derivative, mean((sigmoid(s m) - y) m), grows with s, so halving
    the interval finds the root; where there is none in [low, high], the nearer end is returned.

    One pair with m = 0.5 preferred by three people of four: sigmoid(s / 2) = 3/4, s = 2 log 3.
    """
    margin, target = cosine_margin.double(), preference.double()
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((torch.sigmoid(middle * margin) - target) * margin).mean())
        low, high = (low, middle) if slope > 0 else (middle, high)
    return (low + high) / 2
