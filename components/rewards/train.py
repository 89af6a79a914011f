"""Trains a reward model: once on the labels as they are, or first an ensemble that mends them.

With `objective.ensemble` the labels of the training pairs are looked at by an ensemble before the
model that is kept is trained ("Secrets of RLHF", part II, 2401.06080; see losses/strength.py). Each
member is trained on a share of the prompts, and the strength of a pair comes from the members that
were not trained on its prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.contracts.errors import SettingsError
from components.rewards.backbones import RewardModel
from components.rewards.dataset import Preferences
from components.rewards.fit import Epoch, Fitted, Trainer, fit, pair_margin
from components.rewards.freezing import merge_lora, set_trainable
from components.rewards.labels import Targets, trained_pairs
from components.rewards.losses.strength import Strength, preference_strength, relabel
from components.rewards.metrics import Accuracy, pair_accuracy
from components.rewards.settings import EnsembleSettings, ObjectiveSettings, Settings
from components.rewards.states import States

Report = Callable[[Epoch], None]


@dataclass(frozen=True)
class Mended:
    """What an ensemble has made of the labels."""

    strength: Strength
    targets: Targets
    num_flipped: int
    num_softened: int
    num_smoothed: int


@dataclass(frozen=True)
class CurvePoint:
    """Held-out accuracy of a training on a part of the labels."""

    prompts: int
    judgements: int
    """What people said of them: pairs, ties among them, and ratings where they are learnt from."""
    accuracy: Accuracy
    margin: Float[Tensor, " n"]
    """Of the pairs of the test split."""


@dataclass(frozen=True)
class Training:
    """The course of a training; the model itself was changed in place."""

    fitted: Fitted
    mended: Mended | None
    backbone_accuracy: Accuracy
    backbone_margin: Float[Tensor, " n"]
    """Of the pairs of the test split, before the first update."""
    curve: tuple[CurvePoint, ...]
    """Rising; the last point is the model that is kept."""
    learnt_reliability: bool
    """Whether the objective asks how often each annotator errs."""


def train(
    model: RewardModel,
    data: Preferences,
    settings: Settings,
    generator: torch.Generator,
    report: Report = lambda epoch: None,
) -> Training:
    """Fit `model` to the training labels of `data`.

    Args:
        model: changed in place.
        data: preferences.
        settings: of the stage.
        generator: CPU generator; the only randomness.
        report: called after each epoch of the model that is kept.

    Raises:
        GuardError: the loss or the gradient is not finite.
        SettingsError: what should learn is not there, or there is nothing to learn it from.
    """
    named = set_trainable(model, settings.backbone, generator)
    states = States(model, data, settings.cache_megabytes)
    trainer = Trainer(model, named, data, states, settings)
    start = trainer.start()
    backbone_margin, backbone = held_out(states, data, "scoring test images with the backbone")
    everything = trained_prompts(data, settings.objective)
    if not len(everything):
        raise SettingsError(
            "rewards.objective: the training split holds no label that it learns from; allowed: "
            "ties half where there are only ties, a ratings_weight above 0 where there are only "
            "ratings"
        )
    everything = everything[torch.randperm(len(everything), generator=generator)]
    curve = []
    for share in settings.learning_curve.shares:
        # The parts are nested: a point has all the labels of the one before it.
        part = everything[: max(1, round(share * len(everything)))]
        train_on(part, trainer, generator, f"training on {share:.1%} of the prompts")
        curve.append(_point(trainer, part))
        trainer.go_back(start)
    fitted, mended = train_on(everything, trainer, generator, "training the reward model", report)
    curve.append(_point(trainer, everything))
    merge_lora(model)
    reliability = settings.objective.annotators == "reliability"
    return Training(fitted, mended, backbone, backbone_margin, tuple(curve), reliability)


def held_out(
    states: States, data: Preferences, description: str
) -> tuple[Float[Tensor, " n"], Accuracy]:
    """Margins of the pairs of the test split, and the accuracy on them."""
    pairs = data.splits["test"]
    margin = pair_margin(states, pairs, description)
    return margin, pair_accuracy(margin, pairs.preference, data.prompt_of[pairs.image_a])


def train_on(
    prompts: Int64[Tensor, " p"],
    trainer: Trainer,
    generator: torch.Generator,
    description: str,
    report: Report = lambda epoch: None,
) -> tuple[Fitted, Mended | None]:
    """The whole recipe on some of the prompts, from where the trainer's model stands."""
    ensemble = trainer.settings.objective.ensemble
    mended = _mend(prompts, trainer, ensemble, generator) if ensemble else None
    targets = mended.targets if mended else None
    fitted = fit(
        trainer,
        generator,
        targets=targets,
        prompts=prompts,
        description=description,
        report=report,
    )
    return fitted, mended


