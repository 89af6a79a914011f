"""Opening a base model, and the one line for each way in which it can be broken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.contracts.errors import ModelError
from components.contracts.settings import ComputeSettings
from components.diffusion import Policy, find_device

UNET = Path("unet/diffusion_pytorch_model.safetensors")


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "model"))


def one_line(open_policy: Callable[..., Policy], path: Path | str) -> str:
    with pytest.raises(ModelError) as caught:
        open_policy(path=str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["no/such/folder", "someone/some-model", "not a name!"])
def test_an_unknown_model_says_how_to_get_it(open_policy: Callable[..., Policy], path: str) -> None:
    line = one_line(open_policy, path)
    assert path in line and "hf download" in line


def test_truncated_weights(open_policy: Callable[..., Policy], copy: Path) -> None:
    content = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(content[: len(content) // 2])
    assert "unet: is truncated" in one_line(open_policy, copy)


def test_a_missing_weight_is_not_made_up(open_policy: Callable[..., Policy], copy: Path) -> None:
    tensors = load_file(copy / UNET)
    del tensors["conv_out.weight"]
    save_file(tensors, copy / UNET, metadata={"format": "pt"})
    assert "1 weights are missing, first conv_out.weight" in one_line(open_policy, copy)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part(open_policy: Callable[..., Policy], copy: Path, part: str) -> None:
    shutil.rmtree(copy / part)
    assert f"{part}: part of the model is missing" in one_line(open_policy, copy)


def test_another_kind_of_folder(open_policy: Callable[..., Policy], copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    assert "is a FluxPipeline; allowed: StableDiffusionPipeline" in one_line(open_policy, copy)
    (copy / "model_index.json").unlink()
    assert "diffusers' layout" in one_line(open_policy, copy)


def test_a_half_precision_folder_opens_in_single_precision(
    open_policy: Callable[..., Policy], copy: Path
) -> None:
    for path in copy.rglob("*.safetensors"):
        halves = {name: tensor.half() for name, tensor in load_file(path).items()}
        save_file(halves, path, metadata={"format": "pt"})
    policy = open_policy(path=str(copy))
    output = policy.predict(
        torch.ones(1, *policy.latent_shape), 0, policy.encode_prompts(["a cat"])
    )
    assert output.dtype == torch.float32
    assert {p.dtype for p in policy._network.module.parameters()} == {torch.float32}


def test_devices() -> None:
    assert find_device(ComputeSettings(device="cpu")) == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert find_device(ComputeSettings(device="auto")).type in (expected, "mps")
