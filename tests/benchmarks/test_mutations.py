"""The planted faults are the ones that are meant, and a caught one is told from a survivor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutations

SOURCE = '''
"""A module."""

def worth(x, scale: float = 2.0):
    """Doubles 3 + 4."""
    if x is None:
        raise ValueError(f"{1 + 1}")
    return -(x * scale).mean() + 1


class Settings:
    rate: float = 3 + 4
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mutations, "ROOT", tmp_path)
    path = tmp_path / "losses" / "worth.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return path


def test_signs_factors_numbers_and_reductions_are_changed_and_nothing_else(module: Path) -> None:
    found = {(mutant.before, mutant.after) for mutant in mutations.mutants(module)}
    assert found == {
        ("-(x * scale).mean() + 1", "-(x * scale).mean() - 1"),
        ("-(x * scale).mean()", "(x * scale).mean()"),
        ("(x * scale).mean()", "(x * scale).sum()"),
        ("x * scale", "x / scale"),
        ("1", "2"),
    }


def test_a_mutant_computes_what_it_says(module: Path) -> None:
    torch = pytest.importorskip("torch")
    by_change = {(mutant.before, mutant.after): mutant for mutant in mutations.mutants(module)}
    namespace: dict[str, object] = {}
    exec(by_change["(x * scale).mean()", "(x * scale).sum()"].code, namespace)
    worth = namespace["worth"]
    assert float(worth(torch.tensor([1.0, 2.0]))) == -5.0  # type: ignore[operator]


def test_tests_are_chosen_by_what_they_name(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "TESTS", ("tests",))
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_a.py").write_text("from losses.worth import worth\n")
    (tests / "test_b.py").write_text("nothing = 0\n")
    assert mutations.tests_of(module) == ["tests/test_a.py"]


def test_where_only_tests_have_changed_what_survived_is_tried_again(
    module: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mutations, "TESTS", ("tests",))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    mutations.seconds_of.cache_clear()
    test = tmp_path / "tests" / "test_worth.py"
    test.parent.mkdir()

    def with_test_of(numbers: str, known: dict[str, Any]) -> tuple[dict[str, Any], str]:
        test.write_text(
            "import torch\nfrom losses.worth import worth\n\n\ndef test_worth():\n"
            f"    x = torch.tensor([{numbers}])\n    assert worth(x) == 1 - 2 * x.mean()\n"
        )
        found = mutations.run(module, known, 1)
        return found, capfd.readouterr().err

    once, said = with_test_of("1.0", {})
    assert "4 of 5 caught" in said
    assert once["survivors"] == ["losses/worth.py:8: (x * scale).mean() -> (x * scale).sum()"]
    again, said = with_test_of("1.0, 2.0", {"losses/worth.py": once})
    assert "1 of 1 caught" in said
    assert (again["planted"], again["caught"], again["survivors"]) == (5, 5, [])
    same, said = with_test_of("1.0, 2.0", {"losses/worth.py": again})
    assert (same, said) == (again, "")
