"""From the runs of several seeds to a figure with an interval.

Every run of a seed judges the same prompts from the same noise, so two runs are compared image by
image. Seeds differ in their split of prompts, judgements, reward model and training noise; prompts
of all seeds are pooled, and a prompt of a seed is the unit that the bootstrap draws. With three
seeds the spread between them is told beside it (`by_seed`): the interval holds what was measured,
not every seed there could be.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.claims.runs import Run
from components.contracts.selection import selection_probabilities
from components.evaluation.statistics import clustered_bootstrap, win_outcomes

Figure = Literal["correct", "score", "reward"]
Split = Literal["test", "train", "draws"]
Curve = Literal["judge", "validation_reward", "good"]
Array = NDArray[np.float64]


def difference(
    ours: Sequence[Run], theirs: Sequence[Run], figure: Figure, split: Split = "test"
) -> dict[str, Any]:
    """Mean of ours minus theirs, image by image, over all seeds."""
    return _pooled(ours, theirs, figure, split, lambda a, b: a - b)


def win_rate(ours: Sequence[Run], theirs: Sequence[Run], split: Split = "test") -> dict[str, Any]:
    """Share of images that the judge scores higher than theirs of the same noise; a tie is half."""
    return _pooled(ours, theirs, "score", split, win_outcomes)


def level(runs: Sequence[Run], figure: Figure, split: Split = "test") -> dict[str, Any]:
    """Mean of a figure over all seeds."""
    return _pooled(runs, runs, figure, split, lambda a, _: a)


def diversity(runs: Sequence[Run], split: Split = "test") -> dict[str, Any]:
    """Mean over seeds of the distance among the images of one prompt."""
    by_seed = [_result(run)[split]["diversity"] for run in runs]
    return {"value": float(np.mean(by_seed)), "by_seed": by_seed}


def cost_to_reach(
    runs: Sequence[Run], target: Sequence[float], curve: Curve, cost: str
) -> dict[str, Any]:
    """What it costs each seed to reach its target on a curve, linear between two looks.

    Args:
        runs: one each seed.
        target: one each seed.
        curve: what the monitor looked at, or `good`, the right share of each round's own images.
        cost: a column of the curves that grows: `images`, `update`, `labels`.

    Returns:
        `by_seed` (None where the target was never reached), the mean of those that did, and what
        was spent by the last look of the longest run.
    """
    by_seed = [
        _crossing(_looks(run, curve, cost), wanted)
        for run, wanted in zip(runs, target, strict=True)
    ]
    reached = sum(value is not None for value in by_seed)
    return {
        "value": _mean(by_seed),
        "by_seed": by_seed,
        "reached": f"{reached} of {len(by_seed)}",
        "spent": max(_looks(run, curve, cost)[-1][0] for run in runs),
        "target": list(target),
    }


def best(run: Run, curve: Curve) -> float:
    """The highest look of a run."""
    return max(value for _, value in _looks(run, curve, "update"))


def first(run: Run, curve: Curve) -> float:
    """The look before the first update."""
    return float(next(row[curve] for row in _result(run)["curves"] if curve in row))


def looks(run: Run) -> list[dict[str, float]]:
    """Rows of the curves in which the monitor looked."""
    return [row for row in _result(run).get("curves", []) if "validation_reward" in row]


def at_rise(runs: Sequence[Run], rise: float) -> dict[str, Any]:
    """What judge and diversity had come to when the validation reward had first risen so far.

    Changes since the first look, linear between two looks: the judge's in shares of images, that of
    diversity in shares of the base's. None where the reward never rose so far.
    """
    judge, diversity = [], []
    for run in runs:
        rows = looks(run)
        start = rows[0]
        wanted = start["validation_reward"] + rise
        seen, spread = (
            _crossing([(row[name], row["validation_reward"]) for row in rows], wanted)
            for name in ("judge", "validation_diversity")
        )
        judge.append(None if seen is None else seen - start["judge"])
        diversity.append(None if spread is None else spread / start["validation_diversity"] - 1)
    reached = sum(value is not None for value in judge)
    return {
        "reached": f"{reached} of {len(judge)}",
        "judge": {"value": _mean(judge), "by_seed": judge},
        "diversity": {"value": _mean(diversity), "by_seed": diversity},
    }


def _mean(by_seed: Sequence[float | None]) -> float | None:
    """Of the seeds that have a value; None where none has."""
    found = [value for value in by_seed if value is not None]
    return float(np.mean(found)) if found else None


def _looks(run: Run, curve: Curve, cost: str) -> list[tuple[float, float]]:
    spent, seen, found = 0.0, 0.0, []
    for row in _result(run)["curves"]:
        # A look is taken before the row's round, and a round's images are drawn before its updates:
        # what either cost is what had been spent before. A round's other rows repeat its figures.
        if curve in row and row.get("round") != seen:
            found.append((spent, _right(run, row[curve]) if curve == "good" else row[curve]))
            seen = row.get("round", 0.0)
        spent = row.get(cost, spent)
    return found


def _right(run: Run, good: float) -> float:
    """The share of right images that people called good, some of them by mistake."""
    labels = run.changes.get("finetuning", {}).get("method", {}).get("labels", {})
    flips: float = labels.get("arguments", {}).get("flip_probability", 0.0)
    return (good - flips) / (1 - 2 * flips)


def _crossing(points: Sequence[tuple[float, float]], wanted: float) -> float | None:
    if points[0][1] >= wanted:
        return points[0][0]
    for (cost_before, before), (cost_after, after) in itertools.pairwise(points):
        if after >= wanted > before:
            return cost_before + (wanted - before) / (after - before) * (cost_after - cost_before)
    return None


def best_of_n(bases: Sequence[Run], n: int) -> dict[str, Any]:
    """Share of correct images where the highest reward of n images of the base is shown."""
    found = [_best_of_n(base, n) for base in bases]
    return _estimate(found, [np.arange(len(values)) for values in found])


def minus_best_of_n(runs: Sequence[Run], n: int) -> dict[str, Any]:
    """One image of ours against the best of n of the base, prompt by prompt."""
    found = []
    for run in runs:
        mine = _images(run, "test")
        ours = np.bincount(mine["prompt"], mine["correct"]) / np.bincount(mine["prompt"])
        found.append(ours - _best_of_n(run.base, n))
    return _estimate(found, [np.arange(len(values)) for values in found])


def _best_of_n(base: Run, n: int) -> Array:
    """The expected verdict on the shown image of each prompt."""
    drawn = _images(base, "draws")
    prompts = drawn["prompt"]
    shown = np.zeros(len(prompts))
    for prompt in np.unique(prompts):
        rows = prompts == prompt
        shown[rows] = selection_probabilities(drawn["reward"][rows], n)
    return np.bincount(prompts, shown * drawn["correct"]).astype(np.float64)


def _pooled(
    ours: Sequence[Run], theirs: Sequence[Run], figure: Figure, split: Split, combine: Any
) -> dict[str, Any]:
    values, clusters = [], []
    for a, b in zip(ours, theirs, strict=True):
        mine, other = _images(a, split), _images(b, split)
        values.append(combine(mine[figure], other[figure]))
        clusters.append(mine["prompt"])
    return _estimate(values, clusters)


def _estimate(values: Sequence[Array], prompts: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """Mean and interval over the values of all seeds; each seed has prompts of its own."""
    clusters = [ids + 1_000_000 * seed for seed, ids in enumerate(prompts)]
    estimate = clustered_bootstrap(np.concatenate(values), np.concatenate(clusters), 0, 4000)
    return {
        "value": estimate.value,
        "interval": [estimate.low, estimate.high],
        "by_seed": [float(of_seed.mean()) for of_seed in values],
    }


def _images(run: Run, split: Split) -> dict[str, Any]:
    columns = _result(run)[split]["images"]
    return {
        name: np.asarray(column, dtype=np.int64 if name == "prompt" else np.float64)
        for name, column in columns.items()
    }


def _result(run: Run) -> dict[str, Any]:
    found = run.result
    if found is None:
        raise RuntimeError(f"{run.name}, seed {run.seed}: has not been run")
    return found
