"""Losses that join more rows than fit in memory: values first, gradients in a second pass.

The loss of PRDP is a number of all denoising steps of all images of a prompt. Its derivative by the
log-probability of one step is known once all log-probabilities are, so they are computed without a
graph first, and a part at a time again in the backward pass, where each part gets its share of the
gradient. The loss depends on the network through these numbers alone: values and gradients are
those of the evaluation in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from components.diffusion import Policy
from components.finetuning.batches import TrajectoryGroups
from components.finetuning.losses.kl import exact_kl


def in_two_passes(
    function: Callable[[Int64[Tensor, " r"]], tuple[Tensor, ...]], num_rows: int, size: int
) -> tuple[Tensor, ...]:
    """`function` of rows 0 to `num_rows` - 1, `size` of them at a time, its results joined.

    What must not be computed twice comes after the last thing that needs a gradient, under
    `no_grad`: the second pass stops there.

    Args:
        function: of the numbers of some rows, one value for each row; it must not draw anything.
        num_rows: in all.
        size: rows whose graph is held at one time.
    """
    parts = [
        checkpoint(function, rows, use_reentrant=False, preserve_rng_state=False)
        for rows in torch.arange(num_rows).split(size)
    ]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


class TrajectoryScores(NamedTuple):
    """Every step of some trajectories, scored again; figures are per dimension of the latent."""

    log_prob: Float[Tensor, "b n"]
    """Under the policy, with its graph."""
    log_prob_ref: Float[Tensor, "b n"]
    """Under the reference."""
    kl: Float[Tensor, "b n"]
    """Exact KL of the policy's step to the reference's, detached; 0 to the bit where equal."""


def score_again(policy: Policy, batch: TrajectoryGroups) -> Float[Tensor, "b n"]:
    """Log-probability per dimension of every step under the policy, in two passes."""
    x_t, x_prev, step, conditioning = _rows_of(policy, batch)

    def score(rows: Tensor) -> tuple[Tensor]:
        taken = policy.transition(x_t(rows), step(rows), conditioning(rows))
        return (taken.log_prob_per_dim(x_prev(rows)),)

    (log_prob,) = in_two_passes(score, batch.log_prob_old.numel(), policy.batch_size)
    return log_prob.view_as(batch.log_prob_old)


def score_with_reference(policy: Policy, batch: TrajectoryGroups) -> TrajectoryScores:
    """As `score_again`, with the reference's scores and the KL; the reference is asked once."""
    x_t, x_prev, step, conditioning = _rows_of(policy, batch)

    def score(rows: Tensor) -> tuple[Tensor, ...]:
        before, after, at, text = x_t(rows), x_prev(rows), step(rows), conditioning(rows)
        taken = policy.transition(before, at, text)
        log_prob = taken.log_prob_per_dim(after)
        with torch.no_grad():
            pretrained = policy.transition(before, at, text, "reference")
            kl = exact_kl(taken.mean, pretrained.mean, taken.std)
            return log_prob, pretrained.log_prob_per_dim(after), kl

    found = in_two_passes(score, batch.log_prob_old.numel(), policy.batch_size)
    return TrajectoryScores(*(part.view_as(batch.log_prob_old) for part in found))


def _rows_of(policy: Policy, batch: TrajectoryGroups) -> tuple[Callable[[Tensor], Any], ...]:
    """x_t, x_prev, step and conditioning of rows; a row is one step of one trajectory.

    Latents move to the device a part at a time: a round of them may be larger than its memory.
    """
    num_steps = len(batch.steps)

    def latents(offset: int) -> Callable[[Tensor], Tensor]:
        def pick(rows: Tensor) -> Tensor:
            image, column = rows // num_steps, rows % num_steps
            return batch.latents[image, batch.steps[column] + offset].to(policy.device)

        return pick

    return (
        latents(0),
        latents(1),
        lambda rows: batch.steps[rows % num_steps].to(policy.device),
        lambda rows: batch.conditioning[rows // num_steps],
    )
