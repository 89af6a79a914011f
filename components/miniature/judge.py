"""The judge: reads back from a picture which objects it shows, how many, what colour, what place.

In the manner of GenEval, a prompt counts as fulfilled only when everything it asks for is read.
The judge is the held-out evaluation of the miniature and the eyes of its simulated people; it is
never a reward. `Judge.error_rate` says how often it misreads held-out renders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from components.miniature.scenes import Scene, parse_prompt
from components.miniature.world import COLOURS, IMAGE_SIZE, OBJECTS, PLACES

JUDGE_DIR: Final = Path(__file__).parent / "judge"
MAX_COUNT: Final = 5
COLOUR_NAMES: Final = (None, *COLOURS)
"""What the colour output means; None (index 0) is the artist's own colours."""
PLACE_NAMES: Final = (None, *PLACES)
"""What the place output means; None (index 0) is plain paper."""


@dataclass(frozen=True)
class SceneReading:
    """What the judge believes to see in b pictures.

    Attributes:
        count_log_prob: log-probability of each count 0..5 of each object, [b, 32, 6].
        colour_log_prob: of the colour of the painted objects, [b, 9], see `COLOUR_NAMES`.
        place_log_prob: of the place, [b, 8], see `PLACE_NAMES`.
    """

    count_log_prob: Tensor
    colour_log_prob: Tensor
    place_log_prob: Tensor

    @property
    def counts(self) -> Tensor:
        """The most probable count of each object, int64 [b, 32] in the order of `OBJECTS`."""
        return self.count_log_prob.argmax(-1)

    @property
    def colour(self) -> Tensor:
        """The most probable colour, int64 [b], an index of `COLOUR_NAMES`."""
        return self.colour_log_prob.argmax(-1)

    @property
    def place(self) -> Tensor:
        """The most probable place, int64 [b], an index of `PLACE_NAMES`."""
        return self.place_log_prob.argmax(-1)

    def scenes(self) -> list[Scene]:
        """Return the most probable scene of each picture (several objects share the colour)."""
        rows = zip(self.counts.tolist(), self.colour.tolist(), self.place.tolist(), strict=True)
        return [
            Scene(
                tuple((OBJECTS[i], n, COLOUR_NAMES[colour]) for i, n in enumerate(counts) if n),
                PLACE_NAMES[place],
            )
            for counts, colour, place in rows
        ]


