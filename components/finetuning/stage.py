"""The stage's body: what it reads, how the parts are put together, and what it writes."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.artifacts import atomic_path, write_json
from components.contracts.stage import StageContext, log_inputs, write_manifest
from components.finetuning.algorithms.preference_settings import PREFERENCES
from components.finetuning.requirements import check_sampler
from components.finetuning.settings import Settings
from components.rewards.scorers.settings import deciding, trained_models

if TYPE_CHECKING:
    from components.finetuning.interfaces import MethodContext
    from components.finetuning.state import History, RunState
    from components.finetuning.telemetry import Telemetry

TRAIN = Path("data/prompts/train.parquet")
VALIDATION = Path("data/prompts/validation.parquet")
LORA = Path("models/lora")
CURVES = Path("reports/curves.csv")
REPORT = Path("reports/finetuning.json")


def run(settings: Settings, context: StageContext) -> dict[str, float]:
    """Train the LoRA and return the stage's metrics.

    Raises:
        BadInput: a file or a setting that a person can mend.
        QuarantinedData, GuardError: training must not go on.
        TransientError: SIGTERM; the same command goes on from the last checkpoint.
    """
    from components.finetuning.checkpoint import CheckpointStore
    from components.finetuning.interruption import interruptible
    from components.finetuning.telemetry import Telemetry

    started = time.monotonic()
    with interruptible() as interruption:
        digests = _log_inputs(settings, context)
        parts, reached = _method_context(settings, context)
        state = _state(settings, parts)
        store = CheckpointStore(context.work / _run_digest(settings, context, digests, parts))
        telemetry = Telemetry(context.tracker)
        _resume(state, store, telemetry)
        _fit(settings, context, parts, state, store, interruption, telemetry)
        metrics = _write_outs(settings, context, state, reached)
    write_manifest(context, settings, digests, time.monotonic() - started)
    # Only now: until the outs stand, the last checkpoint is what a killed run goes on from.
    store.remove()
    return metrics


def _log_inputs(settings: Settings, context: StageContext) -> dict[str, str]:
    inputs = {"train": TRAIN, "validation": VALIDATION}
    for number, path in enumerate(trained_models(settings.reward), 1):
        inputs["reward" if number == 1 else f"reward {number}"] = Path(path)
    if settings.method.reads_preferences:
        inputs["preferences"] = PREFERENCES
    return log_inputs(context, **inputs)


def _method_context(settings: Settings, context: StageContext) -> tuple[MethodContext, list[str]]:
    """Everything that a method builds upon, and the modules that the LoRA reached."""
    from components.diffusion import load_policy
    from components.finetuning.guards import check_reached
    from components.finetuning.interfaces import MethodContext
    from components.finetuning.prompt_pool import PromptPool
    from components.rewards.scorers import build_scorer

    prompts = PromptPool.read(context.root / TRAIN)
    scorer = build_scorer(settings.reward, context.compute, context.root)
    policy = load_policy(context.base, context.compute)
    check_sampler(settings.method.requires(), policy.sampler.stochastic_steps)
    lora = settings.lora
    reached = policy.add_adapter(
        lora.rank, lora.alpha, lora.targets, generator=context.generator("lora")
    )
    check_reached(reached, lora.targets)
    context.tracker.log_params({"lora_modules": len(reached)})
    # All names are in adapter.json; a terminal needs only to see that it is not zero.
    print(f"finetuning: LoRA in {len(reached)} modules, first {reached[0]}", file=sys.stderr)
    return (
        MethodContext(
            policy, prompts, scorer, context.base.batch_size, context.root, context.generator
        ),
        reached,
    )


def _state(settings: Settings, parts: MethodContext) -> RunState:
    import torch

    from components.finetuning.drift import Tripwire
    from components.finetuning.state import RunState

    method = settings.method
    parameters = [parameter for _, parameter in parts.policy.trainable_parameters()]
    optimizer = torch.optim.AdamW(
        parameters, lr=method.learning_rate, weight_decay=method.weight_decay
    )
    return RunState(
        parts.policy,
        method.build(parts),
        optimizer,
        round_tripwire=Tripwire("training", settings.drift),
        monitor_tripwire=Tripwire("validation", settings.drift),
    )


def _run_digest(
    settings: Settings, context: StageContext, digests: dict[str, str], parts: MethodContext
) -> str:
    """Everything that decides a run's bytes, code included."""
    import torch

    from components.finetuning.checkpoint import code_digest, run_digest

    here = Path(__file__).parent
    return run_digest(
        settings=settings.model_dump(mode="json") | {"reward": deciding(settings.reward)},
        reward=str(getattr(parts.scorer, "identity", "")),
        base=context.base.model_dump(mode="json"),
        compute=context.compute.model_dump(mode="json"),
        seed=context.seed,
        inputs=digests,
        base_digest=parts.policy.digest,
        code=code_digest(here, here.parent / "diffusion"),
        torch=torch.__version__,
    )


