"""The model being aligned: a frozen latent diffusion network with an adapter, and its reference.

Methods and rollouts use nothing but the public names of `Policy`, whatever the family of the
network (`networks.py`): a U-Net, a consistency-distilled one, or a flow transformer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from components.contracts.errors import SettingsError
from components.diffusion import adapters
from components.diffusion.conditioning import Conditioning, PromptEncoder, in_chunks
from components.diffusion.networks import Call, Network
from components.diffusion.noise import NoiseLevel
from components.diffusion.samplers import LatentGaussian, Sampler, Step

Adapter = str
"""`train`, `reference` (the base alone), or a snapshot of the trained adapter such as `old`."""


class Policy:
    """A text-to-image model whose only trainable part is a LoRA on its denoiser.

    Every forward pass has exactly `batch_size` rows (see `in_chunks`): whatever else is in a batch,
    a row's bits are the same, in rollout and replay, with and without gradients. Ask for multiples
    of `batch_size` rows where you can; a remainder costs as much as a full batch.
    """

    def __init__(
        self,
        *,
        network: Network,
        vae: nn.Module,
        encoder: PromptEncoder,
        sampler: Sampler,
        batch_size: int,
        device: torch.device,
    ) -> None:
        """Freeze the parts; `load_policy` is the usual way to get them."""
        self._network, self._vae, self._encoder = network, vae, encoder
        self.sampler, self.batch_size, self.device = sampler, batch_size, device
        self._snapshots: dict[str, dict[str, Tensor]] = {}
        for module in (network.module, vae):
            module.requires_grad_(False).eval()
            # Convolutions run on this layout natively: a decode takes 30 % less time on a CPU.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._digest: str | None = None
        self._has_adapter = False

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of one latent."""
        return self._network.latent_shape

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
            Names of the network's modules that it reaches.

        Raises:
            SettingsError: a target names no layer, or there is an adapter already.
        """
        self._refuse_second_adapter()
        chosen = self._network.targets if targets is None else tuple(targets)
        reached = adapters.add_lora(self._network.module, rank, alpha, chosen, generator)
        self._has_adapter = True
        return reached

    def load_lora(self, folder: Path) -> list[str]:
        """Load a saved LoRA into the adapter "train" and return the names of reached modules.

        Raises:
            ModelError: one line for a missing, truncated or foreign file.
        """
        self._refuse_second_adapter()
        reached = adapters.load_lora(self._network.module, folder, self._network.folder)
        self._has_adapter = True
        return reached

    def save_lora(self, folder: Path) -> None:
        """Write the adapter; diffusers' `load_lora_weights(folder)` then gives the same images."""
        adapters.save_lora(self._network.module, folder, self._network.folder)

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters of the adapter, fp32, in the order of the network."""
        return adapters.lora_parameters(self._network.module)

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
            adapter: "train", "reference" for the base alone (the same without an adapter), or the
                name of a snapshot.

        Raises:
            SettingsError: no such snapshot.
        """
        return self.predict_at(x_t, self.sampler.level(step, len(x_t)), conditioning, adapter)

    def predict_at(
        self,
        x_t: Float[Tensor, "b c h w"],
        level: NoiseLevel,
        conditioning: Conditioning,
        adapter: Adapter = "train",
    ) -> Float[Tensor, "b c h w"]:
        """As `predict`, at a noise level of each row that need not be one of the sampler's."""
        network = self._network

        def forward(call: Call, x_t: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
            states = conditioning.states[rows]
            pooled = None if conditioning.pooled is None else conditioning.pooled[rows]
            if conditioning.unconditional is None:
                return network(call, x_t, timestep, states, pooled)
            empty = conditioning.unconditional.expand_as(states)
            if pooled is not None and conditioning.unconditional_pooled is not None:
                pooled = torch.cat([conditioning.unconditional_pooled.expand_as(pooled), pooled])
            both = network(
                call,
                torch.cat([x_t, x_t]),
                torch.cat([timestep, timestep]),
                torch.cat([empty, states]),
                pooled,
            )
            without, with_prompt = both.chunk(2)
            return without + conditioning.guidance_scale * (with_prompt - without)

        with self._using(adapter) as call:
            return in_chunks(
                partial(forward, call),
                self.batch_size,
                x_t.float(),
                level.timestep,
                conditioning.prompt_of_row,
            )

    def features(
        self,
        x_t: Float[Tensor, "b c h w"],
        level: NoiseLevel,
        conditioning: Conditioning,
    ) -> Float[Tensor, "b f h2 w2"]:
        """What the frozen base's downsampling stack makes of latents; differentiable in `x_t`.

        Raises:
            SettingsError: the base is no U-Net.
        """
        if not self._network.has_features:
            raise SettingsError(
                "error perceptual needs the downsampling stack of a U-Net",
                allowed="error latent, or a base with a U-Net",
            )

        def forward(x_t: Tensor, timestep: Tensor, rows: Tensor) -> Tensor:
            return self._network.features(x_t, timestep, conditioning.states[rows])

        with self._using("reference"):
            return in_chunks(
                forward,
                self.batch_size,
                x_t.float(),
                level.timestep,
                conditioning.prompt_of_row,
            )

    def remember(self, name: str, decay: float = 0.0) -> None:
        """Move the snapshot `name` to `decay · itself + (1 - decay) · the trained adapter`.

        A name that is new starts as a copy. A snapshot predicts with `adapter=name`; equal weights
        give equal bits. `state` of the run holds all of them.
        """
        new = {key: parameter.detach() for key, parameter in self.trainable_parameters()}
        old = self._snapshots.get(name)
        if old is None or decay == 0.0:
            self._snapshots[name] = {key: tensor.clone() for key, tensor in new.items()}
        else:
            self._snapshots[name] = {
                key: decay * old[key] + (1 - decay) * tensor for key, tensor in new.items()
            }

    def snapshots(self) -> dict[str, Tensor]:
        """Every snapshot's tensors, as `name/parameter`."""
        return {
            f"{name}/{key}": tensor
            for name, tensors in self._snapshots.items()
            for key, tensor in tensors.items()
        }

    def load_snapshots(self, tensors: Mapping[str, Tensor]) -> None:
        """Become what `snapshots` was taken from."""
        self._snapshots = {}
        for path, tensor in tensors.items():
            name, _, key = path.partition("/")
            self._snapshots.setdefault(name, {})[key] = tensor.to(self.device)

    def transition(
        self,
        x_t: Float[Tensor, "b c h w"],
        step: Step,
        conditioning: Conditioning,
        adapter: Adapter = "train",
        *,
        sampler: Sampler | None = None,
    ) -> LatentGaussian:
        """p(x_prev | x_t, prompt): the one path of rollout, replay and KL.

        `sampler` takes the place of the policy's own; it must have the same noise levels.
        """
        output = self.predict(x_t, step, conditioning, adapter)
        return (sampler or self.sampler).transition(output, x_t, step)

    def pixels(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images in [0, 1], not rounded: gradients flow to the latents."""
        config: Any = self._vae.config

        shift = getattr(config, "shift_factor", None) or 0.0

        def decode(latents: Tensor) -> Tensor:
            return self._vae.decode(latents / config.scaling_factor + shift, return_dict=False)[0]  # type: ignore[operator]

        return (in_chunks(decode, self.batch_size, latents.float()) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> UInt8[Tensor, "b 3 H W"]:
        """Images as they are stored and judged, 0 to 255."""
        return (self.pixels(latents) * 255).round().to(torch.uint8).contiguous()

    @contextmanager
    def _using(self, adapter: Adapter) -> Iterator[Call]:
        """The network as a call, with the weights of `adapter` inside the block."""
        module: Any = self._network.module
        if adapter == "train":
            yield module
        elif adapter == "reference":
            if self._has_adapter:
                with adapters.without_lora(module):
                    yield module
            else:
                yield module
        elif adapter in self._snapshots:
            yield partial(_call_with, module, self._snapshots[adapter])
        else:
            known = ", ".join(("train", "reference", *self._snapshots))
            raise SettingsError(f"adapter '{adapter}'", allowed=known)

    def _refuse_second_adapter(self) -> None:
        if self._has_adapter:
            raise SettingsError("the policy has an adapter already", allowed="one adapter")

    def _compute_digest(self) -> str:
        digest = hashlib.sha256()
        parts = {"network": self._network.module, "vae": self._vae}
        for number, module in enumerate(self._encoder.encoders.modules):
            parts[f"text {number}"] = module
        adapter = {name for name, _ in self.trainable_parameters()}
        for part, module in parts.items():
            for name, tensor in sorted(module.state_dict().items()):
                if name not in adapter:
                    # The adapter moves a reached layer's weights one level down.
                    plain = name.replace(".base_layer.", ".")
                    digest.update(f"{part}.{plain} {tuple(tensor.shape)}\n".encode())
                    digest.update(tensor.cpu().contiguous().numpy().tobytes())
        schedule = getattr(self.sampler, "schedule", None)
        if schedule is None:
            digest.update(b"flow")  # all rectified flows carry the same noise
        else:
            digest.update(schedule.alphas_cumprod.cpu().numpy().tobytes())
            digest.update(f"{schedule.final_alpha_cumprod} {schedule.prediction_type}".encode())
        return digest.hexdigest()


def _call_with(
    module: nn.Module, weights: Mapping[str, Tensor], *arguments: Any, **keywords: Any
) -> Any:
    """Call `module` with other tensors in place of its adapter's."""
    return torch.func.functional_call(module, dict(weights), arguments, keywords)
