"""Stage 6: gates, then versions in the model registry that a reviewer can trust.

Two models are registered, each as its own, by the same steps: gates, a version, loaded back and
compared, the alias `challenger`, a model card.

`reward/`   reads `models/reward`, `reports/rewards.json`, `reports/rewards_audit.json`
`lora/`     reads `models/lora`, `reports/evaluation.json`, its pages, and the base model

Writes `reports/receipt.json`. A reward model that fails a gate takes the LoRA with it; a LoRA that
fails one leaves the reward model's version.

Besides the stage: `versions` for showing and `promote`, `reject` for a reviewer's decision.
"""

from components.registry.promote import promote, reject
from components.registry.read import VersionSummary, versions

__all__ = ["VersionSummary", "promote", "reject", "versions"]