def _resume(state: RunState, store: Any, telemetry: Telemetry) -> None:
    checkpoint = store.load()
    if checkpoint is None:
        return
    state.load(*checkpoint)
    print(f"finetuning: going on after round {state.history.rounds}", file=sys.stderr)
    # A resumed run is a new run of the tracker: its curves start at the first update all the same.
    for row in state.history.rows:
        telemetry.log_row(row)


def _fit(
    settings: Settings,
    context: StageContext,
    parts: MethodContext,
    state: RunState,
    store: Any,
    interruption: Any,
    telemetry: Telemetry,
) -> None:
    from components.finetuning.fit import Schedule, Surroundings, fit
    from components.finetuning.guards import FirstUpdate
    from components.finetuning.monitor import Monitor, load_judge
    from components.finetuning.prompt_pool import PromptPool

    monitor = Monitor(
        settings.monitor,
        parts.policy,
        PromptPool.read(context.root / VALIDATION),
        parts.scorer,
        load_judge(settings.monitor.judge) if settings.monitor.judge else None,
        context.seed_for,
    )
    schedule = Schedule(
        settings.rounds,
        settings.method.learning_rate,
        settings.method.warmup_updates,
        settings.method.max_grad_norm,
        settings.monitor.every,
        settings.checkpoint_every,
    )
    first_update = FirstUpdate(
        parts.policy, parts.prompts.prompts[0], context.generator("first update")
    )
    fit(
        state,
        schedule,
        Surroundings(
            context.generator, monitor.look, first_update, store, interruption, telemetry.on_row
        ),
    )


def _write_outs(
    settings: Settings, context: StageContext, state: RunState, reached: list[str]
) -> dict[str, float]:
    from components.finetuning.curves import write_curves

    root, history = context.root, state.history
    with atomic_path(root / LORA) as folder:
        state.policy.save_lora(folder)
        write_json(
            folder / "adapter.json",
            {
                **settings.lora.model_dump(mode="json"),
                "base_digest": state.policy.digest,
                "method": settings.method.name,
                "modules": reached,
            },
        )
    write_curves(root / CURVES, history.rows)
    metrics = _metrics(history, reached)
    write_json(
        root / REPORT,
        {"method": settings.method.name, "stopped_by": history.stopped_by, **metrics},
    )
    if history.stopped_by:
        print(
            f"finetuning: stopped in round {history.rounds + 1}: {history.stopped_by}; "
            "rolled back to the last good adapter",
            file=sys.stderr,
        )
    context.tracker.set_tags({"stopped_by": history.stopped_by or ""})
    for path in (CURVES, REPORT, LORA):
        context.tracker.log_artifact(root / path)
    return metrics


def _metrics(history: History, reached: list[str]) -> dict[str, float]:
    """First and last of what was measured; the same numbers between equal runs."""
    metrics = {
        "rounds": float(history.rounds),
        "updates": float(history.updates),
        "images": float(history.images),
        "lora_modules": float(len(reached)),
        "dropped_groups": _sum_over_rounds(history, "dropped_groups"),
    }
    for name in sorted({name for row in history.rows for name in row if "flat_groups/" in name}):
        metrics[name] = _sum_over_rounds(history, name)
    for rows, names in (
        (history.rows, ("reward", "kl", "clip_fraction", "implicit_acc")),
        (history.looks, ("judge", "validation_reward", "brightness", "saturation", "diversity")),
    ):
        # Parts of several rewards stand beside the reward as `reward/<label>`.
        parts = sorted({name for row in rows for name in row if name.split("/")[0] in names})
        for name in dict.fromkeys((*names, *parts)):
            values = [row[name] for row in rows if name in row]
            if values:
                metrics |= {f"{name}_first": values[0], f"{name}_last": values[-1]}
    return metrics


def _sum_over_rounds(history: History, name: str) -> float:
    """A figure of rounds stands in every row of its round and counts once."""
    return float(sum({row["round"]: row.get(name, 0.0) for row in history.rows}.values()))
