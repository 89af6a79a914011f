"""Denoising that keeps its graph: clean latents that can be differentiated in the adapter.

    method                   network outputs that keep their gradient
    DRaFT (2309.17400)       the last K of every image; DRaFT-LV: the last, from several noises
    AlignProp (2310.03739)   a random number of the last ones
    ReFL (2304.05977)        a single late one, followed by a jump to x0 in place of further steps

The steps are the sampler's own. A stochastic step is differentiated with its noise held fixed,
x_prev = mean + std·z: reparametrised, as DDIM with eta 1 is in the released codes. The noise is
that of `rollout`, and so are the numbers, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from components.diffusion.conditioning import Conditioning
from components.diffusion.policy import Policy
from components.diffusion.rollout import draw_noise

Cut = Literal["output", "latent"]
"""What is cut at a step that is not kept: the network's output alone, so that a gradient goes past
it along x_t (AlignProp), or the latent that it leads to, so that none goes further (DRaFT)."""


def last_steps(grad_steps: Int64[Tensor, " b"], num_steps: int) -> Bool[Tensor, "b n"]:
    """The last K of n steps, K of each row its own.

    Worked: K = (1, 3) of n = 4 steps: (0 0 0 1 | 0 1 1 1).
    """
    return torch.arange(num_steps) >= num_steps - grad_steps[:, None]


def denoise_with_gradient(
    policy: Policy,
    conditioning: Conditioning,
    seeds: Sequence[int],
    kept: Bool[Tensor, "b n"],
    *,
    cut: Cut = "output",
    checkpointing: bool = True,
) -> Float[Tensor, "b c h w"]:
    """Clean latents, equal to `rollout(policy, conditioning, seeds).x0`, with their graph.

    Args:
        policy: the network and its sampler.
        conditioning: one row each.
        seeds: one each.
        kept: on the CPU; whether the network's output at each step keeps its gradient. A step that
            no row keeps is computed without a graph.
        cut: what happens to the gradient at the other steps; for the last K steps of a loop the
            two are the same.
        checkpointing: compute each network call once more in the backward pass, in place of
            storing what is inside of it: memory for one call whatever the number of kept steps.

    Raises:
        ValueError: not as many seeds as rows, or not as many columns as steps.
    """
    _require(len(seeds) == len(conditioning), f"{len(seeds)} seeds for {len(conditioning)} prompts")
    num_steps = policy.sampler.num_steps
    _require(kept.shape == (len(seeds), num_steps), f"kept {tuple(kept.shape)}, steps {num_steps}")
    x_t, noises = draw_noise(policy, seeds)
    for step in range(num_steps):
        rows = kept[:, step]
        output = _output(policy, x_t, step, conditioning, rows, checkpointing)
        x_prev = policy.sampler.transition(output, x_t, step).sample(noises[:, step])
        x_t = _detached(x_prev, rows) if cut == "latent" else x_prev
    return x_t


def predict_with_gradient(
    policy: Policy,
    conditioning: Conditioning,
    seeds: Sequence[int],
    step: Int64[Tensor, " b"],
    *,
    checkpointing: bool = True,
) -> Float[Tensor, "b c h w"]:
    """The clean latents that the network sees at `step` of a rollout; only that look has a graph.

    A consistency model's boundary scalings are left out of the look; they change it by less than
    one part in ten thousand at any timestep that is visited.

    Args:
        policy: the network and its sampler.
        conditioning: one row each.
        seeds: one each; the noise is that of `rollout`.
        step: on the CPU, of each row: 0 the noisiest. Steps behind the latest are not computed.
        checkpointing: as in `denoise_with_gradient`.

    Raises:
        ValueError: not as many seeds as rows, or a step that the sampler does not have.
    """
    _require(len(seeds) == len(conditioning), f"{len(seeds)} seeds for {len(conditioning)} prompts")
    last = int(step.max())
    _require(int(step.min()) >= 0 and last < policy.sampler.num_steps, f"steps {step.tolist()}")
    with torch.no_grad():
        x_t, noises = draw_noise(policy, seeds)
        seen = [x_t]
        for before in range(last):
            transition = policy.transition(seen[-1], before, conditioning)
            seen.append(transition.sample(noises[:, before]))
        x_t = torch.stack(seen, 1)[torch.arange(len(step)), step]
    step = step.to(policy.device)
    output = _call(
        lambda x_t: policy.predict(x_t, step, conditioning), x_t, checkpointing=checkpointing
    )
    return policy.sampler.level(step, len(x_t)).predict(output, x_t)[0]


def renoised_step_with_gradient(
    policy: Policy,
    conditioning: Conditioning,
    x0: Float[Tensor, "b c h w"],
    noise: Float[Tensor, "b c h w"],
    *,
    checkpointing: bool = True,
) -> Float[Tensor, "b c h w"]:
    """The mean of the sampler's last step from `x0` put back to that step's noise level.

    Args:
        policy: the network and its sampler.
        conditioning: one row each.
        x0: clean latents; their own graph is cut.
        noise: standard normal.
        checkpointing: as in `denoise_with_gradient`.
    """
    last = policy.sampler.num_steps - 1
    x_t = policy.sampler.level(last, len(x0)).add_noise(x0.detach(), noise)
    return _call(
        lambda x_t: policy.transition(x_t, last, conditioning).mean,
        x_t,
        checkpointing=checkpointing,
    )


def pixels_with_gradient(
    policy: Policy, latents: Float[Tensor, "b c h w"], *, checkpointing: bool = True
) -> Float[Tensor, "b 3 H W"]:
    """`policy.pixels`, decoded once more in the backward pass where that saves memory."""
    return _call(policy.pixels, latents, checkpointing=checkpointing)


def _output(
    policy: Policy,
    x_t: Tensor,
    step: int,
    conditioning: Conditioning,
    rows: Tensor,
    checkpointing: bool,
) -> Tensor:
    def predict(x_t: Tensor) -> Tensor:
        return policy.predict(x_t, step, conditioning)

    if not bool(rows.any()):
        with torch.no_grad():
            return predict(x_t)
    return _detached(_call(predict, x_t, checkpointing=checkpointing), rows)


def _detached(x: Tensor, kept: Tensor) -> Tensor:
    """`x` without the graph of the rows that are not kept."""
    if bool(kept.all()):
        return x
    if not bool(kept.any()):
        return x.detach()
    return torch.where(kept.to(x.device).view(-1, 1, 1, 1), x, x.detach())


def _call(function: Callable[[Tensor], Tensor], x: Tensor, *, checkpointing: bool) -> Tensor:
    if not checkpointing:
        return function(x)
    # Nothing inside of a frozen network in eval mode draws random numbers.
    result: Tensor = checkpoint(function, x, use_reentrant=False, preserve_rng_state=False)
    return result


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
