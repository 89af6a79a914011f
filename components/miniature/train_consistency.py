"""Distil the base model into one that draws in a few steps, and write the whole pipeline.

python -m components.miniature.train_consistency (needs base/, see train_unet).

Latent consistency distillation (LCM, 2310.04378, algorithm 1 with the skipping steps of section
4.3): f(x_t, t, w) shall say the same for all points of one path of the base model's guided
probability flow, hence the path's end. Every update takes a point x_t, goes one DDIM step of
`skipped_timesteps` down the path with the guided base model, and pulls f at x_t towards f there,
which a slow copy of the network computes.

What the paper and diffusers call differently: the paper's w is 0 without guidance and diffusers'
`guidance_scale` is 1; `LatentConsistencyModelPipeline` embeds guidance_scale - 1, which is w.
The network is told w where the timestep is embedded (`time_cond_proj_dim`). The base model's text
encoder is kept as it is.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, CLIPTokenizer

from components.miniature import tokens, training
from components.miniature.train_unet import BASE_DIR, NUM_MISSES, Material

CONSISTENCY_DIR: Final = training.ROOM / "consistency"
NUM_LEVELS: Final = 50
"""Noise levels of the distillation: a consistency model draws on some of them, and no others."""
GUIDANCE_WIDTH: Final = 64
"""Features of the embedded guidance weight."""


def new_scheduler() -> LCMScheduler:
    """Return the base model's noise schedule as diffusers' consistency sampler has it.

    Its levels are timesteps 19, 39, ..., 999 of the base model's 0 to 999.
    """
    return LCMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        original_inference_steps=NUM_LEVELS,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
        timestep_scaling=10.0,
    )


def embed_guidance(guidance_scale: Tensor) -> Tensor:
    """Return what the pipeline tells the network about guidance scales [b]: [b, 64]."""
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    embedded: Tensor = embed(None, guidance_scale - 1, embedding_dim=GUIDANCE_WIDTH)
    return embedded


@dataclass(frozen=True)
class NoisePath:
    """The base model's noise schedule, for v-prediction (2202.00512, appendix D)."""

    scheduler: LCMScheduler

    def levels(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """Return √ᾱ and √(1 - ᾱ), each [b, 1, 1, 1], at timesteps int64 [b]."""
        alpha = self.scheduler.alphas_cumprod[timestep].view(-1, 1, 1, 1)
        return alpha.sqrt(), (1 - alpha).sqrt()

    def ddim(self, x_t: Tensor, v: Tensor, timestep: Tensor, earlier: Tensor) -> Tensor:
        """Go from `timestep` to the less noisy `earlier` without new noise (2010.02502, eq. 12)."""
        signal, noise = self.levels(timestep)
        x0, epsilon = signal * x_t - noise * v, signal * v + noise * x_t
        signal, noise = self.levels(earlier)
        return signal * x0 + noise * epsilon

    def consistency(self, x_t: Tensor, v: Tensor, timestep: Tensor) -> Tensor:
        """Return f = c_skip x_t + c_out x0, which is x_t itself at timestep 0."""
        signal, noise = self.levels(timestep)
        scalings = self.scheduler.get_scalings_for_boundary_condition_discrete(timestep)
        c_skip, c_out = (scaling.view(-1, 1, 1, 1) for scaling in scalings)
        return c_skip * x_t + c_out * (signal * x_t - noise * v)


def pseudo_huber(difference: Tensor, width: float) -> Tensor:
    """Return the mean of √(d² + width²) - width: square for small d, absolute for large."""
    return ((difference**2 + width**2).sqrt() - width).mean()


class Distillation(nn.Module):
    """The network that is trained and its slow copy, which is state but has no parameters."""

    def __init__(self, teacher: UNet2DConditionModel) -> None:
        super().__init__()
        self.unet = new_unet(teacher)
        self.target = copy.deepcopy(self.unet).requires_grad_(False)
        # As buffers, the copy's weights are in the restart file and out of the optimizer's sight.
        for module in self.target.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    del module._parameters[name]
                    module.register_buffer(name, parameter.detach())

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Let the slow copy come nearer to the network by a share of 1 - `decay`."""
        torch._foreach_lerp_(
            [value for _, value in sorted(self.target.named_buffers())],
            [value.detach() for _, value in sorted(self.unet.named_parameters())],
            1 - decay,
        )


def new_unet(teacher: UNet2DConditionModel) -> UNet2DConditionModel:
    """Return the base model's network with a place for the guidance weight, still without use."""
    unet = UNet2DConditionModel.from_config(teacher.config, time_cond_proj_dim=GUIDANCE_WIDTH)
    missing, foreign = unet.load_state_dict(teacher.state_dict(), strict=False)
    if missing != ["time_embedding.cond_proj.weight"] or foreign:
        raise RuntimeError(f"the base model's weights do not fit: {missing}, {foreign}")
    nn.init.zeros_(unet.time_embedding.cond_proj.weight)
    return unet


def load_teacher() -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Return the base model's network and text encoder, frozen."""
    teacher = UNet2DConditionModel.from_pretrained(BASE_DIR / "unet", torch_dtype=torch.float32)
    encoder = CLIPTextModel.from_pretrained(BASE_DIR / "text_encoder", dtype=torch.float32)
    for module in (teacher, encoder):
        module.requires_grad_(False).eval()
    return teacher, encoder


def write_pipeline(unet: UNet2DConditionModel) -> None:
    """Write consistency/ in diffusers' layout, fp16: `unet` and the other parts of base/."""
    tokenizer = CLIPTokenizer.from_pretrained(BASE_DIR / "tokenizer")
    pipeline = LatentConsistencyModelPipeline(
        vae=AutoencoderKL.from_pretrained(BASE_DIR / "vae").half(),
        text_encoder=CLIPTextModel.from_pretrained(BASE_DIR / "text_encoder").half(),
        tokenizer=tokenizer,
        unet=unet.half(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def save(folder: str) -> None:
        pipeline.save_pretrained(folder)
        for part in ("vae", "text_encoder", "tokenizer"):
            shutil.rmtree(Path(folder) / part)
            shutil.copytree(BASE_DIR / part, Path(folder) / part)

    training.save_folder(save, CONSISTENCY_DIR)


def main() -> None:
    """Distil and write consistency/."""
    chosen = training.settings("consistency")
    torch.set_num_threads(chosen["num_threads"])
    material = Material.draw(chosen["num_scenes"], chosen["seed"], tokens.build())
    teacher, encoder = load_teacher()
    distillation = Distillation(teacher)
    # The layout in which a CPU's convolutions run natively.
    for module in (teacher, distillation):
        module.to(memory_format=torch.channels_last)
    path, batch = NoisePath(new_scheduler()), chosen["batch_size"]
    low, high = chosen["guidance_scale"]

    def loss(update: int, generator: torch.Generator) -> Tensor:
        distillation.follow(chosen["target_decay"])
        picked = torch.randint(len(material.latents), (batch,), generator=generator)
        miss = torch.randint(NUM_MISSES, (batch,), generator=generator)
        careless = torch.rand((batch, 1), generator=generator) < chosen["careless_share"]
        prompt = torch.where(careless, material.careless[picked, miss], material.exact[picked])
        guidance_scale = low + (high - low) * torch.rand((batch,), generator=generator)
        # Stratified: every batch sees all noise levels evenly.
        spread = (torch.arange(batch) + torch.rand((batch,), generator=generator)) / batch
        level = (spread * NUM_LEVELS).long().clamp(max=NUM_LEVELS - 1)
        timestep = (level + 1) * (1000 // NUM_LEVELS) - 1
        earlier = (timestep - chosen["skipped_timesteps"]).clamp(min=0)
        x0 = material.latents[picked]
        noise = torch.randn(x0.shape, generator=generator)
        x_t = path.scheduler.add_noise(x0, noise, timestep)
        cond = embed_guidance(guidance_scale)

        # The fused attention's backward takes a third of the time on such short sequences.
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen["bfloat16"]),
        ):
            with torch.no_grad():
                states = encoder(torch.cat([prompt, material.empty])).last_hidden_state
                states, empty = states[:-1], states[-1:].expand(batch, -1, -1)
                both = teacher(
                    torch.cat([x_t, x_t]),
                    torch.cat([timestep, timestep]),
                    torch.cat([empty, states]),
                ).sample.float()
                without, with_prompt = both.chunk(2)
                v = without + guidance_scale.view(-1, 1, 1, 1) * (with_prompt - without)
                x_earlier = path.ddim(x_t, v, timestep, earlier)
                v = distillation.target(x_earlier, earlier, states, timestep_cond=cond).sample
                target = path.consistency(x_earlier, v.float(), earlier)
            v = distillation.unet(x_t, timestep, states, timestep_cond=cond).sample
        found = path.consistency(x_t, v.float(), timestep)
        return pseudo_huber(found - target, chosen["huber_width"])

    def save(weights: Mapping[str, Tensor]) -> None:
        unet = new_unet(teacher)
        unet.load_state_dict({key.removeprefix("unet."): value for key, value in weights.items()})
        write_pipeline(unet)

    weights, seconds = training.train(
        "consistency",
        distillation,
        loss,
        num_updates=chosen["num_updates"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        num_warmup=chosen["num_warmup"],
        ema_decay=chosen["ema_decay"],
        snapshot=save,
        snapshot_every=chosen["snapshot_every"],
    )
    save(weights)
    report: dict[str, Any] = {
        "train_seconds": round(seconds),
        "samples": chosen["num_updates"] * batch,
        "parameters": sum(p.numel() for p in distillation.unet.parameters()),
    }
    training.write_json(training.ROOM / "reports" / "consistency_training.json", report)
    training.finish("consistency")


if __name__ == "__main__":
    main()
