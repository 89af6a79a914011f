"""What must hold for every method on a real (tiny, random) policy."""

from __future__ import annotations

import torch

from components.contracts.seeds import torch_generator
from components.finetuning.algorithms.dpok import DPOK, DPOKSettings
from components.finetuning.guards import check_start
from tests.finetuning.conftest import METHODS, every_method, outs, state_of


def first_batches(build, policy, method):
    made = build(method)
    collected = made.experience.collect(policy, torch_generator(0, "round", 0))
    return made, next(iter(collected.updates))


@every_method
def test_the_start_is_the_reference(build, policy, method):
    made, batches = first_batches(build, policy, method)
    for batch in batches:
        metrics = made.algorithm.loss(policy, batch, torch_generator(0, "loss")).metrics
        assert not any(value.requires_grad for value in metrics.values())
        # Bit for bit, whatever the batches were in rollout.
        assert float(metrics.get("kl", 0.0)) == 0.0
        assert float(metrics.get("ratio_deviation_max", 0.0)) == 0.0
        assert float(metrics.get("ratio_mean", 1.0)) == 1.0
        check_start({name: float(value) for name, value in metrics.items()})


@every_method
def test_an_update_changes_the_adapter_and_nothing_else(build, policy, method):
    made, batches = first_batches(build, policy, method)
    parameters = policy.trainable_parameters()
    before = state_of(policy)
    optimizer = torch.optim.AdamW([parameter for _, parameter in parameters], lr=1e-3)
    for batch in batches:
        made.algorithm.loss(policy, batch, torch_generator(0, "loss")).loss.backward()
    optimizer.step()
    after = state_of(policy)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= {f"network.{name}" for name, _ in parameters}


@every_method
def test_the_same_seed_gives_the_same_bytes(project, method):
    from components.finetuning.stage import run

    found = []
    for name in ("first", "second"):
        settings, context = project(method, name=name)
        run(settings, context)
        found.append(outs(context.root))
    assert found[0] == found[1]
    assert set(found[0]) == {
        "models/lora/pytorch_lora_weights.safetensors",
        "models/lora/adapter.json",
        "reports/curves.csv",
        "reports/finetuning.json",
    }


def test_both_kl_forms_grow_when_the_policy_moves(build, policy):
    _, batches = first_batches(build, policy, METHODS["dpok"])
    generator = torch_generator(0, "B")
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    found = {}
    for kl in ("prediction", "exact"):
        algorithm = DPOK(DPOKSettings(kl=kl))
        found[kl] = algorithm.loss(policy, batches[0], generator).metrics
        assert float(found[kl]["kl"]) > 0
    # The KL form changes the loss, never the ratio.
    assert found["exact"]["ratio_mean"] == found["prediction"]["ratio_mean"]
    assert float(found["exact"]["kl"]) != float(found["prediction"]["kl"])


def test_the_size_of_micro_batches_does_not_change_the_gradient(build, policy):
    made = build(METHODS["dpok"])
    made.experience.collect(policy, torch_generator(0, "round", 0))
    buffer = made.experience.buffer
    rows = torch.arange(6)
    gradients = []
    for parts in ([rows], [rows[:4], rows[4:]]):
        policy_parameters = [parameter for _, parameter in policy.trainable_parameters()]
        for parameter in policy_parameters:
            parameter.grad = None
        for part in parts:
            batch = made.experience._batch(buffer.stored[part])
            output = made.algorithm.loss(policy, batch, torch_generator(0))
            (output.loss * len(part) / 6).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in policy_parameters]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
