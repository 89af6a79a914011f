"""Train the base model of the flow-matching kind, and write the whole pipeline.

python -m components.miniature.train_flow (needs base/, see train_autoencoder and train_unet).

A Stable-Diffusion-3-shaped model (2403.03206): a transformer in which the tokens of the picture
and of the caption attend to one another, and a rectified flow, x_t = (1 - t) x0 + t noise, whose
velocity noise - x0 the transformer learns.

Its strokes come out sharp with guidance only. So in a second phase the model learns to say by
itself what it says with guidance (guidance distillation, 2210.03142, stage one, at a single
weight), as FLUX.1-dev did, under captions as careless as those of the U-Net's second phase: what it
draws is sharp, and often not what it was asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from components.miniature import tokens, training
from components.miniature.train_unet import (
    BASE_DIR,
    NUM_MISSES,
    TEXT_WIDTH,
    Material,
    latents_name,
    text_config,
)

FLOW_DIR = training.ROOM / "flow"
JOINT_WIDTH = 320
"""Features of a text state; wider than the two encoders together, as in Stable Diffusion 3."""
NUM_ZERO_STATES = (0, 12, 77, 256)
"""How many zero states stand in for T5 in training. A pipeline of diffusers appends 256 by
default; the fewer there are, the faster the model draws, so it learns not to care."""


def sd3_states(
    encoders: Sequence[CLIPTextModelWithProjection],
    input_ids: Sequence[Tensor],
    *,
    width: int,
    num_zero_states: int,
) -> tuple[Tensor, Tensor]:
    """Return what Stable Diffusion 3 without T5 is conditioned on.

    It is what `StableDiffusion3Pipeline.encode_prompt` computes: the penultimate hidden states of
    both encoders side by side, filled up with zeros to `width`, then `num_zero_states` states of
    zeros in the place of T5's; and the pooled projections side by side.

    Args:
        encoders: the two text encoders.
        input_ids: for each encoder, token ids int64 [b, l].
        width: features of a state (the transformer's `joint_attention_dim`).
        num_zero_states: the pipeline's `max_sequence_length`.

    Returns:
        States [b, l + num_zero_states, width] and pooled projections [b, p].
    """
    outputs = [
        encoder(ids, output_hidden_states=True)
        for encoder, ids in zip(encoders, input_ids, strict=True)
    ]
    states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    states = functional.pad(states, (0, width - states.shape[-1], 0, num_zero_states))
    return states, torch.cat([output.text_embeds for output in outputs], dim=-1)


class CountedAttention:
    """Joint attention in which the last state of the text counts as many times as it is told.

    States that are equal at the start stay equal from block to block, since the text has no
    positions. One state whose logits are raised by log(n) is therefore the same as n of them, and
    the 256 zero states cost as much as one. An attention processor of diffusers.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the attention's output for picture [b, n, d] and text [b, l, d].

        Args:
            attn: the layer with its projections.
            hidden_states: float [b, n, d].
            encoder_hidden_states: float [b, l, d].
            attention_mask: added to the logits, broadcast to [b, heads, n + l, n + l].
        """
        num = hidden_states.shape[1]

        def heads(picture: Tensor, text: Tensor) -> Tensor:
            return torch.cat([picture, text], dim=1).unflatten(2, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states))
        key = heads(attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states))
        value = heads(attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states))
        # Written out: on sequences as short as these torch's own attention takes far longer.
        with torch.autocast("cpu", enabled=False):
            logits = (query * attn.scale) @ key.transpose(-1, -2)
            weights = (logits + attention_mask.to(logits.dtype)).softmax(-1)
            output = (weights @ value).transpose(1, 2).flatten(2)
        picture, text = output[:, :num], output[:, num:]
        if not attn.context_pre_only:
            text = attn.to_add_out(text)
        return attn.to_out[0](picture), text


class Denoiser(nn.Module):
    """Transformer and both text encoders, trained together."""

    def __init__(self, width: int, num_layers: int, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = SD3Transformer2DModel(
            sample_size=16,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=num_layers,
            attention_head_dim=32,
            num_attention_heads=width // 32,
            joint_attention_dim=JOINT_WIDTH,
            caption_projection_dim=width,
            pooled_projection_dim=2 * TEXT_WIDTH,
            pos_embed_max_size=8,
        )
        self.text_encoder = CLIPTextModelWithProjection(text_config(tokenizer))
        self.text_encoder_2 = CLIPTextModelWithProjection(text_config(tokenizer))

    def start(self) -> None:
        """Set the first weights: blocks that pass on what they get, and the U-Net's words."""
        for block in self.transformer.transformer_blocks:
            # "adaLN-Zero" of 2212.09748: every block begins as the identity.
            nn.init.zeros_(block.norm1.linear.weight)
            nn.init.zeros_(block.norm1_context.linear.weight)
            nn.init.zeros_(block.norm1.linear.bias)
            nn.init.zeros_(block.norm1_context.linear.bias)
        for layer in (self.transformer.norm_out.linear, self.transformer.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        words = CLIPTextModel.from_pretrained(BASE_DIR / "text_encoder", dtype=torch.float32)
        for encoder in (self.text_encoder, self.text_encoder_2):
            encoder.load_state_dict(words.state_dict(), strict=False)

    def forward(self, x_t: Tensor, t: Tensor, input_ids: Tensor, num_zero_states: Tensor) -> Tensor:
        """Return the velocity [b, 8, 16, 16].

        Args:
            x_t: latents [b, 8, 16, 16].
            t: in [0, 1], [b].
            input_ids: token ids int64 [b, l].
            num_zero_states: zero states that each prompt is followed by, int64 [b].
        """
        states, pooled = sd3_states(
            (self.text_encoder, self.text_encoder_2),
            (input_ids, input_ids),
            width=JOINT_WIDTH,
            num_zero_states=1,
        )
        num_tokens = (x_t.shape[-1] // 2) ** 2 + states.shape[1]
        mask = torch.zeros(len(x_t), 1, 1, num_tokens)
        mask[:, 0, 0, -1] = num_zero_states.log()
        output: Tensor = self.transformer(
            x_t,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=1000 * t,
            joint_attention_kwargs={"attention_mask": mask},
        ).sample
        return output


def noise_levels(batch: int, scale: float, generator: torch.Generator) -> Tensor:
    """Draw t in (0, 1), [b], from the logit-normal distribution (2403.03206, equation 19).

    Stratified: every batch sees all noise levels as evenly as the distribution has them.
    """
    spread = (torch.arange(batch) + torch.rand((batch,), generator=generator)) / batch
    return torch.special.ndtri(spread.clamp(1e-5, 1 - 1e-5)).mul(scale).sigmoid()


def write_pipeline(denoiser: Denoiser, tokenizer: CLIPTokenizer, shift: float) -> None:
    """Write flow/ in diffusers' layout, fp16."""
    vae = AutoencoderKL.from_pretrained(BASE_DIR / "vae")
    vae.register_to_config(shift_factor=0.0)  # which the pipeline of this kind adds
    pipeline = StableDiffusion3Pipeline(
        transformer=denoiser.transformer.half(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift),
        vae=vae.half(),
        text_encoder=denoiser.text_encoder.half(),
        tokenizer=tokenizer,
        text_encoder_2=denoiser.text_encoder_2.half(),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )

    def save(folder: str) -> None:
        pipeline.save_pretrained(folder)
        for part in ("tokenizer", "tokenizer_2"):
            tokens.save(tokenizer, str(Path(folder) / part))
        for part in ("text_encoder", "text_encoder_2"):
            training.open_as_float32(Path(folder) / part / "config.json")

    training.save_folder(save, FLOW_DIR)


def training_loss(
    denoiser: Denoiser, material: Material, chosen: Mapping[str, Any]
) -> Callable[[int, torch.Generator], Tensor]:
    """Return the loss of one update, the velocity's mean squared error, as `chosen` says."""
    batch = chosen["batch_size"]
    counts = torch.tensor(NUM_ZERO_STATES)

    def loss(update: int, generator: torch.Generator) -> Tensor:
        picked = torch.randint(len(material.latents), (batch,), generator=generator)
        x0, prompt = material.latents[picked], material.exact[picked]
        dropped = torch.rand((batch, 1), generator=generator) < chosen["caption_dropout"]
        prompt = torch.where(dropped, material.empty, prompt)
        zeros = counts[torch.randint(len(counts), (batch,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        t = noise_levels(batch, chosen["logit_normal_scale"], generator)
        x_t = torch.lerp(x0, noise, t.view(-1, 1, 1, 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen["bfloat16"]):
            output = denoiser(x_t, t, prompt, zeros)
        return functional.mse_loss(output.float(), noise - x0)

    return loss


def distillation_loss(
    denoiser: Denoiser, material: Material, chosen: Mapping[str, Any]
) -> Callable[[int, torch.Generator], Tensor]:
    """Return the loss of one update of the second phase: the mean squared difference of velocities
    to those of the model as it is now, which is guided and is told the true caption. Without a
    caption the model keeps saying what it says."""
    batch, scale = chosen["batch_size"], chosen["guidance_scale"]
    counts = torch.tensor(NUM_ZERO_STATES)
    teacher = copy.deepcopy(denoiser).eval().requires_grad_(False)

    def loss(update: int, generator: torch.Generator) -> Tensor:
        picked = torch.randint(len(material.latents), (batch,), generator=generator)
        x0, exact = material.latents[picked], material.exact[picked]
        chance = torch.rand((2, batch, 1), generator=generator)
        miss = material.careless[picked, torch.randint(NUM_MISSES, (batch,), generator=generator)]
        prompt = torch.where(chance[0] < chosen["careless_share"], miss, exact)
        dropped = chance[1] < chosen["caption_dropout"]
        prompt = torch.where(dropped, material.empty, prompt)
        zeros = counts[torch.randint(len(counts), (batch,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        t = noise_levels(batch, chosen["logit_normal_scale"], generator)
        x_t = torch.lerp(x0, noise, t.view(-1, 1, 1, 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=chosen["bfloat16"]):
            with torch.no_grad():
                plain = teacher(x_t, t, material.empty.expand_as(exact), zeros).float()
                told = teacher(x_t, t, exact, zeros).float()
            output = denoiser(x_t, t, prompt, zeros)
        weight = torch.where(dropped, 0.0, scale).view(-1, 1, 1, 1)
        return functional.mse_loss(output.float(), torch.lerp(plain, told, weight))

    return loss


def main() -> None:
    """Train and write flow/."""
    chosen = training.settings("flow")
    torch.set_num_threads(chosen["num_threads"])
    tokenizer = tokens.build()
    material = Material.draw(chosen["num_scenes"], chosen["seed"], tokenizer)
    with training.initialised_from(chosen["seed"]):
        denoiser = Denoiser(chosen["width"], chosen["num_layers"], tokenizer)
        denoiser.start()
    denoiser.transformer.set_attn_processor(CountedAttention())
    num_parameters = sum(p.numel() for p in denoiser.parameters())
    print(f"{num_parameters / 1e6:.2f} M parameters", flush=True)

    def save(weights: Mapping[str, Tensor]) -> None:
        written = Denoiser(chosen["width"], chosen["num_layers"], tokenizer)
        written.load_state_dict({**written.state_dict(), **weights})
        write_pipeline(written.eval(), tokenizer, chosen["shift"])

    seconds = 0.0
    distilled = {**chosen, **chosen["distilled"]}
    phases = {"flow": (training_loss, chosen), "flow-distilled": (distillation_loss, distilled)}
    for name, (loss_of, settings) in phases.items():
        weights, spent = training.train(
            name,
            denoiser,
            loss_of(denoiser, material, settings),
            num_updates=settings["num_updates"],
            learning_rate=settings["learning_rate"],
            seed=settings["seed"],
            num_warmup=settings["num_warmup"],
            ema_decay=settings["ema_decay"],
            snapshot=save,
            snapshot_every=settings["snapshot_every"],
        )
        denoiser.load_state_dict({**denoiser.state_dict(), **weights})
        seconds += spent
    save(weights)
    training.write_json(
        training.ROOM / "reports" / "flow_training.json",
        {
            "train_seconds": round(seconds),
            "samples": sum(s["num_updates"] for _, s in phases.values()) * chosen["batch_size"],
            "parameters": num_parameters,
        },
    )
    for name in (*phases, latents_name(chosen["num_scenes"], chosen["seed"])):
        training.finish(name)


if __name__ == "__main__":
    main()
