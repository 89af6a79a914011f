"""Lee et al. and HIVE: what images drawn once are worth, and what their prompts say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from components.contracts.errors import GuardError, SettingsError
from components.contracts.seeds import torch_generator
from components.finetuning.algorithms.denoising import denoising_error
from tests.finetuning.conftest import METHODS
from tests.finetuning.test_step_pairs import move


class Reader:
    """A reward that looks at the words too: one for each letter of the prompt, and the redness."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        letters = torch.tensor([float(len(prompt)) for prompt in prompts])
        return letters + images[:, 0].float().mean(dim=(1, 2)) / 255


def collected(build: Any, policy: Any, method: dict[str, Any], scorer: Any = None) -> Any:
    """An experience after its first round, and the batches of the first update."""
    made = build(method, scorer)
    found = made.experience.collect(policy, torch_generator(0, "round", 0))
    return made, found, next(iter(found.updates))


def test_weights_come_with_the_images_that_earned_them(build: Any, policy: Any) -> None:
    method = METHODS["lee2023"] | {"prompt_classification": None, "samples_per_update": 4}
    made, found, (batch,) = collected(build, policy, method)
    samples = made.experience.samples
    assert found.num_images == 4 + 2
    for x0, weight in zip(batch.x0, batch.reward, strict=True):
        row = int((samples["x0"] == x0).flatten(1).all(1).nonzero()[0])
        torch.testing.assert_close(weight, samples["reward"][row] - samples["reward"].min())
    # As many samples of the second term, of which there are only two: each comes twice.
    assert len(batch.pretraining) == 4
    assert len({x0.sum().item() for x0 in batch.pretraining.x0}) == 2
    assert batch.pretraining.pretraining is None
    assert found.metrics["reward"] == pytest.approx(float(samples["reward"].mean()))


def test_a_prompt_that_is_told_apart_counts_more(build: Any, policy: Any) -> None:
    told = {"num_negatives": 1, "temperature": 2.0, "weight": 0.5}
    method = METHODS["lee2023"] | {"reward_transform": "raw", "prompt_classification": told}
    made, found, _ = collected(build, policy, method, Reader())
    samples, pool = made.experience.samples, made.experience.context.prompts
    # Two prompts in each category: the other one is the only near miss.
    other = {"a red fox": "a blue car", "a blue car": "a red fox"}
    other |= {"two cats": "four cows", "four cows": "two cats"}
    for place, reward, factor in zip(
        samples["prompt"].tolist(), samples["reward"], samples["factor"], strict=True
    ):
        text = pool.prompts[place]
        gap = torch.tensor((len(text) - len(other[text])) / 2.0)
        torch.testing.assert_close(factor, gap.sigmoid().sqrt())
        assert reward > len(text)
    torch.testing.assert_close(made.experience.weights(), samples["reward"] * samples["factor"])
    assert found.metrics["factor"] == pytest.approx(float(samples["factor"].mean()))
    assert len({round(float(value), 4) for value in samples["factor"]}) > 1


def test_a_category_of_one_prompt_has_no_near_misses(build: Any, policy: Any) -> None:
    from components.finetuning.algorithms.lee2023 import PromptClassificationSettings
    from components.finetuning.experience.prompt_classification import PromptClassification
    from components.finetuning.prompt_pool import PromptPool

    context = build(METHODS["lee2023"]).experience.context
    pool = PromptPool(["a cat", "a dog", "a dogs"], ["alone", "both", "both"])
    told = PromptClassification(
        PromptClassificationSettings(temperature=1.0, weight=1.0), _with(context, pool)
    )
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    reward = Reader().score(images, pool.prompts)
    found = told(images, [0, 1, 2], reward, torch_generator(0))
    expected = torch.tensor([1.0, torch.tensor(-1.0).sigmoid(), torch.tensor(1.0).sigmoid()])
    torch.testing.assert_close(found, expected)


def _with(context: Any, pool: Any) -> Any:
    from dataclasses import replace

    return replace(context, prompts=pool, scorer=Reader())


def test_when_no_image_is_good_there_is_nothing_to_learn(build: Any, policy: Any) -> None:
    method = METHODS["lee2023"] | {"reward_transform": "binary", "threshold": 1.0e6}
    made = build(method)
    with pytest.raises(GuardError, match="all 4 images have weight 0"):
        next(iter(made.experience.collect(policy, torch_generator(0)).updates))


def test_the_second_term_is_restored_with_the_samples(build: Any, policy: Any) -> None:
    made, _, _ = collected(build, policy, METHODS["lee2023"])
    state = {name: tensor.clone() for name, tensor in made.experience.state().items()}
    assert set(state) == {
        "x0",
        "prompt",
        "reward",
        "factor",
        "figure.reward",
        "figure.reward_std",
        "pretraining.x0",
        "pretraining.prompt",
    }
    again = build(METHODS["lee2023"]).experience
    again.load_state(state)
    batches = [
        next(iter(experience.collect(policy, torch_generator(0, "round", 1)).updates))[0]
        for experience in (made.experience, again)
    ]
    assert torch.equal(batches[0].x0, batches[1].x0)
    assert torch.equal(batches[0].pretraining.x0, batches[1].pretraining.x0)


