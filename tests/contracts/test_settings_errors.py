"""Each fault of `params.yaml` is one line with its place and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.contracts.errors import SettingsError
from components.contracts.settings import load_block, load_run
from components.prompts.settings import Settings

GOOD = """\
seed: 3
compute:
  threads: 1
base:
  path: some/folder
  eta: 5e-1
prompts:
  sources:
    - {path: a.csv, category_column: kind}
  max_characters: 100
"""


def read(folder: Path, content: str | bytes) -> Settings:
    path = folder / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    load_run(path)
    return load_block(path, "prompts", Settings)


def test_numbers_follow_yaml_1_2_and_defaults_fill_in(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    assert settings.max_characters == 100
    assert settings.test_fraction == 0.25
    assert settings.sources[0].category_column == "kind"
    run = load_run(tmp_path / "params.yaml")
    assert (run.base.eta, run.seed, run.compute.threads) == (0.5, 3, 1)


FAULTS: dict[str, tuple[str, str, list[str]]] = {
    "unknown key": (
        "max_characters",
        "max_charactres",
        ["line 10", "unknown key", "max_characters", "did you mean 'max_characters'?"],
    ),
    "unknown key in a list": ("category_column", "categroy_column", ["line 9", "unknown key"]),
    "unknown block": ("compute:", "computer:", ["line 2", "computer", "compute"]),
    "unknown key of base": ("  path: some", "  paht: some", ["line 5", "paht", "path"]),
    "wrong type": ("max_characters: 100", "max_characters: many", ["line 10", '"many"']),
    "bool for a number": ("max_characters: 100", "max_characters: true", ["line 10", "true"]),
    "float for a whole number": ("threads: 1", "threads: 1.5", ["line 3", "1.5"]),
    "out of range": ("max_characters: 100", "max_characters: 0", ["line 10", "greater than"]),
    "not a number": ("eta: 5e-1", "eta: .nan", ["line 6", "eta"]),
    "infinite": ("eta: 5e-1", "eta: .inf", ["line 6", "eta"]),
    "null": ("path: some/folder", "path:", ["line 5", "null"]),
    "empty list": ("    - {path: a.csv, category_column: kind}", "    []", ["sources"]),
    "missing key": ("  path: some/folder\n", "", ["base.path", "is missing"]),
    "missing block": ("prompts:", "rewards:", ["block 'prompts' is missing"]),
    "key twice": ("threads: 1", "threads: 1\n  threads: 2", ["line 4", "duplicate key"]),
    "not YAML": ("threads: 1", "threads: [1", ["is not YAML", "line"]),
    "tab": ("  threads: 1", "\tthreads: 1", ["is not YAML", "line 3"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_names_file_place_and_choices(tmp_path: Path, name: str) -> None:
    old, new, expected = FAULTS[name]
    assert old in GOOD
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(tmp_path / "params.yaml"))
    for part in expected:
        assert part in line, line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "holds no settings"),
        (b"- a\n- b\n", "holds no settings"),
        (b"just text", "holds no settings"),
        (b"seed: \xff\xfe", "is not UTF-8"),
        (b"seed: \x00", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_settings(tmp_path: Path, content: bytes, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"gone\.yaml: no such file"):
        load_run(tmp_path / "gone.yaml")


def test_settings_are_frozen(tmp_path: Path) -> None:
    settings = read(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        settings.max_characters = 3  # type: ignore[misc]
