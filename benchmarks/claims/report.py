"""`docs/claims.md`: every claim with its figures, verdict and picture; no figure is typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.claims.discussion import DISCUSSION, METHODS
from components.contracts.artifacts import read_json, write_text

Figures = Mapping[str, Any]
HEAD = """# The papers' claims, in miniature

Written by `python -m benchmarks.claims --report` from
[the results](../benchmarks/results/claims); words about figures are in
[`benchmarks/claims/discussion.py`](../benchmarks/claims/discussion.py).
Every run of a seed has the same split of prompts, the same people, the same reward model and the
same noise for its judged images. "Gain" is the share of prompt-correct images, by a judge that was
not the reward, on prompts that were never trained on, minus that of the base model, in points, with
a 95 % interval (bootstrap over the prompts of all seeds) and, in brackets, the gain of each seed.
Images are small and prompts are simple: what holds here need not hold for a large model, and the
other way round. A run is short: eight rounds of 96 images, a fifth of what most profiles ask for.
Further attempts at a claim that does not hold as it stands run with `--further`.
"""
SEEDS = 3
"""So many does a claim need."""


def write_table(results: Path, target: Path) -> None:
    """Write the page from every `claim-*.json` that is there."""
    paths = sorted(results.glob("claim-*.json"))
    parts = [HEAD]
    for path in paths:
        parts += _claim(read_json(path), results)
    write_text(target, "\n".join(parts) + "\n")


def _claim(figures: Figures, results: Path) -> Iterator[str]:
    number = figures["claim"]
    seeds = ", ".join(map(str, figures["seeds"]))
    yield f"\n## {number}. {figures['title']}\n"
    if len(figures["seeds"]) < SEEDS:
        yield f"**Unfinished:** fewer than {SEEDS} seeds.\n"
    if figures["not_run"]:
        yield f"**Unfinished:** not run yet: {', '.join(figures['not_run'])}.\n"
    yield DISCUSSION.get(number, "") + "\n"
    yield f"Seeds {seeds}; `python -m benchmarks.claims --claims {number}`.\n"
    if figures["claim"] != "8":
        yield from _arms(figures)
    if "pairs" in figures:
        yield from _pairs(figures["pairs"])
    if "cost" in figures:
        yield from _costs(figures["cost"], figures["to"])
    if "labels" in figures:
        yield from _labels(figures)
    if "best_of_n" in figures:
        yield from _best_of_n(figures)
    yield from _stopped(figures["stopped"])
    yield f"\n![{figures['title']}](../benchmarks/results/claims/claim-{number}.png)"


def _arms(figures: Figures) -> Iterator[str]:
    whole = figures["claim"] == "9"
    yield (
        "| arm | correct | gain, unseen prompts | gain, seen prompts | reward gain | diversity |"
        + (f" at reward {figures['reward_rise']:+.1f} | what it says |" if whole else "")
    )
    yield "| --- | --- | --- | --- | --- | --- |" + (" --- | --- |" if whole else "")
    for name, arm in figures["arms"].items():
        share = arm["diversity"]["value"] / arm["base_diversity"]["value"]
        cells = [
            name,
            f"{100 * arm['correct']['value']:.0f} %",
            _points(arm["gain"]),
            f"{100 * arm['gain_on_seen_prompts']['value']:+.1f}",
            f"{arm['reward_gain']['value']:+.2f}",
            f"{100 * share:.0f} %",
        ]
        if whole:
            cells.append(_at_rise(figures["at_rise"][name]))
            cells.append(_says(arm["gain"], METHODS.get(name, "")))
        yield f"| {' | '.join(cells)} |"


def _stopped(arms: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    if not arms:
        return
    yield "\nStopped by a tripwire, and judged as the last adapter before it:\n"
    for name, seeds in arms.items():
        yield f"* {name}: " + "; ".join(f"seed {seed}, {why}" for seed, why in seeds.items())


def _at_rise(found: Figures) -> str:
    if found["judge"]["value"] is None:
        return "not reached"
    judge, diversity = (100 * found[name]["value"] for name in ("judge", "diversity"))
    return f"judge {judge:+.0f}, diversity {diversity:+.0f} % ({found['reached']} seeds)"


def _says(gain: Figures, why: str) -> str:
    low, high = gain["interval"]
    if low > 0:
        return "improves"
    verdict = "worse than the base" if high < 0 else "no improvement shown"
    return f"{verdict}. {why}".strip()


def _pairs(pairs: Figures) -> Iterator[str]:
    yield "\n| image by image | win rate | difference, points | updates to the rival's best |"
    yield "| --- | --- | --- | --- |"
    for name, pair in pairs.items():
        rate = pair["win_rate"]
        low, high = (100 * value for value in rate["interval"])
        yield (
            f"| {name} | {100 * rate['value']:.1f} % [{low:.1f}, {high:.1f}] | "
            f"{_points(pair['difference'])} | {_cost(pair[_TO_BEST])} |"
        )


_TO_BEST = "updates to the rival's best"


def _costs(costs: Figures, to: str) -> Iterator[str]:
    names = list(next(iter(costs.values())))
    yield f"\n| to the same {to} | {' | '.join(names)} |"
    yield f"| --- |{' --- |' * len(names)}"
    for arm, row in costs.items():
        yield f"| {arm} | {' | '.join(_cost(row[name]) for name in names)} |"


def _labels(figures: Figures) -> Iterator[str]:
    yield (
        f"\n| labels until {100 * figures['rise']:.0f} % of the wrong images are right "
        "| from N(0, I) | best share correct, by seed | in its rounds | best round, by seed |"
    )
    yield "| --- | --- | --- | --- | --- |"
    for name, row in figures["labels"].items():
        cells = [name, _cost(row["from N(0, I)"]), _shares(row["best"]), "", ""]
        if "in its rounds" in row:
            cells[3:] = [_cost(row["in its rounds"]), _shares(row["best of its rounds"])]
        yield f"| {' | '.join(cells)} |"


def _shares(values: Sequence[float]) -> str:
    return ", ".join(f"{100 * value:.0f} %" for value in values)


def _best_of_n(figures: Figures) -> Iterator[str]:
    counts = list(next(iter(figures["best_of_n"].values())))
    yield f"\n| best of n, correct | {' | '.join(f'n = {n}' for n in counts)} |"
    yield f"| --- |{' --- |' * len(counts)}"
    for model, shown in figures["best_of_n"].items():
        cells = [f"{100 * shown[n]['value']:.1f} %" for n in counts]
        yield f"| {model} | {' | '.join(cells)} |"
    columns = [f"minus best of {n}" for n in counts if n != "1"]
    yield f"\n| one image of | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for arm, row in figures["against_best_of_n"].items():
        yield f"| {arm} | {' | '.join(_points(row[column]) for column in columns)} |"


def _points(estimate: Figures) -> str:
    low, high = (100 * value for value in estimate["interval"])
    seeds = ", ".join(f"{100 * value:+.1f}" for value in estimate["by_seed"])
    return f"{100 * estimate['value']:+.1f} [{low:+.1f}, {high:+.1f}] ({seeds})"


def _cost(found: Figures) -> str:
    if found["value"] is None:
        return f"not reached with {found['spent']:,.0f}"
    return f"{found['value']:,.0f} ({found['reached']} seeds)"
