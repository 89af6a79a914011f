"""The plan of the house is executed: layers, dvc.yaml, params.yaml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from components.contracts.settings import STAGES, check

ROOT = Path(__file__).parents[2]


def read_yaml(name: str) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load((ROOT / name).read_text())
    return content


DVC = read_yaml("dvc.yaml")["stages"]


@cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph("components", "flows", cache_dir=None)


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_dvc_runs_the_six_stages_as_modules() -> None:
    assert tuple(DVC) == STAGES
    for stage, entry in DVC.items():
        assert entry["cmd"] == f"python -m components.{stage}"
        assert f"components/{stage}" in entry["deps"]
        assert stage in entry["params"]


def closure(stage: str) -> set[str]:
    """Files of all first-party modules that a stage can import, at once or when it needs them."""
    graph = import_graph()
    package = f"components.{stage}"
    modules = {package, *graph.find_descendants(package)}
    modules |= graph.find_upstream_modules(package, as_package=True)
    files = set()
    for module in modules - {"components"}:
        path = Path(*module.split("."))
        init = path / "__init__.py"
        files.add((init if (ROOT / init).exists() else path.with_suffix(".py")).as_posix())
    return files


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_sees_every_module_that_a_stage_can_import(stage: str) -> None:
    files = closure(stage)
    assert f"components/{stage}/stage.py" in files
    assert "components/contracts/stage.py" in files
    deps = [Path(dep) for dep in DVC[stage]["deps"]]
    unseen = [file for file in files if not any(Path(file).is_relative_to(dep) for dep in deps)]
    assert unseen == []


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_sees_the_plugs_that_the_settings_name(stage: str) -> None:
    deps = [Path(dep) for dep in DVC[stage]["deps"]]
    named = re.findall(r"([\w.]+):\w+", str(read_yaml("params.yaml")[stage]))
    for module in (name for name in named if name.startswith("components.")):
        file = Path(*module.split(".")).with_suffix(".py")
        assert any(file.is_relative_to(dep) for dep in deps), file


def test_dvc_sees_the_base_of_every_profile() -> None:
    profiles = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("profiles/**/*.yaml")]
    bases = {read_yaml(name).get("base", {}).get("path") for name in ("params.yaml", *profiles)}
    assert len(bases - {None}) == 3
    for stage, entry in DVC.items():
        # The prompts are cut to what the tokenizer takes; the reward model has its own backbone.
        part = {"prompts": "tokenizer", "rewards": None}.get(stage, "")
        for base in bases - {None} if part is not None else ():
            folder = Path(base, part)
            assert any(folder.is_relative_to(dep) for dep in entry["deps"]), (stage, base)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_sees_every_setting_that_a_stage_uses(stage: str) -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "components" / stage).rglob("*.py"))
    used = set(re.findall(r"\bcontext\.(base\.\w+|base|compute|seed|generator)", code))
    used = {"seed" if name == "generator" else name for name in used}
    listed = DVC[stage]["params"]
    unseen = [name for name in used if name not in listed and name.split(".")[0] not in listed]
    assert unseen == []


def test_params_yaml_is_valid_and_dvc_knows_its_keys() -> None:
    check(ROOT / "params.yaml")
    params = read_yaml("params.yaml")
    for entry in DVC.values():
        for name in entry["params"]:
            value: Any = params
            for key in name.split("."):
                assert key in value, name
                value = value[key]


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_says_what_it_means(stage: str) -> None:
    path = ROOT / "components" / stage / "settings.py"
    silent = []
    for model in ast.parse(path.read_text()).body:
        if not isinstance(model, ast.ClassDef):
            continue
        for statement, following in zip(model.body, [*model.body[1:], None], strict=True):
            if not isinstance(statement, ast.AnnAssign):
                continue
            # The tag of a union and a nested block are explained by their classes.
            name, kind = ast.unparse(statement.target), ast.unparse(statement.annotation)
            if name == "name" or kind.endswith("Settings"):
                continue
            if not (isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)):
                silent.append(f"{model.name}.{name}")
    assert silent == []
