"""Every gate of a reward model, the cheap ones first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json
from components.contracts.errors import DataError
from components.contracts.progress import Progress
from components.contracts.stage import StageContext, git_revision
from components.registry.candidate import Lineage
from components.registry.gates import lineage_gate
from components.registry.reward.candidate import RewardCandidate
from components.registry.reward.folder import file_gates, number_gate, read_folder
from components.registry.reward.gates import figure_gates
from components.registry.reward.load_back import score_probe
from components.registry.settings import RewardSettings
from components.registry.verdict import refuse_failed

REWARD = Path("models/reward")
REPORT = Path("reports/rewards.json")
AUDIT = Path("reports/rewards_audit.json")
AUDIT_PAGE = Path("reports/rewards_audit.html")
REPORTS = {"reward_report": REPORT, "reward_audit": AUDIT}
"""By the name under which the lineage keeps their digests."""
REFUSED = "nothing is registered, since the reward model is refused"
SCHEMA_VERSION = 2


def check_reward(
    settings: RewardSettings,
    context: StageContext,
    digests: Mapping[str, str],
    prompts: list[str],
    bar: Progress,
) -> RewardCandidate:
    """The candidate that `models/reward` is.

    Args:
        settings: name and limits.
        context: of the stage.
        digests: of everything that the reward model came from.
        prompts: examples; the probe is scored for them.
        bar: advances by one.

    Raises:
        QuarantinedData: a gate failed.
        DataError, ModelError: folder or reports cannot be read.
        GuardError: a score is not finite.
    """
    root, limits = context.root, settings.gates
    report, audit = _report(root / REPORT), _audit(root / AUDIT)
    folder = read_folder(root / REWARD)
    revision = git_revision(root)
    gates = [
        *figure_gates(report, audit, limits),
        *file_gates(folder, limits),
        lineage_gate("reward_lineage", digests, revision),
    ]
    refuse_failed("reward", gates, context, REFUSED)
    gates.append(number_gate(folder))
    refuse_failed("reward", gates, context, REFUSED)
    generator = context.generator("reward probe")
    probe = score_probe(folder.path, prompts, generator, context.compute.threads)
    gates.append(probe.gate())
    refuse_failed("reward", gates, context, REFUSED)
    bar.advance(note="reward model checked")
    return RewardCandidate(
        lineage=Lineage(
            model_name=settings.model_name,
            gates=gates,
            digests=digests,
            git_revision=revision,
            seed=context.seed,
            run_id=context.tracker.run_id,
            root=root,
        ),
        folder=folder,
        probe=probe,
        report=report,
        audit=audit,
        example_prompts=prompts,
    )


def _report(path: Path) -> dict[str, Any]:
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema_version") != SCHEMA_VERSION:
        raise DataError(
            f"is no report of version {SCHEMA_VERSION}",
            file=path,
            allowed=f"schema_version: {SCHEMA_VERSION}",
        )
    return report


def _audit(path: Path) -> dict[str, Any] | None:
    """None where nobody audited: then there is no file, or one without a verdict."""
    audit = read_json(path) if path.exists() else None
    return audit if isinstance(audit, dict) and audit.get("passed") is not None else None
