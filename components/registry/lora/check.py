"""Every gate of a LoRA, the cheap ones first: a file whose header is wrong is not loaded at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.contracts.artifacts import read_json
from components.contracts.errors import DataError
from components.contracts.progress import Progress
from components.contracts.stage import StageContext, git_revision
from components.registry.candidate import Lineage
from components.registry.gates import Gate, lineage_gate
from components.registry.lora.adapter import Adapter, file_gates, number_gates, read_adapter
from components.registry.lora.candidate import LoraCandidate
from components.registry.lora.gates import evaluation_gates
from components.registry.lora.load_back import Probe, draw_probe
from components.registry.settings import Settings
from components.registry.verdict import refuse_failed

LORA = Path("models/lora")
EVALUATION = Path("reports/evaluation.json")
PAGES = (Path("reports/grid.png"), Path("reports/report.html"))
"""What a reviewer looks at."""
INPUTS = {"lora": LORA, "evaluation": EVALUATION}


def check_lora(
    settings: Settings,
    context: StageContext,
    digests: Mapping[str, str],
    prompts: list[str],
    reward: str,
    bar: Progress,
) -> LoraCandidate:
    """The candidate that `models/lora` is.

    Args:
        settings: name and limits.
        context: of the stage.
        digests: of everything that the LoRA came from.
        prompts: examples; the probe is drawn for the first.
        reward: what was said of the reward model.
        bar: advances by two.

    Raises:
        QuarantinedData: a gate failed.
        DataError: LoRA or evaluation cannot be read.
    """
    from components.diffusion.plain import plain_call

    root, limits = context.root, settings.gates
    call = plain_call(context.base)
    report = _evaluation(root / EVALUATION)
    adapter = read_adapter(root / LORA)
    revision = git_revision(root)
    what = "nothing is registered" if reward == "" else f"the LoRA is not registered ({reward} is)"
    gates = [
        *evaluation_gates(report, limits),
        *file_gates(adapter, limits, call.network),
        lineage_gate("lineage", digests, revision),
    ]
    refuse_failed("lora", gates, context, what)
    gates += number_gates(adapter)
    refuse_failed("lora", gates, context, what)
    bar.advance(note="LoRA checked")
    seed = context.seed_for("load_back")
    probe = draw_probe(call, context.compute, root / LORA, prompts[0], seed)
    gates += [probe.gate(), _base_gate(adapter, probe)]
    refuse_failed("lora", gates, context, what)
    bar.advance(note="image drawn")
    return LoraCandidate(
        lineage=Lineage(
            model_name=settings.model_name,
            gates=gates,
            digests=digests,
            git_revision=revision,
            seed=context.seed,
            run_id=context.tracker.run_id,
            root=root,
        ),
        adapter=adapter,
        base=context.base,
        call=call,
        probe=probe,
        evaluation=report,
        example_prompts=prompts,
        reward=reward or "none is registered",
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
