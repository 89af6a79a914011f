"""Does the registry give back the LoRA that was trained? One image tells.

Two common ways of saving a LoRA lose it without an error: keys without the network's prefix load as
no LoRA at all, and a lost alpha loads as a weaker one. So the version is loaded with plain
diffusers, from the registry's own address, and must draw the image that the training side draws.

What is said to diffusers differs between families: `components/diffusion/plain.py`. A flow is
compared without the noise of its SDE, for which diffusers has no sampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.settings import ComputeSettings
from components.registry.gates import Gate
from components.registry.session import quiet

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

    from components.diffusion.plain import PlainCall

MAX_DIFFERENCE = 1
"""Of a pixel, out of 255: two programs may round the last bit of a float differently."""


@dataclass(frozen=True)
class Probe:
    """One image that the training side draws, and what is needed to draw it again."""

    prompt: str
    seed: int
    """Of the generator that draws all noise of the image."""
    image: UInt8[Tensor, "1 3 H W"]
    """With the LoRA."""
    base_image: UInt8[Tensor, "1 3 H W"]
    """From the same noise without it."""
    base_digest: str
    device: str
    """On which it was drawn: another one rounds differently."""

    def gate(self) -> Gate:
        """The LoRA must be visible, else an equal image proves nothing."""
        change = difference(self.image, self.base_image)
        return Gate(
            "lora_visible",
            change,
            f"> {MAX_DIFFERENCE}",
            change > MAX_DIFFERENCE,
            "largest change of a pixel against the base, out of 255",
        )


def draw_probe(
    call: PlainCall, compute: ComputeSettings, lora: Path, prompt: str, seed: int
) -> Probe:
    """Draw with the policy what `call` draws with diffusers, with and without the LoRA.

    Raises:
        ModelError: the base or the LoRA cannot be loaded.
    """
    from components.diffusion import load_policy, rollout

    policy = load_policy(call.base.model_copy(update={"batch_size": 1}), compute, lora=lora)
    conditioning = policy.encode_prompts([prompt])
    with_lora = rollout(policy, conditioning, [seed], adapter="train")
    without = rollout(policy, conditioning, [seed], adapter="reference")
    return Probe(
        prompt=prompt,
        seed=seed,
        image=policy.decode(with_lora.latents[:, -1]).cpu(),
        base_image=policy.decode(without.latents[:, -1]).cpu(),
        base_digest=policy.digest,
        device=str(policy.device),
    )


def draw_registered(uri: str, probe: Probe, call: PlainCall) -> UInt8[Tensor, "1 3 H W"]:
    """Draw the probe's image with plain diffusers from the model at `uri` (`models:/name/version`).

    The base is found as the version itself names it, relative to the project's folder.
    """
    import mlflow.diffusers
    import torch

    with quiet():
        # By itself the flavour asks for an "auto" type, which diffusers answers with a warning.
        pipeline = mlflow.diffusers.load_model(uri).load_pipeline(
            torch_dtype=torch.float32, device=probe.device, local_files_only=True, **call.opening
        )
        pipeline.set_progress_bar_config(disable=True)
        return call.draw(pipeline, probe.prompt, probe.seed)


def difference(a: UInt8[Tensor, "b 3 H W"], b: UInt8[Tensor, "b 3 H W"]) -> int:
    """The largest difference of a pixel, 0 to 255; 255 for pictures of unlike shape."""
    if a.shape != b.shape:
        return 255
    return int((a.int() - b.int()).abs().max())
