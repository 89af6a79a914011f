"""One way to call plain diffusers for each family, as numbers and as code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.contracts.errors import ModelError
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy, sample_images
from components.diffusion.plain import plain_call
from tests.diffusion.conftest import train_a_little
from tests.support.tiny import TEXT_LENGTH, tiny_base
from tests.support.tiny_consistency import tiny_consistency_base
from tests.support.tiny_flow import tiny_flow_base

PROMPT, SEED = 'it\'s a "red" cat', 11


def _other_sampler(folder: Path) -> Path:
    """A folder that names another sampler, as Stable Diffusion 1's does, and says nothing of
    clipping, where DDIM's own default is for pixels."""
    tiny_base(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "PNDMScheduler"}
    del config["clip_sample"]
    path.write_text(json.dumps(config))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("DDIMScheduler", "PNDMScheduler"))
    return folder


def _trailing(folder: Path) -> Path:
    return tiny_base(folder, timestep_spacing="trailing")


CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str, dict[str, Any]]] = {
    "unet": (tiny_base, {"eta": 0.8}, "unet", {}),
    "other_sampler": (_other_sampler, {"guidance_scale": 3.0}, "unet", {}),
    "even": (_trailing, {"num_steps": 4}, "unet", {}),
    "uneven": (_trailing, {"num_steps": 7}, "unet", {"num_steps": 5}),
    "consistency": (tiny_consistency_base, {"guidance_scale": 3.0}, "unet", {}),
    "flow": (
        tiny_flow_base,
        {"noise_level": 0.7, "guidance_scale": 3.0},
        "transformer",
        {"noise_level": 0.0},
    ),
    "ode": (tiny_flow_base, {"noise_level": 0.0, "guidance_scale": 3.0}, "transformer", {}),
}
"""How the base is written, its settings, its network, and what of the settings the call changes."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def base(case: str, tmp_path_factory: pytest.TempPathFactory) -> BaseSettings:
    write, settings, *_ = CASES[case]
    folder = write(tmp_path_factory.mktemp(case))
    defaults: dict[str, Any] = {"path": str(folder), "num_steps": 5, "batch_size": 1}
    return BaseSettings(**defaults | settings)


@pytest.fixture
def lora(base: BaseSettings, tmp_path: Path) -> Path:
    train_a_little(policy(base)).save_lora(tmp_path)
    return tmp_path


def policy(base: BaseSettings, **keywords: Any) -> Policy:
    return load_policy(base, ComputeSettings(device="cpu", threads=1), **keywords)


def plain_pipeline(base: BaseSettings, lora: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(base.path, **plain_call(base).opening)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(lora)
    return pipeline


def test_the_call_draws_the_policys_image(base: BaseSettings, lora: Path) -> None:
    call = plain_call(base)
    drawn = call.draw(plain_pipeline(base, lora), PROMPT, SEED)
    expected, _ = sample_images(policy(call.base, lora=lora), [PROMPT], [SEED])
    without, _ = sample_images(policy(call.base), [PROMPT], [SEED])
    assert drawn.shape == expected.shape and drawn.dtype == torch.uint8
    assert (drawn.int() - expected.int()).abs().max() <= 1
    assert (drawn.int() - without.int()).abs().max() > 10


def test_the_code_draws_it_too(base: BaseSettings, lora: Path) -> None:
    """From a fresh pipeline, with the scheduler that the folder names."""
    call = plain_call(base)
    space: dict[str, Any] = {"from_pretrained": _opened(base, lora)}
    exec(call.code("from_pretrained(", PROMPT, SEED), space)
    drawn = torch.from_numpy(np.array(space["image"])).permute(2, 0, 1)
    expected, _ = sample_images(policy(call.base, lora=lora), [PROMPT], [SEED])
    assert (drawn.int() - expected[0].int()).abs().max() <= 1


def _opened(base: BaseSettings, lora: Path) -> Callable[..., Any]:
    def open_it(**keywords: Any) -> Any:
        assert keywords == {"torch_dtype": torch.float32, **plain_call(base).opening}
        return plain_pipeline(base, lora)

    return open_it


def test_what_diffusers_cannot_do_is_changed_and_said(case: str, base: BaseSettings) -> None:
    call = plain_call(base)
    *_, network, changed = CASES[case]
    assert call.network == network
    assert call.base == base.model_copy(update=changed)
    assert bool(call.note) == bool(changed)
    assert call.takes_negative_prompt == (case != "consistency")
    if case == "flow":
        assert call.drawing["sigmas"] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
        assert call.drawing["max_sequence_length"] == TEXT_LENGTH


def test_a_family_that_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelError, match="is a FluxPipeline; allowed: StableDiffusionPipeline, "):
        plain_call(BaseSettings(path=str(tmp_path)))


def test_a_flow_without_its_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(ModelError, match="tokenizer: is truncated or no CLIPTokenizer"):
        plain_call(BaseSettings(path=str(tmp_path)))
