"""What may become a version, as the common part of the registry sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from components.registry.gates import Gate


@dataclass(frozen=True)
class Lineage:
    """The name under which a model is registered, its verdicts, and where it came from."""

    model_name: str
    gates: Sequence[Gate]
    digests: Mapping[str, str]
    """DVC's digest of each input, by name: `prompts`, `preferences`, `reward`, `lora` ..."""
    git_revision: str
    seed: int
    run_id: str | None
    """The tracked run of this stage, which holds the pictures; None where runs are not kept."""
    root: Path

    def tags(self) -> dict[str, str]:
        """What every version is searched and judged by."""
        tags = {
            "git_revision": self.git_revision,
            "seed": str(self.seed),
            **{f"dvc.{name}": digest for name, digest in self.digests.items()},
        }
        for gate in self.gates:
            figure = gate.figure if not isinstance(gate.figure, float) else f"{gate.figure:g}"
            tags[f"gate.{gate.name}"] = str(figure)
        return tags


class LoadBack(NamedTuple):
    """Whether the registry gave back what was put into it."""

    found: str
    """What was compared, for the version's tag."""
    trouble: str
    """What is wrong in one clause, empty if nothing is."""


class Candidate(Protocol):
    """A model that passed its gates, and all that is needed to make a version of it."""

    @property
    def lineage(self) -> Lineage:
        """Where it came from."""

    @property
    def kind(self) -> str:
        """`lora` or `reward`."""

    @property
    def description(self) -> str:
        """Of the registered model, all versions of it."""

    @property
    def digest(self) -> tuple[str, str]:
        """Tag and value that two candidates share when their files are the same."""

    def params(self) -> dict[str, str]:
        """What the model was made with, for its own page."""

    def facts(self) -> dict[str, str]:
        """What names the model: in the receipt, and among the tags of its version."""

    def card(self, version: str) -> str:
        """Markdown for the version's page."""

    def log(self, model_id: str) -> str:
        """Write its files as the logged model `model_id`; returns the address of what was written.

        The process-wide address of the store is set.
        """

    def load_back(self, uri: str) -> LoadBack:
        """Use the version at `uri` (`models:/name/version`) as a stranger would.

        Any error of a library is for the caller: it means that the version cannot be used.
        """
