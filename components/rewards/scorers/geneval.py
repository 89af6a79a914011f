"""GenEval: are the objects there, so many, of that colour and in that place? `{name: geneval}`.

GenEval (2310.11513): a detector finds objects, CLIP names their colours, and the rules of
`geneval_rules` compare both with what the prompt asks for, which stands in a file in the layout of
GenEval's `evaluation_metadata.jsonl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes, in_equal_parts
from components.rewards.scorers.clip_towers import ClipTowers
from components.rewards.scorers.geneval_colours import ColourReader
from components.rewards.scorers.geneval_detectors import Detector, load_detector
from components.rewards.scorers.geneval_rules import (
    Detection,
    Limits,
    Task,
    agreement,
    correct,
    keep,
)
from components.rewards.scorers.geneval_tasks import Tasks
from components.rewards.scorers.hub import located
from components.rewards.scorers.settings import GenevalScorerSettings


class GenevalScorer:
    """1 where a picture shows what its prompt asks for; with the soft score also part of it."""

    differentiable = False

    def __init__(
        self,
        tasks: Tasks,
        detector: Detector,
        colours: ColourReader | None,
        settings: GenevalScorerSettings,
        device: torch.device,
    ) -> None:
        """`colours` may be None where no task asks for a colour."""
        self._tasks, self._detector, self._colours = tasks, detector, colours
        self._limits, self._device = _limits(settings), device
        self._rule = correct if settings.score == "strict" else agreement
        self._batch_size = settings.batch_size

    @classmethod
    def build(
        cls, settings: GenevalScorerSettings, compute: ComputeSettings, root: Path
    ) -> GenevalScorer:
        """Read the tasks, and open the detector and the CLIP that `settings` name.

        Raises:
            DataError: the file of tasks is missing, or a line of it is none.
            ModelError: a model is missing, truncated or of another kind.
            SettingsError: the detector does not know a class that the tasks speak of.
        """
        tasks = Tasks.read(root / settings.tasks)
        device, limits = find_device(compute), _limits(settings)
        least = min(limits.threshold, limits.counting_threshold)
        detector = load_detector(located(settings.detector, root), tasks.names, least, device)
        colours = None
        if tasks.coloured:
            clip = located(settings.clip, root)
            towers = ClipTowers.load(clip, clip, batch_size=1, even_crop=True)
            colours = ColourReader(towers.to(device))
        return cls(tasks, detector, colours, settings, device)

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """0 or 1 with the strict score, a share in [0, 1] with the soft one.

        Raises:
            DataError: a prompt has no task.
        """
        tasks, pictures = self._tasks.of(prompts), as_bytes(images)

        def judged(rows: Tensor) -> Tensor:
            part = [tasks[row] for row in rows.tolist()]
            found = self._detector.find(pictures[rows], [task.names for task in part])
            scores = map(self._judged, pictures[rows], found, part)
            return torch.tensor([float(score) for score in scores], device=self._device)

        return in_equal_parts(len(pictures), self._batch_size, judged)

    def _judged(
        self, image: UInt8[Tensor, "3 h w"], detections: list[Detection], task: Task
    ) -> float:
        found = keep(detections, task, self._limits)
        return self._rule(found, task, partial(self._colours_of, image), self._limits)

    def _colours_of(
        self, image: UInt8[Tensor, "3 h w"], detections: Sequence[Detection]
    ) -> list[str]:
        assert self._colours is not None, "a task with a colour has a reader of colours"
        return self._colours.colours(image, detections)


def _limits(settings: GenevalScorerSettings) -> Limits:
    return Limits(
        threshold=settings.threshold,
        counting_threshold=settings.counting_threshold,
        max_objects=settings.max_objects,
        max_overlap=settings.max_overlap,
        position_margin=settings.position_margin,
    )
