"""A project folder with a tiny base, a LoRA that does something, prompts, and earlier reports."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from ruamel.yaml import YAML

from components.contracts.artifacts import write_json, write_text
from components.contracts.ids import prompt_id
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.tables import PROMPTS, write_table
from components.diffusion import load_policy
from tests.support.tiny import tiny_base

PROMPT_ROWS = [
    ("a red fox", "colour"),
    ("a blue car", "colour"),
    ("a green tree", "colour"),
    ("two cats", "count"),
    ('<b>three</b> & "more" dogs', "count"),
    ("four cows", "count"),
    ("a fish", "plain"),
    ("a bear", "plain"),
]
BASE = {"path": "base", "num_steps": 2, "batch_size": 8}
CURVES = "update,round,images,reward,kl,clip_fraction,judge\n" + "".join(
    f"{update},{update},{8 * (update + 1)},{0.1 * update:.2f},{1e-5 * update:.7f},0.2,"
    f"{0.4 + 0.01 * update if update % 4 == 0 else ''}\n"
    for update in range(12)
)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `base` and `lora`, the LoRA with a B that moves the images."""
    folder = tmp_path_factory.mktemp("models")
    tiny_base(folder / "base")
    base = BaseSettings(**BASE | {"path": str(folder / "base")})
    policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
    policy.add_adapter(2, 2, generator=torch_generator(0, "adapter"))
    generator = torch_generator(0, "B")
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    policy.save_lora(folder / "lora")
    write_json(folder / "lora" / "adapter.json", {"rank": 2, "base_digest": policy.digest})
    return folder


@pytest.fixture
def project(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project ready for the stage; the current folder, with tracking off."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KONOMI_TRACKING", "off")
    (tmp_path / "base").symlink_to(models / "base")
    lora = tmp_path / "models" / "lora"
    lora.mkdir(parents=True)
    for file in (models / "lora").iterdir():
        (lora / file.name).write_bytes(file.read_bytes())
    write_prompts(tmp_path, PROMPT_ROWS)
    write_text(tmp_path / "reports" / "curves.csv", CURVES)
    write_json(tmp_path / "reports" / "prompts.json", {"kept": 1234, "splits": {"test": 8}})
    write_json(tmp_path / "reports" / "finetuning.json", {"method": "dpok", "stopped_by": None})
    rewards = {"accuracy": 0.78, "accuracy_low": 0.7, "accuracy_high": 0.85}
    write_json(tmp_path / "reports" / "rewards.json", rewards)
    write_params(tmp_path)
    return tmp_path


def write_prompts(root: Path, rows: list[tuple[str, str]]) -> None:
    """The test split as the prompts stage writes it."""
    table = pa.table(
        {
            "prompt_id": [prompt_id(prompt) for prompt, _ in rows],
            "prompt": [prompt for prompt, _ in rows],
            "category": [category for _, category in rows],
            "source": ["here"] * len(rows),
            "num_tokens": pa.array([4] * len(rows), pa.int32()),
        }
    )
    write_table(root / "data" / "prompts" / "test.parquet", table, PROMPTS)


def write_params(root: Path, base: dict[str, object] = BASE, **evaluation: object) -> None:
    """A params.yaml for the tiny models; `evaluation` replaces keys of the stage's block."""
    content = {
        "seed": 5,
        "compute": {"device": "cpu", "threads": 1},
        "base": base,
        "evaluation": {
            "samples_per_prompt": 3,
            "prompts_per_category": 2,
            "num_resamples": 500,
            "judge": {"callable": "tests.evaluation.plugs:BrightnessJudge", "arguments": {}},
            "reward": {"name": "python", "callable": "tests.evaluation.plugs:RednessReward"},
        }
        | evaluation,
    }
    with (root / "params.yaml").open("w") as file:
        YAML().dump(content, file)
