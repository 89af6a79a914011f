"""The fixtures of this room's tests."""

from tests.support.room_fixtures import base, new_project, project

__all__ = ["base", "new_project", "project"]
