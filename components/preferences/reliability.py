"""How far a single annotator can be relied upon, told from the other annotators' answers.

Two views of the same answers. Leave-one-out: how often an annotator says what most of the others
say, with an interval; no model, but the others' errors count against them. Dawid and Skene: the
true answers are unknown, everybody errs at rates of their own, and both are estimated together.

Answers are three arrays of one length: which unit, which annotator, which value. Units may be any
numbers; annotators and values are counted from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from components.contracts.intervals import wilson_interval
from components.preferences.agreement import count_answers

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


def leave_one_out(
    unit: Int[np.ndarray, " n"], annotator: Int[np.ndarray, " n"], value: Int[np.ndarray, " n"]
) -> dict[int, Reliability]:
    """Each annotator against the most common answer of all others of the same unit.

    Answers on which the others are divided, or absent, say nothing and are left out; an annotator
    who has no other answer is not in the result. Each annotator answers a unit once.

    Worked: x says a, y says a, z says b. The others of x say a and b, a draw, as do those of y; the
    others of z say a twice, and z is wrong: {z: 0 of 1}.
    """
    if not len(unit):
        return {}
    num_values = int(value.max()) + 1
    _, row = np.unique(unit, return_inverse=True)
    others = count_answers(row, value, num_values)[row]
    others[np.arange(len(value)), value] -= 1
    most = others.max(axis=1)
    told = (most > 0) & ((others == most[:, None]).sum(axis=1) == 1)
    right = told & (others.argmax(axis=1) == value)
    found = {}
    for number in np.unique(annotator[told]).tolist():
        own = annotator == number
        count = int((told & own).sum())
        share = int((right & own).sum()) / count
        found[number] = Reliability(share, *wilson_interval(share, count), count)
    return found


@dataclass(frozen=True)
class DawidSkene:
    """Estimated truth and error rates."""

    prior: Float[np.ndarray, " v"]
    """Share of each true answer."""
    confusion: Float[np.ndarray, "a v v"]
    """Of each annotator: chance of an answer (column) where another is true (row)."""
    log_likelihood: float
    num_rounds: int

    @property
    def accuracy(self) -> Float[np.ndarray, " a"]:
        """Chance that an annotator's answer is the true one, over the true answers' shares."""
        return np.asarray(np.einsum("v,avv->a", self.prior, self.confusion))


def dawid_skene(
    unit: Int[np.ndarray, " n"],
    annotator: Int[np.ndarray, " n"],
    value: Int[np.ndarray, " n"],
    tolerance: float = 1e-9,
    max_rounds: int = 500,
) -> DawidSkene | None:
    """Maximum likelihood of annotators' error rates by EM, from the shares of the votes.

    Dawid & Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm"
    (1979), equations 2.3 to 2.5 and 3.1. Somebody may answer a unit more than once. The answers
    cannot tell one world from its mirror image, in which everybody mostly errs: starting from the
    votes means that the crowd is right more often than not. People are taken to err independently:
    two who copy each other look like the most reliable of all. Cohen's kappa of each two shows them
    (in DSG's Likert ratings one pair of workers has 0.75, every other pair 0.29 to 0.41).

    Args:
        unit, annotator, value: the answers.
        tolerance: EM ends when the log-likelihood of an answer rises by less than this.
        max_rounds: or after as many rounds.

    Returns:
        The estimate; None without an answer.
    """
    if not len(unit):
        return None
    num_values, num_annotators = int(value.max()) + 1, int(annotator.max()) + 1
    _, row = np.unique(unit, return_inverse=True)
    votes = count_answers(row, value, num_values)
    posterior = votes / votes.sum(axis=1, keepdims=True)  # equation 3.1
    likelihood, rise, num_rounds = -np.inf, np.inf, 0
    while num_rounds < max_rounds and rise >= tolerance * len(value):
        num_rounds += 1
        prior = posterior.mean(axis=0)  # equation 2.4
        seen = np.zeros((num_annotators, num_values, num_values))
        np.add.at(seen, (annotator, value), posterior[row])
        confusion = np.maximum(seen.swapaxes(1, 2), FLOOR)
        confusion /= confusion.sum(axis=2, keepdims=True)  # equation 2.3
        joint = np.tile(np.log(np.maximum(prior, FLOOR)), (len(votes), 1))
        np.add.at(joint, row, np.log(confusion)[annotator, :, value])
        highest = joint.max(axis=1, keepdims=True)
        weight = np.exp(joint - highest)
        posterior = weight / weight.sum(axis=1, keepdims=True)  # equation 2.5
        before = likelihood
        likelihood = float((np.log(weight.sum(axis=1)) + highest[:, 0]).sum())
        rise = likelihood - before
    return DawidSkene(prior, confusion, likelihood, num_rounds)


def reliability_rows(
    names: Sequence[str],
    unit: Int[np.ndarray, " n"],
    annotator: Int[np.ndarray, " n"],
    value: Int[np.ndarray, " n"],
) -> list[dict[str, Any]]:
    """A row for each annotator who answered, for a report, by name.

    `agreement`, its interval and `compared` are those of `leave_one_out`, null and 0 where the
    others never had a majority; `accuracy` is Dawid and Skene's.
    """
    alone = leave_one_out(unit, annotator, value)
    estimate = dawid_skene(unit, annotator, value)
    given = np.bincount(annotator, minlength=len(names)) if len(unit) else np.zeros(len(names), int)
    rows = []
    for number in sorted(np.flatnonzero(given).tolist(), key=lambda number: names[number]):
        found = alone.get(number)
        rows.append(
            {
                "annotator": names[number],
                "judgements": int(given[number]),
                "compared": found.count if found else 0,
                "agreement": found.agreement if found else None,
                "agreement_low": found.low if found else None,
                "agreement_high": found.high if found else None,
                "accuracy": float(estimate.accuracy[number]) if estimate else None,
            }
        )
    return rows
