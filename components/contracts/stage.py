"""How every stage starts and ends, whoever calls it: `python -m`, `dvc repro` or the flow.

A room's `__main__.py` is three lines: it names its settings, its body and the tracker, and hands
them to `stage_main`. The body is a plain function `body(settings, context)`; it writes its outs and
returns its metrics. Errors become one line and an exit status (see `errors.py`); nothing else is
printed for them unless `--debug` is given.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.artifacts import dvc_digest, write_json
from components.contracts.errors import BadInput, KonomiError
from components.contracts.protocols import Tracker
from components.contracts.seeds import derive_seed, torch_generator
from components.contracts.settings import (
    BaseSettings,
    ComputeSettings,
    StrictModel,
    load_block,
    load_run,
    settings_model,
)

if TYPE_CHECKING:
    import torch

DIE_WITH_PARENT = "KONOMI_DIE_WITH_PARENT"
"""Set by the flow: the stage gets SIGTERM when the process that started it is gone."""
PARENT_RUN = "KONOMI_PARENT_RUN_ID"
"""Tracking run of the whole pipeline that a stage's run joins; unset for a stage run alone."""

Body = Callable[[Any, "StageContext"], Mapping[str, float]]
OpenTracker = Callable[[str, Path], AbstractContextManager[Tracker]]


@dataclass(frozen=True)
class StageContext:
    """What a stage's body gets besides its own settings."""

    stage: str
    root: Path
    """The project's folder: every path of a stage is relative to it."""
    seed: int
    compute: ComputeSettings
    base: BaseSettings
    tracker: Tracker
    work: Path
    """Ignored scratch folder (`.work/<stage>`), for checkpoints and manifests; no DVC out."""

    def seed_for(self, *labels: str | int) -> int:
        """A seed for a purpose of this stage."""
        return derive_seed(self.seed, self.stage, *labels)

    def generator(self, *labels: str | int) -> torch.Generator:
        """A CPU generator for a purpose of this stage."""
        return torch_generator(self.seed, self.stage, *labels)


def stage_main(
    stage: str, body: Body, open_tracker: OpenTracker, arguments: list[str] | None = None
) -> int:
    """Run one stage and return its exit status.

    Command line: `[--params params.yaml] [--debug]`. The current folder is the project's root.
    """
    parser = argparse.ArgumentParser(prog=f"python -m components.{stage}")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings file")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    _die_with_parent()
    try:
        _run(stage, body, open_tracker, options.params)
    except KonomiError as error:
        if options.debug:
            raise
        print(f"error: {stage}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if options.debug or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: {stage}: {error.filename or 'output'}: no space left on the disk; "
            "earlier outputs are untouched; allowed: free some space and run the command again",
            file=sys.stderr,
        )
        return BadInput.exit_code
    return 0


def _run(stage: str, body: Body, open_tracker: OpenTracker, params: Path) -> None:
    run = load_run(params)
    settings = load_block(params, stage, settings_model(stage))
    root = Path.cwd()
    work = root / ".work" / stage
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open_tracker(stage, root) as tracker:
        tracker.log_params(
            {"seed": run.seed, "base": run.base.model_dump(), stage: settings.model_dump()}
        )
        context = StageContext(stage, root, run.seed, run.compute, run.base, tracker, work)
        set_threads(run.compute)
        metrics = body(settings, context)
        seconds = time.monotonic() - started
        tracker.log_metrics({**metrics, "seconds": seconds})
    print(f"{stage}: done in {seconds:.1f} s", file=sys.stderr)


def set_threads(compute: ComputeSettings) -> None:
    """Let this process compute with the threads that the settings name."""
    # Results are bit-identical for one number of threads, so the settings win over the environment.
    # A stage that has not loaded torch yet does not pay for it: the variable reaches it later.
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(compute.threads)
    else:
        os.environ["OMP_NUM_THREADS"] = str(compute.threads)


def log_inputs(context: StageContext, **inputs: Path) -> dict[str, str]:
    """Tie the run to the exact bytes that it reads; returns DVC's digest of each input by name."""
    digests = {name: dvc_digest(context.root / path) for name, path in inputs.items()}
    for name, path in inputs.items():
        context.tracker.log_input(path, digests[name], name)
    return digests


def write_manifest(
    context: StageContext, settings: StrictModel, digests: Mapping[str, str], seconds: float
) -> Path:
    """How a model came to be: beside a stage's work, not among its outs, since time is no data."""
    manifest = {
        "stage": context.stage,
        "seed": context.seed,
        "settings": settings.model_dump(mode="json"),
        "inputs": dict(digests),
        "git_revision": git_revision(context.root),
        "tracking_run": context.tracker.run_id,
        "seconds": round(seconds, 1),
        "libraries": _library_versions(),
        "hardware": {
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": context.compute.threads,
            "device": context.compute.device,
        },
    }
    path = context.work / "manifest.json"
    write_json(path, manifest)
    context.tracker.log_artifact(path)
    return path


def git_revision(root: Path) -> str:
    """The commit of the checkout, `unknown` outside of one."""
    import subprocess

    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _library_versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "diffusers", "peft", "transformers", "mlflow", "dvc", "prefect")
    return {name: version(name) for name in names}


def _die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent dies: no trainer outlives its caller (Linux)."""
    if os.environ.get(DIE_WITH_PARENT) and sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
