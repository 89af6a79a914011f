"""Everything that is known of a reward model before it is registered, and how it becomes a version.

The folder is kept as it is, with a few lines of program beside it (`served.py`) that MLflow calls
"models from code": nothing is pickled. The program needs this project, so open a version from the
project's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.registry.candidate import Lineage, LoadBack
from components.registry.register import requirements
from components.registry.reward.card import model_card
from components.registry.reward.folder import RewardFolder
from components.registry.reward.load_back import RewardProbe, score_registered

REQUIREMENTS = (
    *("jaxtyping", "mlflow", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "ruamel.yaml"),
    *("safetensors", "torch", "transformers"),
)


@dataclass(frozen=True)
class RewardCandidate:
    """A reward model that passed its gates (protocol `Candidate`)."""

    lineage: Lineage
    folder: RewardFolder
    probe: RewardProbe
    """What the version must score."""
    report: Mapping[str, Any]
    audit: Mapping[str, Any] | None
    example_prompts: Sequence[str]
    kind = "reward"
    description = "Reward models that learnt from people's preferences, by Konomi."

    @property
    def digest(self) -> tuple[str, str]:
        """Of the folder."""
        return "reward_sha256", self.folder.sha256

    @property
    def architecture(self) -> str:
        """Which backbone it is made of."""
        return str(self.report.get("architecture", "unknown"))

    def params(self) -> dict[str, str]:
        """Its architecture."""
        return {"architecture": self.architecture}

    def facts(self) -> dict[str, str]:
        """What names the reward model."""
        return {**dict([self.digest]), "architecture": self.architecture}

    def card(self, version: str) -> str:
        """The model card."""
        return model_card(self, version)

    def log(self, model_id: str) -> str:
        """Write the folder and the program that opens it."""
        import mlflow.pyfunc
        from mlflow.models import Model

        # `mlflow.pyfunc.log_model` is this call, but knows no run other than an active one.
        logged = Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=self.lineage.run_id,
            model_id=model_id,
            # Relative, so that the version does not name folders of one machine.
            python_model=os.path.relpath(Path(__file__).with_name("served.py")),
            artifacts={"reward": os.path.relpath(self.folder.path)},
            signature=_signature(),
            pip_requirements=requirements(REQUIREMENTS),
            metadata=dict([self.digest]),
        )
        return str(logged.model_uri)

    def load_back(self, uri: str) -> LoadBack:
        """Score the probe's pictures through MLflow."""
        scores = score_registered(uri, self.probe)
        gap = float((scores - self.probe.scores.cpu()).abs().max())
        if gap != 0:  # a NaN is no 0 either
            return LoadBack("", f"loaded back it gives other scores (one differs by {gap:g})")
        return LoadBack(f"{len(scores)} equal scores", "")


def _signature() -> Any:
    """Bytes and words in, numbers out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.double, "score")]),
    )
