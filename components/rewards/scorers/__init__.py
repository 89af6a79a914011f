"""The shelf of scorers: anything that turns images and their prompts into one number each.

One file a scorer, chosen by `name` in the settings (`settings.py`). Other rooms call
`build_scorer` and know nothing else of this room.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings, PluginSettings
from components.rewards.scorers.settings import ScorerSettings

__all__ = ["ScorerSettings", "build_scorer"]

SCORERS = {
    "model": "components.rewards.scorers.model:ModelScorer",
    "python": "components.rewards.scorers.python:PythonScorer",
    "remote": "components.rewards.scorers.remote:RemoteScorer",
    "several": "components.rewards.scorers.several:SeveralScorer",
    "clip_score": "components.rewards.scorers.clip_score:ClipScorer",
    "pick_score": "components.rewards.scorers.pick_score:PickScorer",
    "hps_v2": "components.rewards.scorers.hps_v2:HpsV2Scorer",
    "aesthetic": "components.rewards.scorers.aesthetic:AestheticScorer",
    "image_reward": "components.rewards.scorers.image_reward:ImageRewardScorer",
    "hps_v3": "components.rewards.scorers.hps_v3:HpsV3Scorer",
}
"""Class of each name; it has a classmethod `build(settings, compute, root)`."""


def build_scorer(
    settings: ScorerSettings, compute: ComputeSettings, root: Path, what: str = ""
) -> Scorer:
    """The scorer that `settings` names, checked, ready to score on the device of `compute`.

    Args:
        settings: told apart by `name`.
        compute: the device.
        root: the project's folder, to which paths in the settings are relative.
        what: names the scorer in messages; its own name unless given.

    Raises:
        ModelError: the files of a model are missing, truncated or of another kind.
        SettingsError: the settings lead to no scorer.
    """
    # Imported here: reading settings must not cost the import of torch.
    from components.rewards.scorers.checked import CheckedScorer

    module, _, name = SCORERS[settings.name].partition(":")
    scorer = getattr(import_module(module), name).build(settings, compute, root)
    if settings.name == "several":
        # Each part is checked by its own name.
        return scorer
    named = settings.callable if isinstance(settings, PluginSettings) else settings.name
    return CheckedScorer(scorer, what or f"reward {named}")