@pytest.mark.parametrize("name", ["lee2023", "hive"])
def test_losses_are_weighted_means_of_denoising_errors(build: Any, policy: Any, name: str) -> None:
    levels = {"levels": "sampler", "samples_per_update": 4}
    made, _, (batch,) = collected(build, policy, METHODS[name] | levels)
    output = made.algorithm.loss(policy, batch, torch_generator(0, "loss"))
    generator = torch_generator(0, "loss")
    with torch.no_grad():
        error = denoising_error(policy, batch, "sampler", generator)
        expected = {"loss": float((batch.reward * error).mean()), "error": float(error.mean())}
        if name == "lee2023":
            beside = float(denoising_error(policy, batch.pretraining, "sampler", generator).mean())
            expected["loss"] += 0.5 * beside
            expected["pretraining_error"] = beside
        else:
            expected["weight_max"] = float(batch.reward.max())
    assert len(batch) == 4
    assert len(set(batch.reward.tolist())) > 1
    found = {"loss": float(output.loss.detach())} | {k: float(v) for k, v in output.metrics.items()}
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_supervised_baseline_tells_how_far_it_is_from_the_reference(
    build: Any, policy: Any
) -> None:
    made = build(METHODS["supervised"] | {"kl": "output", "kl_weight": 0.3})
    found = made.experience.collect(policy, torch_generator(0, "round", 0))
    (batch,) = next(iter(found.updates))
    move(policy)
    generator = torch_generator(0, "loss")
    level = policy.sampler.draw_level(len(batch), generator)
    noise = torch.randn(batch.x0.shape, generator=generator)
    x_t, target = level.add_noise(batch.x0, noise), level.target(batch.x0, noise)
    with torch.no_grad():
        ours, base = (
            policy.predict_at(x_t, level, batch.conditioning, adapter)
            for adapter in ("train", "reference")
        )
    output = made.algorithm.loss(policy, batch, torch_generator(0, "loss"))
    assert len(batch) > 1
    kl = float(((ours - base) ** 2).mean())
    assert float(output.metrics["kl"]) == pytest.approx(kl, rel=1e-4)
    error = ((ours - target) ** 2).mean(dim=(1, 2, 3))
    expected = float((batch.reward * error).mean()) + 0.3 * kl
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)


def test_hive_weighs_by_the_exponential_of_the_reward(build: Any, policy: Any) -> None:
    made, _, (batch,) = collected(
        build, policy, METHODS["hive"] | {"samples_per_update": 4, "temperature": 0.5}
    )
    reward = made.experience.samples["reward"]
    weights = made.experience.weights()
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))
    torch.testing.assert_close(weights[1] / weights[0], ((reward[1] - reward[0]) / 0.5).exp())
    metrics = made.algorithm.loss(policy, batch, torch_generator(0)).metrics
    assert float(metrics["weight_max"]) == pytest.approx(float(weights.max()))
    assert made.experience.texts() == [
        made.experience.context.prompts.prompts[place]
        for place in made.experience.samples["prompt"].tolist()
    ]


def test_hive_says_in_the_prompt_how_good_an_image_is(build: Any, policy: Any) -> None:
    made, _, (batch,) = collected(build, policy, METHODS["hive_conditional"])
    samples, texts = made.experience.samples, made.experience.texts()
    good = samples["reward"] >= samples["reward"].median().nextafter(torch.tensor(99.0))
    for place, text, best in zip(samples["prompt"].tolist(), texts, good.tolist(), strict=True):
        prompt = made.experience.context.prompts.prompts[place]
        # The best level is the plain prompt, as the settings of this case want it.
        assert text == (prompt if best else f"{prompt} q1")
    assert int(good.sum()) == 2
    assert batch.reward.tolist() == [1.0] * 4
    for x0, states in zip(batch.x0, batch.conditioning.prompt_states, strict=True):
        row = int((samples["x0"] == x0).flatten(1).all(1).nonzero()[0])
        assert torch.equal(states, policy.encode_prompts([texts[row]]).prompt_states[0])


def test_a_phrase_that_the_tokenizer_cuts_is_refused(build: Any, policy: Any) -> None:
    # The tiny tokenizer has 24 places and one token a letter.
    method = METHODS["hive_conditional"] | {"phrase": ", image quality is {level}"}
    made = build(method | {"inference_phrase": None})
    with pytest.raises(SettingsError, match=r"the text encoder cuts .* and sees no level"):
        next(iter(made.experience.collect(policy, torch_generator(0)).updates))
