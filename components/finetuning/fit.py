"""The one loop: collect a round, make its updates, save. It knows no method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.contracts.progress import progress
from components.finetuning.checkpoint import CheckpointStore
from components.finetuning.curves import Row
from components.finetuning.drift import Tripwire
from components.finetuning.guards import FirstUpdate, check_finite, check_start
from components.finetuning.interfaces import LossOutput, Round
from components.finetuning.interruption import Interruption
from components.finetuning.state import RunState


@dataclass(frozen=True)
class Schedule:
    """How long, how far at most, and how often to look and to save."""

    rounds: int
    learning_rate: float
    warmup_updates: int
    max_grad_norm: float
    look_every: int
    checkpoint_every: int


@dataclass(frozen=True)
class Surroundings:
    """What the loop calls and does not know."""

    generator: Callable[..., torch.Generator]
    """The generator of a purpose and a round: `generator("round", 3)`."""
    look: Callable[[], Row]
    """The monitor: `judge`, `validation_reward` and drift figures of the policy as it is."""
    first_update: FirstUpdate
    """The guard around the first optimizer step."""
    store: CheckpointStore
    interruption: Interruption
    on_row: Callable[[Row], None]
    """Told every new row of the curves."""


def fit(state: RunState, schedule: Schedule, around: Surroundings) -> None:
    """Train from `state` to the last round, or until a tripwire ends the run; `state` is changed in
    place.

    The monitor looks before the first round, every `look_every` rounds, and at the end.

    Raises:
        GuardError: a guard tripped before its optimizer step.
        QuarantinedData: rewards that must not be trained on.
        TransientError: SIGTERM; the last checkpoint holds all finished rounds up to its own.
    """
    history = state.history
    with progress("finetuning", schedule.rounds) as bar:
        bar.advance(history.rounds)
        while history.rounds < schedule.rounds:
            due = history.rounds % schedule.look_every == 0
            seen = _look(state, around) if due else {}
            if history.stopped_by:
                break
            collected = _collect(state, around)
            if history.stopped_by:
                break
            _train(state, schedule, around, collected, seen)
            history.rounds += 1
            _save_if_due(state, schedule, around)
            bar.advance(note=_note(history.rows))
    if history.stopped_by:
        # What the adapter that the run fell back to looks like, for the report.
        history.looks.append({"round": history.rounds, **around.look()})
    else:
        _look_at_the_end(state, around)


def _look(state: RunState, around: Surroundings) -> Row:
    seen = around.look()
    state.history.looks.append({"round": state.history.rounds, **seen})
    _check_drift(state, state.monitor_tripwire, seen)
    return seen


def _look_at_the_end(state: RunState, around: Surroundings) -> None:
    """The last look follows the last update: in the curves it has a row of its own."""
    seen, history = _look(state, around), state.history
    row = {
        "update": history.updates + 1,
        "round": history.rounds + 1,
        "images": history.images,
        **_of_the_look(seen),
    }
    history.rows.append(row)
    around.on_row(row)


def _of_the_look(seen: Row) -> dict[str, float]:
    """What the curves tell of a look; other drift figures would mix with those of the round."""
    told = {name: seen[name] for name in seen if name.startswith(("judge", "validation_reward"))}
    if "diversity" in seen:
        told["validation_diversity"] = seen["diversity"]
    return told


def _check_drift(state: RunState, tripwire: Tripwire, figures: Mapping[str, float]) -> None:
    """Roll back to the last adapter whose images passed, and say why."""
    reason = tripwire.check(figures, state.adapter())
    if reason:
        state.load_adapter(tripwire.good)
        state.history.stopped_by = reason


def _collect(state: RunState, around: Surroundings) -> Round[Any]:
    generator = around.generator("round", state.history.rounds)
    collected = state.method.experience.collect(state.policy, generator)
    state.history.images += collected.num_images
    _check_drift(state, state.round_tripwire, collected.drift)
    return collected


def _train(
    state: RunState, schedule: Schedule, around: Surroundings, collected: Round[Any], seen: Row
) -> None:
    """The updates of one round, and a row of the curves for each."""
    history = state.history
    generator = around.generator("updates", history.rounds)
    looked = _of_the_look(seen)
    # Set before the first step: from here on SIGTERM waits for the round's end.
    around.interruption.unsaved = True
    for batches in collected.updates:
        figures = _update(state, schedule, around, batches, generator)
        row = {
            "update": history.updates,
            "round": history.rounds + 1,
            "images": history.images,
            **collected.metrics,
            **collected.drift,
            **figures,
            **looked,
        }
        looked = {}
        history.rows.append(row)
        around.on_row(row)


def _update(
    state: RunState,
    schedule: Schedule,
    around: Surroundings,
    batches: Sequence[Any],
    generator: torch.Generator,
) -> dict[str, float]:
    """One optimizer step on the gradient of the mean loss over all samples of the micro-batches."""
    num_samples = sum(len(batch) for batch in batches)
    shares, outputs = [], []
    state.optimizer.zero_grad(set_to_none=True)
    for batch in batches:
        share = len(batch) / num_samples
        output = state.method.algorithm.loss(state.policy, batch, generator)
        (output.loss * share).backward()
        shares.append(share)
        outputs.append(LossOutput(output.loss.detach(), output.metrics))
    parameters = [parameter for _, parameter in state.policy.trainable_parameters()]
    grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm))
    figures = {**_joined(outputs, shares), "grad_norm": grad_norm}
    check_finite(figures["loss"], grad_norm, f"update {state.history.updates + 1}")
    _warm_up(state, schedule)
    if state.history.updates == 0:
        check_start(figures)
        with around.first_update:
            state.optimizer.step()
    else:
        state.optimizer.step()
    state.history.updates += 1
    return figures


def _warm_up(state: RunState, schedule: Schedule) -> None:
    """The learning rate of this update: a fraction of the settings' until the warm-up is over."""
    done = (state.history.updates + 1) / max(1, schedule.warmup_updates)
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.learning_rate * min(1.0, done)


def _joined(outputs: Sequence[LossOutput], shares: Sequence[float]) -> dict[str, float]:
    """Metrics of an update: the maximum of `..._max`, the mean over samples of the rest."""
    tables = [{"loss": output.loss, **output.metrics} for output in outputs]
    joined = {}
    for name in tables[0]:
        values = [float(table[name]) for table in tables]
        weighted = (value * share for value, share in zip(values, shares, strict=True))
        joined[name] = max(values) if name.endswith("_max") else sum(weighted)
    return joined


def _save_if_due(state: RunState, schedule: Schedule, around: Surroundings) -> None:
    rounds = state.history.rounds
    last = rounds == schedule.rounds
    if last or rounds % schedule.checkpoint_every == 0 or around.interruption.requested:
        around.store.save(rounds, state.tensors(), state.facts())
        around.interruption.saved()


def _note(rows: Sequence[Mapping[str, float]]) -> str:
    if not rows:
        return ""
    shown = (("reward", "reward"), ("kl", "KL"), ("clip_fraction", "clipped"))
    return "  ".join(f"{label} {rows[-1][name]:.4g}" for name, label in shown if name in rows[-1])
