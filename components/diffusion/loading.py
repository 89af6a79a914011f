"""From a model folder to a policy, or one line that says what is wrong with the folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from components.contracts.artifacts import read_json
from components.contracts.device import find_device
from components.contracts.errors import DataError, ModelError
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion.conditioning import (
    ClipText,
    PromptEncoder,
    StableDiffusion3Text,
    TextEncoders,
)
from components.diffusion.flow_sampler import FlowSampler
from components.diffusion.networks import (
    ATTENTION,
    JOINT_ATTENTION,
    Network,
    guidance_embedding,
)
from components.diffusion.noise import NoiseSchedule
from components.diffusion.policy import Policy
from components.diffusion.samplers import DDIMSampler, Sampler


def load_policy(
    base: BaseSettings, compute: ComputeSettings, *, lora: Path | None = None
) -> Policy:
    """Open a pipeline of a known family in fp32, with a saved LoRA as its adapter if named.

    Nothing is downloaded: a hub name must be in the local cache. Sets torch's number of threads, on
    which the last bits of results on the CPU depend.

    Raises:
        ModelError: the folder or a part of it is missing, truncated or of another kind.
        SettingsError: a sampler that cannot be, for example more steps than the schedule has.
    """
    torch.set_num_threads(compute.threads)
    folder, device = find_model(base.path), find_device(compute)
    with _quiet():
        parts = _LOADERS[pipeline_class(folder)](folder, base, device)
    policy = Policy(
        network=parts.network,
        vae=parts.vae,
        encoder=PromptEncoder(parts.text, parts.guidance_scale, base.batch_size),
        sampler=parts.sampler,
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


@dataclass(frozen=True)
class _Parts:
    """A family's pieces, ready for a policy."""

    network: Network
    vae: torch.nn.Module
    text: TextEncoders
    sampler: Sampler
    guidance_scale: float
    """Of classifier-free guidance: 1 where the network is told the weight instead."""


def pipeline_class(folder: Path) -> str:
    """The class of pipeline that the folder was written for, one of the known families.

    Raises:
        ModelError: no folder in diffusers' layout, or of another family.
    """
    try:
        index = read_json(folder / "model_index.json")
    except DataError as error:
        raise ModelError(str(error), allowed="a folder in diffusers' layout") from None
    kind = index.get("_class_name") if isinstance(index, dict) else None
    if kind not in _LOADERS:
        raise ModelError(
            f"is a {kind}", file=folder / "model_index.json", allowed=", ".join(_LOADERS)
        )
    return str(kind)


def _load_stable_diffusion(folder: Path, base: BaseSettings, device: torch.device) -> _Parts:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    text = _clip_text(folder, device)
    vae = _load(AutoencoderKL, folder / "vae", device)
    unet = _load(UNet2DConditionModel, folder / "unet", device)
    sampler = DDIMSampler(_load_schedule(folder / "scheduler", device), base.num_steps, base.eta)
    return _Parts(Network(unet, "unet", ATTENTION), vae, text, sampler, base.guidance_scale)


def _load_consistency(folder: Path, base: BaseSettings, device: torch.device) -> _Parts:
    from diffusers import AutoencoderKL, LCMScheduler, UNet2DConditionModel

    from components.diffusion.consistency_sampler import ConsistencySampler

    text = _clip_text(folder, device)
    vae = _load(AutoencoderKL, folder / "vae", device)
    unet = _load(UNet2DConditionModel, folder / "unet", device)
    config = _from_pretrained(LCMScheduler, folder / "scheduler").config
    size = unet.config.time_cond_proj_dim
    if not size:
        raise ModelError(
            "has no time_cond_proj_dim, through which it would be told the guidance weight",
            file=folder / "unet",
            allowed="a latent consistency model (2310.04378)",
        )
    sampler = ConsistencySampler(
        _load_schedule(folder / "scheduler", device),
        base.num_steps,
        original_inference_steps=config.original_inference_steps,
        timestep_scaling=config.timestep_scaling,
    )
    told = guidance_embedding(base.guidance_scale, size).to(device)
    return _Parts(Network(unet, "unet", ATTENTION, told), vae, text, sampler, 1.0)


def _load_flow(folder: Path, base: BaseSettings, device: torch.device) -> _Parts:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    encoders = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = _load(CLIPTextModelWithProjection, folder / name, device)
        encoders.append(encoder.requires_grad_(False).eval())
    tokenizers = [
        _from_pretrained(CLIPTokenizer, folder / name) for name in ("tokenizer", "tokenizer_2")
    ]
    transformer = _load(SD3Transformer2DModel, folder / "transformer", device)
    vae = _load(AutoencoderKL, folder / "vae", device)
    scheduler = _from_pretrained(FlowMatchEulerDiscreteScheduler, folder / "scheduler")
    if scheduler.config.use_dynamic_shifting:
        raise ModelError(
            "shifts its noise levels by the size of the image",
            file=folder / "scheduler",
            allowed="use_dynamic_shifting false, as Stable Diffusion 3 has it",
        )
    # Even levels down to 0. Left to itself the scheduler goes to σ = 0.001 first: the noise that an
    # SDE's step puts in there would stay in the image, since the last step has nothing to remove.
    levels = [1 - step / base.num_steps for step in range(base.num_steps)]
    scheduler.set_timesteps(sigmas=levels)
    text = StableDiffusion3Text(tokenizers, encoders, transformer.config.joint_attention_dim)
    sampler = FlowSampler(scheduler.sigmas.to(device), base.noise_level, base.flow_sde)
    network = Network(transformer, "transformer", JOINT_ATTENTION)
    return _Parts(network, vae, text, sampler, base.guidance_scale)


_LOADERS: dict[str, Callable[[Path, BaseSettings, torch.device], _Parts]] = {
    "StableDiffusionPipeline": _load_stable_diffusion,
    "LatentConsistencyModelPipeline": _load_consistency,
    "StableDiffusion3Pipeline": _load_flow,
}


def _clip_text(folder: Path, device: torch.device) -> ClipText:
    from transformers import CLIPTextModel, CLIPTokenizer

    encoder = _load(CLIPTextModel, folder / "text_encoder", device)
    tokenizer = _from_pretrained(CLIPTokenizer, folder / "tokenizer")
    return ClipText(tokenizer, encoder.requires_grad_(False).eval())


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
