"""Everything that is known of a LoRA before it is registered: the one argument of what follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.settings import BaseSettings
from components.registry.adapter import Adapter
from components.registry.gates import Gate

if TYPE_CHECKING:
    from components.diffusion.plain import PlainCall


@dataclass(frozen=True)
class Candidate:
    """A LoRA, its verdicts and where it came from."""

    model_name: str
    adapter: Adapter
    base: BaseSettings
    call: PlainCall
    """How plain diffusers draws the training side's images."""
    base_digest: str
    """Of the base model's weights, whatever files hold them."""
    image_size: tuple[int, int]
    """Height and width of an image in pixels."""
    gates: Sequence[Gate]
    evaluation: Mapping[str, Any]
    digests: Mapping[str, str]
    """DVC's digest of each input, by name: `prompts`, `preferences`, `reward`, `lora` ..."""
    git_revision: str
    seed: int
    example_prompts: Sequence[str]
    run_id: str | None
    """The tracked run of this stage, which holds the grid; None where runs are not kept."""
    root: Path

    @property
    def base_reference(self) -> str:
        """The base model as the version names it: a hub name, or `./folder` inside the project.

        The leading `./` matters: without it a folder's name is looked up on a hub. An absolute path
        would tie the version to one machine.
        """
        folder = self.root / self.base.path
        if not folder.is_dir():
            return self.base.path
        try:
            return "./" + folder.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            return str(folder.resolve())

    @property
    def algorithm(self) -> str:
        """The method that trained the LoRA."""
        return str(self.adapter.info.get("method", "unknown"))

    def tags(self) -> dict[str, str]:
        """What a version is searched and judged by."""
        tags = {
            "adapter_sha256": self.adapter.sha256,
            "algorithm": self.algorithm,
            "base_model": self.base_reference,
            "base_digest": self.base_digest,
            "reward_version": self.digests["reward"],
            "git_revision": self.git_revision,
            "seed": str(self.seed),
            **{f"dvc.{name}": digest for name, digest in self.digests.items()},
        }
        for gate in self.gates:
            figure = gate.figure if not isinstance(gate.figure, float) else f"{gate.figure:g}"
            tags[f"gate.{gate.name}"] = str(figure)
        return tags
