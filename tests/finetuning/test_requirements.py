"""What cannot work is refused when settings load, with the reason and what would work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.contracts.errors import SettingsError
from components.contracts.settings import load_block
from components.finetuning.requirements import family
from components.finetuning.settings import Settings

PIPELINES = {
    "unet": "StableDiffusionPipeline",
    "consistency": "LatentConsistencyModelPipeline",
    "flow": "StableDiffusion3Pipeline",
}
BLACK_BOX = {"name": "python", "callable": "package.module:scorer"}
LIKELIHOOD = ["dpok", "ddpo", "prdp", "rebel", "d3po", "hero"]
DIFFERENTIABLE = ["refl", "alignprop", "draft"]


def load(folder: Path, kind: str, method: str, base: Any = None, **block: Any) -> Settings:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[kind]}))
    path = folder / "params.yaml"
    content = {
        "base": {"path": str(model), **(base or {})},
        "finetuning": {"rounds": 1, "method": {"name": method}, **block},
    }
    YAML(typ="safe").dump(content, path)
    return load_block(path, "finetuning", Settings)


@pytest.mark.parametrize("method", LIKELIHOOD)
@pytest.mark.parametrize(
    ("kind", "base", "reason"),
    [
        ("unet", {"eta": 0.0}, r"base\.eta 0 is a deterministic sampler; allowed: an eta above 0"),
        ("flow", {"noise_level": 0.0}, r"base\.noise_level 0 is an ODE; allowed: a noise_level"),
        ("consistency", {"num_steps": 1}, r"only step is deterministic; allowed: num_steps 2"),
    ],
)
def test_a_likelihood_method_needs_a_stochastic_sampler(
    tmp_path: Path, method: str, kind: str, base: Any, reason: str
) -> None:
    with pytest.raises(SettingsError, match=rf"line \d+: .*method {method} needs .*{reason}"):
        load(tmp_path, kind, method, base)


def test_the_other_familys_noise_is_not_asked_for(tmp_path: Path) -> None:
    load(tmp_path, "unet", "dpok", {"noise_level": 0.0})
    load(tmp_path, "flow", "dpok", {"eta": 0.0})


@pytest.mark.parametrize("method", DIFFERENTIABLE)
def test_a_gradient_through_a_black_box_is_refused(tmp_path: Path, method: str) -> None:
    steps = {"num_steps": 40}  # ReFL's window lies between steps 30 and 39
    with pytest.raises(
        SettingsError, match=r"this reward is a black box; allowed: a reward with a"
    ):
        load(tmp_path, "unet", method, steps, reward=BLACK_BOX)
    load(tmp_path, "unet", method, steps, reward=BLACK_BOX | {"differentiable": True})
    load(tmp_path, "unet", method, steps)


@pytest.mark.parametrize(("method", "kind"), [("flow_grpo", "unet"), ("rlcm", "flow")])
def test_a_method_of_one_family_names_it(tmp_path: Path, method: str, kind: str) -> None:
    with pytest.raises(SettingsError, match=rf"is defined for \w+ models, base\.path is a {kind}"):
        load(tmp_path, kind, method)


def test_a_perceptual_error_needs_a_unet(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    load(tmp_path, "unet", "diffusion_dpo")
    content = YAML(typ="safe").load(path.read_text())
    content["finetuning"]["method"]["error"] = "perceptual"
    YAML(typ="safe").dump(content, path)
    load_block(path, "finetuning", Settings)
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({"_class_name": PIPELINES["flow"]}))
    with pytest.raises(SettingsError, match="is defined for unet"):
        load_block(path, "finetuning", Settings)


def test_a_hub_name_is_not_looked_up(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "base: {path: someone/some-model}\nfinetuning: {rounds: 1, method: {name: flow_grpo}}\n"
    )
    assert load_block(path, "finetuning", Settings).method.name == "flow_grpo"


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', '{"_class_name": "Other"}'])
def test_a_folder_that_says_nothing_has_no_family(tmp_path: Path, content: str) -> None:
    from components.contracts.settings import BaseSettings

    (tmp_path / "model_index.json").write_text(content)
    assert family(BaseSettings(path=str(tmp_path))) is None
