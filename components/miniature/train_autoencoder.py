"""Train the autoencoder of the base model: python -m components.miniature.train_autoencoder."""

from __future__ import annotations

import time

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from components.miniature import training
from components.miniature.world import HELD_OUT_STYLE, STYLES

VAE_DIR = training.ROOM / "base" / "vae"


def new_autoencoder(channels: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """Return an untrained f4 autoencoder without attention (three levels)."""
    num = len(channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * num,
        up_block_types=("UpDecoderBlock2D",) * num,
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=64,
    )


def reconstruction_loss(output: Tensor, target: Tensor, edge_weight: float) -> Tensor:
    """Return the L1 error of pixels plus that of their differences to neighbours.

    A blur costs little in pixels but much in differences, so the second term keeps edges sharp.

    Args:
        output: [b, 3, h, w], any range.
        target: of the same shape and range.
        edge_weight: weight of the differences.
    """
    error = output - target
    dx = (error[..., :, 1:] - error[..., :, :-1]).abs().mean()
    dy = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + edge_weight * (dx + dy)


@torch.no_grad()
def measure(vae: AutoencoderKL, images: Tensor) -> dict[str, float]:
    """Return PSNR (dB, mean over images), the latents' std, and the decode time per image."""
    psnrs, latents = [], []
    for batch in images.split(32):
        target = training.to_unit(batch).contiguous()
        z = vae.encode(target).latent_dist.mean
        output = vae.decode(z).sample.clamp(-1, 1)
        mse = ((output - target) / 2).square().mean((1, 2, 3))
        psnrs.append(-10 * mse.log10())
        latents.append(z)
    z = torch.cat(latents)
    start = time.perf_counter()
    for _ in range(4):
        vae.decode(z[:32])
    decode_ms = (time.perf_counter() - start) / (4 * 32) * 1e3
    return {
        "psnr_db": float(torch.cat(psnrs).mean()),
        "latent_std": float(z.std()),
        "decode_ms_per_image": decode_ms,
    }


def main() -> None:
    """Train, measure on held-out scenes, and write base/vae."""
    chosen = training.settings("autoencoder")
    torch.set_num_threads(chosen["num_threads"])
    styles = [style for style in STYLES if style != HELD_OUT_STYLE]
    images, _ = training.rendered_scenes(chosen["num_scenes"], chosen["seed"], styles)
    data = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    with training.initialised_from(chosen["seed"]):
        vae = new_autoencoder(tuple(chosen["channels"]), chosen["latent_channels"])
    rng = np.random.default_rng(chosen["seed"])
    batch, num_updates = chosen["batch_size"], chosen["num_updates"]
    passes = -(-num_updates * batch // len(data))
    order = torch.from_numpy(np.concatenate([rng.permutation(len(data)) for _ in range(passes)]))

    def loss(update: int, generator: torch.Generator) -> Tensor:
        picked = data[order[update * batch : (update + 1) * batch]]
        target = training.to_unit(picked).contiguous()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            posterior = vae.encode(target).latent_dist
            mean, std = posterior.mean, posterior.std
            noise = torch.randn(mean.shape, generator=generator)
            output = vae.decode((mean + std * noise).to(mean.dtype)).sample
        kl = 0.5 * (mean.float().square() + std.float().square() - 1) - std.float().log()
        return (
            reconstruction_loss(output.float(), target, chosen["edge_weight"])
            + chosen["kl_weight"] * kl.sum((1, 2, 3)).mean()
        )

    held_out, _ = training.rendered_scenes(256, chosen["seed"] + 1000, styles)
    unseen, _ = training.rendered_scenes(256, chosen["seed"] + 2000, [HELD_OUT_STYLE])

    def save(weights: dict[str, Tensor]) -> None:
        copy = new_autoencoder(tuple(chosen["channels"]), chosen["latent_channels"])
        copy.load_state_dict({**copy.state_dict(), **weights})
        copy = copy.eval().half().float()  # measure what is written
        figures = measure(copy, torch.from_numpy(held_out).permute(0, 3, 1, 2))
        figures["psnr_db_held_out_style"] = measure(
            copy, torch.from_numpy(unseen).permute(0, 3, 1, 2)
        )["psnr_db"]
        print(figures, flush=True)
        copy.register_to_config(scaling_factor=1 / figures["latent_std"])
        training.save_folder(copy.half().save_pretrained, VAE_DIR)
        training.write_json(training.ROOM / "reports" / "autoencoder.json", figures)

    weights, seconds = training.train(
        "autoencoder",
        vae,
        loss,
        num_updates=num_updates,
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        ema_decay=0.99,
        weight_decay=0.0,
        snapshot=save,  # type: ignore[arg-type]
        snapshot_every=800,
    )
    print(f"trained in {seconds:.0f} s", flush=True)
    save(weights)
    training.finish("autoencoder")


if __name__ == "__main__":
    main()
