"""How far annotators agree. Pure functions of counts, no file and no setting.

A unit is one pair of images. `counts[u, v]` is how many annotators gave the answer v to unit u.
Every function leaves out units with fewer than two answers, and returns None where nothing can be
said.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from jaxtyping import Int


def raw_agreement(counts: Int[np.ndarray, "u v"]) -> float | None:
    """Share of equal answers among all pairs of annotators of one unit, in [0, 1]."""
    totals = counts.sum(axis=1)
    possible = int((totals * (totals - 1)).sum())
    return float((counts * (counts - 1)).sum() / possible) if possible else None


def krippendorff_alpha(counts: Int[np.ndarray, "u v"]) -> float | None:
    """Krippendorff's alpha for nominal values: 1 - observed / expected disagreement.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement. None where all values
    are equal: then nothing can be told from chance. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), section C.
    """
    counted = counts[counts.sum(axis=1) > 1]
    # Ordered pairs of unequal values; a value counts once however many partners its unit has.
    observed = float((_unequal(counted) / (counted.sum(axis=1) - 1)).sum())
    totals = counted.sum(axis=0)
    expected = int(_unequal(totals))
    return 1.0 - (int(totals.sum()) - 1) * observed / expected if expected else None


def label_noise(counts: Int[np.ndarray, "u v"], tie: int) -> float | None:
    """Estimated chance that a decided answer is flipped, in [0, 0.5].

    Two annotators who each flip the true answer with chance e agree with chance A = e² + (1 - e)²,
    so e = (1 - √(2A - 1)) / 2. Answers with the number `tie` are left out: they are no flip.
    """
    decided = raw_agreement(np.delete(counts, tie, axis=1))
    return None if decided is None else (1.0 - sqrt(max(2.0 * decided - 1.0, 0.0))) / 2.0


def _unequal(counts: Int[np.ndarray, "*u v"]) -> Int[np.ndarray, "*u"]:
    return counts.sum(axis=-1) ** 2 - (counts**2).sum(axis=-1)
