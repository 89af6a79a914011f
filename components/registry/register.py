"""A LoRA becomes a version of the registered model, once.

The native `mlflow.diffusers` flavour keeps the LoRA file itself and a reference to the base model;
`mlflow.diffusers.load_model` opens it, and `mlflow.pyfunc.load_model` too where the base opens
without further keywords (a flow without its third text encoder does not). The base is named
relative to the project's folder: load from there. (MLflow 3.17 ignores `model_config` for a base
that has moved, although its message suggests it; elsewhere open the base with diffusers and give it
the version's LoRA by `load_lora_weights`.)
"""

from __future__ import annotations

from importlib.metadata import version as installed
from typing import TYPE_CHECKING, Any

from components.contracts.errors import GuardError
from components.registry.candidate import Candidate
from components.registry.card import model_card
from components.registry.load_back import MAX_DIFFERENCE, Probe, difference, draw_registered
from components.registry.session import CHALLENGER, open_registry, quiet

if TYPE_CHECKING:
    from mlflow import MlflowClient

REQUIREMENTS = ("accelerate", "diffusers", "mlflow", "peft", "safetensors", "torch", "transformers")


def register(candidate: Candidate, probe: Probe) -> int:
    """Register the LoRA, load it back, name it `challenger`; returns the version.

    The same file is registered once: a second call finds its version, checks it again and refreshes
    its tags. A version that was reviewed already keeps the aliases that the reviewer gave.

    Raises:
        GuardError: what the registry gives back does not load or draws another image; the version
            is gone again.
        TransientError: the registry is away.
    """
    with open_registry(candidate.root) as (client, experiment):
        found = _find(client, candidate)
        version = found or _create(client, experiment, candidate)
        reviewed = "review" in client.get_model_version(candidate.model_name, version).tags
        gap, trouble = _load_back(f"models:/{candidate.model_name}/{version}", candidate, probe)
        if trouble:
            # What a reviewer has decided on is not taken away behind their back.
            if not reviewed:
                _withdraw(client, candidate.model_name, version)
            raise GuardError(
                f"version {version} of {candidate.model_name}: {trouble}: "
                + ("it was reviewed and stays" if reviewed else "the version is deleted again")
            )
        for key, value in {**candidate.tags(), "load_back": f"max difference {gap}"}.items():
            client.set_model_version_tag(candidate.model_name, version, key, value)
        client.update_model_version(candidate.model_name, version, model_card(candidate, version))
        if not reviewed:
            client.set_registered_model_alias(candidate.model_name, CHALLENGER, version)
        return int(version)


def _load_back(uri: str, candidate: Candidate, probe: Probe) -> tuple[int, str]:
    """The largest difference of a pixel, and what is wrong, empty if nothing is."""
    try:
        gap = difference(draw_registered(uri, probe, candidate.call), probe.image)
    except Exception as error:  # of any of the four libraries that take part in loading
        reason = " ".join(str(error).split())[:300]
        return 255, f"cannot be loaded back ({type(error).__name__}: {reason})"
    if gap > MAX_DIFFERENCE:
        differs = f"a pixel differs by {gap} of 255, allowed {MAX_DIFFERENCE}"
        return gap, f"loaded back it draws another image ({differs})"
    return gap, ""


def _find(client: MlflowClient, candidate: Candidate) -> str | None:
    same = f"name='{candidate.model_name}' and tags.adapter_sha256='{candidate.adapter.sha256}'"
    found = client.search_model_versions(same)
    return str(min(int(entry.version) for entry in found)) if found else None


def _create(client: MlflowClient, experiment: str, candidate: Candidate) -> str:
    import mlflow.diffusers
    from mlflow.exceptions import MlflowException

    # Made by hand: the flavour by itself would put it into the experiment called "Default".
    model = client.create_logged_model(
        experiment,
        name=candidate.model_name,
        source_run_id=candidate.run_id,
        tags=candidate.tags(),
        params={"rank": str(candidate.adapter.info.get("rank"))},
        model_type="lora",
    )
    with quiet():
        info = mlflow.diffusers.log_model(
            str(candidate.adapter.path),
            candidate.base_reference,
            model_id=model.model_id,
            run_id=candidate.run_id,
            signature=_signature(candidate),
            input_example=_example(candidate),
            pip_requirements=_requirements(),
            metadata={
                "base_digest": candidate.base_digest,
                "adapter_sha256": candidate.adapter.sha256,
                "adapter": candidate.adapter.info,
            },
        )
    try:
        client.create_registered_model(
            candidate.model_name, description="LoRAs aligned with people's preferences by Konomi."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.create_model_version(
        candidate.model_name,
        source=info.model_uri,
        run_id=candidate.run_id,
        # With the first write, so that a run that is killed here is found by the next one.
        tags={"adapter_sha256": candidate.adapter.sha256},
        model_id=model.model_id,
    )
    return str(created.version)


def _withdraw(client: MlflowClient, model_name: str, version: str) -> None:
    model_id = client.get_model_version(model_name, version).model_id
    client.delete_model_version(model_name, version)
    if model_id:
        client.delete_logged_model(model_id)


def _signature(candidate: Candidate) -> Any:
    """Prompts in, PNG bytes out; the defaults are those with which the LoRA was trained."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    height, width = candidate.image_size
    params = [
        ParamSpec("num_inference_steps", DataType.integer, candidate.base.num_steps),
        ParamSpec("guidance_scale", DataType.double, candidate.base.guidance_scale),
        ParamSpec("height", DataType.integer, height),
        ParamSpec("width", DataType.integer, width),
    ]
    if candidate.call.takes_negative_prompt:
        params.append(ParamSpec("negative_prompt", DataType.string, ""))
    return ModelSignature(
        # Without a name, so that `predict` takes a plain list of prompts.
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.binary, "image")]),
        params=ParamSchema(params),
    )


def _example(candidate: Candidate) -> list[str]:
    return list(candidate.example_prompts)


def _requirements() -> list[str]:
    """Names and versions; a local build tag such as `+cpu` names no published package."""
    return [f"{name}=={installed(name).split('+')[0]}" for name in REQUIREMENTS]
