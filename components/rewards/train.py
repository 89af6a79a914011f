"""Trains a reward model on pairs of images, whole prompts in a batch; the best epoch is kept.

As in ImageReward (2304.05977) all pairs of a prompt share one forward pass: an image that stands in
three pairs is encoded once, and not learnt by heart from three updates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from components.contracts.errors import GuardError
from components.contracts.progress import progress, track
from components.rewards.dataset import Pairs, Preferences
from components.rewards.losses import bradley_terry_loss, fit_scale
from components.rewards.metrics import pair_accuracy
from components.rewards.model import RewardModel
from components.rewards.settings import Settings

WARMUP = 0.05
"""Part of the run in which the learning rate rises from zero."""
MAX_GRADIENT_NORM = 1.0
SCORED_TOGETHER = 128
"""Images of one forward pass without gradient."""


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of a pass over the training pairs; update 0 is the backbone."""

    update: int
    train_loss: float
    validation_loss: float
    """At the logit scale that suits the validation pairs best; log 2 = 0.693 knows nothing."""
    validation_accuracy: float


@dataclass(frozen=True)
class Training:
    """The course of a training; the model itself was changed in place and holds the best epoch."""

    epochs: tuple[Epoch, ...]
    best: Epoch


def train(
    model: RewardModel,
    data: Preferences,
    settings: Settings,
    generator: torch.Generator,
    report: Callable[[Epoch], None] = lambda epoch: None,
) -> Training:
    """Fit `model` to the training pairs and leave it at the epoch of the lowest validation loss.

    The loss chooses, not the accuracy: on a few hundred pairs it is much less noisy. CLIP's logit
    scale tells captions apart and is too sure of itself about two pictures of one caption, so each
    epoch is judged at the scale that suits the validation pairs best, and the kept model gets that
    scale.

    Args:
        generator: CPU generator of the shuffling and of the mirroring; the only randomness.
        report: called after each epoch.

    Raises:
        GuardError: the loss or the gradient is not finite.
    """
    # eval(): CLIP's dropout would draw from the global generator.
    model.eval()
    named = trainable_parameters(model, settings.trainable)
    optimizer = torch.optim.AdamW(_decay_groups(named, settings.weight_decay), lr=0.0)
    parameters = [parameter for _, parameter in named]
    pairs = data.splits["train"]
    tokens = model.tokenize(data.prompts)
    epochs: list[Epoch] = []
    best_state: dict[str, Tensor] = {}
    best_scale = 1.0
    seen = update = 0
    with progress("training the reward model", settings.epochs * len(pairs)) as bar:
        for number in range(settings.epochs + 1):
            # The backbone itself is the first candidate: training that makes it worse is not kept.
            loss_sum = 0.0 if number else _loss_sum(model, data, pairs)
            batches = prompt_batches(data, pairs, settings.batch_size, generator)
            for rows in batches if number else ():
                rate = learning_rate(seen / (settings.epochs * len(pairs)))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * rate
                margin = _training_margin(model, data, tokens, pairs, rows, settings, generator)
                loss = bradley_terry_loss(
                    margin,
                    torch.zeros_like(margin),
                    pairs.preference[rows].to(margin.device),
                    settings.label_smoothing,
                )
                optimizer.zero_grad()
                loss.backward()
                norm = nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
                if not (loss.isfinite() and norm.isfinite()):
                    raise GuardError(
                        f"reward training: update {update}: loss {loss.item()}, gradient norm "
                        f"{norm.item()}; stopped before the step (try a lower learning_rate)"
                    )
                optimizer.step()
                update, seen = update + 1, seen + len(rows)
                loss_sum += loss.item() * len(rows)
                bar.advance(len(rows))
            epoch, scale = _close_epoch(model, data, update, loss_sum / len(pairs))
            if not epochs or epoch.validation_loss < min(e.validation_loss for e in epochs):
                best_state = {name: value.detach().clone() for name, value in named}
                best_scale = scale
            epochs.append(epoch)
            report(epoch)
            bar.advance(0, f"held-out accuracy {epoch.validation_accuracy:.3f}")
    with torch.no_grad():
        for name, parameter in named:
            parameter.copy_(best_state[name])
        model.clip.logit_scale.fill_(math.log(best_scale))
    return Training(tuple(epochs), min(epochs, key=lambda epoch: epoch.validation_loss))


def trainable_parameters(model: RewardModel, trainable: str) -> list[tuple[str, nn.Parameter]]:
    """Named weights that learn; all others are frozen. `trainable` as in `Settings`."""
    clip = model.clip
    heads = ("visual_projection", "text_projection", "logit_scale")
    prefixes: list[str] = [""]
    if trainable != "all":
        prefixes = list(heads)
    if trainable == "last_layers":
        for tower in ("vision_model", "text_model"):
            prefixes += [f"{tower}.{name}" for name in _last_third(getattr(clip, tower))]
    clip.requires_grad_(False)
    named = [
        (name, parameter)
        for name, parameter in clip.named_parameters()
        if name.startswith(tuple(prefixes))
    ]
    for _, parameter in named:
        parameter.requires_grad_(True)
    return named


