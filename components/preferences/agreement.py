"""How far annotators agree. Pure functions of counts, no file and no setting.

A unit is one pair of images, or one image. `counts[u, v]` is how many annotators gave the answer v
to unit u. Every function leaves out units with fewer than two answers, and returns None where
nothing can be said. Agreement of whole rankings is in `rankings.py`, of single annotators in
`reliability.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Level = Literal["nominal", "ordinal", "interval"]


def count_answers(
    unit: Int[np.ndarray, " n"], value: Int[np.ndarray, " n"], num_values: int
) -> Int[np.ndarray, "u v"]:
    """The counts of a list of answers; `unit` may hold any numbers, `value` those below
    `num_values`."""
    units, row = np.unique(unit, return_inverse=True)
    size = len(units) * num_values
    return np.bincount(row * num_values + value, minlength=size).reshape(-1, num_values)


def raw_agreement(counts: Int[np.ndarray, "u v"]) -> float | None:
    """Share of equal answers among all pairs of annotators of one unit, in [0, 1]."""
    totals = counts.sum(axis=1)
    possible = int((totals * (totals - 1)).sum())
    return float((counts * (counts - 1)).sum() / possible) if possible else None


def krippendorff_alpha(
    counts: Int[np.ndarray, "u v"], level: Level = "nominal", values: Sequence[float] | None = None
) -> float | None:
    """Krippendorff's alpha: 1 - observed / expected disagreement; annotators may be missing.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement. None where all values
    are equal: then nothing can be told from chance. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), sections C and D. The square distances of two values c and k are

        nominal    1 where they differ
        ordinal    (n_c / 2 + the answers between them + n_k / 2)^2
        interval   (c - k)^2

    Args:
        counts: answers of each unit.
        level: how answers are compared; the columns are in ascending order unless it is nominal.
        values: the number of each column, for the interval level; 0, 1, 2, ... unless given.
    """
    counted = counts[counts.sum(axis=1) > 1]
    totals = counted.sum(axis=0)
    distance = _distances(totals, level, values)
    # A value counts once however many partners its unit has. `einsum` adds in one order always.
    weight = 1.0 / (counted.sum(axis=1) - 1)
    together = np.einsum("u,uc,uk->ck", weight, counted, counted)
    expected = float((np.outer(totals, totals) * distance).sum())
    observed = float((together * distance).sum())
    return 1.0 - (int(totals.sum()) - 1) * observed / expected if expected else None


def _distances(
    totals: Int[np.ndarray, " v"], level: Level, values: Sequence[float] | None
) -> Float[np.ndarray, "v v"]:
    """Square distance of each two values; 0 on the diagonal."""
    if level == "nominal":
        return 1.0 - np.eye(len(totals))
    if level == "ordinal":
        # A value lies in the middle of its own answers.
        place = np.asarray(totals.cumsum() - totals / 2)
    else:
        place = np.array(range(len(totals)) if values is None else values, dtype=float)
    return np.square(place[:, None] - place[None, :])


def cohen_kappa(
    first: Sequence[float] | Sequence[str],
    second: Sequence[float] | Sequence[str],
    weights: Literal["linear", "quadratic"] | None = None,
) -> float | None:
    """Cohen's kappa of two annotators who answered the same units (Cohen, 1960; weights, 1968).

    1 is full agreement, 0 what chance gives two people of these habits. None where both gave one
    and the same answer throughout.

    Args:
        first, second: answers in the order of the units.
        weights: of the distance between ordered answers; None counts each difference alike.

    Raises:
        ValueError: unlike numbers of answers.
    """
    from sklearn.metrics import cohen_kappa_score

    if len(first) != len(second):
        raise ValueError(f"{len(first)} answers against {len(second)}")
    if len({*first, *second}) < 2:
        return None
    return float(cohen_kappa_score(list(first), list(second), weights=weights))


def fleiss_kappa(counts: Int[np.ndarray, "u v"]) -> float | None:
    """Fleiss' kappa: agreement of each two annotators of a unit beyond chance (Fleiss, 1971).

    Chance draws from the shares of the values over all units. None where all values are equal.
    Fleiss has the same number of annotators for every unit; with unlike numbers each unit counts
    once and each value once, which gives Fleiss' figure where the numbers are equal.
    """
    counted = counts[counts.sum(axis=1) > 1]
    sizes, totals = counted.sum(axis=1), counted.sum(axis=0)
    if np.count_nonzero(totals) < 2:
        return None
    agreement = float(((counted * (counted - 1)).sum(axis=1) / (sizes * (sizes - 1))).mean())
    chance = float(((totals / totals.sum()) ** 2).sum())
    return (agreement - chance) / (1.0 - chance)


def label_noise(counts: Int[np.ndarray, "u v"], tie: int) -> float | None:
    """Estimated chance that a decided answer is flipped, in [0, 0.5].

    Two annotators who each flip the true answer with chance e agree with chance A = e² + (1 - e)²,
    so e = (1 - √(2A - 1)) / 2. Answers with the number `tie` are left out: they are no flip.
    """
    decided = raw_agreement(np.delete(counts, tie, axis=1))
    return None if decided is None else (1.0 - sqrt(max(2.0 * decided - 1.0, 0.0))) / 2.0
