"""How far annotators agree. Pure functions of labels, no file and no setting.

A unit is one pair of images (or one image), and its values are what the annotators said about it;
every function passes once over the units, leaves out those with fewer than two values, and returns
None where nothing can be said. Agreement of whole rankings is in `rankings.py`, of single
annotators in `reliability.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from math import sqrt
from typing import Literal

Value = str | float
"""A label, or a number where the level is ordinal or interval."""
Units = Iterable[Sequence[Value]]
Level = Literal["nominal", "ordinal", "interval"]


def raw_agreement(units: Units) -> float | None:
    """Share of equal answers among all pairs of annotators of one unit, in [0, 1]."""
    same = num_pairs = 0
    for values in units:
        for a, b in combinations(values, 2):
            same += a == b
            num_pairs += 1
    return same / num_pairs if num_pairs else None


def krippendorff_alpha(units: Units, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha: 1 - observed / expected disagreement, annotators may be missing.

    1 is full agreement, 0 what chance gives, below 0 systematic disagreement. None where all values
    are equal: then nothing can be told from chance. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011), sections C and D; the square distances of two values c and k are

        nominal    1 where they differ
        ordinal    (n_c / 2 + the values between them + n_k / 2)^2, in numbers of values
        interval   (c - k)^2

    Raises:
        TypeError: values that cannot be ordered or subtracted, at a level that needs it.
    """
    totals: Counter[Value] = Counter()
    together: Counter[tuple[Value, Value]] = Counter()
    for values in units:
        if len(values) > 1:
            counts = Counter(values)
            totals += counts
            for (c, num_c), (k, num_k) in product(counts.items(), repeat=2):
                if c != k:  # a value counts once however many partners its unit has
                    together[c, k] += num_c * num_k / (len(values) - 1)  # type: ignore[assignment]
    distance = _distances(totals, level)
    observed = sum(share * distance[pair] for pair, share in together.items())
    expected = sum(totals[c] * totals[k] * apart for (c, k), apart in distance.items())
    return 1.0 - (totals.total() - 1) * observed / expected if expected else None


def _distances(totals: Counter[Value], level: Level) -> dict[tuple[Value, Value], float]:
    """Square distance of each two unequal values, in both orders."""
    if level == "nominal":
        return {(c, k): 1.0 for c, k in product(totals, repeat=2) if c != k}
    place: dict[Value, float] = {}
    below = 0.0
    for value in sorted(totals):
        # On the ordinal scale a value lies in the middle of its own answers.
        place[value] = below + totals[value] / 2 if level == "ordinal" else float(value)
        below += totals[value]
    return {(c, k): (place[c] - place[k]) ** 2 for c, k in product(totals, repeat=2) if c != k}


def cohen_kappa(
    first: Sequence[Value],
    second: Sequence[Value],
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


def fleiss_kappa(units: Units) -> float | None:
    """Fleiss' kappa: agreement of each two annotators of a unit beyond chance (Fleiss, 1971).

    Chance draws from the shares of the values over all units. None where all values are equal.
    Fleiss has the same number of annotators for every unit; with unlike numbers each unit counts
    once and each value once, which gives Fleiss' figure where the numbers are equal.
    """
    totals: Counter[Value] = Counter()
    agreement = num_units = 0.0
    for values in units:
        if len(values) > 1:
            counts = Counter(values)
            totals += counts
            pairs = len(values) * (len(values) - 1)
            agreement += sum(count * (count - 1) for count in counts.values()) / pairs
            num_units += 1
    if len(totals) < 2:
        return None
    chance = sum((count / totals.total()) ** 2 for count in totals.values())
    return (agreement / num_units - chance) / (1.0 - chance)


def label_noise(units: Units, tie: str) -> float | None:
    """Estimated chance that a decided answer is flipped, in [0, 0.5].

    Two annotators who each flip the true answer with chance e agree with chance A = e² + (1 - e)²,
    so e = (1 - √(2A - 1)) / 2. Ties are left out: they are no flip.
    """
    decided = raw_agreement([value for value in values if value != tie] for values in units)
    return None if decided is None else (1.0 - sqrt(max(2.0 * decided - 1.0, 0.0))) / 2.0