def _mend(
    prompts: Int64[Tensor, " p"],
    trainer: Trainer,
    settings: EnsembleSettings,
    generator: torch.Generator,
) -> Mended:
    """Train the members, ask them about the labels, and leave the model as it was."""
    pairs, data = trainer.data.splits["train"], trainer.data
    prompt = data.prompt_of[pairs.image_a]
    start = trainer.start()
    margins = torch.full((settings.members, len(pairs)), torch.nan)
    for member in range(settings.members):
        order = torch.randperm(len(prompts), generator=generator)
        part = prompts[order[: max(1, round(settings.share * len(prompts)))]]
        trainer.model.draw_head(generator)
        fit(
            trainer,
            generator,
            prompts=part,
            description=f"ensemble, member {member + 1} of {settings.members}",
        )
        margin = pair_margin(trainer.states, pairs, "asking it about the labels")
        asked = torch.isin(prompt, prompts)
        if settings.share < 1:
            asked &= ~torch.isin(prompt, part)
        margins[member] = torch.where(asked, margin, torch.nan)
        trainer.go_back(start)
    strength = preference_strength(margins, pairs.preference)
    # A pair that every member was trained on has no strength, and its label stays as it is: taken
    # for a weak one it would become a tie.
    judged = torch.isin(prompt, prompts) & ~margins.isnan().all(dim=0)
    return _mended(strength, judged, pairs.preference, settings)


def _mended(
    strength: Strength,
    chosen: Bool[Tensor, " n"],
    preference: Float[Tensor, " n"],
    settings: EnsembleSettings,
) -> Mended:
    """New labels of the chosen pairs; the others keep theirs."""
    found = relabel(
        preference[chosen],
        strength.mean[chosen],
        flip_fraction=settings.flip_fraction,
        soften_fraction=settings.soften_fraction,
        smooth_fraction=settings.smooth_fraction,
        smoothing=settings.smoothing,
    )
    label, margin = preference.clone(), torch.zeros_like(preference)
    label[chosen], margin[chosen] = found.preference, found.adaptive_margin
    return Mended(
        strength,
        Targets(label, margin if settings.adaptive_margin else None),
        num_flipped=int(found.flipped.sum()),
        num_softened=int(found.softened.sum()),
        num_smoothed=int(found.smoothed.sum()),
    )


def trained_prompts(data: Preferences, objective: ObjectiveSettings) -> Int64[Tensor, " p"]:
    """Those of which the training split holds a label that the objective asks for."""
    pairs, rankings = data.splits["train"], data.rankings["train"]
    images = [pairs.image_a[trained_pairs(data, objective)]]
    if objective.rankings == "plackett_luce":
        images.append(rankings.image)
    if objective.ratings_weight > 0:
        images.append(data.ratings["train"].image)
    return data.prompt_of[torch.cat(images)].unique()


def _point(trainer: Trainer, prompts: Int64[Tensor, " p"]) -> CurvePoint:
    data = trainer.data
    judged = [data.splits["train"].image_a]
    if trainer.settings.objective.ratings_weight > 0:
        judged.append(data.ratings["train"].image)
    count = int(torch.isin(data.prompt_of[torch.cat(judged)], prompts).sum())
    margin, accuracy = held_out(trainer.states, data, "scoring test images")
    return CurvePoint(len(prompts), count, accuracy, margin)