def _last_third(tower: nn.Module) -> list[str]:
    """Names of a tower's last layers and of what follows its encoder, rounded up."""
    encoder: nn.Module = tower.get_submodule("encoder")
    # One list of layers in a transformer; stages with a list each in a convolutional tower.
    layers = [
        name
        for name, module in encoder.named_modules(prefix="encoder")
        if re.search(r"(?:^|\.)layers\.\d+$", name)
    ]
    last = layers[len(layers) - math.ceil(len(layers) / 3) :]
    behind = [name for name, _ in tower.named_children() if name not in ("embeddings", "encoder")]
    return [f"{name}." for name in (*last, *behind)]


def learning_rate(done: float) -> float:
    """Factor of the peak at a part `done` of the run: linear warm-up, then a cosine to zero."""
    if done < WARMUP:
        return (done + WARMUP / 10) / (WARMUP * 1.1)
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def prompt_batches(
    data: Preferences, pairs: Pairs, batch_size: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, " k"]]:
    """Rows of `pairs` in batches of whole prompts: `batch_size` or more, but for the last."""
    prompts = data.prompt_of[pairs.image_a]
    order = prompts.unique()
    batch: list[Tensor] = []
    for prompt in order[torch.randperm(len(order), generator=generator)]:
        batch.append((prompts == prompt).nonzero()[:, 0])
        if sum(map(len, batch)) >= batch_size:
            yield torch.cat(batch)
            batch = []
    if batch:
        yield torch.cat(batch)


@torch.no_grad()
def score_images(
    model: RewardModel, data: Preferences, rows: Int64[Tensor, " k"], description: str
) -> Float[Tensor, " k"]:
    """Raw scores of the images in `rows`, each with its own prompt, on the CPU."""
    prompts, text_row = data.prompt_of[rows].unique(return_inverse=True)
    tokens = model.tokenize([data.prompts[int(prompt)] for prompt in prompts])
    text = torch.cat([model.text_features(part) for part in tokens.split(SCORED_TOGETHER)])
    chunks = list(zip(rows.split(SCORED_TOGETHER), text_row.split(SCORED_TOGETHER), strict=True))
    scores = []
    for images, words in track(chunks, description, len(chunks)):
        pixels = model.normalise(data.images.pixels(images).to(model.device))
        scores.append(model.score(model.image_features(pixels), text[words]).cpu())
    return torch.cat(scores)


def pair_margin(
    model: RewardModel, data: Preferences, pairs: Pairs, description: str
) -> Float[Tensor, " n"]:
    """score_a - score_b of every pair, without gradient: the log-odds that a is preferred."""
    images, where = torch.cat([pairs.image_a, pairs.image_b]).unique(return_inverse=True)
    score_a, score_b = score_images(model, data, images, description)[where].chunk(2)
    return score_a - score_b


def _training_margin(
    model: RewardModel,
    data: Preferences,
    tokens: Int64[Tensor, "p n"],
    pairs: Pairs,
    rows: Int64[Tensor, " k"],
    settings: Settings,
    generator: torch.Generator,
) -> Float[Tensor, " k"]:
    """score_a - score_b of the pairs in `rows`, each image and each prompt encoded once."""
    images, where = torch.cat([pairs.image_a[rows], pairs.image_b[rows]]).unique(
        return_inverse=True
    )
    prompts, text_row = data.prompt_of[images].unique(return_inverse=True)
    pixels = data.images.pixels(images)
    if settings.horizontal_flip:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    image = model.image_features(model.normalise(pixels.to(model.device)))
    text = model.text_features(tokens[prompts.to(tokens.device)])
    scores = model.score(image, text[text_row.to(text.device)])
    score_a, score_b = scores[where.to(scores.device)].chunk(2)
    return score_a - score_b


def _loss_sum(model: RewardModel, data: Preferences, pairs: Pairs) -> float:
    margin = pair_margin(model, data, pairs, "scoring training images with the backbone")
    loss = bradley_terry_loss(margin, torch.zeros_like(margin), pairs.preference)
    return float(loss) * len(pairs)


@torch.no_grad()
def _close_epoch(
    model: RewardModel, data: Preferences, update: int, train_loss: float
) -> tuple[Epoch, float]:
    """What the validation pairs say, and the logit scale that suits them best."""
    pairs = data.splits["validation"]
    margin = pair_margin(model, data, pairs, "scoring validation images")
    scale = float(model.clip.logit_scale.exp())
    best_scale = fit_scale(margin / scale, pairs.preference)
    calibrated = margin * (best_scale / scale)
    loss = bradley_terry_loss(calibrated, torch.zeros_like(calibrated), pairs.preference)
    accuracy = pair_accuracy(margin, pairs.preference, data.prompt_of[pairs.image_a])
    return Epoch(update, train_loss, float(loss), accuracy.value), best_scale


def _decay_groups(
    named: list[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, object]]:
    # Decay keeps matrices small; a bias, a norm's gain or the logit scale has no reason to shrink.
    matrices = [parameter for _, parameter in named if parameter.ndim > 1]
    others = [parameter for _, parameter in named if parameter.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
