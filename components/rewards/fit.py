"""Fits one reward model: epochs over whole prompts, the best of them kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from components.contracts.errors import GuardError
from components.contracts.progress import progress
from components.rewards.backbones import RewardModel
from components.rewards.batches import Batches
from components.rewards.dataset import Pairs, Preferences
from components.rewards.freezing import Named
from components.rewards.labels import BatchLoss, Habits, Targets, first_targets, trained_pairs
from components.rewards.losses.calibration import fit_scale, starting_scale
from components.rewards.losses.pairs import bradley_terry_loss
from components.rewards.losses.smoothing import smoothed_labels
from components.rewards.metrics import pair_accuracy
from components.rewards.settings import Settings
from components.rewards.states import States, rows_of

WARMUP = 0.05
"""Part of the run in which the learning rate rises from zero."""
MAX_GRADIENT_NORM = 1.0
HABITS_RATE = 0.05
"""Learning rate of what is learnt of the people: a few numbers that must find their place within an
epoch, whatever a large backbone can bear."""


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of a pass over the training labels; update 0 is the backbone."""

    update: int
    train_loss: float
    """Of the objective, mean over the pass; of update 0 plain Bradley-Terry."""
    validation_loss: float
    """Bradley-Terry at the scale that suits the validation pairs best; log 2 = 0.693 knows
    nothing."""
    validation_accuracy: float


@dataclass(frozen=True)
class Fitted:
    """The course of a training; the model itself was changed in place and holds the best epoch."""

    epochs: tuple[Epoch, ...]
    best: Epoch
    stopped_early: bool
    habits: Habits
    """Of the best epoch as well."""


@dataclass(frozen=True)
class Trainer:
    """What all trainings of a run share: model, what of it learns, data, states, settings."""

    model: RewardModel
    named: Named
    data: Preferences
    states: States
    settings: Settings

    def start(self) -> dict[str, Tensor]:
        """A copy of what learns."""
        return {name: parameter.detach().clone() for name, parameter in self.named}

    @torch.no_grad()
    def go_back(self, state: dict[str, Tensor]) -> None:
        """Become what `start` copied."""
        for name, parameter in self.named:
            parameter.copy_(state[name])


