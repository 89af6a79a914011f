"""A reviewer's decision on a registered version. The registry itself knows no approval."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.errors import BadInput
from components.registry.read import VersionSummary, versions
from components.registry.session import CHALLENGER, CHAMPION, open_registry
from components.tracking.text import clean

if TYPE_CHECKING:
    from mlflow import MlflowClient


def promote(root: Path, model_name: str, version: int, by: str) -> None:
    """Make `version` the champion, in the name of `by`. The champion before it is kept as a tag.

    Raises:
        BadInput: no such version, or it was rejected or never checked; or nobody is named.
        TransientError: the registry is away.
    """
    who = _named(by)
    with open_registry(root) as (client, _):
        chosen, all_versions = _choose(root, model_name, version)
        if chosen.review == "rejected":
            raise BadInput(
                f"version {version} of {model_name} was rejected by "
                f"{chosen.tags.get('rejected_by', 'a reviewer')}",
                allowed=_waiting(all_versions),
            )
        if "load_back" not in chosen.tags:
            raise BadInput(
                f"version {version} of {model_name} was never loaded back",
                allowed="run the registry stage again, which checks it",
            )
        before = [other.version for other in all_versions if CHAMPION in other.aliases]
        tags = {"review": "approved", "approved_by": who, "approved_at": _now()}
        if before and before[0] != version:
            tags["previous_champion"] = str(before[0])
            client.set_model_version_tag(
                model_name, str(before[0]), "replaced_by", f"version {version}"
            )
        _tag(client, model_name, version, tags)
        client.set_registered_model_alias(model_name, CHAMPION, str(version))
        if CHALLENGER in chosen.aliases:
            client.delete_registered_model_alias(model_name, CHALLENGER)


def reject(root: Path, model_name: str, version: int, by: str, reason: str) -> None:
    """Decide against `version`, in the name of `by`: it stays in the registry without an alias.

    Raises:
        BadInput: there is no such version, it is the champion, or nobody or no reason is named.
        TransientError: the registry is away.
    """
    who = _named(by)
    if not reason.strip():
        raise BadInput("a rejection needs a reason", allowed="one sentence")
    with open_registry(root) as (client, _):
        chosen, _others = _choose(root, model_name, version)
        if CHAMPION in chosen.aliases:
            raise BadInput(
                f"version {version} of {model_name} is the champion",
                allowed="promote another version first",
            )
        _tag(
            client,
            model_name,
            version,
            {
                "review": "rejected",
                "rejected_by": who,
                "rejected_at": _now(),
                "rejected_because": clean(reason.strip()),
            },
        )
        if CHALLENGER in chosen.aliases:
            client.delete_registered_model_alias(model_name, CHALLENGER)


def _choose(
    root: Path, model_name: str, version: int
) -> tuple[VersionSummary, list[VersionSummary]]:
    known = versions(root, model_name)
    for summary in known:
        if summary.version == version:
            return summary, known
    numbers = ", ".join(str(summary.version) for summary in known) or "none is registered yet"
    raise BadInput(f"no version {version} of {model_name}", allowed=numbers)


def _waiting(known: list[VersionSummary]) -> str:
    numbers = [str(summary.version) for summary in known if summary.review != "rejected"]
    return ", ".join(numbers) or "none is waiting"


def _tag(client: MlflowClient, model_name: str, version: int, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(model_name, str(version), key, value)


def _named(by: str) -> str:
    who = " ".join(clean(by, 100).split())
    if not who:
        raise BadInput("a decision needs a name", allowed="the reviewer's name")
    return who


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
