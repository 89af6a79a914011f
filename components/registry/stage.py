"""The body of stage 6."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json, write_json, write_text
from components.contracts.errors import DataError, QuarantinedData, TransientError
from components.contracts.progress import Progress, progress
from components.contracts.stage import StageContext, git_revision, log_inputs
from components.contracts.tables import PROMPTS, read_table
from components.registry.adapter import Adapter, file_gates, number_gates, read_adapter
from components.registry.candidate import Candidate
from components.registry.card import GRID, model_card
from components.registry.gates import Gate, evaluation_gates, failed
from components.registry.load_back import Probe, draw_probe
from components.registry.register import register
from components.registry.session import CHALLENGER
from components.registry.settings import Settings
from components.tracking.environment import is_off

LORA = Path("models/lora")
EVALUATION = Path("reports/evaluation.json")
REVIEW = str(Path(GRID).parent)
"""Folder of the run in which a reviewer finds what to look at."""
PAGES = (Path("reports/grid.png"), Path("reports/report.html"))
RECEIPT = Path("reports/receipt.json")
TEST_PROMPTS = Path("data/prompts/test.parquet")
INPUTS = {
    "prompts": Path("data/prompts"),
    "preferences": Path("data/preferences"),
    "reward": Path("models/reward"),
    "lora": LORA,
    "evaluation": EVALUATION,
}


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Pass the gates, register, write the receipt; returns the metrics.

    Raises:
        QuarantinedData: a gate failed; nothing is registered and the earlier receipt stays.
        GuardError: the registry gave back another LoRA.
        TransientError: the registry or the tracking store is away.
    """
    root, tracker = context.root, context.tracker
    if tracker.run_id is None and not is_off():
        raise TransientError("the tracking store is away, and a version needs its run")
    with progress("registry", 3) as bar:
        candidate, probe = _check(settings, context, bar)
        version = register(candidate, probe)
        bar.advance(note="registered and loaded back")
    _log_verdict(candidate.gates, context)
    card = context.work / "model_card.md"
    write_text(card, model_card(candidate, str(version)))
    tracker.log_artifact(card, REVIEW)
    write_json(root / RECEIPT, _receipt(candidate, version))
    tracker.log_artifact(RECEIPT)
    tracker.set_tags({"registered": f"{settings.model_name} version {version}"})
    return {"version": float(version), "gates_passed": float(len(candidate.gates))}


def _check(settings: Settings, context: StageContext, bar: Progress) -> tuple[Candidate, Probe]:
    """Every gate, the cheap ones first: a file whose header is wrong is not loaded at all."""
    from components.diffusion.plain import plain_call

    root = context.root
    call = plain_call(context.base)
    digests = log_inputs(context, **INPUTS)
    report = _evaluation(root / EVALUATION)
    prompts = _example_prompts(root / TEST_PROMPTS)
    for page in PAGES:
        context.tracker.log_artifact(page, REVIEW)
    adapter = read_adapter(root / LORA)
    revision = git_revision(root)
    gates = [
        *evaluation_gates(report, settings.gates),
        *file_gates(adapter, settings.gates, call.network),
        _lineage_gate(digests, revision),
    ]
    _refuse_failed(gates, context)
    gates += number_gates(adapter)
    _refuse_failed(gates, context)
    bar.advance(note="files checked")
    seed = context.seed_for("load_back")
    probe = draw_probe(call, context.compute, root / LORA, prompts[0], seed)
    gates += [probe.gate(), _base_gate(adapter, probe)]
    _refuse_failed(gates, context)
    bar.advance(note="image drawn")
    height, width = probe.image.shape[-2:]
    candidate = Candidate(
        model_name=settings.model_name,
        adapter=adapter,
        base=context.base,
        call=call,
        base_digest=probe.base_digest,
        image_size=(height, width),
        gates=gates,
        evaluation=report,
        digests=digests,
        git_revision=revision,
        seed=context.seed,
        example_prompts=prompts,
        run_id=context.tracker.run_id,
        root=root,
    )
    return candidate, probe


def _receipt(candidate: Candidate, version: int) -> dict[str, Any]:
    """What was registered; equal inputs and an equal registry give equal bytes."""
    return {
        "schema_version": 1,
        "model_name": candidate.model_name,
        "version": version,
        "alias": CHALLENGER,
        "adapter_sha256": candidate.adapter.sha256,
        "algorithm": candidate.algorithm,
        "base_model": candidate.base_reference,
        "base_digest": candidate.base_digest,
        "inputs": dict(candidate.digests),
        "gates": [asdict(gate) for gate in candidate.gates],
    }


def _refuse_failed(gates: Sequence[Gate], context: StageContext) -> None:
    broken = failed(gates)
    if not broken:
        return
    _log_verdict(gates, context)
    reasons = "; ".join(gate.line() for gate in broken)
    raise QuarantinedData(f"nothing is registered: {reasons}")


def _log_verdict(gates: Sequence[Gate], context: StageContext) -> None:
    """The verdict goes to the tracker, passed or not; a refusal leaves no other trace."""
    verdict = context.work / "gates.json"
    write_json(verdict, [asdict(gate) for gate in gates])
    context.tracker.log_artifact(verdict)
    context.tracker.set_tags(
        {
            f"gate.{gate.name}": ("passed: " if gate.passed else "FAILED: ") + gate.line()
            for gate in gates
        }
    )
    context.tracker.log_metrics(
        {f"gate/{gate.name}": gate.figure for gate in gates if isinstance(gate.figure, int | float)}
    )


def _lineage_gate(digests: dict[str, str], revision: str) -> Gate:
    known = {**digests, "git": "" if revision == "unknown" else revision}
    missing = sorted(name for name, digest in known.items() if not digest)
    return Gate(
        "lineage",
        f"no {missing[0]}" if missing else "complete",
        "complete",
        not missing,
        "git revision and the digest of every input",
    )


def _base_gate(adapter: Adapter, probe: Probe) -> Gate:
    trained_on = adapter.info.get("base_digest")
    return Gate(
        "base",
        probe.base_digest[:12],
        str(trained_on)[:12],
        trained_on == probe.base_digest,
        "the LoRA was trained on this base model",
    )


def _evaluation(path: Path) -> dict[str, Any]:
    report = read_json(path)
    if not isinstance(report, dict) or report.get("schema_version") != 1:
        raise DataError("is no evaluation of version 1", file=path, allowed="schema_version: 1")
    return report


def _example_prompts(path: Path) -> list[str]:
    prompts = read_table(path, PROMPTS).column("prompt").slice(0, 2).to_pylist()
    if not prompts:
        raise DataError("holds no prompt", file=path, allowed="at least one row")
    return [str(prompt) for prompt in prompts]
