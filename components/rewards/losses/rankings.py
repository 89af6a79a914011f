"""The loss on rankings: several pictures of one prompt, put into an order."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def plackett_luce_loss(
    score: Float[Tensor, " n"], rank: Int64[Tensor, " n"], ranking: Int64[Tensor, " n"]
) -> Float[Tensor, " r"]:
    """Negative log-likelihood of each ranking under Plackett-Luce, in nats.

        P(order) = prod_i  exp(score_i) / sum over all that rank as low as i or lower of exp(score)

    The best is chosen among all, the next among those that are left, and so on (Plackett 1975; Luce
    1959). With two pictures it is Bradley-Terry. Pictures that share a rank are each chosen from
    all that rank as low or lower, Breslow's treatment of ties in the same likelihood of survival
    analysis (1974): a tie then neither rewards nor forbids an order among its members.

    Args:
        score: of each picture.
        rank: of each picture in its ranking, lower is better; only the order counts.
        ranking: which ranking a picture stands in, 0..r-1, each with at least one picture.

    Worked: three equal scores, ranks 0 1 2: log 3 + log 2 + log 1 = 1.7918; ranks 0 0 1: 2 log 3 =
    2.1972. Scores log 2, 0: log 3/2 = 0.4055 in this order, log 3 = 1.0986 in the other.
    """
    # [n, n]: whether the column is among those that the row was chosen from.
    left = (ranking[:, None] == ranking[None]) & (rank[None] >= rank[:, None])
    among = score[None].expand(len(score), -1).masked_fill(~left, -torch.inf).logsumexp(dim=1)
    loss = score.new_zeros(int(ranking.max()) + 1)
    return loss.index_add(0, ranking, among - score)
