"""A temperature for logits of a wanted size, measured before training (after NCP, 2406.17636)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.contracts.errors import GuardError
from components.diffusion import Adapter, Policy
from components.finetuning.algorithms.preference_settings import ErrorKind
from components.finetuning.denoising_errors import Errors, Noised, latent_error, measure

Unscaled = Callable[[Errors], Float[Tensor, " n"]]
"""The logit of a method with β = 1, of winners and losers folded into one batch or of samples."""
PERTURBATION = 1.0e-3
"""Standard deviation of what is added to the reference's prediction, whose noise has 1."""


@torch.no_grad()
def calibrated_beta(
    policy: Policy,
    batches: Sequence[Noised],
    kind: ErrorKind,
    unscaled: Unscaled,
    target: float,
    generator: torch.Generator,
    reference: Adapter = "reference",
) -> float:
    """β for which the logits of a policy that is off by `PERTURBATION` have the spread `target`.

    The same β means nothing in another latent or feature space: what it multiplies differs by
    orders of magnitude. The policy here is the reference plus white noise, independent for each
    sample.

    Worked: logits (with β = 1) of -0.002, 0.001 and 0.004 have a standard deviation of 0.003; for
    a target of 0.6 β is 200.

    Raises:
        GuardError: the logits do not move.
    """
    logits = []
    for batch in batches:
        error_of = measure(policy, batch, kind)
        prediction = policy.predict_at(batch.x_t, batch.level, batch.conditioning, reference)
        change = torch.randn(prediction.shape, generator=generator).to(prediction)
        moved = prediction + PERTURBATION * change
        found = Errors(error_of(moved), error_of(prediction), latent_error(moved, prediction))
        logits.append(unscaled(found))
    return beta_for(torch.cat(logits), target)


def beta_for(logits: Float[Tensor, " n"], target: float) -> float:
    """`target` over the standard deviation of `logits`; see `calibrated_beta`.

    Raises:
        GuardError: fewer than two logits, or all the same.
    """
    spread = float(logits.double().std(correction=1)) if len(logits) > 1 else 0.0
    if not spread > 0:
        raise GuardError(
            f"calibrate: {len(logits)} logits with a standard deviation of {spread:g} set no "
            "dpo_beta; allowed: two or more samples, or calibrate null and a dpo_beta"
        )
    return target / spread
