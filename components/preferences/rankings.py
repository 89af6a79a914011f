"""Whole rankings: what two of them have in common, and the pairs that one of them holds.

A ranking gives each image a place, 1 for the best; images that share a place are tied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np

from components.preferences.agreement import raw_agreement

Ranking = Sequence[float]
Verdict = Literal["a", "b", "tie"]


def ranking_pairs(ranking: Ranking) -> list[tuple[int, int, Verdict]]:
    """Every two images of a ranking and which is the better one, `a` the first, `tie` for neither.

    Worked: places 2 1 2 give (0, 1, b), (0, 2, tie), (1, 2, a).
    """
    return [
        (i, j, _better(ranking[i], ranking[j])) for i, j in combinations(range(len(ranking)), 2)
    ]


def ranking_agreement(groups: Iterable[Sequence[Ranking]]) -> float | None:
    """Share of pairs of images that two annotators put into the same order, in [0, 1].

    This is the agreement of annotators as ImageReward (2304.05977) reports it, 65.3 %. A group
    holds the rankings of the same images by several annotators. A pair counts for each two
    annotators who both decide it; ties are left out. None where no pair is decided twice.

    Worked: 1 2 3, 1 3 2 and 1 2 2 agree about the pair (0, 1) three times of three, about (0, 2)
    three of three, about (1, 2) none of one, since the third ranking ties it: 6 / 7.

    Raises:
        ValueError: rankings of unlike length in one group.
    """
    counts = [np.zeros((0, 2), int)]
    for rankings in groups:
        places = np.array(rankings, dtype=float)
        first, second = np.triu_indices(places.shape[1], 1)
        lead = places[:, second] - places[:, first]
        counts.append(np.stack([(lead > 0).sum(axis=0), (lead < 0).sum(axis=0)], axis=1))
    return raw_agreement(np.concatenate(counts))


def kendall_tau(first: Ranking, second: Ranking) -> float | None:
    """Kendall's tau-b of two rankings of the same images, ties taken into account, in [-1, 1].

    None where one of them ties everything.
    """
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic) if _can_compare(first, second) else None


def spearman(first: Ranking, second: Ranking) -> float | None:
    """Spearman's rank correlation, tied images at the mean of their places, in [-1, 1].

    None where one of them ties everything.
    """
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic) if _can_compare(first, second) else None


def _better(a: float, b: float) -> Verdict:
    return "tie" if a == b else "a" if a < b else "b"


def _can_compare(first: Ranking, second: Ranking) -> bool:
    if len(first) != len(second):
        raise ValueError(f"rankings of {len(first)} and of {len(second)} images")
    return len(set(first)) > 1 and len(set(second)) > 1
