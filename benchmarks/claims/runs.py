"""One training of one method in the world of one seed, and what came out of it.

A run is named by the digest of everything that decides it, code included only by choice (see
`Run.digest`). It executes the stage `finetuning` as users do, then judges the LoRA on test prompts
with the noise of every other run of that seed. What is finished is never run again; what was
killed goes on from its checkpoint.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.claims import judge, worlds
from components.contracts.artifacts import read_json, write_json, write_text
from components.contracts.stage import stage_main
from components.finetuning import stage as finetuning
from components.tracking import open_tracker

PROFILES = worlds.ROOT / "profiles" / "methods"
RESULTS = worlds.ROOT / "benchmarks" / "results" / "claims"
LOG = "log.txt"
ROUNDS = 8
"""Of the profiles' 20, each of half the size, so that the whole table takes hours and not days:
768 images where a method draws."""
NONE = "none"
"""The name of the run that trains nothing: the base model."""


@dataclass(frozen=True)
class Run:
    """A method with its settings in a world."""

    name: str
    """Of the row in tables: `dpok`, `hero, 10 % flips` ..."""
    seed: int
    profile: str
    """File of profiles/methods/ without its ending, or `none` for the base."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Of the profile, in the layout of params.yaml."""
    prompts_per_category: int | None = None
    """Train on, and validate with, only so many prompts of each category; None is all of them."""
    quick: bool = False

    @property
    def base(self) -> Run:
        """The model that this run starts from, judged in the same way."""
        # Of a flow with an SDE and one without the same images are judged.
        ours = self._blocks().get("base", {})
        changes = {"base": {name: ours[name] for name in ours if name not in _OF_THE_SDE}}
        return Run("base", self.seed, NONE, changes, self.prompts_per_category, self.quick)

    @property
    def model(self) -> str:
        """The base and how images are drawn from it, in words."""
        base = self._blocks()["base"]
        return f"{Path(base['path']).name.replace('base', 'U-Net')}, {base['num_steps']} steps"

    @property
    def digest(self) -> str:
        """Of what decides the result: settings and the base's weights, not the code.

        A change of code that changes results is answered by removing the results.
        """
        blocks = self._blocks()
        weights = weights_digest(blocks["base"]["path"])
        parts = [self.seed, self.profile, blocks, weights, self.prompts_per_category, self.quick]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def folder(self) -> Path:
        """Where it runs and what it leaves."""
        return worlds.WORK / "runs" / f"{self.profile}-{self.seed}-{self.digest}"

    @property
    def path(self) -> Path:
        """Where its result is kept: with the code, so that a table goes on on another machine."""
        return (self.folder if self.quick else RESULTS / "runs") / f"{self.folder.name}.json"

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out, None before that."""
        return dict(read_json(self.path)) if self.path.exists() else None

    def _blocks(self) -> dict[str, Any]:
        merged: dict[str, Any] = {"finetuning": {}}
        if self.profile != NONE:
            merged |= read_profile(self.profile)
            _merge(merged, {"finetuning": {"rounds": ROUNDS, "monitor": _MONITOR}})
            _halve(merged["finetuning"]["method"])
            if self.prompts_per_category:
                monitor = {"samples_per_prompt": FEW_SAMPLES // self.prompts_per_category}
                _merge(merged, {"finetuning": {"monitor": monitor}})
        _merge(merged, self.changes)
        if self.quick:
            # A forward pass has as many rows as a batch, however few are asked for.
            _merge(merged, {"base": {"batch_size": 8}})
            _merge(merged, {"finetuning": {"rounds": 1, "monitor": _QUICK_MONITOR}})
            _shrink(merged["finetuning"].get("method", {}))
        return dict(merged)

    def execute(self) -> dict[str, Any]:
        """Train and judge, unless that was done.

        Raises:
            RuntimeError: the stage or the judging failed.
        """
        found = self.result
        if found is not None:
            return found
        world = worlds.prepare(self.seed, self.quick)
        self.folder.mkdir(parents=True, exist_ok=True)
        worlds.link(self.folder / "components", world / "components")
        for name in ("models", "data"):
            (self.folder / name).mkdir(exist_ok=True)
        worlds.link(self.folder / "data" / "preferences", world / "data" / "preferences")
        worlds.link_prompts(self.folder, world, self.prompts_per_category)
        worlds.link(self.folder / "models" / "reward", world / "models" / "reward")
        worlds.write_params(
            self.folder, {"seed": self.seed, "compute": {"threads": 1}, **self._blocks()}
        )
        with _inside(self.folder):
            self._train()
            judge.judge(self.folder, self.prompts_per_category, quick=self.quick)
        result = {
            "name": self.name,
            "seed": self.seed,
            "profile": self.profile,
            "changes": self.changes,
            **read_json(self.folder / "judged.json"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(result, separators=(",", ":"), allow_nan=False) + "\n")
        return result

    def _train(self) -> None:
        if self.profile == NONE or (self.folder / "models" / "lora").exists():
            return
        began, spent = time.monotonic(), time.process_time()
        status = stage_main("finetuning", finetuning.run, open_tracker, [])
        if status:
            raise RuntimeError(f"finetuning ended with {status}, see {self.folder / LOG}")
        seconds = {"wall": time.monotonic() - began, "cpu": time.process_time() - spent}
        write_json(self.folder / "seconds.json", seconds)


def read_profile(name: str) -> dict[str, Any]:
    """The blocks of a method's profile, as they are in its file."""
    from ruamel.yaml import YAML

    text = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
    return json.loads(json.dumps(YAML(typ="safe").load(text)))


