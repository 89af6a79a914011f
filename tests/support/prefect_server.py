"""One real Prefect server for the tests that need one, on a free loopback port."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.dvc import GUARD
from flows.environment import defaults
from flows.server import answers
from tests.support.project import free_port

_running: list[str] = []


@contextmanager
def prefect_server(folder: Path) -> Iterator[str]:
    """Yield the URL of a server with its scheduler, and point this process at it.

    Enter before anything imports prefect: it reads its settings then.
    """
    if _running:  # a second folder of tests has a fixture of its own for the same server
        yield _running[0]
        return
    assert "prefect" not in sys.modules, "prefect was imported before its server was there"
    url = f"http://127.0.0.1:{(port := free_port())}/api"
    (folder / ".work" / "prefect").mkdir(parents=True)
    before = dict(os.environ)
    os.environ.update(
        {name: value for name, value in defaults(folder).items() if name != "DVC_SITE_CACHE_DIR"}
    )
    os.environ["PREFECT_API_URL"] = url
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--no-ui"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-P", str(GUARD), str(os.getpid()), *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not answers(url):
            assert server.poll() is None and time.monotonic() < deadline, (
                folder / "server.log"
            ).read_text()
            time.sleep(0.2)
        _running.append(url)
        yield url
    finally:
        _running.clear()
        server.terminate()
        server.wait()
        os.environ.clear()
        os.environ.update(before)
