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
    plural,
    points,
    points_interval,
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
SETTLED = 1e-3
"""Change of a loss, in nats, that is none."""


class Sentence(NamedTuple):
    """What the page says, and the colour of the style sheet that it says it in."""

    text: str
    style: Literal["", "better", "unclear", "worse", "watch"] = ""


def verdict(report: Report) -> Verdict:
    """Whether the training was worth it, by the interval of the gain over the backbone."""
    if report["best_update"] == 0 or report["accuracy_low"] <= 0.5:
        return "unclear"
    if report["backbone_gain_low"] > 0:
        return "better"
    return "worse" if report["backbone_gain_high"] < 0 else "unclear"


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
            "The scores have not run away: there is no test pair of which the model is certain "
            f"(beyond 99{NBSP}%)."
        )
    certain = round(share * report["test_pairs"])
    text = (
        f"It is certain (beyond 99{NBSP}%) of {_whole(certain)} of {_whole(report['test_pairs'])} "
        f"test pairs, {percent(share, 1)}"
    )
    if accuracy is None:
        return Sentence(f"{text}; people called all of these ties.")
    text += f", and right in {percent(accuracy)} of those with a winner"
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

    The rule: they would where the step from half of the labels to all of them raised accuracy, its
    95 % interval on the same pairs above zero. Half is the point that comes nearest to it.
    """
    if len(curve) < 2:
        return Sentence("Not measured: learning_curve.shares names no part of the prompts.")
    whole = curve[-1]
    half = min(curve[:-1], key=lambda point: abs(point["judgements"] - whole["judgements"] / 2))
    gain = half["to_all"]
    facts = (
        f"from {_whole(half['judgements'])} to {_whole(whole['judgements'])} judgements accuracy "
        f"changed by {points(gain['value'])} points {points_interval((gain['low'], gain['high']))}"
    )
    if gain["low"] > 0:
        return Sentence(f"More labels would help: {facts}.", "better")
    if gain["high"] < 0:
        return Sentence(f"More labels did harm: {facts}. Look at the labels.", "worse")
    if gain["value"] > 0:
        return Sentence(f"Not clear whether more labels of this kind would help: {facts}.")
    return Sentence(f"No sign that more labels of this kind would help: {facts}.")


def course(report: Report, epochs: Sequence[Epoch], patience: int) -> str:
    """How the training went and ended, with over-fitting in words."""
    ended = (
        f"stopped early, after {plural(patience, 'epoch')} without a lower validation loss"
        if report["stopped_early"]
        else f"ran all of its {plural(len(epochs) - 1, 'epoch')}"
    )
    kept = next(epoch for epoch in epochs if epoch.update == report["best_update"])
    if kept.update == 0:
        return (
            f"Training {ended}. No epoch had a lower validation loss than the backbone's "
            f"{decimal(kept.validation_loss, 3)} nats, so nothing of the training was kept."
        )
    learnt = (
        f"Training {ended}. Update {_whole(kept.update)} is kept: its validation loss is "
        f"{decimal(kept.validation_loss, 3)} nats, the backbone's was "
        f"{decimal(epochs[0].validation_loss, 3)}."
    )
    return f"{learnt} {_end(kept, epochs)}"


def _end(kept: Epoch, epochs: Sequence[Epoch]) -> str:
    last = epochs[-1]
    if kept == last:
        if epochs[-2].validation_loss - last.validation_loss < SETTLED:
            return "It had settled by the end, where the learning rate is zero: no over-fitting."
        return "It still fell in the last epoch: no over-fitting, and more epochs may help."
    rise = last.validation_loss - kept.validation_loss
    if rise < SETTLED:
        return "After that it stayed where it was: no over-fitting to speak of."
    text = f"After that it rose by {decimal(rise, 3)}"
    if last.train_loss < kept.train_loss:
        fall = decimal(kept.train_loss - last.train_loss, 3)
        return (
            f"{text} while the training loss fell by {fall}: over-fitting, and none of it was kept."
        )
    return (
        f"{text}, and the training loss did not fall either; none of it was kept. A lower learning "
        "rate may help."
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
        f"Of {_whole(found['judged'])} labels with a winner that it could judge, the ensemble "
        f"contradicts {percent(found['contradicted'])}. {_whole(found['flipped'])} were flipped, "
        f"{_whole(found['softened'])} became ties, {_whole(found['smoothed'])} were smoothed."
    )


def _whole(number: float) -> str:
    """A count that a line never breaks."""
    return count(number).replace("\u2009", "\u202f")


def named(name: str) -> str:
    """A name that was left empty gets one."""
    return name or "(no name)"
