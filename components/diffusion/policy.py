"""The model being aligned: a frozen latent diffusion network with an adapter, and its reference.

Methods and rollouts use nothing but the public names of `Policy`. A policy for another family (a
flow transformer, say) offers the same names with a sampler of its own; nothing else changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.contracts.errors import SettingsError
from components.diffusion import adapters
from components.diffusion.conditioning import Conditioning, PromptEncoder, in_chunks
from components.diffusion.samplers import DDIMSampler, LatentGaussian, Step

Adapter = Literal["train", "reference"]


class Policy:
    """A text-to-image model whose only trainable part is a LoRA on its U-Net.

    Every forward pass has exactly `batch_size` rows (see `in_chunks`): whatever else is in a batch,
    a row's bits are the same, in rollout and replay, with and without gradients. Ask for multiples
    of `batch_size` rows where you can; a remainder costs as much as a full batch.
    """

    def __init__(
        self,
        *,
        unet: nn.Module,
        vae: nn.Module,
        encoder: PromptEncoder,
        sampler: DDIMSampler,
        batch_size: int,
        device: torch.device,
    ) -> None:
        """Freeze the parts; `load_policy` is the usual way to get them."""
        self._unet, self._vae, self._encoder = unet, vae, encoder
        self.sampler, self.batch_size, self.device = sampler, batch_size, device
        for module in (unet, vae):
            module.requires_grad_(False).eval()
            # Convolutions run on this layout natively: a decode takes 30 % less time on a CPU.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._digest: str | None = None
        self._has_adapter = False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent."""
        config: Any = self._unet.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    @property
    def digest(self) -> str:
        """sha256 of the base's weights and noise schedule, the same with and without an adapter."""
        if self._digest is None:
            self._digest = self._compute_digest()
        return self._digest

    def add_adapter(
        self,
        rank: int,
        alpha: int,
        targets: Sequence[str] | None = None,
        *,
        generator: torch.Generator,
    ) -> list[str]:
        """Create the adapter "train": A random from `generator` (CPU), B zero.

        Returns:
            Names of the U-Net's modules that it reaches.

        Raises:
            SettingsError: a target names no layer, or there is an adapter already.
        """
        self._refuse_second_adapter()
        chosen = adapters.TARGETS if targets is None else tuple(targets)
        reached = adapters.add_lora(self._unet, rank, alpha, chosen, generator)
        self._has_adapter = True
        return reached

    def load_lora(self, folder: Path) -> list[str]:
        """Load a saved LoRA into the adapter "train" and return the names of reached modules.

        Raises:
            ModelError: one line for a missing, truncated or foreign file.
        """
        self._refuse_second_adapter()
        reached = adapters.load_lora(self._unet, folder)
        self._has_adapter = True
        return reached

    def save_lora(self, folder: Path) -> None:
        """Write the adapter; diffusers' `load_lora_weights(folder)` then gives the same images."""
        adapters.save_lora(self._unet, folder)

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the adapter, fp32, in the order of the network."""
        return adapters.lora_parameters(self._unet)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Text states of the prompts, one row each; unique prompts are encoded once."""
        return self._encoder.encode(prompts)

    def predict(
        self,
        x_t: Float[Tensor, "b c h w"],
        step: Step,
        conditioning: Conditioning,
        adapter: Adapter = "train",
    ) -> Float[Tensor, "b c h w"]:
        """Model output with guidance applied, ε_∅ + s·(ε_c - ε_∅) (2207.12598).

        Args:
            x_t: noisy latents.
            step: one for all rows, or int64 [b]: rows of different steps fold into one batch.
            conditioning: one row each.
            adapter: "train", or "reference" for the base alone. The same without an adapter.
        """
        timesteps = self.sampler.timestep(step).expand(len(x_t))

        def forward(x_t: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
            states = conditioning.states[rows]
            if conditioning.unconditional is None:
                return self._unet(x_t, timesteps, states, return_dict=False)[0]
            empty = conditioning.unconditional.expand_as(states)
            both = self._unet(
                torch.cat([x_t, x_t]),
                torch.cat([timesteps, timesteps]),
                torch.cat([empty, states]),
                return_dict=False,
            )[0]
            without, with_prompt = both.chunk(2)
            return without + conditioning.guidance_scale * (with_prompt - without)

        with self._using(adapter):
            return in_chunks(
                forward, self.batch_size, x_t.float(), timesteps, conditioning.prompt_of_row
            )

    def transition(
        self,
        x_t: Float[Tensor, "b c h w"],
        step: Step,
        conditioning: Conditioning,
        adapter: Adapter = "train",
    ) -> LatentGaussian:
        """p(x_prev | x_t, prompt): the one path of rollout, replay and KL."""
        return self.sampler.transition(self.predict(x_t, step, conditioning, adapter), x_t, step)

    def pixels(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images in [0, 1], not rounded: gradients flow to the latents."""
        config: Any = self._vae.config

        def decode(latents: Tensor) -> Tensor:
            return self._vae.decode(latents / config.scaling_factor, return_dict=False)[0]  # type: ignore[operator]

        return (in_chunks(decode, self.batch_size, latents.float()) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 H W"]:
        """Images as they are stored and judged, 0 to 255."""
        return (self.pixels(latents) * 255).round().to(torch.uint8).contiguous()

    @contextmanager
    def _using(self, adapter: Adapter) -> Iterator[None]:
        if adapter not in get_args(Adapter):
            raise SettingsError(f"adapter '{adapter}'", allowed=", ".join(get_args(Adapter)))
        if adapter == "reference" and self._has_adapter:
            with adapters.without_lora(self._unet):
                yield
        else:
            yield

    def _refuse_second_adapter(self) -> None:
        if self._has_adapter:
            raise SettingsError("the policy has an adapter already", allowed="one adapter")

    def _compute_digest(self) -> str:
        digest = hashlib.sha256()
        parts = {"unet": self._unet, "vae": self._vae, "text": self._encoder.text_encoder}
        adapter = {name for name, _ in self.trainable_parameters()}
        for part, module in parts.items():
            for name, tensor in sorted(module.state_dict().items()):
                if name not in adapter:
                    # The adapter moves a reached layer's weights one level down.
                    plain = name.replace(".base_layer.", ".")
                    digest.update(f"{part}.{plain} {tuple(tensor.shape)}\n".encode())
                    digest.update(tensor.cpu().contiguous().numpy().tobytes())
        schedule = self.sampler.schedule
        digest.update(schedule.alphas_cumprod.cpu().numpy().tobytes())
        digest.update(f"{schedule.final_alpha_cumprod} {schedule.prediction_type}".encode())
        return digest.hexdigest()
