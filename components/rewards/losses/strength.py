"""How strong the preference of each pair is, by an ensemble, and what its label becomes.

"Secrets of RLHF in large language models, part II" (2401.06080): some ten reward models are trained
on the same pairs, and the mean and the spread of their margins tell labels apart. A label that the
ensemble contradicts is more often wrong than right (0.164 agreement with a strong judge at the very
bottom, 0.544 near zero, 0.956 at the top), and a label that is certainly right teaches surface cues
when it is pushed further. The part of the paper on contrastive features and meta-learning is left
out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Strength(NamedTuple):
    """What an ensemble says of each pair, in favour of the image that was preferred."""

    mean: Float[Tensor, " n"]
    """Negative where the ensemble contradicts the label; 0 for a tie."""
    std: Float[Tensor, " n"]
    """How far its members differ; NaN where fewer than two have an opinion."""


class Relabelled(NamedTuple):
    """Labels after the ensemble has looked at them."""

    preference: Float[Tensor, " n"]
    adaptive_margin: Float[Tensor, " n"]
    """By how much a must score better than b before the loss is content, negative where b must: the
    loss is that of `margin - adaptive_margin`. The paper typesets it outside of the sigmoid; inside
    is the reading that has a gradient."""
    flipped: Bool[Tensor, " n"]
    softened: Bool[Tensor, " n"]
    smoothed: Bool[Tensor, " n"]


def preference_strength(margin: Float[Tensor, "m n"], preference: Float[Tensor, " n"]) -> Strength:
    """Mean and standard deviation over the members, each pair turned towards its label.

    Args:
        margin: score_a - score_b by each member; NaN where a member must not be asked, since it has
            been trained on the pair.
        preference: y in [0, 1].

    Worked: margins 1, 2, NaN with y = 1: mean 1.5, std sqrt(0.5) = 0.7071; with y = 0: mean -1.5.
    """
    asked = ~margin.isnan()
    count = asked.sum(dim=0)
    known = margin.nan_to_num(0.0)
    mean = known.sum(dim=0) / count.clamp_min(1)
    squares = torch.where(asked, (known - mean) ** 2, 0.0).sum(dim=0)
    std = torch.where(count > 1, squares / (count - 1).clamp_min(1), torch.nan).sqrt()
    return Strength(mean * (preference - 0.5).sign(), std)


def relabel(
    preference: Float[Tensor, " n"],
    strength: Float[Tensor, " n"],
    *,
    flip_fraction: float = 0.2,
    soften_fraction: float = 0.2,
    smooth_fraction: float = 0.1,
    smoothing: float = 0.1,
) -> Relabelled:
    """What the paper's recipe makes of each label, section 2.2 to 2.4; ties stay as they are.

        the weakest `flip_fraction`, as far as their strength is negative     y becomes 1 - y
        the next `soften_fraction`                                            y becomes 0.5
        the strongest `smooth_fraction`                                       smoothed towards 0.5
        all but the softened                                                  |strength| as margin

    The paper softens or drops the weak ones and gives no figure for it; here they become ties,
    which keeps what they say: the two are alike. A flip needs a negative strength as well, so that
    clean labels are left alone whatever the fraction.

    Args:
        preference: y in [0, 1].
        strength: `Strength.mean`.
        flip_fraction: of the decided pairs.
        soften_fraction: of the decided pairs.
        smooth_fraction: of the decided pairs.
        smoothing: how far the strongest are moved, as `label_smoothing` of `bradley_terry_loss`.

    Worked: y = 1, 1, 0, 1, 1 with strengths -2, 0.1, 1, 2, 3 and a fifth each: the first is flipped
    (y 0, margin 2 in favour of b, so -2), the second softened (0.5, 0), the last smoothed (0.95,
    3); the third keeps 0 with margin -1 and the fourth 1 with margin 2.
    """
    decided = preference != 0.5
    order = torch.where(decided, strength, torch.inf).argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    count = int(decided.sum())
    num_flip, num_soften = round(flip_fraction * count), round(soften_fraction * count)
    flipped = decided & (place < num_flip) & (strength < 0)
    softened = decided & (place >= num_flip) & (place < num_flip + num_soften)
    smoothed = decided & (place >= count - round(smooth_fraction * count)) & ~flipped & ~softened
    label = torch.where(flipped, 1 - preference, preference)
    label = torch.where(smoothed, (1 - smoothing) * label + smoothing / 2, label)
    label = torch.where(softened, 0.5, label)
    strong = torch.where(flipped, -strength, strength).clamp_min(0.0)
    margin = torch.where(decided & ~softened, strong * (label - 0.5).sign(), 0.0)
    return Relabelled(label, margin, flipped, softened, smoothed)
