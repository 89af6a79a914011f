"""The flow on a schedule: `python -m flows.deployments --cron "0 3 * * *"`.

Serves the deployment from this process to the Prefect server that `PREFECT_API_URL` names. One run
at a time: a run that falls due while another one works is cancelled, not queued.
"""

from __future__ import annotations

import argparse
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.errors import BadInput
from flows.environment import prepare
from flows.server import named_api

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

NAME = "scheduled"


def deployment(
    root: Path, *, interval: timedelta | None = None, cron: str | None = None
) -> RunnerDeployment:
    """The retraining of the project in `root`, due every `interval` or by a cron line."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy

    from flows.retrain import retrain

    found = retrain.to_deployment(
        NAME,
        interval=interval,
        cron=cron,
        parameters={"root": str(root)},
        concurrency_limit=ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        ),
    )
    assert not hasattr(found, "__await__")  # prefect's method is also usable in async code
    return found


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m flows.deployments", description=__doc__)
    due = parser.add_mutually_exclusive_group()
    due.add_argument("--cron", help="when to run, as a cron line")
    due.add_argument("--every", type=float, metavar="SECONDS", help="run at this interval")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    prepare(root)
    try:
        named_api()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    from prefect import serve

    every = timedelta(seconds=options.every) if options.every else None
    serve(deployment(root, interval=every, cron=options.cron), limit=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