def fit(
    trainer: Trainer,
    generator: torch.Generator,
    *,
    targets: Targets | None = None,
    prompts: Int64[Tensor, " p"] | None = None,
    description: str = "training the reward model",
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Fitted:
    """Fit the model and leave it at the epoch of the lowest validation loss, calibrated.

    The loss chooses, not the accuracy: on a few hundred pairs it is much less noisy. A backbone's
    scale tells captions apart and is too sure of itself about two pictures of one caption. It is
    brought down before the first update: from a margin of 14 a label that disagrees costs 14 nats,
    and training would be about the worst labels alone. Each epoch is judged at the scale that suits
    the validation pairs best, and the kept model gets that scale.

    Args:
        trainer: model, data and settings.
        generator: CPU generator of shuffling, mirroring and other prompts; the only randomness.
        targets: labels of the training pairs; None as people gave them.
        prompts: the only ones that are trained on; None for all.
        description: of the progress bar.
        report: called after each epoch.

    Raises:
        GuardError: the loss or the gradient is not finite.
    """
    data, settings, states = trainer.data, trainer.settings, trainer.states
    objective = settings.objective
    # eval(): a backbone's dropout would draw from the global generator.
    trainer.model.eval()
    targets = targets or first_targets(data)
    habits = Habits(len(data.annotators), len(data.questions)).to(states.model.device)
    batches = Batches(
        data,
        trained_pairs(data, objective),
        prompts,
        ranked=objective.rankings == "plackett_luce",
        rated=objective.ratings_weight > 0,
    )
    loss_of = BatchLoss(states, data, habits, objective)
    parameters = [parameter for _, parameter in trainer.named]
    optimizer = torch.optim.AdamW(
        [
            *_decay_groups(trainer.named, settings),
            {
                "params": list(habits.parameters()),
                "weight_decay": 0.0,
                "peak": HABITS_RATE,
            },
        ],
        lr=0.0,
    )
    per_pass = len(batches)
    seen = update = 0
    margin = pair_margin(states, data.splits["validation"], "scoring validation images")
    states.model.scale_scores(starting_scale(margin, data.splits["validation"].preference))
    epoch, scale = _close_epoch(states, data, 0, _first_loss(states, data, batches))
    epochs, best, best_state, best_scale = [epoch], epoch, trainer.start(), scale
    best_habits = deepcopy(habits.state_dict())
    report(epoch)
    with progress(description, settings.epochs * per_pass) as bar:
        for number in range(1, settings.epochs + 1):
            loss_sum = 0.0
            for batch in batches.shuffled(settings.batch_size, generator):
                rate = learning_rate(seen / (settings.epochs * per_pass))
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
                loss = loss_of(batch, targets, generator, mirror=settings.horizontal_flip)
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
                if not (loss.isfinite() and norm.isfinite()):
                    raise GuardError(
                        f"reward training: update {update}: loss {loss.item()}, gradient norm "
                        f"{norm.item()}; stopped before the step (try a lower learning_rate)"
                    )
                optimizer.step()
                update, seen = update + 1, seen + len(batch)
                loss_sum += loss.item() * len(batch)
                bar.advance(len(batch))
            epoch, scale = _close_epoch(states, data, update, loss_sum / per_pass)
            epochs.append(epoch)
            report(epoch)
            bar.advance(0, f"held-out accuracy {epoch.validation_accuracy:.3f}")
            if epoch.validation_loss < best.validation_loss:
                best, best_state, best_scale = epoch, trainer.start(), scale
                best_habits = deepcopy(habits.state_dict())
            if epochs.index(best) <= number - settings.patience:
                break
            if objective.data_smoothing:
                targets = _smoothed(states, data, targets, objective.data_smoothing)
    trainer.go_back(best_state)
    habits.load_state_dict(best_habits)
    states.model.scale_scores(best_scale)
    return Fitted(tuple(epochs), best, len(epochs) <= settings.epochs, habits)


def learning_rate(done: float) -> float:
    """Factor of the peak at a part `done` of the run: linear warm-up, then a cosine to zero."""
    if done < WARMUP:
        return (done + WARMUP / 10) / (WARMUP * 1.1)
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def pair_margin(states: States, pairs: Pairs, description: str) -> Float[Tensor, " n"]:
    """score_a - score_b of every pair, without gradient: the log-odds that a is preferred."""
    images, (a, b) = rows_of(pairs.image_a, pairs.image_b)
    scores = states.scores(images, description)
    return scores[a] - scores[b]


def _close_epoch(
    states: States, data: Preferences, update: int, train_loss: float
) -> tuple[Epoch, float]:
    """What the validation pairs say, and the factor of the scores that suits them best."""
    pairs = data.splits["validation"]
    margin = pair_margin(states, pairs, "scoring validation images")
    scale = fit_scale(margin, pairs.preference)
    loss = bradley_terry_loss(margin * scale, pairs.preference).mean()
    accuracy = pair_accuracy(margin, pairs.preference, data.prompt_of[pairs.image_a])
    return Epoch(update, train_loss, float(loss), accuracy.value), scale


def _first_loss(states: States, data: Preferences, batches: Batches) -> float:
    pairs = data.splits["train"]
    rows = batches.of(batches.prompts).pairs
    images, (a, b) = rows_of(pairs.image_a[rows], pairs.image_b[rows])
    scores = states.scores(images, "scoring training images with the backbone")
    loss = bradley_terry_loss(scores[a] - scores[b], pairs.preference[rows])
    return float(loss.mean()) if len(loss) else math.log(2)


def _smoothed(states: States, data: Preferences, targets: Targets, rate: float) -> Targets:
    margin = pair_margin(states, data.splits["train"], "asking the model about its labels")
    return targets.with_preference(smoothed_labels(targets.preference, margin, rate))


def _decay_groups(named: Named, settings: Settings) -> list[dict[str, object]]:
    # Decay keeps matrices small; a bias, a norm's gain or the logit scale has no reason to shrink.
    matrices = [parameter for _, parameter in named if parameter.ndim > 1]
    others = [parameter for _, parameter in named if parameter.ndim <= 1]
    peak = settings.learning_rate
    return [
        {"params": matrices, "weight_decay": settings.weight_decay, "peak": peak},
        {"params": others, "weight_decay": 0.0, "peak": peak},
    ]
