"""Losses on pairs: two pictures of one prompt, and which of them was preferred.

margin       score_a - score_b
preference   y in [0, 1]: 1 where a was preferred, 0 where b was, 0.5 for a tie, and anything
             between where a label is soft (seven people of ten: 0.7)
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def bradley_terry_loss(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " n"]:
    """Cross-entropy of the Bradley-Terry model for each pair, in nats.

        P(a over b) = sigmoid(margin)
        loss        = - y log P(a over b) - (1 - y) log P(b over a)

    With y in {0, 1} this is the pairwise loss of ImageReward (2304.05977), equation 1; the soft
    labels are Pick-a-Pic's (2305.01569), section 3, up to a constant without gradient. A tie counts
    as half a win each and so pulls the two scores together.

    Args:
        margin: score_a - score_b.
        preference: y.
        label_smoothing: moves every y towards 0.5 by that part, for annotators who err: with 0.1 a
            win counts 0.95.

    Worked by hand:

        margin 0, any y                           log 2                     = 0.6931
        margin log 3, P(a) = 3/4
            y = 1                                 -log 3/4                  = 0.2877
            y = 0                                 -log 1/4                  = 1.3863
            y = 0.5                               (0.2877 + 1.3863) / 2     = 0.8370
            y = 1, label_smoothing 0.1            0.95*0.2877 + 0.05*1.3863 = 0.3426
    """
    target = (1 - label_smoothing) * preference + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(margin, target, reduction="none")


def davidson_loss(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    log_tie: Float[Tensor, ""],
    *,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " n"]:
    """Cross-entropy of Davidson's model, in which a tie is an outcome of its own, for each pair.

        P(a), P(b), P(tie)  =  softmax(margin / 2, -margin / 2, log_tie)

    Davidson, "On extending the Bradley-Terry model to accommodate ties" (1970), equation 2.1 with
    strengths e^score and nu = e^log_tie. Given that it is no tie, a wins with sigmoid(margin), as
    in Bradley-Terry; a tie says that two scores are near each other, no longer that each won half.

    Args:
        margin: score_a - score_b.
        preference: y; exactly 0.5 is a tie, everything else is shared between a and b.
        log_tie: log of nu, learnt; very negative where nobody calls a tie.
        label_smoothing: moves that part of every outcome to the three of them alike.

    Worked: log_tie 0 and margin 0: each 1/3, log 3 = 1.0986 for any y. margin 2 log 2: weights 2,
    1/2, 1: P(a) = 4/7, -log 4/7 = 0.5596; a tie costs log 7/2 = 1.2528; y = 0.75 costs
    0.75 * 0.5596 + 0.25 * log 7 = 0.9062.
    """
    logits = torch.stack([margin / 2, -margin / 2, log_tie.expand_as(margin)], dim=1)
    tie = (preference == 0.5).to(margin.dtype)
    decided = 1 - tie
    target = torch.stack([decided * preference, decided * (1 - preference), tie], dim=1)
    target = (1 - label_smoothing) * target + label_smoothing / 3
    return -(target * logits.log_softmax(dim=1)).sum(dim=1)


def reliability_loss(
    margin: Float[Tensor, " n"],
    preference: Float[Tensor, " n"],
    reliability: Float[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Bradley-Terry through annotators who err, for each judgement.

        P(this annotator says a)  =  q sigmoid(margin) + (1 - q) sigmoid(-margin)

    Crowd-BT: Chen et al., "Pairwise ranking aggregation in a crowdsourced setting" (2013),
    equation 3. Somebody who answers by chance (q = 1/2) teaches nothing, whatever the margin;
    somebody who says the opposite (q = 0) teaches as much as an expert.

    Args:
        margin: score_a - score_b.
        preference: y.
        reliability: q in (0, 1) of the annotator of each judgement, learnt with the scores.

    Worked: margin log 3 and y = 1: q = 1 costs -log 3/4 = 0.2877, q = 1/2 log 2 = 0.6931,
    q = 0.9 -log(0.9 * 3/4 + 0.1 * 1/4) = -log 0.7 = 0.3567.
    """
    right, wrong = reliability.log(), torch.log1p(-reliability)
    log_a = torch.logaddexp(right + F.logsigmoid(margin), wrong + F.logsigmoid(-margin))
    log_b = torch.logaddexp(right + F.logsigmoid(-margin), wrong + F.logsigmoid(margin))
    return -preference * log_a - (1 - preference) * log_b
