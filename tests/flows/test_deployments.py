"""A dead schedule looks like one that waits: only a run that appears shows that it lives."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.project import wait_until

pytestmark = pytest.mark.usefixtures("server")


def test_an_interval_of_five_seconds_really_creates_scheduled_runs(project: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
    )

    from flows.deployments import deployment

    made = deployment(project, interval=timedelta(seconds=5))
    identity = made.apply()
    with get_client(sync_client=True) as client:
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[identity]))
        wait_until(
            lambda: bool(client.read_flow_runs(deployment_filter=of_it)), 60, "a scheduled run"
        )
        found = client.read_flow_runs(deployment_filter=of_it)
        assert {run.state_name for run in found} == {"Scheduled"}
        starts = sorted(run.expected_start_time for run in found)
        assert {(later - sooner).total_seconds() for sooner, later in pairwise(starts)} == {5.0}
        stored = client.read_deployment(identity)
        assert stored.concurrency_options.collision_strategy == "CANCEL_NEW"
        assert stored.global_concurrency_limit.limit == 1
        client.delete_deployment(identity)
