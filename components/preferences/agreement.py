"""How far annotators agree. Pure functions of labels, no file and no setting.

A unit is one pair of images, and its values are what the annotators said about it; every function
leaves out units with fewer than two values, and returns None where nothing can be said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import sqrt

Units = Sequence[Sequence[str]]


def raw_agreement(units: Units) -> float | None:
    """Share of equal answers among all pairs of annotators of one unit, in [0, 1]."""
    same = [a == b for values in units for a, b in combinations(values, 2)]
    return sum(same) / len(same) if same else None


def krippendorff_alpha(units: Units) -> float | None:
    """Krippendorff's alpha for nominal values: 1 - observed / expected disagreement.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement. None where all values
    are equal: then nothing can be told from chance. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), section C.
    """
    counted = [Counter(values) for values in units if len(values) > 1]
    totals = sum(counted, Counter[str]())
    num_values = totals.total()
    # Ordered pairs of unequal values; a value counts once however many partners its unit has.
    observed = sum(_unequal(values) / (values.total() - 1) for values in counted)
    expected = _unequal(totals)
    return 1.0 - (num_values - 1) * observed / expected if expected else None


def label_noise(units: Units, tie: str) -> float | None:
    """Estimated chance that a decided answer is flipped, in [0, 0.5].

    Two annotators who each flip the true answer with chance e agree with chance A = e² + (1 - e)²,
    so e = (1 - √(2A - 1)) / 2. Ties are left out: they are no flip.
    """
    decided = raw_agreement([[value for value in values if value != tie] for values in units])
    return None if decided is None else (1.0 - sqrt(max(2.0 * decided - 1.0, 0.0))) / 2.0


def _unequal(counts: Counter[str]) -> int:
    return counts.total() ** 2 - sum(count**2 for count in counts.values())
