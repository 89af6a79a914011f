"""From a model folder to a policy, or one line that says what is wrong with the folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.contracts.artifacts import read_json
from components.contracts.device import find_device
from components.contracts.errors import DataError, ModelError
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion.conditioning import PromptEncoder
from components.diffusion.policy import Policy
from components.diffusion.samplers import DDIMSampler, NoiseSchedule

PIPELINE = "StableDiffusionPipeline"


def load_policy(
    base: BaseSettings, compute: ComputeSettings, *, lora: Path | None = None
) -> Policy:
    """Open a Stable-Diffusion-shaped pipeline in fp32, with a saved LoRA as its adapter if named.

    Nothing is downloaded: a hub name must be in the local cache. Sets torch's number of threads, on
    which the last bits of results on the CPU depend.

    Raises:
        ModelError: the folder or a part of it is missing, truncated or of another kind.
    """
    torch.set_num_threads(compute.threads)
    folder, device = find_model(base.path), find_device(compute)
    with _quiet():
        unet, vae, text_encoder, tokenizer, schedule = _load_parts(folder, device)
    policy = Policy(
        unet=unet,
        vae=vae,
        encoder=PromptEncoder(tokenizer, text_encoder, base.guidance_scale, base.batch_size),
        sampler=DDIMSampler(schedule, base.num_steps, base.eta),
        batch_size=base.batch_size,
        device=device,
    )
    if lora is not None:
        policy.load_lora(lora)
    return policy


def find_model(path: str) -> Path:
    """The folder of a model, whether `path` is one or names a hub model in the local cache.

    Raises:
        ModelError: neither; the line says how to get it.
    """
    from huggingface_hub import snapshot_download

    folder = Path(path)
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(path, local_files_only=True))
    except (OSError, ValueError):
        # OSError: a well-formed name that is not in the cache; ValueError: no hub name at all.
        raise ModelError(
            "no such model folder, and no model of this name in the local hub cache",
            file=path,
            allowed=f"a folder in diffusers' layout put at {path}, or a hub name fetched before "
            "with `hf download <name>`",
        ) from None


def _load_parts(folder: Path, device: torch.device) -> tuple[Any, Any, Any, Any, NoiseSchedule]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        index = read_json(folder / "model_index.json")
    except DataError as error:
        raise ModelError(str(error), allowed="a folder in diffusers' layout") from None
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind != PIPELINE:
        raise ModelError(f"is a {kind}", file=folder / "model_index.json", allowed=PIPELINE)
    text_encoder = _load(CLIPTextModel, folder / "text_encoder", device)
    text_encoder.requires_grad_(False).eval()
    tokenizer = _from_pretrained(CLIPTokenizer, folder / "tokenizer")
    vae = _load(AutoencoderKL, folder / "vae", device)
    unet = _load(UNet2DConditionModel, folder / "unet", device)
    return unet, vae, text_encoder, tokenizer, _load_schedule(folder / "scheduler", device)


def _load_schedule(folder: Path, device: torch.device) -> NoiseSchedule:
    from diffusers import DDIMScheduler

    # Any scheduler's config describes the noise that the model was trained with. Its `clip_sample`
    # is for pixels: diffusers' own latent pipelines switch it off, and so do we.
    scheduler = _from_pretrained(DDIMScheduler, folder)
    config = scheduler.config
    return NoiseSchedule(
        alphas_cumprod=scheduler.alphas_cumprod.to(device),
        final_alpha_cumprod=float(scheduler.final_alpha_cumprod),
        prediction_type=config.prediction_type,
        spacing=config.timestep_spacing,
        steps_offset=config.steps_offset,
    )


def _load(kind: Any, folder: Path, device: torch.device) -> Any:
    """One network in fp32; missing weights, which the libraries fill at random, are an error."""
    module, info = _from_pretrained(
        kind, folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(f"{len(missing)} weights are missing, first {missing[0]}", file=folder)
    return module.to(device)


def _from_pretrained(kind: Any, folder: Path, **arguments: Any) -> Any:
    from safetensors import SafetensorError

    if not folder.is_dir():
        raise ModelError("part of the model is missing", file=folder)
    try:
        return kind.from_pretrained(folder, local_files_only=True, **arguments)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise ModelError(f"is truncated or no {kind.__name__} ({reason})", file=folder) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the libraries' notes while they load: what matters of them becomes an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        yield
    finally:
        logging.disable(before)
