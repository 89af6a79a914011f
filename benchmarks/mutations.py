"""Plant faults in losses, methods and samplers, one at a time, and see whether a test notices.

    python -m benchmarks.mutations [--files components/finetuning/losses/kl.py ...] [--jobs 2]

Faults are those that this mathematics invites: a sign, a factor, an index off by one, a mean for a
sum, a minimum for a maximum, a forgotten detach. General mutation tools know operators and numbers
but no reductions, which is why this is not one of them. A fault is planted in memory, never in a
file: each is tried in a forked process that imports the changed module. Tests are those whose text
names the module or something of it, the quickest file first. What survives is listed in
`benchmarks/results/mutations.json`; the same command goes on where an interrupted one stopped.
Where only tests have changed since, what they had caught counts as caught and what survived is
tried again: remove that file to have everything tried anew.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.abc
import importlib.util
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from components.contracts.artifacts import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutations.json"
FOLDERS = (
    "components/finetuning/losses",
    "components/finetuning/algorithms",
    "components/diffusion",
)
DIFFUSION = ("noise.py", "samplers.py", "flow_sampler.py", "consistency_sampler.py")
"""The samplers; the rest of that folder is no mathematics."""
TESTS = ("tests/worked", "tests/limits", "tests/laws", "tests/parity", "tests/finetuning")
LAWS = "tests/finetuning/test_laws.py"
"""What holds for every method."""
OF_EVERY_METHOD = "@every_method"
"""In a test file, that it tries them all: a method's own cases are chosen by its name, and for
other modules the file is left out, since it would take minutes a fault."""
PATIENCE = 5
"""A mutant that runs so many times longer than the tests need (a loop without an end) counts as
caught."""

SWAPS = {
    "mean": "sum",
    "sum": "mean",
    "amax": "amin",
    "amin": "amax",
    "max": "min",
    "min": "max",
    "maximum": "minimum",
    "minimum": "maximum",
    "clamp_min": "clamp_max",
    "clamp_max": "clamp_min",
    "argmax": "argmin",
    "argmin": "argmax",
    "sin": "cos",
    "cos": "sin",
    "relu": "abs",
    "square": "abs",
    "sqrt": "square",
    "exp": "expm1",
    "logsigmoid": "sigmoid",
    "detach": None,
}
"""A method or function called by one name, called by another; None drops the call."""
OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One planted fault."""

    file: str
    line: int
    before: str
    after: str
    code: CodeType

    @property
    def name(self) -> str:
        """Stable as long as the line is."""
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"


def mutants(path: Path) -> Iterator[Mutant]:
    """Every fault of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    places = [node for function in _functions(tree) for node in _arithmetic(function)]
    for place in places:
        for changed in _changes(place):
            mutated = _replace(deepcopy(tree), place, changed)
            code = compile(ast.fix_missing_locations(mutated), str(path), "exec")
            yield Mutant(
                path.relative_to(ROOT).as_posix(),
                getattr(place, "lineno", 0),
                ast.unparse(place),
                ast.unparse(changed),
                code,
            )


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Functions and methods; the constants of settings classes are choices, not arithmetic."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in ("requires", "build"):
            yield node


def _arithmetic(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """The expressions of a body, without docstrings, annotations, messages and inner functions."""
    skipped: set[int] = set()
    for statement in function.body:
        for node in ast.walk(statement):
            is_text = isinstance(node, ast.Raise | ast.JoinedStr | ast.FunctionDef | ast.Assert)
            if is_text or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                skipped |= {id(inner) for inner in ast.walk(node)}
            if isinstance(node, ast.AnnAssign):
                skipped |= {id(inner) for inner in ast.walk(node.annotation)}
            if isinstance(node, ast.expr) and id(node) not in skipped:
                yield node


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)  # type: ignore[arg-type]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        first = OPERATORS[type(node.ops[0])]()
        yield ast.Compare(node.left, [first, *node.ops[1:]], node.comparators)  # type: ignore[list-item]
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OPERATORS[type(node.op)](), node.values)  # type: ignore[arg-type]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2 + 0.5)
    elif isinstance(node, ast.Call):
        yield from _renamed(node)


def _renamed(call: ast.Call) -> Iterator[ast.expr]:
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr not in SWAPS:
        return
    other = SWAPS[function.attr]
    if other is None:
        yield function.value
    else:
        yield ast.Call(ast.Attribute(function.value, other, ast.Load()), call.args, call.keywords)


def _replace(tree: ast.Module, place: ast.expr, changed: ast.expr) -> ast.Module:
    """`tree` with the expression at the place of `place` changed: a copy has the same places."""

    class Swap(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> Any:
            same = type(node) is type(place) and all(
                getattr(node, at, None) == getattr(place, at, None)
                for at in ("lineno", "col_offset", "end_lineno", "end_col_offset")
            )
            return deepcopy(changed) if same else self.generic_visit(node)

    return Swap().visit(tree)


def tests_of(path: Path) -> list[str]:
    """Test files that name the module or something it defines; and, for a method, the tests that
    hold for every method."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [path.stem] + [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and (path.parent.name != "algorithms" or isinstance(node, ast.ClassDef))
    ]
    named = re.compile(rf"\b({'|'.join(names)})\b")
    is_method = path.parent.name == "algorithms"
    found = [LAWS] if is_method else []
    for file in (file for folder in TESTS for file in sorted((ROOT / folder).glob("test_*.py"))):
        text = file.read_text(encoding="utf-8")
        if named.search(text) and (is_method or OF_EVERY_METHOD not in text):
            found.append(file.relative_to(ROOT).as_posix())
    return sorted(set(found))