class JudgeNetwork(nn.Module):
    """A small residual convolutional network with one output group per attribute."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Conv2d(3, width, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.stages = nn.ModuleList(
            [
                _Block(width, width * 2, 2),
                _Block(width * 2, width * 2, 1),
                _Block(width * 2, width * 4, 2),
                _Block(width * 4, width * 4, 1),
            ]
        )
        self.hidden = nn.Linear(width * 8, width * 8)
        self.counts = nn.Linear(width * 8, len(OBJECTS) * (MAX_COUNT + 1))
        self.colour = nn.Linear(width * 8, len(COLOUR_NAMES))
        self.place = nn.Linear(width * 8, len(PLACE_NAMES))

    def forward(self, images: Tensor) -> SceneReading:
        """Read float pictures [b, 3, 64, 64] in [-1, 1]."""
        x = functional.relu(self.stem_norm(self.stem(images)))
        for stage in self.stages:
            x = stage(x)
        # The mean counts, the maximum recognises.
        x = torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1)
        x = functional.relu(self.hidden(x))
        counts = self.counts(x).unflatten(-1, (len(OBJECTS), MAX_COUNT + 1)).float()
        return SceneReading(
            counts.log_softmax(-1),
            self.colour(x).float().log_softmax(-1),
            self.place(x).float().log_softmax(-1),
        )


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.skip = (
            nn.Identity()
            if channels == out and stride == 1
            else nn.Conv2d(channels, out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        out: Tensor = functional.relu(self.norm2(self.conv2(y)) + self.skip(x))
        return out


class Judge:
    """The trained judge. Pure: reads tensors, changes nothing, draws no random numbers.

    Attributes:
        error_rate: share of held-out renders whose caption `correct` denies.
        report: the whole judge/report.json.
    """

    def __init__(self, network: JudgeNetwork, report: dict[str, object]) -> None:
        self._network = network.eval().requires_grad_(False)
        self.report = report
        self.error_rate = float(report.get("error_rate", float("nan")))  # type: ignore[arg-type]

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 64) -> SceneReading:
        """Read pictures.

        Args:
            images: uint8 [b, 3, 64, 64], sRGB.
            batch_size: how many are read at once.

        Raises:
            ValueError: another dtype or shape.
        """
        shape = (3, IMAGE_SIZE, IMAGE_SIZE)
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != shape:
            raise ValueError(
                f"the judge reads uint8 [b, 3, {IMAGE_SIZE}, {IMAGE_SIZE}], "
                f"not {images.dtype} {list(images.shape)}"
            )
        parts = [self._network(p.float() / 127.5 - 1) for p in images.split(batch_size)]
        return SceneReading(
            torch.cat([part.count_log_prob for part in parts]),
            torch.cat([part.colour_log_prob for part in parts]),
            torch.cat([part.place_log_prob for part in parts]),
        )

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the probability that everything the prompt asks for is there.

        The product over what the prompt names: the exact count of each named object, its colour,
        the place. What it does not name is not asked.

        Args:
            images: uint8 [b, 3, 64, 64].
            prompts: b captions of this world.

        Returns:
            float32 [b] in [0, 1].

        Raises:
            ValueError: a prompt is not of this world, or the lengths differ.
        """
        return self.log_score(images, prompts).exp()

    def log_score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the logarithm of `score`, float32 [b], at most 0."""
        scenes = _scenes(images, prompts)
        reading = self.read(images)
        rows = []
        for i, scene in enumerate(scenes):
            terms = [reading.count_log_prob[i, OBJECTS.index(o), n] for o, n, _ in scene.objects]
            for _, _, colour in scene.objects:
                if colour is not None:
                    terms.append(reading.colour_log_prob[i, COLOUR_NAMES.index(colour)])
            if scene.background is not None:
                terms.append(reading.place_log_prob[i, PLACE_NAMES.index(scene.background)])
            rows.append(torch.stack(terms).sum())
        return torch.stack(rows) if rows else torch.zeros(0)

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return whether the most probable reading is what the prompt asks for.

        Every count must be exact, also the zero of the objects that the prompt does not name.
        The colour and the place count only when the prompt names them.

        Args:
            images: uint8 [b, 3, 64, 64].
            prompts: b captions of this world.

        Returns:
            bool [b].

        Raises:
            ValueError: a prompt is not of this world, or the lengths differ.
        """
        scenes = _scenes(images, prompts)
        reading = self.read(images)
        counts, colours, places = reading.counts, reading.colour.tolist(), reading.place.tolist()
        rows = []
        for i, scene in enumerate(scenes):
            wanted = torch.zeros(len(OBJECTS), dtype=torch.long)
            for name, count, _ in scene.objects:
                wanted[OBJECTS.index(name)] = count
            asked = {colour for _, _, colour in scene.objects if colour is not None}
            rows.append(
                bool(torch.equal(counts[i].cpu(), wanted))
                and asked <= {COLOUR_NAMES[colours[i]]}
                and scene.background in (None, PLACE_NAMES[places[i]])
            )
        return torch.tensor(rows, dtype=torch.bool)


def load(folder: Path = JUDGE_DIR) -> Judge:
    """Read the judge's weights and its report from `folder`."""
    config = json.loads((folder / "config.json").read_text())
    network = JudgeNetwork(config["width"])
    weights = load_file(folder / "model.safetensors")
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    )
    report = folder / "report.json"
    return Judge(network, json.loads(report.read_text()) if report.exists() else {})


def _scenes(images: Tensor, prompts: Sequence[str]) -> list[Scene]:
    if len(images) != len(prompts):
        raise ValueError(f"{len(images)} pictures but {len(prompts)} prompts")
    return [parse_prompt(prompt) for prompt in prompts]
