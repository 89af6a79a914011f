"""Stored preferences: what is read from people, drawn from the reference, and refused."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError, GuardError, QuarantinedData, SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.settings import load_block
from components.finetuning.algorithms.preference_settings import PeoplePairs, WinnersOnly
from components.finetuning.experience.judged import Judged, read_judged
from components.finetuning.experience.preferences import shuffled
from components.finetuning.settings import Settings
from tests.finetuning.conftest import METHODS, state_of
from tests.finetuning.plugs import Redness
from tests.support.preferences import (
    LATENT_SHAPE,
    Said,
    latent_of,
    prompt_row,
    sample_of,
    write_preferences,
)

Found = Counter[tuple[int, int, float]]


def read(folder: Path, shape: Any = LATENT_SHAPE, **settings: Any) -> Judged:
    return read_judged(folder, PeoplePairs(**settings), shape)


def numbers(judged: Judged, prompt: str = "train 0") -> Found:
    """(winner, loser, preference) of the judgements on a prompt, by the samples' numbers; the
    latents tell which sample it is."""
    samples = [sample_of(prompt_row(prompt), number) for number in range(3)]

    def number(row: int) -> int:
        return next(s.seed for s in samples if torch.equal(judged.x0[row], latent_of(s)))

    return Counter(
        (number(winner), number(loser), preference)
        for winner, loser, preference in zip(
            judged.winner.tolist(), judged.loser.tolist(), judged.preference.tolist(), strict=True
        )
        if judged.prompts[winner] == prompt
    )


def test_every_judgement_is_a_pair_and_ties_are_dropped(preferences):
    judged = read(preferences)
    assert numbers(judged) == {(0, 1, 1.0): 1, (1, 0, 1.0): 1, (2, 1, 1.0): 2}
    # Prompts of the other splits are not read.
    assert set(judged.prompts) == {"train 0", "train 1", "train 2"}
    assert len(judged) == 12


def test_ties_can_be_kept_as_half_a_win(preferences):
    assert numbers(read(preferences, ties="keep"))[0, 2, 0.5] == 1


def test_the_majority_of_annotators_counts_ids_and_not_sides(preferences):
    # 0 and 1 won once each; both annotators took 2, shown once as a and once as b.
    assert numbers(read(preferences, annotators="majority")) == {(2, 1, 1.0): 1}
    kept = numbers(read(preferences, annotators="majority", ties="keep"))
    assert sorted(kept.values()) == [1, 1, 1]
    assert {frozenset(pair[:2]) for pair in kept if pair[2] == 0.5} == {
        frozenset((0, 1)),
        frozenset((0, 2)),
    }


def test_a_majority_against_the_order_of_ids_wins(tmp_path):
    said: list[Said] = [(0, 1, "ann", "b"), (1, 0, "ben", "a"), (0, 1, "cem", "a")]
    judged = read(write_preferences(tmp_path, {"train 0": said}), annotators="majority")
    assert numbers(judged) == {(1, 0, 1.0): 1}
    reverse: list[Said] = [(0, 1, "ann", "a"), (1, 0, "ben", "b"), (0, 1, "cem", "b")]
    judged = read(write_preferences(tmp_path / "2", {"train 0": reverse}), annotators="majority")
    assert numbers(judged) == {(0, 1, 1.0): 1}


TWO_WINS: list[Said] = [(2, 1, "ann", "a"), (0, 2, "cem", "b")]
ABSOLUTE = {
    "clean": ([], {(2, 1, 1.0): 1, (2, 0, 1.0): 1}),
    "others tie": ([(0, 1, "dan", "tie")], {(2, 1, 1.0): 1, (2, 0, 1.0): 1}),
    "tied, shown as a": ([(2, 1, "dan", "tie")], None),
    "tied, shown as b": ([(1, 2, "dan", "tie")], None),
    "lost once": ([(2, 1, "dan", "b")], None),
}


@pytest.mark.parametrize(("more", "found"), ABSOLUTE.values(), ids=ABSOLUTE)
def test_absolute_winners_never_lost_or_tied(tmp_path, more, found):
    folder = write_preferences(tmp_path, {"train 0": [*TWO_WINS, *more]})
    if found is None:
        with pytest.raises(DataError, match=r"none that can be learnt from .* winners absolute"):
            read(folder, winners="absolute")
    else:
        assert numbers(read(folder, winners="absolute")) == found


def test_absolute_winners_won_more_than_once(tmp_path):
    folder = write_preferences(tmp_path, {"train 0": TWO_WINS[:1], "train 1": TWO_WINS})
    judged = read(folder, winners="absolute")
    assert (len(judged), set(judged.prompts)) == (2, {"train 1"})


def test_a_soft_label_is_the_winners_share(tmp_path):
    said = [(0, 1, "ann", 0.75), (1, 2, "ann", 0.25), (0, 2, "ann", 0.5)]
    folder = write_preferences(tmp_path, {"train 0": said})
    assert numbers(read(folder)) == {(0, 1, 0.75): 1, (2, 1, 0.75): 1}
    assert read(folder, ties="keep").preference.tolist() == [0.75, 0.75, 0.5]


def test_a_majority_weighs_soft_labels(tmp_path):
    # Two for 0 by a little against one for 1 by much: 0.625 + 0.625 + 0 of 3 is less than half.
    said = [(0, 1, "ann", 0.625), (1, 0, "ben", 0.375), (0, 1, "cleo", 0.0)]
    folder = write_preferences(tmp_path, {"train 0": said})
    assert numbers(read(folder, annotators="majority")) == {(1, 0, 1.0): 1}


@pytest.mark.parametrize("share", [float("nan"), -0.5, 1.5])
def test_a_share_that_is_none_is_refused(tmp_path, share):
    folder = write_preferences(tmp_path, {"train 0": [(0, 1, "ann", share)]})
    with pytest.raises(DataError, match=r"pair c_\w+: label .* and preference"):
        read(folder)


def test_samples_are_joined_by_id_whatever_the_order_of_rows(tmp_path, preferences):
    from components.contracts.tables import PAIRS, SAMPLES, read_table, write_table

    for table, schema in (("pairs", PAIRS), ("samples", SAMPLES)):
        rows = read_table(preferences / f"{table}.parquet", schema)
        backwards = rows.take(list(reversed(range(rows.num_rows))))
        write_table(tmp_path / f"{table}.parquet", backwards, schema)
    (tmp_path / "latents").symlink_to(preferences / "latents")
    assert numbers(read(tmp_path), "train 1") == numbers(read(preferences), "train 1")


def test_pictures_that_were_brought_along_have_no_latents(tmp_path):
    folder = write_preferences(tmp_path, latents=False)
    with pytest.raises(DataError, match=r"9 of 9 judged images have no latents: .* encoding") as e:
        read(folder)
    assert "allowed: judgements on images that the stage preferences drew" in str(e.value)
    assert "pairs.source reward" in str(e.value)


def latents_file(folder: Path) -> Path:
    return folder / "latents" / "latents-00000.safetensors"


def cut(folder: Path) -> None:
    latents_file(folder).write_bytes(latents_file(folder).read_bytes()[:-100])


def cut_pairs(folder: Path) -> None:
    path = folder / "pairs.parquet"
    path.write_bytes(path.read_bytes()[:100])


def forget_a_sample(folder: Path) -> None:
    from components.contracts.artifacts import read_safetensors, write_safetensors

    tensors = read_safetensors(latents_file(folder))
    tensors.pop(next(iter(tensors)))
    write_safetensors(latents_file(folder), tensors)


def poison(folder: Path) -> None:
    from components.contracts.artifacts import read_safetensors, write_safetensors

    tensors = read_safetensors(latents_file(folder))
    next(iter(tensors.values()))[0, 0, 0] = torch.nan
    write_safetensors(latents_file(folder), tensors)


def lose_the_rows_of_samples(folder: Path) -> None:
    from components.contracts.tables import SAMPLES, read_table, write_table

    table = read_table(folder / "samples.parquet", SAMPLES)
    write_table(folder / "samples.parquet", table.slice(1), SAMPLES)


DAMAGE = {
    cut: (DataError, r"latents-00000\.safetensors: is truncated"),
    cut_pairs: (DataError, r"pairs\.parquet: is truncated"),
    forget_a_sample: (DataError, r"latents-00000\.safetensors: holds no latent of sample 's_"),
    poison: (QuarantinedData, r"latents-00000\.safetensors: latent of sample 's_.* not finite"),
    lose_the_rows_of_samples: (DataError, r"pair c_.*: 's_.*' is not in samples\.parquet"),
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damaged_files_are_named(tmp_path, damage):
    folder = write_preferences(tmp_path)
    damage(folder)
    kind, message = DAMAGE[damage]
    with pytest.raises(kind, match=message):
        read(folder)


def test_latents_of_another_base_are_refused(preferences):
    with pytest.raises(DataError, match=r"is \(4, 8, 8\), the base's are \(32, 8, 8\)"):
        read(preferences, (32, 8, 8))


def test_no_judgement_on_training_prompts_is_an_error(tmp_path):
    folder = write_preferences(tmp_path, split="validation")
    with pytest.raises(DataError, match="holds 0 judgements of split 'train'"):
        read(folder)


def test_nothing_was_collected_yet(tmp_path):
    with pytest.raises(DataError, match=r"pairs\.parquet: no such file"):
        read(tmp_path / "nowhere")


def test_winners_alone_come_once_each(build):
    experience = build(METHODS["sft"]).experience
    good, _ = experience._sides()
    assert sorted(good.tolist()) == sorted(set(good.tolist()))
    assert len(good) == 9  # all three samples of three prompts won at least once
    assert isinstance(experience.settings.pairs, WinnersOnly)
    people = build(METHODS["sft"] | {"pairs": {"source": "people"}}).experience
    assert len(people._sides()[0]) == 12


def test_all_judgements_come_before_one_comes_again():
    drawn = shuffled(5, 3, torch_generator(0))
    order = torch.cat(list(islice(drawn, 10))).tolist()
    for start in range(0, 30, 5):
        assert sorted(order[start : start + 5]) == [0, 1, 2, 3, 4]
    assert len({tuple(order[start : start + 5]) for start in range(0, 30, 5)}) > 1


def test_both_sides_of_pairs_fill_one_batch(build, policy):
    method = METHODS["diffusion_dpo"] | {"pairs_per_update": 5, "calibrate": None}
    collected = build(method).experience.collect(policy, torch_generator(0))
    sizes = [[len(batch) for batch in update] for update in collected.updates]
    assert sizes == [[2, 2, 1]]  # of a batch_size of 4


def test_each_latent_comes_with_its_own_prompt(build, policy):
    experience = build(METHODS["diffusion_dpo"] | {"calibrate": None}).experience
    (batches,) = experience.collect(policy, torch_generator(0)).updates
    for batch in batches:
        for row in range(len(batch)):
            states = batch.conditioning[[row]].prompt_states
            place = next(
                number
                for number, x0 in enumerate(experience.judged.x0)
                if torch.equal(x0, batch.x0_w[row])
            )
            expected = policy.encode_prompts([experience.judged.prompts[place]]).prompt_states
            torch.testing.assert_close(states, expected)


def test_the_rewards_pairs_are_drawn_once_from_the_reference(build, policy):
    method = METHODS["ncp_dpo"] | {"calibrate": None}
    made = build(method)
    before = state_of(policy)
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    collected = made.experience.collect(policy, torch_generator(0))
    drawn = made.experience.drawn
    assert (collected.num_images, len(drawn["reward"])) == (4, 4)
    judged = made.experience.judged
    assert bool((drawn["reward"][judged.winner] > drawn["reward"][judged.loser]).all())
    assert torch.equal(drawn["prompt"][judged.winner], drawn["prompt"][judged.loser])
    again = made.experience.collect(policy, torch_generator(1))
    assert (again.num_images, made.experience.drawn) == (0, drawn)
    # The adapter moved, the reference's images did not.
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            parameter.copy_(before[f"network.{name}"])
    other = build(method).experience
    other.collect(policy, torch_generator(0))
    assert torch.equal(other.drawn["x0"], drawn["x0"])


def test_rewards_that_are_all_equal_within_prompts_leave_no_pair(build, policy):
    class ByPrompt(Redness):
        def score(self, images, prompts):
            return torch.tensor([float(len(prompt)) for prompt in prompts])

    method = METHODS["ncp_dpo"] | {"pairs": METHODS["ncp_dpo"]["pairs"] | {"num_prompts": 4}}
    with pytest.raises(GuardError, match="no pair to learn from"):
        build(method, ByPrompt()).experience.collect(policy, torch_generator(0))


def test_ktos_share_of_desirable_samples(build, policy):
    experience = build(METHODS["kto"] | {"samples_per_update": 10}).experience
    (update,) = experience.collect(policy, torch_generator(0)).updates
    (batch,) = update  # z is the mean over all samples of an update
    assert int(batch.desirable.sum()) == 6
    winners, losers = (set(side.tolist()) for side in experience._sides())
    for x0, desirable in zip(batch.x0, batch.desirable.tolist(), strict=True):
        place = next(n for n, y in enumerate(experience.judged.x0) if torch.equal(x0, y))
        assert place in (winners if desirable else losers)


def test_ktos_labels_of_a_reward(build, policy):
    experience = build(METHODS["kto_reward"]).experience
    experience.collect(policy, torch_generator(0))
    reward = experience.drawn["reward"]
    good, bad = experience._sides()
    assert reward[good].min() > reward.median() >= reward[bad].max()
    assert len(good) + len(bad) == 4
    far = build(METHODS["kto_reward"] | {"reward_threshold": 100.0, "calibrate": None})
    with pytest.raises(GuardError, match=r"reward_threshold 100\.0: .* all on one side"):
        next(iter(far.experience.collect(policy, torch_generator(0)).updates))


@pytest.mark.parametrize("name", ["diffusion_dpo", "kto_reward", "self_rewarding"])
def test_the_calibrated_temperature_is_told_saved_and_used(build, policy, name):
    method = METHODS[name] | {"calibrate": 0.5}
    made = build(method)
    collected = made.experience.collect(policy, torch_generator(0))
    dpo_beta = made.experience.calibrated
    assert collected.metrics["dpo_beta"] == dpo_beta > 0
    batch = next(iter(collected.updates))[0]
    assert batch.dpo_beta == dpo_beta
    again = build(method)
    again.experience.load_state(made.experience.state())
    assert again.experience.calibrated == dpo_beta
    # Twice the target, twice the temperature.
    double = build(method | {"calibrate": 1.0}).experience
    double.collect(policy, torch_generator(0))
    assert double.calibrated == pytest.approx(2 * dpo_beta)


def test_sfts_loss_starts_at_the_wanted_size(build, policy):
    method = METHODS["sft"] | {"samples_per_update": 64, "error": "perceptual", "calibrate": 3.0}
    made = build(method)
    collected = made.experience.collect(policy, torch_generator(0))
    assert collected.metrics == {"loss_scale": made.experience.calibrated}
    (update,) = collected.updates
    outputs = [made.algorithm.loss(policy, batch, torch_generator(5)) for batch in update]
    mean = sum(output.loss.item() for output in outputs) / len(outputs)
    assert mean == pytest.approx(3.0, rel=0.3)
    error = sum(float(output.metrics["error_w"]) for output in outputs) / len(outputs)
    assert mean == pytest.approx(error * made.experience.calibrated, rel=1e-4)
    again = build(method).experience
    again.load_state(made.experience.state())
    assert again.calibrated == made.experience.calibrated


def test_a_calibrated_temperature_gives_logits_of_the_wanted_size(build, policy):
    """Measured again with other noise, by the loss's own margin."""
    from components.finetuning.algorithms.diffusion_dpo import margin
    from components.finetuning.denoising_errors import Errors, latent_error, measure

    experience = build(METHODS["diffusion_dpo"] | {"calibrate": 0.5}).experience
    experience.collect(policy, torch_generator(0))
    generator = torch_generator(9)
    rows = next(experience._calibration_rows(generator))
    logits = []
    for batch in experience._noised(policy, rows, generator):
        with torch.no_grad():
            prediction = policy.predict_at(batch.x_t, batch.level, batch.conditioning)
            moved = prediction + 1e-3 * torch.randn(prediction.shape, generator=generator)
            error_of = measure(policy, batch, "latent")
            found = Errors(error_of(moved), error_of(prediction), latent_error(moved, prediction))
            logits.append(experience.calibrated * margin(found))
    assert float(torch.cat(logits).std()) == pytest.approx(0.5, rel=0.25)


