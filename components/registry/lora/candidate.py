"""Everything that is known of a LoRA before it is registered, and how it becomes a version.

The native `mlflow.diffusers` flavour keeps the LoRA file itself and a reference to the base model;
`mlflow.diffusers.load_model` opens it, and `mlflow.pyfunc.load_model` too where the base opens
without further keywords (a flow without its third text encoder does not). The base is named
relative to the project's folder: load from there. (MLflow 3.17 ignores `model_config` for a base
that has moved, although its message suggests it; elsewhere open the base with diffusers and give it
the version's LoRA by `load_lora_weights`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.contracts.settings import BaseSettings
from components.registry.candidate import Lineage, LoadBack
from components.registry.lora.adapter import Adapter
from components.registry.lora.card import model_card
from components.registry.lora.load_back import MAX_DIFFERENCE, Probe, difference, draw_registered
from components.registry.register import requirements

if TYPE_CHECKING:
    from components.diffusion.plain import PlainCall

REQUIREMENTS = ("accelerate", "diffusers", "mlflow", "peft", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class LoraCandidate:
    """A LoRA that passed its gates (protocol `Candidate`)."""

    lineage: Lineage
    adapter: Adapter
    base: BaseSettings
    call: PlainCall
    """How plain diffusers draws the training side's images."""
    probe: Probe
    """What the version must draw."""
    evaluation: Mapping[str, Any]
    example_prompts: Sequence[str]
    reward: str
    """The version of the reward model that was registered with it, or why there is none."""
    kind = "lora"
    description = "LoRAs aligned with people's preferences by Konomi."

    @property
    def digest(self) -> tuple[str, str]:
        """Of the LoRA file."""
        return "adapter_sha256", self.adapter.header.sha256

    @property
    def base_reference(self) -> str:
        """The base model as the version names it: a hub name, or `./folder` inside the project.

        The leading `./` matters: without it a folder's name is looked up on a hub. An absolute path
        would tie the version to one machine.
        """
        root = self.lineage.root
        folder = root / self.base.path
        if not folder.is_dir():
            return self.base.path
        try:
            return "./" + folder.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            return str(folder.resolve())

    @property
    def algorithm(self) -> str:
        """The method that trained the LoRA."""
        return str(self.adapter.info.get("method", "unknown"))

    def params(self) -> dict[str, str]:
        """Its rank."""
        return {"rank": str(self.adapter.info.get("rank"))}

    def facts(self) -> dict[str, str]:
        """What names the LoRA, its base and the reward that it climbed."""
        return {
            **dict([self.digest]),
            "algorithm": self.algorithm,
            "base_model": self.base_reference,
            "base_digest": self.probe.base_digest,
            "reward_model": self.reward,
        }

    def card(self, version: str) -> str:
        """The model card."""
        return model_card(self, version)

    def log(self, model_id: str) -> str:
        """Write the LoRA and the reference to its base."""
        import mlflow.diffusers

        logged = mlflow.diffusers.log_model(
            str(self.adapter.header.path),
            self.base_reference,
            model_id=model_id,
            run_id=self.lineage.run_id,
            signature=self._signature(),
            input_example=list(self.example_prompts),
            pip_requirements=requirements(REQUIREMENTS),
            metadata={
                **dict([self.digest]),
                "base_digest": self.probe.base_digest,
                "adapter": self.adapter.info,
            },
        )
        return str(logged.model_uri)

    def load_back(self, uri: str) -> LoadBack:
        """Draw the probe's image with plain diffusers."""
        gap = difference(draw_registered(uri, self.probe, self.call), self.probe.image)
        if gap > MAX_DIFFERENCE:
            differs = f"a pixel differs by {gap} of 255, allowed {MAX_DIFFERENCE}"
            return LoadBack("", f"loaded back it draws another image ({differs})")
        return LoadBack(f"max difference {gap}", "")

    def _signature(self) -> Any:
        """Prompts in, PNG bytes out; the defaults are those with which the LoRA was trained."""
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

        height, width = self.probe.image.shape[-2:]
        params = [
            ParamSpec("num_inference_steps", DataType.integer, self.base.num_steps),
            ParamSpec("guidance_scale", DataType.double, self.base.guidance_scale),
            ParamSpec("height", DataType.integer, height),
            ParamSpec("width", DataType.integer, width),
        ]
        if self.call.takes_negative_prompt:
            params.append(ParamSpec("negative_prompt", DataType.string, ""))
        return ModelSignature(
            # Without a name, so that `predict` takes a plain list of prompts.
            inputs=Schema([ColSpec(DataType.string)]),
            outputs=Schema([ColSpec(DataType.binary, "image")]),
            params=ParamSchema(params),
        )
