"""The shelf of scorers: anything that turns images and their prompts into one number each.

One file a scorer, chosen by `name` in the settings (`settings.py`). Other rooms call
`build_scorer` and know nothing else of this room.
"""

from __future__ import annotations

from pathlib import Path

from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers.settings import ModelScorerSettings, ScorerSettings

__all__ = ["ScorerSettings", "build_scorer"]


def build_scorer(settings: ScorerSettings, compute: ComputeSettings, root: Path) -> Scorer:
    """The scorer that `settings` names, ready to score on the device of `compute`.

    `root` is the project's folder, to which paths in the settings are relative.

    Raises:
        ModelError: the folder of a reward model is missing, truncated or of another kind.
        SettingsError: a dotted path cannot be imported or gives no scorer.
    """
    # Imported here: reading settings must not cost the import of torch.
    if isinstance(settings, ModelScorerSettings):
        from components.rewards.scorers.model import ModelScorer

        return ModelScorer.load(root / settings.path, compute)
    from components.rewards.scorers.python import PythonScorer

    return PythonScorer.build(settings)
