"""A LoRA of each family on a real registry: what a stranger draws with it is what was trained."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from components.contracts.settings import BaseSettings
from components.diffusion import load_policy, sample_images
from components.registry import versions
from components.registry.session import open_registry
from tests.registry.world import COMPUTE, FAMILIES, build_project, inside, run_stage
from tests.support.tiny import TEXT_LENGTH

MODEL, LORA = "tiny-lora", "models/lora/pytorch_lora_weights.safetensors"
PROMPT = "a green rabbit"


OTHERS = pytest.mark.parametrize("family", ["consistency", "flow"], indirect=True)
"""What `test_stage.py` says of the U-Net already."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def unregistered(family: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if family == "unet":
        return built
    return build_project(tmp_path_factory.mktemp(family) / "project", family)


@pytest.fixture(scope="module")
def version_of(family: str, unregistered: Path, registered: Path) -> Path:
    """A project with one registered version; only read after this."""
    if family == "unet":
        return registered
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("KONOMI_TRACKING", "KONOMI_PARENT_RUN_ID", "MLFLOW_TRACKING_URI"):
            patch.delenv(variable, raising=False)
        root = Path(shutil.copytree(unregistered, unregistered.parent / "registered"))
        assert run_stage(root) == 0
    return root


def card_of(root: Path) -> str:
    with open_registry(root) as (client, _):
        return str(client.get_model_version(MODEL, "1").description)


def trained(
    root: Path, family: str, seed: int, lora: Path | None, eta: float = 1.0
) -> torch.Tensor:
    """The training side's image, a flow's without noise: uint8 [3 H W]."""
    changed: dict[str, Any] = {"path": str(root / "base"), "noise_level": 0.0, "eta": eta}
    base: BaseSettings = FAMILIES[family][1].model_copy(update=changed)
    return sample_images(load_policy(base, COMPUTE, lora=lora), [PROMPT], [seed])[0][0]


def gap(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def test_the_version_says_what_it_is(version_of: Path, family: str) -> None:
    (version,) = versions(version_of, MODEL)
    assert version.aliases == ("challenger",) and version.review == "waiting"
    assert version.tags["load_back"] in ("max difference 0", "max difference 1")
    assert int(version.gates["lora_visible"]) > 10
    card = card_of(version_of)
    prefix = {"unet": "unet", "consistency": "unet", "flow": "transformer"}[family]
    assert f"| {prefix}.…, in pairs |" in card
    assert ("DDIM" in card) == ("eta=" in card) == (family == "unet")
    assert ("noise_level: 0.7" in card) == (family == "flow")


def test_the_registered_file_draws_the_trained_image(version_of: Path, family: str) -> None:
    """By a call that is written out here, not by the one that the stage itself compared with."""
    import mlflow.diffusers

    drawing: dict[str, Any] = {
        "unet": {"num_inference_steps": 3, "guidance_scale": 1.0, "eta": 1.0},
        "consistency": {"num_inference_steps": 3, "guidance_scale": 2.0},
        "flow": {
            "sigmas": [1.0, 2 / 3, 1 / 3],
            "guidance_scale": 2.0,
            "max_sequence_length": TEXT_LENGTH,
        },
    }[family]
    opening = {"text_encoder_3": None, "tokenizer_3": None} if family == "flow" else {}
    with inside(version_of), open_registry(version_of):
        model = mlflow.diffusers.load_model(f"models:/{MODEL}@challenger")
        pipeline = model.load_pipeline(torch_dtype=torch.float32, device="cpu", **opening)
    generator = torch.Generator().manual_seed(8)
    pixels = pipeline([PROMPT], generator=generator, output_type="pt", **drawing).images[0]
    drawn = (pixels * 255).round().to(torch.uint8)
    assert gap(drawn, trained(version_of, family, 8, version_of / "models/lora")) <= 1
    assert gap(drawn, trained(version_of, family, 8, None)) > 10


def test_the_cards_code_runs_as_it_stands(version_of: Path, family: str) -> None:
    code = card_of(version_of).split("```python\n")[1].split("```")[0]
    space: dict[str, Any] = {}
    with inside(version_of), open_registry(version_of):
        exec(code, space)
    drawn = torch.from_numpy(np.array(space["image"])).permute(2, 0, 1)
    assert gap(drawn, trained(version_of, family, 0, version_of / "models/lora")) <= 1


def test_what_the_card_says_of_pyfunc(version_of: Path, family: str) -> None:
    import mlflow.pyfunc

    card = card_of(version_of)
    with inside(version_of), open_registry(version_of), torch.random.fork_rng():
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}/1")
        if family == "flow":
            assert "`mlflow.pyfunc` does not open it" in card
            with pytest.raises(ValueError, match="text_encoder_3"):
                model.predict([PROMPT])
            return
        torch.manual_seed(8)
        (png,) = model.predict([PROMPT])
    unsaid = " and without `eta`" if family == "unet" else ""
    assert f"gives PNGs, from a seed of its own{unsaid}." in card
    drawn = torch.from_numpy(np.array(Image.open(io.BytesIO(png)))).permute(2, 0, 1)
    expected = trained(version_of, family, 8, version_of / "models/lora", eta=0.0)
    assert gap(drawn, expected) <= 1


@OTHERS
def test_keys_of_another_kind_of_network_are_refused(
    unregistered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base's pipeline would load them, without an error, as a LoRA of nothing."""
    project = Path(shutil.copytree(unregistered, tmp_path / "project"))
    swap = {"unet": "transformer", "transformer": "unet"}
    changed = {}
    for key, tensor in load_file(project / LORA).items():
        network, layer = key.split(".", 1)
        changed[f"{swap[network]}.{layer}"] = tensor
    save_file(changed, project / LORA)
    assert run_stage(project) == 65
    assert (
        "the LoRA is not registered (tiny-reward version 1 is): lora_keys is "
        in capsys.readouterr().err
    )
    assert versions(project, MODEL) == []


@OTHERS
def test_another_lora_in_the_registry_is_found_out(
    unregistered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Path(shutil.copytree(unregistered, tmp_path / "project"))
    assert run_stage(project) == 0
    (stored,) = (project / "mlartifacts").rglob("pytorch_lora_weights.safetensors")
    save_file(load_file(stored), stored)  # without its header's alpha
    assert run_stage(project) == 70
    assert "loaded back it draws another image" in capsys.readouterr().err
    assert versions(project, MODEL) == []