@cache
def weights_digest(path: str) -> str:
    """Of the network of a base model in the repository."""
    (file,) = (worlds.ROOT / path).glob("[ut]*/diffusion_pytorch_model.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


_OF_THE_SDE = ("noise_level", "flow_sde")
FEW_SAMPLES = 24
"""Of each prompt in a look at few prompts, so that it has as many images as any other look."""
_MONITOR = {"every": 2, "prompts_per_category": 8, "samples_per_prompt": 3}
_QUICK_MONITOR = {"every": 1, "prompts_per_category": 1, "samples_per_prompt": 2}


def _halve(method: dict[str, Any]) -> None:
    """Half as many prompts in a round, and half as many samples in an update."""
    whole = ("prompts_per_round",) if method["name"] in WHOLE_ROUNDS else ()
    for key in {"prompts_per_round", "transitions_per_update", *_SAMPLES}.difference(whole):
        if isinstance(method.get(key), int) and method[key] >= 12:
            method[key] //= 2
    if method["name"] == "dpok":
        method["buffer_size"] //= 2  # still on-policy


WHOLE_ROUNDS = ("flow_grpo", "mix_grpo", "grpo_guard", "flow_dppo", "dance_grpo")
"""Policy gradients on the flow, with twice the images of other methods: less of a round's gradient
is signal, as `benchmarks.gradient_signal` tells."""
_SAMPLES = ("pairs_per_update", "samples_per_update", "prompts_per_update")


def _merge(blocks: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(blocks.get(key), dict):
            _merge(blocks[key], value)
        else:
            blocks[key] = copy.deepcopy(value)


_SMALLEST = {
    "prompts_per_round": 5,
    "group_size": 4,
    "num_images": 20,
    "updates_per_round": 1,
    "inner_epochs": 1,
}


def _shrink(method: dict[str, Any]) -> None:
    """As few images and updates as a method can have: enough to run every line of it."""
    for key, value in _SMALLEST.items():
        if isinstance(method.get(key), int):
            method[key] = min(method[key], value)
    for value in method.values():
        if isinstance(value, dict):
            _shrink(value)


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """A stage reads and writes below the current folder; what it prints goes to a file there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stderr(log):
            yield
    finally:
        os.chdir(before)
