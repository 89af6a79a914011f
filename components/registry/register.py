"""A model becomes a version of its registered model, once, whatever kind of model it is."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as installed
from typing import TYPE_CHECKING

from components.contracts.errors import GuardError
from components.registry.candidate import Candidate, LoadBack
from components.registry.markdown import cut
from components.registry.session import CHALLENGER, open_registry, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient


def register(candidate: Candidate) -> int:
    """Register the model, load it back, name it `challenger`; returns the version.

    The same file is registered once: a second call finds its version, checks it again and refreshes
    its tags. A version that was reviewed already keeps the aliases that the reviewer gave.

    Raises:
        GuardError: what the registry gives back does not load or is another model; the version is
            gone again.
        TransientError: the registry is away.
    """
    name = candidate.lineage.model_name
    with open_registry(candidate.lineage.root) as (client, experiment):
        version = _find(client, candidate) or _create(client, experiment, candidate)
        reviewed = "review" in client.get_model_version(name, version).tags
        back = _load_back(candidate, f"models:/{name}/{version}")
        if back.trouble:
            # What a reviewer has decided on is not taken away behind their back.
            if not reviewed:
                _withdraw(client, name, version)
            raise GuardError(
                f"version {version} of {name}: {back.trouble}: "
                + ("it was reviewed and stays" if reviewed else "the version is deleted again")
            )
        for key, value in {**_tags(candidate), "load_back": back.found}.items():
            client.set_model_version_tag(name, version, key, value)
        client.update_model_version(name, version, cut(candidate.card(version)))
        if not reviewed:
            client.set_registered_model_alias(name, CHALLENGER, version)
        return int(version)


def requirements(names: Sequence[str]) -> list[str]:
    """Packages and versions; a local build tag such as `+cpu` names no published package."""
    return [f"{name}=={installed(name).split('+')[0]}" for name in names]


def _tags(candidate: Candidate) -> dict[str, str]:
    """What a version is searched and judged by."""
    return {**candidate.facts(), **candidate.lineage.tags()}


def _load_back(candidate: Candidate, uri: str) -> LoadBack:
    try:
        return candidate.load_back(uri)
    except Exception as error:  # of any of the libraries that take part in loading
        reason = " ".join(str(error).split())[:300]
        return LoadBack("", f"cannot be loaded back ({type(error).__name__}: {reason})")


def _find(client: MlflowClient, candidate: Candidate) -> str | None:
    tag, digest = candidate.digest
    same = f"name='{candidate.lineage.model_name}' and tags.{tag}='{digest}'"
    found = client.search_model_versions(same)
    return str(min(int(entry.version) for entry in found)) if found else None


def _create(client: MlflowClient, experiment: str, candidate: Candidate) -> str:
    from mlflow.exceptions import MlflowException

    name, run_id = candidate.lineage.model_name, candidate.lineage.run_id
    # Made by hand: a flavour by itself would put it into the experiment called "Default".
    model = client.create_logged_model(
        experiment,
        name=name,
        source_run_id=run_id,
        tags=_tags(candidate),
        params=candidate.params(),
        model_type=candidate.kind,
    )
    with quiet():
        source = candidate.log(model.model_id)
    try:
        client.create_registered_model(name, description=candidate.description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        name,
        source=source,
        run_id=run_id,
        # With the first write, so that a run that is killed here is found by the next one.
        tags=dict([candidate.digest]),
        model_id=model.model_id,
    )
    return str(created.version)


def _withdraw(client: MlflowClient, model_name: str, version: str) -> None:
    model_id = client.get_model_version(model_name, version).model_id
    client.delete_model_version(model_name, version)
    if model_id:
        client.delete_logged_model(model_id)