@cache
def seconds_of(test: str, method: str | None) -> float:
    """How long a test file takes where nothing is wrong.

    Raises:
        RuntimeError: it fails though nothing was planted.
    """
    began = time.monotonic()
    _, status = os.waitpid(start(None, [test], method), 0)
    if status:
        raise RuntimeError(f"{test} fails without a fault")
    return time.monotonic() - began


def start(mutant: Mutant | None, tests: list[str], method: str | None, seconds: float = 0.0) -> int:
    """Run the tests in a forked process that imports the mutant; returns the process.

    It ends after so many seconds, if any.
    """
    child = os.fork()
    if child:
        return child
    signal.alarm(math.ceil(seconds))
    if mutant is not None:
        _plant(mutant)
    import pytest

    # Plain asserts: pytest cannot rewrite what was imported before the fork, and would say so.
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-m", "not slow"]
    status = 1
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        for test in tests:
            name = cases(test, method)
            status = int(pytest.main([*options, *(["-k", name] if name else []), test]))
            if status not in (0, 5):  # 5: no test of that file was chosen
                break
    os._exit(0 if status in (0, 5) else 1)


@cache
def cases(test: str, method: str | None) -> str | None:
    """The cases of a test file that a method's mutants are tried with, None for all of them."""
    tries_all = OF_EVERY_METHOD in (ROOT / test).read_text(encoding="utf-8")
    return method if tries_all else None


def caught(
    found: Sequence[Mutant], tests: list[str], method: str | None, jobs: int, seconds: float
) -> list[bool]:
    """Whether a test failed for each mutant, `jobs` of them at a time."""
    verdicts = [False] * len(found)
    running: dict[int, int] = {}
    waiting = list(enumerate(found))
    while waiting or running:
        while waiting and len(running) < jobs:
            number, mutant = waiting.pop(0)
            running[start(mutant, tests, method, seconds)] = number
        child, status = os.wait()
        verdicts[running.pop(child)] = status != 0
    return verdicts


def _plant(mutant: Mutant) -> None:
    module = mutant.file.removesuffix(".py").replace("/", ".")

    class Loader(importlib.abc.Loader):
        def exec_module(self, made: Any) -> None:
            exec(mutant.code, made.__dict__)

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
            if fullname != module:
                return None
            return importlib.util.spec_from_loader(fullname, Loader(), origin=mutant.file)

    sys.meta_path.insert(0, Finder())


def run(path: Path, known: dict[str, Any], jobs: int) -> dict[str, Any]:
    """Every mutant of a file, or what has survived an earlier run of the same text."""
    name = path.relative_to(ROOT).as_posix()
    tests = tests_of(path)
    digest, of_tests = digest_of([path]), digest_of([ROOT / test for test in tests])
    earlier = known.get(name, {})
    if (earlier.get("digest"), earlier.get("digest_of_tests")) == (digest, of_tests):
        return dict(earlier)
    planted = found = list(mutants(path))
    if earlier.get("digest") == digest:
        found = [mutant for mutant in planted if mutant.name in earlier["survivors"]]
    method = path.stem if path.parent.name == "algorithms" else None
    began = time.monotonic()
    # Most of a small file's time: not spent where there is nothing to plant.
    seconds = {test: seconds_of(test, cases(test, method)) if found else 0.0 for test in tests}
    quickest_first = sorted(tests, key=seconds.__getitem__)
    verdicts = caught(found, quickest_first, method, jobs, PATIENCE * sum(seconds.values()))
    survivors = [
        mutant.name for mutant, is_dead in zip(found, verdicts, strict=True) if not is_dead
    ]
    if found:
        seconds_taken = time.monotonic() - began
        print(
            f"{name}: {sum(verdicts)} of {len(found)} caught, {seconds_taken:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return {
        "digest": digest,
        "digest_of_tests": of_tests,
        "tests": tests,
        "planted": len(planted),
        "caught": len(planted) - len(survivors),
        "survivors": survivors,
    }


def digest_of(files: Sequence[Path]) -> str:
    """Of the text of some files."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def main() -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("--files", type=Path, nargs="+", help="all, unless named")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    files = options.files or [
        file
        for folder in FOLDERS
        for file in sorted((ROOT / folder).glob("*.py"))
        if file.name != "__init__.py"
        and (folder != "components/diffusion" or file.name in DIFFUSION)
    ]
    # What every mutant imports, once: a forked process has it at no cost.
    import diffusers.models  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)
    table = dict(read_json(RESULTS)["files"]) if RESULTS.exists() else {}
    for file in files:
        path = file.resolve()
        table[path.relative_to(ROOT).as_posix()] = run(path, table, options.jobs)
        totals = {key: sum(entry[key] for entry in table.values()) for key in ("planted", "caught")}
        write_json(RESULTS, {**totals, "files": dict(sorted(table.items()))})
    return 0


if __name__ == "__main__":
    sys.exit(main())
