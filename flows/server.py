"""A Prefect API for a run: the one that `PREFECT_API_URL` names, or a private one on loopback.

Prefect can start a temporary server by itself, but that one outlives a flow that is killed. Ours
runs under the guard, asks for a password that only this process knows, and is gone when the run is.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from components.contracts.errors import BadInput, TransientError
from flows.dvc import GUARD

SECONDS_TO_START = 300.0
"""Eight on two free cores with an existing database; the limit is for very busy machines."""


def prefect_api(root: Path) -> str:
    """The URL of a Prefect API that answers, in `PREFECT_API_URL` from here on.

    Call before `prefect` is imported: it reads its settings then. A private server ends with this
    process and not sooner, since Prefect sends its last events when the interpreter ends.

    Raises:
        BadInput: `PREFECT_API_URL` names something that does not answer as a Prefect server.
        TransientError: the private server did not start.
    """
    if os.environ.get("PREFECT_API_URL"):
        return named_api()
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    with (home / "start.lock").open("w") as turn:
        # Several first starts at once would build the same database at once.
        fcntl.flock(turn, fcntl.LOCK_EX)
        return _start(root, home)


def named_api() -> str:
    """What `PREFECT_API_URL` says, if a Prefect server is there.

    Raises:
        BadInput: it is not set, nothing answers, or another program has that port.
    """
    url = os.environ.get("PREFECT_API_URL", "")
    if not answers(url):
        raise BadInput(
            f"PREFECT_API_URL: '{url}' does not answer as a Prefect server",
            allowed="the URL of a running one, such as http://127.0.0.1:4200/api",
        )
    return url


def answers(url: str) -> bool:
    """Whether a Prefect API is behind `url`."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as reply:
            return bool(reply.status == 200 and reply.read().strip() == b"true")
    except (OSError, urllib.error.URLError, ValueError):
        return False


def _start(root: Path, home: Path) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    password = f"konomi:{secrets.token_urlsafe(16)}"
    os.environ["PREFECT_API_URL"] = url
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = password
    os.environ["PREFECT_API_AUTH_STRING"] = password
    log = home / "server.log"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-ui", "--no-scheduler", "--no-late-runs"]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", str(GUARD), str(os.getpid()), *command],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    atexit.register(_stop, server)
    deadline = time.monotonic() + SECONDS_TO_START
    while not answers(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise TransientError(f"the private Prefect server did not start; its output: {log}")
        time.sleep(0.1)
    return url


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    server.wait()
