"""A dead schedule looks like one that waits: only a run that appears shows that it lives."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.project import wait_until

pytestmark = pytest.mark.usefixtures("server")


def test_an_interval_of_five_seconds_really_creates_scheduled_runs(project: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter
    from prefect.client.schemas.objects import FlowRun

    from flows.deployments import deployment

    identity = deployment(project, interval=timedelta(seconds=5)).apply()
    of_it = DeploymentFilter.model_validate({"id": {"any_": [identity]}})
    with get_client(sync_client=True) as client:

        def scheduled() -> list[FlowRun]:
            runs = client.read_flow_runs(deployment_filter=of_it)
            return [run for run in runs if run.auto_scheduled and run.state_name == "Scheduled"]

        wait_until(lambda: len(scheduled()) > 1, 60, "scheduled runs")
        starts = sorted(run.expected_start_time for run in scheduled())
        assert {(later - sooner).total_seconds() for sooner, later in pairwise(starts)} == {5.0}
        stored = client.read_deployment(identity)
        assert stored.concurrency_options.collision_strategy == "CANCEL_NEW"
        assert stored.global_concurrency_limit.limit == 1
        client.delete_deployment(identity)
