"""The real reward service, in a process of its own or in a thread of this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from components.rewards.scorers.checked import CheckedScorer
from components.rewards.serve import Service, make_app
from tests.support.project import SOURCE, free_port

SECONDS_TO_START = 60


class ServiceProcess:
    """`python -m components.rewards.serve` on one port; it can be killed and started again."""

    def __init__(self, folder: Path, reward: dict[str, Any], **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._settings = folder / "scorer.yaml"
        compute = {"device": "cpu", "threads": 1}
        # Json is YAML.
        self._settings.write_text(json.dumps({"compute": compute, "reward": reward}))
        self._log = folder / "service.log"
        self._environment = {**os.environ, "PYTHONPATH": str(SOURCE), **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and come back at once."""
        command = [sys.executable, "-m", "components.rewards.serve", "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--scorer", str(self._settings)],
                stderr=log,
                stdout=log,
                env=self._environment,
            )

    def wait(self) -> dict[str, Any]:
        """Until it answers; what GET /health says."""
        deadline = time.monotonic() + SECONDS_TO_START
        while time.monotonic() < deadline:
            assert self._process and self._process.poll() is None, self.log()
            try:
                return dict(httpx.get(f"{self.url}/health", timeout=5, trust_env=False).json())
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"no answer: {self.log()}")

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """What it printed."""
        return self._log.read_text()


@contextmanager
def reward_process(
    folder: Path, reward: dict[str, Any], **environment: str
) -> Iterator[ServiceProcess]:
    """A service that answers already, and is gone afterwards."""
    service = ServiceProcess(folder, reward, **environment)
    service.start()
    try:
        service.wait()
        yield service
    finally:
        service.kill()


class Called:
    """A function as a scorer."""

    differentiable = False

    def __init__(self, call: Callable[[torch.Tensor, Sequence[str]], torch.Tensor]) -> None:
        self.score = call


@contextmanager
def reward_thread(
    call: Callable[[torch.Tensor, Sequence[str]], torch.Tensor], token: str | None = None
) -> Iterator[str]:
    """Serve a function, checked as any scorer is; yields the url."""
    service = Service(CheckedScorer(Called(call), "reward function"), "function", "v1")
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(make_app(service, token), port=port, log_level="critical")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
