"""What differs between families of networks: how one is called, and where its LoRA sits.

pipeline (diffusers)             network                   prediction_type      sampler
StableDiffusionPipeline          UNet2DConditionModel      of its scheduler     DDIMSampler
LatentConsistencyModelPipeline   the same, told a weight   of its scheduler     ConsistencySampler
StableDiffusion3Pipeline         SD3Transformer2DModel     flow                 FlowSampler
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

Call = Callable[..., tuple[Tensor, ...]]
"""The network itself, or the network with other weights in place of its adapter's."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
"""The projections of every attention layer."""
JOINT_ATTENTION = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Those of image and text tokens that attend to each other (SD3, 2403.03206)."""


@dataclass(frozen=True)
class Network:
    """A frozen denoiser of one family."""

    module: nn.Module
    folder: str
    """Its folder in diffusers' layout, which is also the prefix of its keys in a LoRA file."""
    targets: tuple[str, ...]
    """Where a LoRA goes unless the settings say otherwise."""
    guidance_embedding: Float[Tensor, " g"] | None = None
    """The guidance weight as a consistency model is told it; None for every other family."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent."""
        config: Any = self.module.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    def __call__(
        self,
        call: Call,
        x_t: Float[Tensor, "b c h w"],
        timestep: Num[Tensor, " b"],
        states: Float[Tensor, "b l d"],
        pooled: Float[Tensor, "b p"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """The model output, through `call`, which takes what the module takes."""
        if pooled is not None:
            return call(
                hidden_states=x_t,
                timestep=timestep,
                encoder_hidden_states=states,
                pooled_projections=pooled,
                return_dict=False,
            )[0]
        if self.guidance_embedding is not None:
            told = self.guidance_embedding.expand(len(x_t), -1)
            return call(x_t, timestep, states, timestep_cond=told, return_dict=False)[0]
        return call(x_t, timestep, states, return_dict=False)[0]

    def features(
        self,
        x_t: Float[Tensor, "b c h w"],
        timestep: Num[Tensor, " b"],
        states: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "b f h2 w2"]:
        """What a U-Net's downsampling stack makes of a latent: the space in which NCP (2406.17636)
        measures errors. Differentiable in `x_t`."""
        unet: Any = self.module
        embedding = unet.time_embedding(unet.time_proj(timestep).to(x_t.dtype))
        hidden = unet.conv_in(x_t)
        for block in unet.down_blocks:
            told = {"encoder_hidden_states": states} if _attends(block) else {}
            hidden, _ = block(hidden, temb=embedding, **told)
        found: Tensor = hidden
        return found

    @property
    def has_features(self) -> bool:
        """Whether `features` is defined: for U-Nets, as in the paper."""
        return hasattr(self.module, "down_blocks")


def _attends(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def guidance_embedding(guidance_scale: float, size: int) -> Float[Tensor, " g"]:
    """A guidance weight as a consistency model is told it (2310.04378): sines and cosines of
    1000·(guidance_scale - 1), as diffusers' pipeline computes them."""
    half = size // 2
    rates = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    angles = torch.tensor(guidance_scale - 1.0) * 1000.0 * rates
    embedding = torch.cat([angles.sin(), angles.cos()])
    return torch.nn.functional.pad(embedding, (0, size % 2))
