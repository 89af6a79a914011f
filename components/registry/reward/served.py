"""The program that MLflow keeps with a reward model and runs where it is opened.

`mlflow.pyfunc.load_model("models:/konomi-reward/1").predict(frame)` takes a table with the columns
`image` (the bytes of a PNG, JPEG or WebP) and `prompt`, and gives one with the column `score`:
higher is better, about N(0, 1) on the images that the model was trained on. Another device than the
CPU is asked for by `load_model(..., model_config={"device": "cuda"})`.

MLflow copies this file and runs the copy, so it is imported by nobody else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from components.contracts.artifacts import decode_image
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import ModelScorerSettings


class RewardScores(PythonModel):
    """Scores pictures of any size."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the folder of the reward model."""
        compute = ComputeSettings(device=(context.model_config or {}).get("device", "cpu"))
        folder = Path(context.artifacts["reward"]).resolve()
        settings = ModelScorerSettings(path=folder.as_posix())
        self._scorer = build_scorer(settings, compute, folder.parent)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """One score a row, in the order of the rows.

        Raises:
            DataError: a picture does not decode; the message says which row.
        """
        images = [
            decode_image(content, file=Path("image"), place=f"row {number}")
            for number, content in enumerate(model_input["image"])
        ]
        prompts = [str(prompt) for prompt in model_input["prompt"]]
        scores = [0.0] * len(images)
        # A batch is one tensor, so pictures of one size are scored together.
        for size in dict.fromkeys(image.shape for image in images):
            rows = [row for row, image in enumerate(images) if image.shape == size]
            with torch.no_grad():
                found = self._scorer.score(
                    torch.stack([images[row] for row in rows]), [prompts[row] for row in rows]
                )
            for row, score in zip(rows, found.tolist(), strict=True):
                scores[row] = score
        return pd.DataFrame({"score": scores})


set_model(RewardScores())
