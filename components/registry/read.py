"""What `konomi status` shows of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.tracking.store import client_of


@dataclass(frozen=True)
class VersionSummary:
    """One version of the registered model."""

    version: int
    aliases: tuple[str, ...]
    """`challenger`, `champion`, both or none."""
    created: datetime
    review: str
    """`approved`, `rejected` or `waiting`."""
    gates: Mapping[str, str]
    """Each gate's figure by name."""
    tags: Mapping[str, str]
    run_id: str | None


def versions(root: Path, model_name: str) -> list[VersionSummary]:
    """All versions, newest first; empty where nothing was registered yet."""
    client = client_of(root)
    if client is None or not client.search_registered_models(f"name='{model_name}'"):
        return []
    # The search over versions leaves the aliases out; they hang on the model.
    aliases: dict[int, list[str]] = {}
    for alias, version in client.get_registered_model(model_name).aliases.items():
        aliases.setdefault(int(version), []).append(alias)
    found = [
        VersionSummary(
            version=int(entry.version),
            aliases=tuple(sorted(aliases.get(int(entry.version), []))),
            created=datetime.fromtimestamp(entry.creation_timestamp / 1000, UTC),
            review=entry.tags.get("review", "waiting"),
            gates={
                key.removeprefix("gate."): value
                for key, value in sorted(entry.tags.items())
                if key.startswith("gate.")
            },
            tags=dict(sorted(entry.tags.items())),
            run_id=entry.run_id,
        )
        for entry in client.search_model_versions(f"name='{model_name}'")
    ]
    return sorted(found, key=lambda summary: summary.version, reverse=True)
