"""Stage 6: gates, then a version in the model registry that a reviewer can trust.

Reads `reports/evaluation.json`, `reports/grid.png`, `reports/report.html`, `models/lora`, the base
model, and for the lineage the digests of prompts, preferences and reward model. A LoRA that passes
every gate becomes a version with the alias `challenger`, loaded back from the registry and compared
image by image before the stage calls itself done. Writes `reports/receipt.json`. A failed gate
registers nothing.

Besides the stage: `versions` for showing and `promote`, `reject` for a reviewer's decision.
"""

from components.registry.promote import promote, reject
from components.registry.read import VersionSummary, versions

__all__ = ["VersionSummary", "promote", "reject", "versions"]
