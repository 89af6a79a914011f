"""The block of params.yaml: what it refuses, and how the refusal reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.contracts.errors import SettingsError
from components.contracts.settings import load_block
from components.finetuning.algorithms.dpok import DPOKSettings
from components.finetuning.settings import Settings

BASE = "base: {path: base}\n"


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "params.yaml"
    path.write_text(BASE + text)
    return load_block(path, "finetuning", Settings)


def test_the_projects_own_block_is_accepted():
    settings = load_block(Path(__file__).parents[2] / "params.yaml", "finetuning", Settings)
    assert settings.method.name == "dpok"


def test_the_defaults_of_dpok_are_the_papers():
    settings = DPOKSettings()
    assert (settings.reward_weight, settings.kl_weight) == (10.0, 0.01)
    assert (settings.learning_rate, settings.max_grad_norm) == (1e-5, 0.1)
    assert (settings.clip_range, settings.buffer_size) == (1e-4, 1000)
    assert (settings.updates_per_round, settings.transitions_per_update) == (5, 48)
    assert settings.value_function is not None


DPOK = "method: {name: dpok}"
REFUSED = {
    "rounds: 2, method: {name: dpok, klweight: 1.0}": (
        r"line 2: .*klweight: unknown key; allowed: .*kl_weight"
    ),
    "rounds: 2, method: {name: ddpok}": r"'ddpok' found .*'dpok'.*'supervised'",
    f"rounds: 0, {DPOK}": r"rounds: .*greater than or equal to 1, got 0",
    DPOK: r"rounds: is missing",
    "rounds: 1, method: {name: dpok, clip_range: 1.5}": r"clip_range: .*less than 1, got 1\.5",
    "rounds: 1, method: {name: dpok, kl: both}": r"kl: .*'prediction' or 'exact'",
    "rounds: 1, method: {name: supervised, kl: both}": r"kl: .*'none', 'data' or 'output'",
    "rounds: 1, method: {name: dpok, advantage: batch}": r"value_function predicts the raw reward",
    "rounds: 1, method: {name: dpok, advantage: group_centred, group_size: 1, "
    "value_function: null}": r"needs a group_size of at least 2",
    "rounds: 1, method: {name: supervised, num_images: 5, group_size: 2}": r"multiple of group",
    f"rounds: 1, {DPOK}, lora: {{rank: 0}}": r"rank: .*greater than or equal to 1",
    f"rounds: 1, {DPOK}, lora: {{targets: []}}": r"targets: .*at least 1 item",
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, f"finetuning: {{{text}}}\n")


def test_importing_the_settings_imports_no_torch():
    program = (
        "import sys, components.finetuning.settings; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'mlflow')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
