"""A project folder with a tiny random base and a few prompts, and runs of the stage in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pyarrow as pa
import pytest
import torch
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from components.contracts.ids import prompt_id
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.stage import StageContext
from components.contracts.tables import PROMPTS, write_table
from components.diffusion import Policy, load_policy
from components.finetuning.algorithms.preference_settings import PREFERENCES
from components.finetuning.interfaces import Method, MethodContext
from components.finetuning.prompt_pool import PromptPool
from components.finetuning.settings import MethodSettings, Settings
from components.tracking import NullTracker
from tests.finetuning.plugs import Redness
from tests.support.preferences import write_preferences
from tests.support.tiny import tiny_base
from tests.support.tiny_consistency import tiny_consistency_base
from tests.support.tiny_flow import tiny_flow_base

CATEGORIES = ("colour", "count")
COMPUTE = ComputeSettings(device="cpu", threads=1)


class Case(dict[str, Any]):
    """A method's block for tests, with what it has to be run on."""

    base: dict[str, Any]
    """Of the block `base`, and `family`: unet, consistency or flow."""
    reward: str
    """A plug of tests/finetuning/plugs.py."""

    @classmethod
    def read(cls, path: Path) -> Case:
        """`tests/finetuning/methods/<case>.yaml` with keys method, and base and reward if other
        than a U-Net and `redness`."""
        content = YAML(typ="safe").load(path.read_text())
        case = cls(content.pop("method"))
        case.base = {"family": "unet", "num_steps": 2, "batch_size": 4, **content.pop("base", {})}
        case.reward = content.pop("reward", "redness")
        assert not content, f"{path}: unknown keys {list(content)}"
        return case


METHODS = {
    path.stem: Case.read(path)
    for path in sorted((Path(__file__).parent / "methods").glob("*.yaml"))
}
"""At least one case of each method; a new method adds a file and no line here."""
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
FAMILIES = {"unet": tiny_base, "consistency": tiny_consistency_base, "flow": tiny_flow_base}


@pytest.fixture(scope="session")
def base_folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The tiny base of a family, made once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp(family))
        return made[family]

    return folder


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small `data/preferences`, written once."""
    return write_preferences(tmp_path_factory.mktemp("preferences"))


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """The case that a test is parametrised with, DPOK's where it is not."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    found = parameters.get("method")
    return found if isinstance(found, Case) else METHODS["dpok"]


@pytest.fixture
def base(base_folders: Callable[[str], Path], case: Case) -> BaseSettings:
    settings = dict(case.base)
    return BaseSettings(path=str(base_folders(settings.pop("family"))), **settings)


@pytest.fixture
def policy(base: BaseSettings) -> Policy:
    """The tiny base with a fresh adapter."""
    policy = load_policy(base, COMPUTE)
    policy.add_adapter(2, 2, generator=torch_generator(0, "lora"))
    return policy


@pytest.fixture
def pool() -> PromptPool:
    return PromptPool(["a red fox", "two cats", "a blue car", "four cows"], CATEGORIES * 2)


@pytest.fixture
def build(
    policy: Policy, pool: PromptPool, tmp_path: Path, preferences: Path
) -> Callable[..., Method]:
    """A method of some settings on the policy; the reward is redness unless another is given."""

    def _build(method: dict[str, Any], scorer: Any = None) -> Method:
        settings = TypeAdapter(MethodSettings).validate_json(json.dumps(method))
        if settings.reads_preferences:
            copytree(preferences, tmp_path / PREFERENCES, dirs_exist_ok=True)
        context = MethodContext(
            policy,
            pool,
            scorer or Redness(),
            policy.batch_size,
            tmp_path,
            lambda *labels: torch_generator(0, *labels),
        )
        return settings.build(context)

    return _build


def write_prompts(root: Path) -> None:
    """Tables with two prompts of each category for each split."""
    for split in ("train", "validation"):
        rows = [
            {
                "prompt_id": prompt_id(f"{split} {number}"),
                "prompt": f"{split} {number}",
                "category": CATEGORIES[number % 2],
                "source": "test",
                "num_tokens": 4,
            }
            for number in range(4)
        ]
        write_table(root / f"data/prompts/{split}.parquet", pa.Table.from_pylist(rows), PROMPTS)


def block(method: dict[str, Any], **others: Any) -> dict[str, Any]:
    """A whole `finetuning` block."""
    return {
        "lora": {"rank": 2, "alpha": 2},
        "rounds": 3,
        "method": dict(method),
        "reward": {
            "name": "python",
            "callable": f"tests.finetuning.plugs:{getattr(method, 'reward', 'redness')}",
            "differentiable": True,
        },
        "monitor": {
            "every": 2,
            "prompts_per_category": 1,
            "samples_per_prompt": 2,
            "judge": {"callable": "tests.finetuning.plugs:redness"},
        },
        **others,
    }


@pytest.fixture
def project(
    tmp_path: Path, base: BaseSettings, preferences: Path
) -> Callable[..., tuple[Settings, StageContext]]:
    """Settings and context of the stage in a folder of its own, the same for the same name."""

    def _project(
        method: dict[str, Any], *, name: str = "project", **others: Any
    ) -> tuple[Settings, StageContext]:
        root = tmp_path / name
        if not root.exists():
            write_prompts(root)
        work = root / ".work" / "finetuning"
        work.mkdir(parents=True, exist_ok=True)
        settings = Settings.model_validate_json(json.dumps(block(method, **others)))
        if settings.method.reads_preferences:
            copytree(preferences, root / PREFERENCES, dirs_exist_ok=True)
        return settings, StageContext("finetuning", root, 7, COMPUTE, base, NullTracker(), work)

    return _project


def outs(root: Path) -> dict[str, bytes]:
    """Every out of the stage by path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in ("models", "reports")
        for path in sorted((root / folder).rglob("*"))
        if path.is_file()
    }


def checkpoints(context: StageContext) -> list[Path]:
    """Checkpoint folders below a stage's work folder."""
    return sorted(context.work.glob("*/round-*"))


def state_of(policy: Policy) -> dict[str, torch.Tensor]:
    """A copy of every weight of the network and the decoder."""
    modules = {"network": policy._network.module, "vae": policy._vae}
    return {
        f"{part}.{name}": tensor.clone()
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
