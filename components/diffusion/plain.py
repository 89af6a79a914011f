"""How plain diffusers draws the image that a policy draws: one row for each family.

A LoRA leaves this project with no sampler of ours. What its owner has to tell diffusers beside the
prompt, and in which settings the policy then draws the very same image, is said here once: the
registry compares by it, and the model card shows it as code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from components.contracts.artifacts import read_json
from components.contracts.errors import ModelError
from components.contracts.settings import BaseSettings
from components.diffusion.loading import find_model, pipeline_class


@dataclass(frozen=True)
class PlainCall:
    """A pipeline of diffusers as it must be opened and called."""

    network: str
    """Folder of the network, the prefix of its keys in a LoRA file."""
    base: BaseSettings
    """The policy's settings under which it draws what the call draws."""
    drawing: Mapping[str, Any]
    """Keywords of the call beside prompt and generator."""
    opening: Mapping[str, Any] = field(default_factory=dict)
    """Keywords of `from_pretrained` without which the pipeline does not open as in training."""
    scheduler: str | None = None
    """Class of the scheduler to use whatever the folder names; None keeps the folder's."""
    takes_negative_prompt: bool = True
    note: str = ""
    """In which way `base` is not what was asked for; empty where it is."""

    def draw(self, pipeline: Any, prompt: str, seed: int) -> UInt8[Tensor, "1 3 H W"]:
        """The image that a rollout with `base` and `seed` decodes to, to the rounding of a pixel.

        Args:
            pipeline: opened with `opening` by whoever has it; left with the scheduler of the call.
            prompt: what to draw.
            seed: of the generator that all noise comes from.
        """
        if self.scheduler is not None:
            import diffusers

            kind = getattr(diffusers, self.scheduler)
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, clip_sample=False)
        images = pipeline(
            [prompt],
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **self.drawing,
        ).images
        return (images * 255).round().to(torch.uint8).cpu()

    def code(self, opener: str, prompt: str, seed: int) -> str:
        """The same as Python source, for people.

        Args:
            opener: an expression up to its opening bracket, behind which the keywords go.
            prompt: what to draw.
            seed: as in `draw`.
        """
        lines = ["import torch"]
        if self.scheduler is not None:
            lines.append(f"from diffusers import {self.scheduler}")
        opening = {"torch_dtype": "torch.float32"} | {k: repr(v) for k, v in self.opening.items()}
        lines += ["", f"pipeline = {opener}", *_indented(opening), ")"]
        if self.scheduler is not None:
            config = "pipeline.scheduler.config, clip_sample=False"
            lines.append(f"pipeline.scheduler = {self.scheduler}.from_config({config})")
        drawing = {key: repr(value) for key, value in self.drawing.items()}
        drawing["generator"] = f"torch.Generator().manual_seed({seed})"
        lines += ["image = pipeline(", f"    {prompt!r},", *_indented(drawing), ").images[0]"]
        return "\n".join(lines)


def plain_call(base: BaseSettings) -> PlainCall:
    """What diffusers has to be told for `base`.

    Raises:
        ModelError: no such folder, or one of a family that is not known.
    """
    folder = find_model(base.path)
    return _CALLS[pipeline_class(folder)](folder, base)


class EvenLevels(list[float]):
    """Noise levels from 1 down in even steps, the last one above 0; shown as what they are."""

    def __init__(self, num_steps: int) -> None:
        super().__init__(1 - step / num_steps for step in range(num_steps))

    def __repr__(self) -> str:
        return f"[1 - step / {len(self)} for step in range({len(self)})]"


def _stable_diffusion(folder: Path, base: BaseSettings) -> PlainCall:
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    num_train, num_steps = config.get("num_train_timesteps", 1000), base.num_steps
    note = ""
    if config.get("timestep_spacing") == "trailing" and num_train % num_steps:
        # Diffusers' DDIM goes down by num_train // num_steps from each timestep, wherever the next
        # one is: off by one on the way, or ending above 0. A pixel differs by up to 20 of 255.
        num_steps = max(n for n in range(1, num_steps) if num_train % n == 0)
        note = (
            f"Trained and judged were images of {base.num_steps} steps. They do not divide "
            f"{num_train} evenly, where diffusers' DDIM goes another way."
        )
    return PlainCall(
        network="unet",
        base=base.model_copy(update={"num_steps": num_steps}),
        drawing={
            "num_inference_steps": num_steps,
            "guidance_scale": base.guidance_scale,
            "eta": base.eta,
        },
        scheduler="DDIMScheduler",
        note=note,
    )


def _consistency(_folder: Path, base: BaseSettings) -> PlainCall:
    return PlainCall(
        network="unet",
        base=base,
        drawing={
            "num_inference_steps": base.num_steps,
            "guidance_scale": base.guidance_scale,
        },
        # The network is told the guidance weight: there is no second prompt to be guided away from.
        takes_negative_prompt=False,
    )


def _flow(folder: Path, base: BaseSettings) -> PlainCall:
    return PlainCall(
        network="transformer",
        # Diffusers steps a flow as an ODE; the SDEs that methods need for likelihoods are ours.
        base=base.without_sde(),
        drawing={
            # By a number of steps alone it would go to σ = 0.001 before it goes to 0.
            "sigmas": EvenLevels(base.num_steps),
            "guidance_scale": base.guidance_scale,
            # As many zeros stand for T5 as there are states of CLIP; by itself it puts 256.
            "max_sequence_length": _tokenizer_length(folder / "tokenizer"),
        },
        opening={"text_encoder_3": None, "tokenizer_3": None},
        note=(
            "Trained on were images with the noise of an SDE "
            f"(`noise_level: {base.noise_level:g}`). Diffusers draws without; so was judged."
        )
        if base.noise_level
        else "",
    )


_CALLS: dict[str, Callable[[Path, BaseSettings], PlainCall]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "LatentConsistencyModelPipeline": _consistency,
    "StableDiffusion3Pipeline": _flow,
}


def _tokenizer_length(folder: Path) -> int:
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"is truncated or no CLIPTokenizer ({reason})", file=folder) from None
    return int(tokenizer.model_max_length)


def _indented(keywords: Mapping[str, str]) -> list[str]:
    return [f"    {key}={value}," for key, value in keywords.items()]
