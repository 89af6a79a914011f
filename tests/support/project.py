"""A Konomi project on disk whose six stages are trivial: real DVC, real git, no models.

What a stage does is written into `behaviour/<stage>` while a test runs; without such a file it
writes its out and ends. That folder is no dependency: changing it does not by itself run a stage.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from components.contracts.settings import STAGES

SOURCE = Path(__file__).parents[2]

STEP = """
import json, os, pathlib, resource, signal, sys, time

stage = sys.argv[1]
told = pathlib.Path("behaviour", stage)
told = json.loads(told.read_text()) if told.exists() else {}
if os.environ.get("KONOMI_DIE_WITH_PARENT"):
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
with open("order.txt", "a") as order:
    order.write(stage + "\\n")
print(f"{stage}: 1/2  0:01 gone, 0:01 left", file=sys.stderr)
for _ in range(told.get("transient", 0)):
    left = told["transient"] - 1
    pathlib.Path("behaviour", stage).write_text(json.dumps({"transient": left}))
    print(f"error: {stage}: the store is away", file=sys.stderr)
    sys.exit(75)
if "sleep" in told:
    pathlib.Path("sleeping").write_text(str(os.getpid()))
    time.sleep(told["sleep"])
if "error" in told:
    print(f"error: {stage}: {told['error']}", file=sys.stderr)
    sys.exit(told["status"])
if "crash" in told:
    {}[told["crash"]]
if "signal" in told:
    os.kill(os.getpid(), told["signal"])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
seed = pathlib.Path("params.yaml").read_text().split("seed: ")[1].split()[0]
pathlib.Path("data").mkdir(exist_ok=True)
pathlib.Path("data", stage).write_bytes(f"{stage} {seed}".encode() + bytes(told.get("size", 0)))
"""


def make_project(folder: Path) -> Path:
    """A fresh project in `folder`, committed to git, with the shipped settings and profiles."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(SOURCE / name, folder)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(SOURCE / ".dvc" / name, folder / ".dvc")
    shutil.copytree(SOURCE / "profiles", folder / "profiles")
    (folder / "step.py").write_text(STEP)
    (folder / "behaviour").mkdir()
    stages = []
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        deps = ["step.py"] + ([f"data/{before}"] if before else [])
        stages.append(
            f"  {stage}:\n    cmd: python step.py {stage}\n    deps: [{', '.join(deps)}]\n"
            f"    params: [seed]\n    outs: [data/{stage}]\n"
        )
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(stages))
    commit_all(folder)
    return folder


def commit_all(folder: Path) -> None:
    """Make `folder` a git repository whose only commit holds all of it."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)


def behave(project: Path, stage: str, **told: object) -> None:
    """Say what a stage does: sleep, error and status, crash, signal, transient, size."""
    (project / "behaviour" / stage).write_text(json.dumps(told))


def change(project: Path, seed: int) -> None:
    """Change the setting that every stage depends on."""
    path = project / "params.yaml"
    head, _, tail = path.read_text().partition("seed: ")
    path.write_text(f"{head}seed: {seed}\n{tail.partition(chr(10))[2]}")


def order(project: Path) -> list[str]:
    """The stages that ran so far, in order."""
    path = project / "order.txt"
    return path.read_text().split() if path.exists() else []


def processes_in(folder: Path) -> dict[int, str]:
    """Every process that works in `folder`, by pid; zombies are gone for all that matters."""
    found = {}
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            here = Path(process.cwd()) == folder.resolve()
        except (psutil.Error, OSError):
            continue
        if here and process.info["status"] != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found[process.pid] = " ".join(process.info["cmdline"] or [])
    return found


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something that another process does; fails with what was there instead."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def konomi(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the console command in the project and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=project,
        env=command_environment(**environment),
        capture_output=True,
        text=True,
        timeout=300,
    )


def start_konomi(project: Path, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start the console command in the project and return at once."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=project,
        env=command_environment(**environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # A shell starts background jobs with Ctrl-C ignored, and children inherit that: a test run
        # that was started so must still see what a person at a terminal sees.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )


def command_environment(**more: str) -> dict[str, str]:
    """This environment without a tracker and without what this process has set for itself."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "KONOMI_TRACKING": "off", "PYTHONPATH": str(SOURCE), **more}
