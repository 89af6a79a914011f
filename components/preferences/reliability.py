"""How far a single annotator can be relied upon, told from the other annotators' answers.

Two views of the same answers. Leave-one-out: how often an annotator says what most of the others
say, with an interval; no model, but the others' errors count against them. Dawid and Skene: the
true answers are unknown, everybody errs at rates of their own, and both are estimated together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.contracts.intervals import wilson_interval
from components.preferences.agreement import Value

Answer = tuple[str, str, Value]
"""Unit, annotator, value: one thing that somebody said."""
FLOOR = 1e-10
"""The least chance of an answer: what was never seen is not impossible."""


@dataclass(frozen=True)
class Reliability:
    """How often an annotator says what most of the others say."""

    agreement: float
    low: float
    high: float
    """The 95 % Wilson interval. Units of one prompt are counted as independent of each other."""
    count: int
    """Answers on which the others have a majority."""


def leave_one_out(answers: Iterable[Answer]) -> dict[str, Reliability]:
    """Each annotator against the most common answer of all others of the same unit.

    Answers on which the others are divided, or absent, say nothing and are left out; an annotator
    who has no other answer is not in the result.

    Worked: x says a, y says a, z says b. The others of x say a and b, a draw, as do those of y; the
    others of z say a twice, and z is wrong: {z: 0 of 1}.
    """
    by_unit: dict[str, dict[str, Value]] = defaultdict(dict)
    for unit, annotator, value in answers:
        by_unit[unit][annotator] = value
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for said in by_unit.values():
        votes = Counter(said.values())
        for annotator, value in said.items():
            others = votes.copy()
            others[value] -= 1
            (best, most), *rest = [*others.most_common(2), (None, 0)]
            if most > rest[0][1]:
                right[annotator] += best == value
                total[annotator] += 1
    return {
        annotator: Reliability(
            right[annotator] / count,
            *wilson_interval(right[annotator] / count, count),
            count,
        )
        for annotator, count in sorted(total.items())
    }


@dataclass(frozen=True)
class DawidSkene:
    """Estimated truth and error rates."""

    values: tuple[Value, ...]
    """The answers, in the order of the matrices below."""
    prior: NDArray[np.float64]
    """[k]: share of each true answer."""
    confusion: Mapping[str, NDArray[np.float64]]
    """[k, k] by annotator: chance of an answer (column) where another is true (row)."""
    log_likelihood: float
    num_rounds: int

    def accuracy(self, annotator: str) -> float:
        """Chance that the annotator's answer is the true one, over the true answers' shares."""
        return float((self.prior * self.confusion[annotator].diagonal()).sum())


def dawid_skene(
    answers: Iterable[Answer], tolerance: float = 1e-9, max_rounds: int = 500
) -> DawidSkene | None:
    """Maximum likelihood of annotators' error rates by EM, from the shares of the votes.

    Dawid & Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm"
    (1979), equations 2.3 to 2.5 and 3.1. Somebody may answer a unit more than once. The answers
    cannot tell one world from its mirror image, in which everybody mostly errs: starting from the
    votes means that the crowd is right more often than not. People are taken to err independently:
    two who copy each other look like the most reliable of all. Cohen's kappa of each two shows them
    (in DSG's Likert ratings one pair of workers has 0.75, every other pair 0.29 to 0.41).

    Args:
        answers: unit, annotator, value.
        tolerance: EM ends when the log-likelihood of an answer rises by less than this.
        max_rounds: or after as many rounds.

    Returns:
        The estimate; None without an answer.
    """
    rows = list(answers)
    if not rows:
        return None
    units, unit = _index(row[0] for row in rows)
    annotators, annotator = _index(row[1] for row in rows)
    values, value = _index(row[2] for row in rows)
    votes = np.zeros((len(units), len(values)))
    np.add.at(votes, (unit, value), 1.0)
    posterior = votes / votes.sum(axis=1, keepdims=True)
    likelihood, rise, num_rounds = -np.inf, np.inf, 0
    while num_rounds < max_rounds and rise >= tolerance * len(rows):
        num_rounds += 1
        prior = posterior.mean(axis=0)  # equation 2.4
        seen = np.zeros((len(annotators), len(values), len(values)))
        np.add.at(seen, (annotator, value), posterior[unit])
        confusion = np.maximum(seen.swapaxes(1, 2), FLOOR)
        confusion /= confusion.sum(axis=2, keepdims=True)  # equation 2.3
        joint = np.tile(np.log(np.maximum(prior, FLOOR)), (len(units), 1))
        np.add.at(joint, unit, np.log(confusion)[annotator, :, value])
        highest = joint.max(axis=1, keepdims=True)
        weight = np.exp(joint - highest)
        posterior = weight / weight.sum(axis=1, keepdims=True)  # equation 2.5
        before = likelihood
        likelihood = float((np.log(weight.sum(axis=1)) + highest[:, 0]).sum())
        rise = likelihood - before
    by_name = dict(zip(annotators, confusion, strict=True))
    return DawidSkene(tuple(values), prior, by_name, likelihood, num_rounds)


def reliability_rows(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A row for each annotator, for a report.

    `agreement`, its interval and `compared` are those of `leave_one_out`, null and 0 where the
    others never had a majority; `accuracy` is Dawid and Skene's.
    """
    given = Counter(annotator for _, annotator, _ in answers)
    alone = leave_one_out(answers)
    estimate = dawid_skene(answers)
    rows = []
    for annotator, count in sorted(given.items()):
        found = alone.get(annotator)
        rows.append(
            {
                "annotator": annotator,
                "judgements": count,
                "compared": found.count if found else 0,
                "agreement": found.agreement if found else None,
                "agreement_low": found.low if found else None,
                "agreement_high": found.high if found else None,
                "accuracy": estimate.accuracy(annotator) if estimate else None,
            }
        )
    return rows


def _index(names: Iterable[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    """The distinct names in order, and the place of each row's name among them."""
    rows = list(names)
    distinct = sorted(set(rows))
    place = {name: number for number, name in enumerate(distinct)}
    return distinct, np.array([place[name] for name in rows])