def test_the_anchor_moves_every_so_many_rounds(build, policy):
    made = build(METHODS["self_rewarding"] | {"refresh_every": 2, "calibrate": None})
    name, parameter = next(pair for pair in policy.trainable_parameters() if "lora_B" in pair[0])
    anchors = []
    for number in range(4):
        made.experience.collect(policy, torch_generator(number))
        anchors.append(policy.snapshots()[f"anchor/{name}"].clone())
        with torch.no_grad():
            parameter += 1.0
    assert [float(anchor.mean()) for anchor in anchors] == [0.0, 0.0, 2.0, 2.0]
    assert int(made.experience.state()["rounds"]) == 4


def test_best_and_worst_of_the_policys_own_images(build, policy):
    class Numbered(Redness):
        """Rewards that fall from image to image, however many calls there were."""

        def __init__(self) -> None:
            self.seen = 0

        def score(self, images, prompts):
            rewards = -torch.arange(self.seen, self.seen + len(images), dtype=torch.float32)
            self.seen += len(images)
            return rewards

    method = METHODS["self_rewarding"] | {
        "images_per_prompt": 3,
        "pairs_per_update": 2,
        "calibrate": None,
    }
    made = build(method, Numbered())
    collected = made.experience.collect(policy, torch_generator(0))
    assert collected.num_images == 6
    assert collected.drift  # the policy's own images: its tripwires watch them
    ((batch,),) = collected.updates
    assert not torch.equal(batch.x0_w, batch.x0_l)
    output = made.algorithm.loss(policy, batch, torch_generator(0))
    assert output.loss.item() == pytest.approx(0.693147, abs=1e-5)


