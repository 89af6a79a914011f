"""The LoRA: what it reaches, what it leaves alone, and what its file keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.errors import ModelError, SettingsError
from components.diffusion import Policy, sample_images
from components.diffusion.adapters import METADATA_KEY, WEIGHTS
from tests.diffusion.conftest import train_a_little

PROMPTS, SEEDS = ["a cat", "a dog"], [1, 2]


def test_only_the_adapter_is_trainable(open_policy: Callable[..., Policy]) -> None:
    policy = open_policy()
    assert policy.trainable_parameters() == []
    reached = policy.add_adapter(4, 8, generator=torch.Generator())
    names = [name for name, _ in policy.trainable_parameters()]
    # The tiny U-Net has four transformer blocks with two attentions of four projections each.
    assert len(reached) == 32
    assert len(names) == 2 * len(reached)
    assert all(".lora_" in name for name in names)
    x_t = torch.ones(4, *policy.latent_shape)
    policy.predict(x_t, 0, policy.encode_prompts(["a cat"] * 4)).sum().backward()  # type: ignore[no-untyped-call]
    with_gradient = {
        name
        for name, parameter in policy._network.module.named_parameters()
        if parameter.grad is not None
    }
    assert with_gradient == set(names)


def test_a_new_adapter_changes_nothing(open_policy: Callable[..., Policy]) -> None:
    policy = open_policy()
    before, _ = sample_images(policy, PROMPTS, SEEDS)
    policy.add_adapter(4, 8, generator=torch.Generator())
    after, _ = sample_images(policy, PROMPTS, SEEDS)
    assert torch.equal(before, after)


def test_the_start_comes_from_the_generator_alone(open_policy: Callable[..., Policy]) -> None:
    def start(seed: int, noise: int) -> list[torch.Tensor]:
        policy = open_policy()
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        policy.add_adapter(4, 8, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), state)
        return [parameter.detach() for _, parameter in policy.trainable_parameters()]

    first, again, other = start(1, 0), start(1, 9), start(2, 0)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_reference_is_the_base(open_policy: Callable[..., Policy], adapted: Policy) -> None:
    base = open_policy()
    expected, _ = sample_images(base, PROMPTS, SEEDS)
    reference, _ = sample_images(adapted, PROMPTS, SEEDS, adapter="reference")
    trained, _ = sample_images(adapted, PROMPTS, SEEDS)
    assert torch.equal(reference, expected)
    assert not torch.equal(trained, expected)
    assert all(parameter.requires_grad for _, parameter in adapted.trainable_parameters())


def test_the_digest_is_of_the_base(
    open_policy: Callable[..., Policy], adapted: Policy, tmp_path: Path
) -> None:
    from tests.support.tiny import tiny_base

    assert adapted.digest == open_policy().digest == open_policy(num_steps=7).digest
    assert adapted.digest != open_policy(path=str(tiny_base(tmp_path, seed=1))).digest


def test_a_saved_adapter_comes_back(
    open_policy: Callable[..., Policy], adapted: Policy, tmp_path: Path
) -> None:
    adapted.save_lora(tmp_path)
    images, _ = sample_images(adapted, PROMPTS, SEEDS)
    reopened = open_policy(lora=tmp_path)
    assert torch.equal(sample_images(reopened, PROMPTS, SEEDS)[0], images)
    reopened.save_lora(tmp_path / "again")
    assert (tmp_path / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()


def test_plain_diffusers_draws_the_same_images(
    base: Path, open_policy: Callable[..., Policy], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    policy = train_a_little(open_policy(batch_size=2, num_steps=5))
    policy.save_lora(tmp_path)
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(tmp_path)
    (config,) = pipe.unet.peft_config.values()
    assert (config.r, config.lora_alpha) == (4, 16)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    drawn = pipe(
        PROMPTS,
        generator=generators,
        num_inference_steps=5,
        eta=1.0,
        guidance_scale=1.0,
        output_type="pt",
    ).images
    images, _ = sample_images(policy, PROMPTS, SEEDS)
    drawn = (drawn * 255).round().to(torch.uint8)
    # Our step coefficients are rounded once, diffusers' several times: a pixel may sit on the edge.
    assert (images.int() - drawn.int()).abs().max() <= 1
    assert (images == drawn).float().mean() > 0.99


def test_a_target_that_names_nothing(open_policy: Callable[..., Policy]) -> None:
    with pytest.raises(SettingsError, match=r"'to_z' names no layer; allowed: .*attn1.to_k"):
        open_policy().add_adapter(4, 8, ["to_q", "to_z"], generator=torch.Generator())


def test_one_adapter_is_enough(adapted: Policy) -> None:
    with pytest.raises(SettingsError, match="has an adapter already"):
        adapted.add_adapter(4, 8, generator=torch.Generator())


def test_nothing_to_save(open_policy: Callable[..., Policy], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no adapter to save"):
        open_policy().save_lora(tmp_path)


def _nan(tensors: dict[str, Any]) -> None:
    next(iter(tensors.values()))[0, 0] = torch.nan


def _wrong_prefix(tensors: dict[str, Any]) -> None:
    for key in list(tensors):
        tensors[key.removeprefix("unet.")] = tensors.pop(key)


def _unknown(tensors: dict[str, Any]) -> None:
    tensors["unet.nowhere.lora_A.weight"] = torch.ones(4, 16)


def _missing(tensors: dict[str, Any]) -> None:
    tensors.pop(next(iter(tensors)))


def _wrong_shape(tensors: dict[str, Any]) -> None:
    key = next(iter(tensors))
    tensors[key] = torch.cat([tensors[key]] * 2)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_nan, "NaN or infinite"),
        (_wrong_prefix, "is not of this base's network"),
        (_unknown, "unknown to the base model"),
        (_missing, "is missing"),
        (_wrong_shape, "has shape"),
    ],
)
def test_faulty_weights_are_refused(
    open_policy: Callable[..., Policy],
    adapted: Policy,
    tmp_path: Path,
    fault: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    adapted.save_lora(tmp_path)
    rewrite(tmp_path, fault, keep_metadata=True)
    with pytest.raises(ModelError, match=message) as caught:
        open_policy(lora=tmp_path)
    assert "\n" not in str(caught.value) and WEIGHTS in str(caught.value)


def test_a_file_without_alpha_is_refused(
    open_policy: Callable[..., Policy], adapted: Policy, tmp_path: Path
) -> None:
    adapted.save_lora(tmp_path)
    rewrite(tmp_path, lambda tensors: None, keep_metadata=False)
    with pytest.raises(ModelError, match="does not say its rank and alpha"):
        open_policy(lora=tmp_path)


def test_a_truncated_or_missing_file_is_refused(
    open_policy: Callable[..., Policy], adapted: Policy, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no such file"):
        open_policy(lora=tmp_path)
    adapted.save_lora(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        open_policy(lora=tmp_path)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None], *, keep_metadata: bool) -> None:
    from safetensors import safe_open

    path = folder / WEIGHTS
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [METADATA_KEY]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata if keep_metadata else None)
