"""Methods that differentiate through sampling: what is refused, what is drawn, what is learnt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import GuardError, QuarantinedData, SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.settings import load_block
from components.diffusion import predict_with_gradient, rollout
from components.finetuning.algorithms.denoising import denoising_error
from components.finetuning.algorithms.sampling_gradient import reward_metrics, reward_of_latents
from components.finetuning.batches import LabelledSamples, Prompts
from components.finetuning.experience.scoring import Scored
from components.finetuning.settings import Settings
from tests.finetuning.conftest import METHODS, outs
from tests.finetuning.plugs import Broken, Constant, Redness

PLUGS = "tests.finetuning.plugs"
GRADIENT = ("alignprop", "draft", "draft_lv", "refl")


def load(tmp_path: Path, base: Path, finetuning: str) -> Settings:
    path = tmp_path / "params.yaml"
    path.write_text(
        f"base: {{path: {base}, num_steps: 3}}\nfinetuning: {{rounds: 1, {finetuning}}}\n"
    )
    return load_block(path, "finetuning", Settings)


BLACK_BOX = (
    "sends gradients through the reward, and this reward is a black box; allowed: a reward "
    "with a gradient (reward.name model, or python with differentiable true), or a method that "
    "needs only numbers (ddpo, dpok, prdp)"
)
REWARDS = {
    f"{{name: python, callable: '{PLUGS}:redness'}}": False,
    f"{{name: python, callable: '{PLUGS}:redness', differentiable: true}}": True,
    "{name: model}": True,
}


@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    "method",
    [
        "{name: draft}",
        "{name: alignprop, truncation: {kind: fixed}}",
        "{name: refl, window: {first: 1, last: 2}}",
    ],
)
def test_a_black_box_is_refused_when_settings_load(
    tmp_path: Path, base_folders: Callable[[str], Path], method: str, reward: str
) -> None:
    text = f"method: {method}, reward: {reward}"
    if REWARDS[reward]:
        load(tmp_path, base_folders("unet"), text)
        return
    with pytest.raises(SettingsError) as refused:
        load(tmp_path, base_folders("unet"), text)
    name = method.split()[1].strip(",}")
    path = tmp_path / "params.yaml"
    assert str(refused.value) == f"{path}: line 2: finetuning: method {name} {BLACK_BOX}"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{name: draft, grad_steps: 4}", "needs base.num_steps of at least 4, got 3"),
        ("{name: draft, grad_steps: some}", "grad_steps: input should be a valid integer"),
        ("{name: draft, grad_steps: 0}", "greater than or equal to 1"),
        (
            "{name: draft, grad_steps: 2, low_variance: {copies: 2}}",
            "low_variance is for the last step: use grad_steps 1",
        ),
        ("{name: alignprop}", "needs base.num_steps of at least 8, got 3"),
        (
            "{name: alignprop, truncation: {kind: uniform, highest: 4}}",
            "needs base.num_steps of at least 4, got 3",
        ),
        ("{name: alignprop, truncation: {kind: gaussian}}", "'normal', 'uniform', 'fixed'"),
        ("{name: refl}", "needs base.num_steps of at least 40, got 3"),
        ("{name: refl, window: {first: 3, last: 3}}", "at least 4, got 3"),
        ("{name: refl, window: {first: 2, last: 1}}", "last 1 is below first 2"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, base_folders: Callable[[str], Path], method: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        load(tmp_path, base_folders("unet"), f"method: {method}")


def test_windows_that_fit_are_accepted(tmp_path: Path, base_folders: Callable[[str], Path]) -> None:
    for method in (
        "{name: refl, window: {first: 2, last: 2}}",
        "{name: refl, window: {first: 1, last: 3, counted_from: image}}",
        "{name: draft, grad_steps: null}",
        "{name: alignprop, truncation: {kind: normal, mean: 2.5, std: 2.0}}",
    ):
        load(tmp_path, base_folders("unet"), f"method: {method}")


@pytest.mark.parametrize("name", ["lee2023", "hive"])
def test_a_consistency_model_is_not_taught_to_denoise(
    tmp_path: Path, base_folders: Callable[[str], Path], name: str
) -> None:
    load(tmp_path, base_folders("flow"), f"method: {{name: {name}}}")
    with pytest.raises(SettingsError, match="defined for unet and flow models"):
        load(tmp_path, base_folders("consistency"), f"method: {{name: {name}}}")
    refl = "method: {name: refl, window: {first: 1, last: 2}, pretraining: "
    load(tmp_path, base_folders("consistency"), refl + "null}")
    with pytest.raises(SettingsError, match="defined for unet and flow models"):
        load(tmp_path, base_folders("consistency"), refl + "{num_images: 4}}")


def test_a_scorer_without_a_gradient_is_refused_when_the_method_is_built(build: Any) -> None:
    class BlackBox:
        differentiable = False

        def score(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            return images.float().mean(dim=(1, 2, 3))

    for name in GRADIENT:
        with pytest.raises(
            SettingsError, match="no gradient flows through this reward; allowed: a rew"
        ):
            build(METHODS[name], BlackBox())


@pytest.mark.parametrize("name", GRADIENT)
def test_constant_and_broken_rewards_stop_before_the_backward_pass(
    build: Any, policy: Any, name: str
) -> None:
    for scorer, error in ((Constant(), GuardError), (Broken(0), QuarantinedData)):
        made = build(METHODS[name], scorer)
        collected = made.experience.collect(policy, torch_generator(0, "round", 0))
        batch = next(iter(collected.updates))[0]
        with pytest.raises(error):
            made.algorithm.loss(policy, batch, torch_generator(0))
        assert all(parameter.grad is None for _, parameter in policy.trainable_parameters())


def test_a_constant_reward_ends_the_run_without_an_out(project: Any) -> None:
    from components.finetuning.stage import run

    scorer = {"name": "python", "callable": f"{PLUGS}:constant", "differentiable": True}
    monitor = {"every": 100, "prompts_per_category": 1, "samples_per_prompt": 1}
    settings, context = project(METHODS["draft"], reward=scorer, monitor=monitor)
    with pytest.raises(GuardError, match="does not tell its images apart"):
        run(settings, context)
    assert not outs(context.root)


def test_prompts_are_balanced_and_every_image_has_its_own_noise(build: Any, policy: Any) -> None:
    method = METHODS["draft"] | {"prompts_per_update": 4, "group_size": 3, "updates_per_round": 2}
    experience = build(method).experience
    collected = experience.collect(policy, torch_generator(0, "round", 0))
    assert collected.num_images == 24
    pool = experience.context.prompts
    categories = dict(zip(pool.prompts, pool.categories, strict=True))
    seeds = []
    for batches in collected.updates:
        # 12 images, at most 4 of them in a forward pass.
        assert [len(batch) for batch in batches] == [4, 4, 4]
        texts = [text for batch in batches for text in batch.texts]
        assert set(Counter(texts).values()) == {3}
        assert Counter(categories[text] for text in texts) == {"colour": 6, "count": 6}
        for batch in batches:
            assert torch.equal(
                batch.conditioning.prompt_states,
                policy.encode_prompts(batch.texts).prompt_states,
            )
            seeds += batch.seeds
    assert len(set(seeds)) == 24


def test_drift_is_watched_with_the_same_noise(build: Any, policy: Any) -> None:
    experience = build(METHODS["draft"]).experience
    figures = [
        experience.collect(policy, torch_generator(0, "round", number)).drift for number in range(2)
    ]
    # The policy did not move, and so nothing else did.
    assert figures[0] == figures[1]
    assert set(figures[0]) == {"brightness", "saturation", "diversity"}
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    assert experience.collect(policy, torch_generator(0, "round", 0)).drift != figures[0]


def test_refl_alternates_with_samples_of_the_pretrained_model(build: Any, policy: Any) -> None:
    method = METHODS["refl"] | {"updates_per_round": 2}
    experience = build(method).experience
    first = experience.collect(policy, torch_generator(0, "round", 0))
    updates = list(first.updates)
    kinds = [type(update[0]) for update in updates]
    assert kinds == [Prompts, LabelledSamples] * 2
    # 3 prompts in each of two updates, and 4 samples drawn once.
    assert first.num_images == 6 + 4
    drawn = updates[1][0]
    assert [len(update[0]) for update in updates] == [3, 3, 3, 3]
    assert drawn.reward.tolist() == [1.0] * 3
    stored = experience.pretraining.samples
    rows = [int((stored["x0"] == x0).flatten(1).all(1).nonzero()[0]) for x0 in drawn.x0]
    assert len(set(rows)) == 3
    second = experience.collect(policy, torch_generator(0, "round", 1))
    assert second.num_images == 6
    assert torch.equal(experience.pretraining.samples["x0"], stored["x0"])
    with pytest.raises(ValueError, match="the settings have none"):
        build(METHODS["refl"] | {"pretraining": None}).algorithm.loss(
            policy, drawn, torch_generator(0)
        )


def test_figures_of_rewards_carry_no_graph() -> None:
    reward = torch.tensor([1.0, 3.0], requires_grad=True)
    figures = reward_metrics(Scored(reward, reward.detach()))
    assert {name: float(value) for name, value in figures.items()} == {
        "reward": 2.0,
        "reward_std": 1.0,
    }
    assert not any(value.requires_grad for value in figures.values())


@pytest.mark.parametrize("draw_per", ["image", "batch"])
def test_refl_scores_what_a_random_step_foretells(build: Any, policy: Any, draw_per: str) -> None:
    method = METHODS["refl"] | {"pretraining": None, "draw_per": draw_per, "reward_weight": 0.5}
    collected = build(method).experience.collect(policy, torch_generator(0, "round", 0))
    batch = next(iter(collected.updates))[0]
    draws = len(batch) if draw_per == "image" else 1
    step = torch.randint(0, 2, (draws,), generator=torch_generator(2, "loss")).expand(len(batch))
    assert set(step.tolist()) == ({0, 1} if draw_per == "image" else {int(step[0])})
    with torch.no_grad():
        x0 = predict_with_gradient(
            policy, batch.conditioning, batch.seeds, step, checkpointing=False
        )
        reward = reward_of_latents(policy, Redness(), x0, batch.texts, checkpointing=False).reward
    target = float(reward.median())
    made = build(method | {"target": target})
    output = made.algorithm.loss(policy, batch, torch_generator(2, "loss"))
    found = {name: float(value) for name, value in output.metrics.items()}
    assert len(set(reward.tolist())) == 3
    assert found == pytest.approx(
        {
            "reward": float(reward.mean()),
            "reward_std": float(reward.std(correction=0)),
            # The one that lies on the target has reached it.
            "reached_target": 2 / 3,
        },
        rel=1e-4,
    )
    hinge = float((target - reward).clamp_min(0).mean())
    assert output.loss.item() == pytest.approx(0.5 * hinge, rel=1e-3)


def test_refl_weighs_its_denoising_loss(build: Any, policy: Any) -> None:
    beside = METHODS["refl"]["pretraining"] | {"weight": 0.3}
    made = build(METHODS["refl"] | {"pretraining": beside})
    updates = list(made.experience.collect(policy, torch_generator(0, "round", 0)).updates)
    (samples,) = updates[1]
    assert len(samples) == 3
    output = made.algorithm.loss(policy, samples, torch_generator(0, "loss"))
    levels = made.algorithm.settings.pretraining.levels
    with torch.no_grad():
        error = denoising_error(policy, samples, levels, torch_generator(0, "loss")).mean()
    assert float(output.metrics["pretraining_error"]) == pytest.approx(float(error), rel=1e-5)
    assert output.loss.item() == pytest.approx(0.3 * float(error), rel=1e-5)


def test_samples_of_the_pretrained_model_are_its_own(build: Any, policy: Any) -> None:
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    experience = build(METHODS["refl"]).experience
    experience.collect(policy, torch_generator(0, "round", 0))
    x0 = experience.pretraining.samples["x0"]
    generator = torch_generator(0, "round", 0)
    places = experience.context.prompts.draw(2, generator)
    seeds = torch.randint(2**62, (4,), generator=generator).tolist()
    prompt = torch.tensor(places).repeat_interleave(2)
    assert torch.equal(experience.pretraining.samples["prompt"], prompt)
    drawn = rollout(policy, experience.text[prompt], seeds, "reference").x0
    assert torch.equal(x0, drawn)


@pytest.mark.parametrize("name", GRADIENT)
def test_training_raises_the_reward(build: Any, policy: Any, name: str) -> None:
    """The images of the same prompts and noise are redder after a few updates than before."""
    method = METHODS[name] | {"pretraining": None} if name == "refl" else METHODS[name]
    made = build(method | {"updates_per_round": 8, "prompts_per_update": 4})
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-2)
    text = policy.encode_prompts(["a red fox", "two cats", "a blue car", "four cows"])

    def reward() -> torch.Tensor:
        images = policy.decode(rollout(policy, text, [1, 2, 3, 4]).x0)
        return Redness().score(images, [])

    before = reward()
    for batches in made.experience.collect(policy, torch_generator(5, "round", 0)).updates:
        optimizer.zero_grad()
        for batch in batches:
            made.algorithm.loss(policy, batch, torch_generator(0)).loss.backward()
        optimizer.step()
    assert bool((reward() > before).all())