LOSERS = "pairs.source winners has none; .*allowed: pairs.source people or reward, or method sft"
REFUSED = {
    "name: diffusion_dpo, pairs: {source: winners}": rf"diffusion_dpo pushes away.* {LOSERS}",
    "name: cpo, pairs: {source: winners}": rf"cpo pushes away.* {LOSERS}",
    "name: kto, pairs: {source: winners}": rf"kto pushes away.* {LOSERS}",
    "name: sft, pairs: {source: people, ties: keep}": r"sft learns from the side that won.*allowed",
    "name: kto, pairs: {source: people, ties: keep}": r"kto learns from the side that won.*allowed",
    "name: sft, pairs: {source: nobody}": r"'nobody' found .*'people', 'reward', 'winners'",
    "name: sft, pairs: {source: reward, images_per_prompt: 1}": r"images_per_prompt: .*2, got 1",
    "name: diffusion_dpo, calibrate: 0.0": r"calibrate: .*greater than 0",
    "name: diffusion_dpo, error: pixels": r"error: .*'latent' or 'perceptual'",
    "name: self_rewarding": r"self_rewarding learns from its own scores.*allowed: .*monitor\.judge",
}


@pytest.mark.parametrize(("method", "message"), REFUSED.items())
def test_what_is_refused(tmp_path, method, message):
    path = tmp_path / "params.yaml"
    path.write_text(f"base: {{path: base}}\nfinetuning: {{rounds: 1, method: {{{method}}}}}\n")
    with pytest.raises(SettingsError, match=message):
        load_block(path, "finetuning", Settings)


@pytest.mark.parametrize(("family", "error"), [("flow", "perceptual"), ("consistency", "latent")])
def test_families_are_refused_before_anything_is_loaded(tmp_path, base_folders, family, error):
    path = tmp_path / "params.yaml"
    path.write_text(
        f"base: {{path: {base_folders(family)}}}\n"
        f"finetuning: {{rounds: 1, method: {{name: diffusion_dpo, error: {error}}}}}\n"
    )
    with pytest.raises(SettingsError, match=f"is defined for unet.* models, .* a {family} model"):
        load_block(path, "finetuning", Settings)


def test_preferences_are_an_input_only_of_methods_that_read_them(project, monkeypatch):
    from components.finetuning import stage

    found = {}
    for name in ("diffusion_dpo", "ncp_dpo", "dpok", "self_rewarding"):
        settings, context = project(METHODS[name], name=name)
        found[name] = "preferences" in stage._log_inputs(settings, context)
    assert found == {
        "diffusion_dpo": True,
        "ncp_dpo": False,
        "dpok": False,
        "self_rewarding": False,
    }
