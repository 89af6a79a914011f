"""The fixtures of the flow tests: a trivial project, and one Prefect server."""

from tests.flows.conftest import project, server

__all__ = ["project", "server"]
