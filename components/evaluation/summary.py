"""Every figure of `reports/evaluation.json`, from what was measured of both models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from components.evaluation.measure import Draws, Measured
from components.evaluation.statistics import (
    Estimate,
    as_floats,
    clustered_bootstrap,
    clustered_normal,
    clustered_share,
    correlation,
    hacking_sign,
    win_outcomes,
)

DIGITS = 6
"""Decimals kept: far below any interval, far above the last bits in which two machines differ."""

Rows = Bool[NDArray[np.bool_], " n"]


def summarise(
    draws: Draws,
    base: Measured,
    lora: Measured,
    *,
    error_rate: float,
    seed: int,
    resamples: int,
    baselines: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The figures as plain json values; intervals are 95 % and cluster by prompt.

    Differences are LoRA minus base on the same prompt and noise. `seed` is the bootstrap's,
    `baselines` are figures of what needs no training (`baselines/run.py`).
    """
    everything = np.ones(len(draws.seeds), dtype=np.bool_)

    def figures(rows: Rows) -> dict[str, Any]:
        return _figures(draws, base, lora, rows, seed, resamples)

    overall = figures(everything)
    return {
        "schema_version": 1,
        "verdict": _verdict(overall["difference"]["interval"]),
        "judge_error_rate": rounded(error_rate),
        **overall,
        **_reward_parts(draws, base, lora, seed, resamples),
        "drift": {
            "diversity": [rounded(base.diversity), rounded(lora.diversity)],
            "diversity_ratio": _ratio(lora.diversity, base.diversity),
            "brightness": _drift(draws, base.brightness, lora.brightness, seed, resamples),
            "saturation": _drift(draws, base.saturation, lora.saturation, seed, resamples),
        },
        "reward_judge_correlation": {
            "base": _optional(correlation(base.reward, base.score)),
            "lora": _optional(correlation(lora.reward, lora.score)),
            "change": _optional(correlation(lora.reward - base.reward, lora.score - base.score)),
        },
        "by_category": {name: figures(draws.rows_of(name)) for name in draws.category_names},
        "baselines": baselines,
    }


def flat_metrics(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The figures that the tracker shows in its tables."""
    difference, wins, drift = evaluation["difference"], evaluation["win_rate"], evaluation["drift"]
    metrics: dict[str, float | None] = {
        "correct_base": evaluation["base"]["correct"],
        "correct_lora": evaluation["lora"]["correct"],
        "correct_difference": difference["value"],
        "correct_difference_low": difference["interval"][0],
        "correct_difference_high": difference["interval"][1],
        "win_rate": wins["value"],
        "win_rate_low": wins["interval"][0],
        "win_rate_high": wins["interval"][1],
        "reward_difference": evaluation["reward_difference"]["value"],
        "judge_error_rate": evaluation["judge_error_rate"],
        "diversity_ratio": drift["diversity_ratio"],
        "brightness_drift": drift["brightness"]["difference"],
        "saturation_drift": drift["saturation"]["difference"],
    }
    for label, part in evaluation.get("reward_parts", {}).items():
        metrics[f"reward_difference/{label}"] = part["difference"]
    for name, category in evaluation["by_category"].items():
        metrics[f"correct_base/{name}"] = category["base"]["correct"]
        metrics[f"correct_lora/{name}"] = category["lora"]["correct"]
    for name, found in named_baselines(evaluation).items():
        difference = found["lora_difference"]
        metrics[f"correct_{name}"] = found["correct"]
        metrics[f"lora_minus_{name}"] = difference["value"]
        metrics[f"lora_minus_{name}_low"] = difference["interval"][0]
        metrics[f"lora_minus_{name}_high"] = difference["interval"][1]
    return {name: value for name, value in metrics.items() if value is not None}


def named_baselines(evaluation: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures of each baseline, as `best_of_4` or `prompt_search`."""
    baselines = evaluation.get("baselines") or {}
    found = {f"best_of_{n}": figures for n, figures in baselines.get("best_of_n", {}).items()}
    if baselines.get("prompt_search"):
        found["prompt_search"] = baselines["prompt_search"]
    return found


def _figures(
    draws: Draws, base: Measured, lora: Measured, rows: Rows, seed: int, resamples: int
) -> dict[str, Any]:
    clusters = draws.prompt_of[rows]

    def bootstrap(values: Float[NDArray[np.float64], " n"]) -> Estimate:
        return clustered_bootstrap(values, clusters, seed, resamples)

    base_correct, lora_correct = as_floats(base.correct[rows]), as_floats(lora.correct[rows])
    change = lora_correct - base_correct
    difference, reward = bootstrap(change), bootstrap(lora.reward[rows] - base.reward[rows])
    wins = win_outcomes(lora.score[rows], base.score[rows])
    return {
        "num_prompts": len(np.unique(clusters)),
        "num_images": len(clusters),
        "base": _model(base_correct, base, rows, draws),
        "lora": _model(lora_correct, lora, rows, draws),
        "difference": {
            **estimate_figures(difference),
            "interval_normal": estimate_figures(clustered_normal(change, clusters))["interval"],
        },
        "win_rate": {
            **estimate_figures(clustered_share(wins, clusters)),
            "ties": rounded(float((wins == 0.5).mean())),
        },
        "reward_difference": estimate_figures(reward),
        "reward_hacking": hacking_sign(reward, difference),
    }


def _model(
    correct: Float[NDArray[np.float64], " n"], model: Measured, rows: Rows, draws: Draws
) -> dict[str, Any]:
    share = estimate_figures(clustered_share(correct, draws.prompt_of[rows]))
    return {
        "correct": share["value"],
        "interval": share["interval"],
        "score": rounded(float(model.score[rows].mean())),
        "reward": rounded(float(model.reward[rows].mean())),
    }


def _reward_parts(
    draws: Draws, base: Measured, lora: Measured, seed: int, resamples: int
) -> dict[str, Any]:
    """Each of several rewards as it is; nothing where there is one."""
    found = {
        label: _drift(draws, part, lora.parts[label], seed, resamples)
        for label, part in base.parts.items()
    }
    return {"reward_parts": found} if found else {}


def _drift(
    draws: Draws,
    base: Float[NDArray[np.float64], " n"],
    lora: Float[NDArray[np.float64], " n"],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    change = estimate_figures(clustered_bootstrap(lora - base, draws.prompt_of, seed, resamples))
    return {
        "base": rounded(float(base.mean())),
        "lora": rounded(float(lora.mean())),
        "difference": change["value"],
        "interval": change["interval"],
    }


def _verdict(interval: list[float | None]) -> str:
    low, high = interval
    if low is not None and low > 0:
        return "better"
    return "worse" if high is not None and high < 0 else "unclear"


def estimate_figures(estimate: Estimate) -> dict[str, Any]:
    """A figure and its interval as json values."""
    return {
        "value": rounded(estimate.value),
        "interval": [rounded(estimate.low), rounded(estimate.high)],
    }


def _ratio(numerator: float, denominator: float) -> float | None:
    return rounded(numerator / denominator) if denominator > 0 else None


def _optional(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def rounded(value: float) -> float | None:
    """Json has no NaN and no infinity: what is not known is null."""
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None
