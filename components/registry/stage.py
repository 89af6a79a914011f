"""The body of stage 6: the reward model first, then the LoRA that climbed it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.contracts.artifacts import write_bytes, write_json, write_text
from components.contracts.errors import DataError, TransientError
from components.contracts.progress import progress
from components.contracts.stage import StageContext, log_inputs
from components.contracts.tables import PROMPTS, read_table
from components.registry.candidate import Candidate
from components.registry.lora.check import INPUTS, PAGES, check_lora
from components.registry.markdown import REVIEW
from components.registry.register import register
from components.registry.reward.candidate import RewardCandidate
from components.registry.reward.card import CHARTS
from components.registry.reward.check import AUDIT_PAGE, REPORTS, REWARD, check_reward
from components.registry.reward.picture import review_picture
from components.registry.session import CHALLENGER
from components.registry.settings import Settings
from components.registry.verdict import log_verdict
from components.tracking.environment import is_off

RECEIPT = Path("reports/receipt.json")
TEST_PROMPTS = Path("data/prompts/test.parquet")
LABELS = {"prompts": Path("data/prompts"), "preferences": Path("data/preferences")}
CARDS = {"lora": "model_card.md", "reward": "reward_card.md"}


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Pass the gates, register, write the receipt; returns the metrics.

    A reward model that is refused takes the LoRA with it: nothing that climbed it can be trusted. A
    LoRA that is refused leaves the version of the reward model in the registry.

    Raises:
        QuarantinedData: a gate failed; the earlier receipt stays.
        GuardError: the registry gave back another model.
        TransientError: the registry or the tracking store is away.
    """
    root, tracker = context.root, context.tracker
    if tracker.run_id is None and not is_off():
        raise TransientError("the tracking store is away, and a version needs its run")
    prompts = _example_prompts(root / TEST_PROMPTS)
    digests = log_inputs(context, **LABELS)
    receipt: dict[str, Any] = {"schema_version": 2, "reward": None, "lora": None}
    metrics: dict[str, float] = {}
    reward = ""
    trained = (root / REWARD).exists()
    if trained:
        digests |= log_inputs(context, reward=REWARD)
    wanted = settings.reward if trained else None
    with progress("registry", 5 if wanted else 3) as bar:
        if wanted is not None:
            looked_at = {name: path for name, path in REPORTS.items() if (root / path).exists()}
            digests |= log_inputs(context, **looked_at)
            for page in (*looked_at.values(), AUDIT_PAGE):
                _show(root / page, context)
            found = check_reward(wanted, context, dict(digests), prompts, bar)
            _draw(found, context)
            receipt["reward"] = _register(found, context)
            reward = f"{wanted.model_name} version {receipt['reward']['version']}"
            metrics |= _metrics("reward_", receipt["reward"])
            bar.advance(note="reward model registered and loaded back")
        digests |= log_inputs(context, **INPUTS)
        for page in PAGES:
            tracker.log_artifact(page, REVIEW)
        lora = check_lora(settings, context, digests, prompts, reward, bar)
        receipt["lora"] = _register(lora, context)
        metrics |= _metrics("", receipt["lora"])
        bar.advance(note="LoRA registered and loaded back")
    write_json(root / RECEIPT, receipt)
    tracker.log_artifact(RECEIPT)
    return metrics


def _register(candidate: Candidate, context: StageContext) -> dict[str, Any]:
    """Make it a version and say so in the run; returns its part of the receipt, for which equal
    inputs and an equal registry give equal bytes."""
    kind, lineage = candidate.kind, candidate.lineage
    version = register(candidate)
    log_verdict(kind, lineage.gates, context)
    write_text(context.work / CARDS[kind], candidate.card(str(version)))
    _show(context.work / CARDS[kind], context)
    tag = "registered" if kind == "lora" else f"registered_{kind}"
    context.tracker.set_tags({tag: f"{lineage.model_name} version {version}"})
    return {
        "model_name": lineage.model_name,
        "version": version,
        "alias": CHALLENGER,
        **candidate.facts(),
        "inputs": dict(lineage.digests),
        "gates": [asdict(gate) for gate in lineage.gates],
    }


def _draw(reward: RewardCandidate, context: StageContext) -> None:
    """The picture of the reward model's card."""
    picture = review_picture(reward.report, reward.audit)
    if picture is not None:
        write_bytes(context.work / CHARTS, picture)
        _show(context.work / CHARTS, context)


def _metrics(prefix: str, receipt: dict[str, Any]) -> dict[str, float]:
    return {
        f"{prefix}version": float(receipt["version"]),
        f"{prefix}gates_passed": float(len(receipt["gates"])),
    }


def _show(path: Path, context: StageContext) -> None:
    """Put a file where a reviewer finds it."""
    if path.exists():
        context.tracker.log_artifact(path, REVIEW)


def _example_prompts(path: Path) -> list[str]:
    prompts = read_table(path, PROMPTS).column("prompt").slice(0, 2).to_pylist()
    if not prompts:
        raise DataError("holds no prompt", file=path, allowed="at least one row")
    return [str(prompt) for prompt in prompts]
