"""How the page of a reward model says its figures: no sentence claims more than its interval.

All functions take the dict of `report.measure`, as `reports/rewards.json` holds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from components.pages.numbers import (
    NBSP,
    count,
    decimal,
    listed,
    percent,
    percent_interval,
    plural,
    points,
)
from components.rewards.fit import Epoch

Report = Mapping[str, Any]
Verdict = Literal["better", "unclear", "worse"]
HONEST = 0.95
"""Right answers among those of which the model is certain (beyond 0.99) that still pass for it."""
RARE = 0.05
"""Share of certain pairs up to which a wrong one among them is no alarm."""
RUN_AWAY = 0.5
"""Share of certain pairs from which on a reward has little gradient left."""


class Sentence(NamedTuple):
    """What the page says, and the colour of the style sheet that it says it in."""

    text: str
    style: Literal["", "better", "unclear", "worse", "watch"] = ""


def verdict(report: Report) -> Verdict:
    """Whether the training was worth it: accuracy's interval against chance and the backbone.

    The backbone was measured on the same pairs, so its figure is a point to hold the interval
    against, not a second sample.
    """
    if report["best_update"] == 0 or report["accuracy_low"] <= 0.5:
        return "unclear"
    if report["accuracy_low"] > report["backbone_accuracy"]:
        return "better"
    return "worse" if report["accuracy_high"] < report["backbone_accuracy"] else "unclear"


def headline(report: Report) -> str:
    """The verdict in one sentence."""
    accuracy, backbone = percent(report["accuracy"]), percent(report["backbone_accuracy"])
    if report["best_update"] == 0:
        return (
            f"Nothing was learnt: the reward model is its backbone, right in {accuracy} of pairs."
        )
    orders = f"orders {accuracy} of pairs on unseen prompts as people did, its backbone {backbone}."
    if report["accuracy_low"] <= 0.5:
        return f"No better than chance: the reward model {orders}"
    return {
        "better": f"The reward model {orders}",
        "worse": f"Worse than its backbone: the reward model {orders}",
        "unclear": f"No clear gain: the reward model {orders}",
    }[verdict(report)]


def weak_categories(report: Report) -> Sentence:
    """Where the model is weakest, and where it may be guessing."""
    found = report["by_category"]
    if len(found) < 2:
        return Sentence("")
    weakest = min(found, key=lambda name: found[name]["accuracy"])
    text = f"Weakest: {named(weakest)}, {percent(found[weakest]['accuracy'])}."
    guessed = [named(name) for name, one in found.items() if one["accuracy_low"] <= 0.5]
    if not guessed:
        return Sentence(f"{text} In every category it is better than chance.")
    return Sentence(f"{text} As far as these pairs can tell, chance does as well in: "
                    f"{listed(guessed)}.", "watch")  # fmt: skip


def certainty(report: Report) -> Sentence:
    """Saturation: how often the model is certain, and how often rightly."""
    share, accuracy = report["saturation"]["share"], report["saturation"]["accuracy"]
    if share == 0:
        return Sentence(
            "The scores have not run away: there is no pair of which the model is certain (beyond "
            f"99{NBSP}%)."
        )
    text = f"It is certain (beyond 99{NBSP}%) of {percent(share, 1)} of the pairs"
    if accuracy is None:
        return Sentence(f"{text}, all of which people called ties.")
    text += f" and right in {percent(accuracy)} of these"
    if accuracy < HONEST and share > RARE:
        return Sentence(f"{text}: surer than it should be.", "watch")
    if share > RUN_AWAY:
        return Sentence(
            f"{text}. A reward that is mostly certain has little gradient left to give.", "watch"
        )
    return Sentence(f"{text}.")


def reliability(report: Report) -> str:
    """The calibration error in words."""
    error = points(report["calibration_error"]).lstrip("+")
    return (
        f"Expected calibration error: {error} points, the mean distance of the dots from the "
        "diagonal, each weighted with its pairs."
    )


def more_labels(curve: Sequence[Report]) -> Sentence:
    """Whether more labels would help.

    The rule: they would where the interval of all labels lies above the figure of half of them.
    Half is the point that comes nearest to it.
    """
    if len(curve) < 2:
        return Sentence("Not measured: learning_curve.shares names no part of the prompts.")
    whole = curve[-1]
    half = min(curve[:-1], key=lambda point: abs(point["judgements"] - whole["judgements"] / 2))
    gain = whole["accuracy"] - half["accuracy"]
    facts = (
        f"from {count(half['judgements'])} to {count(whole['judgements'])} judgements accuracy "
        f"went from {percent(half['accuracy'], 1)} to {percent(whole['accuracy'], 1)} "
        f"{percent_interval((whole['accuracy_low'], whole['accuracy_high']))}"
    )
    if whole["accuracy_low"] > half["accuracy"]:
        return Sentence(f"More labels would help: {facts}, more than chance explains.", "better")
    if whole["accuracy_high"] < half["accuracy"]:
        return Sentence(f"More labels did harm: {facts}. Look at the labels.", "worse")
    change = "a gain" if gain > 0 else "no gain"
    return Sentence(f"More labels of this kind would help little, if at all: {facts}, {change} "
                    "that chance explains.")  # fmt: skip


def course(report: Report, epochs: Sequence[Epoch], patience: int) -> Sentence:
    """Over-fitting in words: which epoch was kept, what became of the later ones."""
    best, last = report["best_update"], report["last_update"]
    ended = (
        f"stopped early, after {plural(patience, 'epoch')} without a lower validation loss"
        if report["stopped_early"]
        else f"ran all of its {plural(len(epochs) - 1, 'epoch')}"
    )
    start = f"Training {ended}."
    if best == 0:
        return Sentence(
            f"{start} No epoch had a lower validation loss than the backbone, so nothing of the "
            "training was kept.",
            "worse",
        )
    if best == last:
        return Sentence(
            f"{start} The last epoch, at update {count(last)}, is the best: no sign of "
            "over-fitting, and more epochs may still help."
        )
    kept = next(epoch for epoch in epochs if epoch.update == best)
    rise = f"validation loss rose by {decimal(report['overfitting'], 3)} nats"
    if epochs[-1].train_loss < kept.train_loss:
        rise += (
            f" while training loss fell by {decimal(kept.train_loss - epochs[-1].train_loss, 3)}"
        )
        cause = "over-fitting"
    else:
        cause = "and training loss did not fall either: a lower learning rate may help"
    return Sentence(
        f"{start} Update {count(best)} is kept; until update {count(last)} {rise}, {cause}. What "
        "came after the kept epoch was thrown away."
    )


def people(found: Mapping[str, Report]) -> Sentence:
    """Whom of these annotators the model agrees with most and least."""
    if len(found) < 2:
        return Sentence("")
    low, high = (pick(found, key=lambda name: found[name]["accuracy"]) for pick in (min, max))
    return Sentence(
        f"It agrees most often with {named(high)}, {percent(found[high]['accuracy'])}, and least "
        f"often with {named(low)}, {percent(found[low]['accuracy'])}."
    )


def mended(report: Report) -> Sentence:
    """What an ensemble found about the labels."""
    found = report["ensemble"]
    return Sentence(
        f"Of {count(found['judged'])} labels with a winner that it could judge, the ensemble "
        f"contradicts {percent(found['contradicted'])}. {count(found['flipped'])} were flipped, "
        f"{count(found['softened'])} became ties, {count(found['smoothed'])} were smoothed."
    )


def named(name: str) -> str:
    """A name that was left empty gets one."""
    return name or "(no name)"
