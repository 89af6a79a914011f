"""Train the denoiser and the text encoder of the base model, and write the whole pipeline.

python -m components.miniature.train_unet (needs base/vae, see train_autoencoder).

Exact captions first, so that every stroke is learnt; then, for a sixth as long, captions as
careless as those of the web, of which nearly half are wrong in one thing. That is how a base model
comes to draw well and not what it was asked for, which alignment is there to mend.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from components.miniature import tokens, training
from components.miniature.scenes import Scene, caption, near_miss
from components.miniature.world import BASE_STYLES

BASE_DIR = training.ROOM / "base"
TEXT_WIDTH = 128
NUM_MISSES = 4
"""Careless captions that are at hand for each scene."""


class Denoiser(nn.Module):
    """U-Net and text encoder, trained together."""

    def __init__(self, channels: tuple[int, ...], tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=channels,
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=4,  # read by diffusers as the number of heads
            norm_num_groups=16,
        )
        self.text_encoder = CLIPTextModel(text_config(tokenizer))

    def forward(self, x_t: Tensor, timestep: Tensor, input_ids: Tensor) -> Tensor:
        """Return the model output [b, 8, 16, 16] for token ids int64 [b, l]."""
        hidden = self.text_encoder(input_ids).last_hidden_state
        output: Tensor = self.unet(x_t, timestep, encoder_hidden_states=hidden).sample
        return output


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Return the settings of a two-layer text encoder of width 128."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_scheduler(prediction_type: str) -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule, made fit for a handful of steps.

    Spaced "trailing": the first step is the noisiest one of the training, where the start from
    pure noise is least of a lie. The last step lands on the predicted picture itself
    (`set_alpha_to_one`): a last bit of noise, with a standard deviation of 0.03, would outweigh in
    the likelihood of a trajectory all the steps that decide what is drawn.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # as in Stable Diffusion; "trailing" does not read it
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )


def latents_name(num: int, seed: int) -> str:
    """Return the restart file's name of the latents of `num` scenes drawn from `seed`."""
    return f"latents-{seed}-{num}"


@torch.no_grad()
def encoded_scenes(num: int, seed: int) -> tuple[Tensor, list[Scene]]:
    """Render `num` scenes and encode them: scaled latents [num, 8, 16, 16] and the scenes."""
    images, scenes = training.rendered_scenes(num, seed, BASE_STYLES)
    path = training.CHECKPOINTS / f"{latents_name(num, seed)}.safetensors"
    if path.exists():
        return load_file(path)["latents"].float(), scenes
    vae = AutoencoderKL.from_pretrained(BASE_DIR / "vae").eval()
    parts = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for part in torch.from_numpy(images).permute(0, 3, 1, 2).split(64):
            z = vae.encode(training.to_unit(part).contiguous()).latent_dist.mean
            parts.append(z.float() * vae.config.scaling_factor)
    latents = torch.cat(parts)
    training.write_safetensors(path, {"latents": latents.half()})
    return latents.half().float(), scenes


def write_pipeline(denoiser: Denoiser, tokenizer: CLIPTokenizer, scheduler: DDIMScheduler) -> None:
    """Write base/ in diffusers' layout, fp16, leaving the autoencoder's files as they are."""
    vae = AutoencoderKL.from_pretrained(BASE_DIR / "vae")
    pipeline = StableDiffusionPipeline(
        vae=vae.half(),
        text_encoder=denoiser.text_encoder.half(),
        tokenizer=tokenizer,
        unet=denoiser.unet.half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def save(folder: str) -> None:
        pipeline.save_pretrained(folder)
        shutil.rmtree(Path(folder) / "vae")  # it is the output of another training
        tokens.save(tokenizer, str(Path(folder) / "tokenizer"))
        training.open_as_float32(Path(folder) / "text_encoder" / "config.json")

    training.save_folder(save, BASE_DIR)


@dataclass(frozen=True)
class Material:
    """What the base model learns from.

    Attributes:
        latents: float32 [n, 8, 16, 16].
        exact: token ids of the true caption of each, int64 [n, l].
        careless: token ids of captions that are wrong in one thing, int64 [n, NUM_MISSES, l].
        empty: token ids of no caption, int64 [1, l].
    """

    latents: Tensor
    exact: Tensor
    careless: Tensor
    empty: Tensor

    @classmethod
    def draw(cls, num: int, seed: int, tokenizer: CLIPTokenizer) -> Material:
        """Render and encode `num` scenes, and caption each of them rightly and wrongly."""
        latents, scenes = encoded_scenes(num, seed)

        def ids(texts: list[str]) -> Tensor:
            encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
            found: Tensor = encoded.input_ids
            return found

        rng = np.random.default_rng([seed, 1])
        misses = [caption(near_miss(scene, rng)) for scene in scenes for _ in range(NUM_MISSES)]
        return cls(
            latents,
            ids([caption(scene) for scene in scenes]),
            ids(misses).unflatten(0, (num, NUM_MISSES)),
            ids([""]),
        )


def train_phase(
    name: str,
    denoiser: Denoiser,
    material: Material,
    scheduler: DDIMScheduler,
    chosen: Mapping[str, Any],
    **options: Any,
) -> tuple[dict[str, Tensor], float]:
    """Train `denoiser` as `chosen` says; for `options` and the result see `training.train`."""
    batch = chosen["batch_size"]

    def loss(update: int, generator: torch.Generator) -> Tensor:
        picked = torch.randint(len(material.latents), (batch,), generator=generator)
        x0, prompt = material.latents[picked], material.exact[picked]
        chance = torch.rand((2, batch, 1), generator=generator)
        miss = torch.randint(NUM_MISSES, (batch,), generator=generator)
        prompt = torch.where(
            chance[0] < chosen["careless_share"], material.careless[picked, miss], prompt
        )
        prompt = torch.where(chance[1] < chosen["caption_dropout"], material.empty, prompt)
        noise = torch.randn(x0.shape, generator=generator)
        # Stratified: every batch sees all noise levels evenly.
        spread = (torch.arange(batch) + torch.rand((batch,), generator=generator)) / batch
        timestep = (spread * 1000).long().clamp(max=999)
        x_t = scheduler.add_noise(x0, noise, timestep)
        target = (
            scheduler.get_velocity(x0, noise, timestep)
            if chosen["prediction_type"] == "v_prediction"
            else noise
        )
        # The fused attention's backward takes a third of the time on such short sequences.
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen["bfloat16"]),
        ):
            output = denoiser(x_t, timestep, prompt)
        return functional.mse_loss(output.float(), target)

    return training.train(
        name,
        denoiser,
        loss,
        num_updates=chosen["num_updates"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        num_warmup=chosen["num_warmup"],
        ema_decay=chosen["ema_decay"],
        **options,
    )


def main() -> None:
    """Train both phases and write base/."""
    chosen = training.settings("unet")
    torch.set_num_threads(chosen["num_threads"])
    tokenizer = tokens.build()
    material = Material.draw(chosen["num_scenes"], chosen["seed"], tokenizer)
    scheduler = new_scheduler(chosen["prediction_type"])
    with training.initialised_from(chosen["seed"]):
        denoiser = Denoiser(tuple(chosen["channels"]), tokenizer)
    # The layout in which a CPU's convolutions run natively.
    denoiser.unet.to(memory_format=torch.channels_last)
    num_parameters = sum(p.numel() for p in denoiser.parameters())
    print(f"{num_parameters / 1e6:.2f} M parameters", flush=True)

    def save(weights: Mapping[str, Tensor]) -> None:
        copy = Denoiser(tuple(chosen["channels"]), tokenizer)
        copy.load_state_dict({**copy.state_dict(), **weights})
        write_pipeline(copy.eval(), tokenizer, scheduler)

    seconds = 0.0
    exact = {**chosen, "careless_share": 0.0}
    phases = {"unet": exact, "unet-careless": {**chosen, **chosen["careless"]}}
    for name, settings in phases.items():
        weights, spent = train_phase(
            name,
            denoiser,
            material,
            scheduler,
            settings,
            snapshot=save,
            snapshot_every=chosen["snapshot_every"],
        )
        denoiser.load_state_dict({**denoiser.state_dict(), **weights})
        seconds += spent
    save(weights)
    training.write_json(
        training.ROOM / "reports" / "unet.json",
        {
            "train_seconds": round(seconds),
            "samples": sum(s["num_updates"] for s in phases.values()) * chosen["batch_size"],
            "parameters": num_parameters,
        },
    )
    for name in (*phases, latents_name(chosen["num_scenes"], chosen["seed"])):
        training.finish(name)


if __name__ == "__main__":
    main()
