"""What learns, in which batches, at which rate, from which labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import SettingsError
from components.contracts.seeds import torch_generator
from components.rewards.backbones import RewardModel, open_backbone
from components.rewards.batches import Batches
from components.rewards.dataset import Pairs, Preferences, Rankings, Ratings, read_preferences
from components.rewards.fit import learning_rate, pair_margin
from components.rewards.freezing import merge_lora, set_trainable
from components.rewards.labels import Habits
from components.rewards.losses.pairs import bradley_terry_loss, reliability_loss
from components.rewards.settings import (
    BackboneSettings,
    EnsembleSettings,
    LearningCurveSettings,
    LoraSettings,
    ObjectiveSettings,
    PromptClassificationSettings,
    Settings,
)
from components.rewards.states import States
from components.rewards.train import Training, train, trained_prompts
from tests.rewards.backbones import KINDS, architecture_of, backbone, opened
from tests.rewards.conftest import SETTINGS
from tests.rewards.world import redness, rows, write_world
from tests.support.tiny_clip import tiny_clip

PLAIN = SETTINGS.model_copy(update={"learning_curve": LearningCurveSettings(shares=())})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, clip: Path) -> Preferences:
    folder = write_world(tmp_path_factory.mktemp("preferences"), *rows())
    return read_preferences(folder, opened_clip(clip).preprocessing.resize)


def opened_clip(clip: Path) -> RewardModel:
    return open_backbone("two_towers", clip, torch_generator(0)).eval()


def changed(settings: Settings = PLAIN, **values: Any) -> Settings:
    """Settings with other values; `objective` and `backbone` take theirs by name."""
    for block in ("objective", "backbone"):
        if block in values:
            values[block] = getattr(settings, block).model_copy(update=values[block])
    return settings.model_copy(update=values)


def with_train(data: Preferences, pairs: Pairs) -> Preferences:
    return replace(data, splits={**data.splits, "train": pairs})


def accuracy(training: Training) -> float:
    return training.curve[-1].accuracy.value


# --- what learns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainable", "moves", "stays"),
    [
        ("all", "vision_model.embeddings.patch_embedding.weight", None),
        (
            "last_layers",
            "vision_model.encoder.layers.2.mlp.fc1.weight",
            "vision_model.encoder.layers.1.mlp.fc1.weight",
        ),
        ("heads", "visual_projection.weight", "vision_model.encoder.layers.2.mlp.fc1.weight"),
    ],
)
def test_only_the_chosen_weights_move(
    clip: Path, data: Preferences, trainable: str, moves: str, stays: str | None
) -> None:
    model = opened_clip(clip)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = changed(backbone={"trainable": trainable}, epochs=1)
    train(model, data, settings, torch_generator(1, "train"))
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert f"clip.{moves}" in moved
    assert f"clip.{stays}" not in moved
    chosen = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moved <= chosen


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layers_are_a_third_of_each_tower(kind: str, tmp_path: Path) -> None:
    model = opened(kind, tmp_path)
    settings = BackboneSettings(source="x", trainable="last_layers")
    chosen = [name for name, _ in set_trainable(model, settings, torch_generator(0))]
    layers = {name for name in chosen if "layer" in name and ".encoder." in name}
    if kind == "mlp":
        assert layers == set()
    elif kind == "clip":
        assert {name.split(".")[4] for name in layers} == {"2"}
    elif kind == "blip":
        assert {name.split(".")[3] for name in layers} == {"2"}
    else:
        # Three layers in two stages: the last one learns, and the norm behind it.
        images = [name for name in chosen if "vision" in name or "image" in name]
        assert any(name.endswith("layernorm.weight") for name in images)
        stages = {name.split(".stages.")[1][:10] for name in images if ".stages." in name}
        assert stages == {"1.layers.1"}


def test_a_lora_learns_is_merged_and_leaves_plain_layers(clip: Path, data: Preferences) -> None:
    model = opened_clip(clip)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings = changed(backbone={"lora": LoraSettings(rank=2, alpha=4)}, epochs=1)
    train(model, data, settings, torch_generator(1, "train"))
    after = model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    towers = {name.split(".")[-2] for name in moved if ".encoder." in name}
    assert towers == {"q_proj", "k_proj", "v_proj", "out_proj"}
    assert "clip.visual_projection.weight" in moved
    # Rank 2: no update of a 32 x 32 matrix has more.
    name = "clip.vision_model.encoder.layers.0.self_attn.q_proj.weight"
    assert int(torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4)) <= 2


def test_a_lora_changes_nothing_before_the_first_update(clip: Path, data: Preferences) -> None:
    model, plain = opened_clip(clip), opened_clip(clip)
    settings = BackboneSettings(source="x", lora=LoraSettings())
    with_lora = set_trainable(model, settings, torch_generator(1))
    assert any("lora_A" in name for name, _ in with_lora)
    rows = torch.arange(6)
    expected = States(plain, data, 0).scores(rows, "")
    assert torch.equal(States(model, data, 0).scores(rows, ""), expected)
    merge_lora(model)
    assert torch.equal(States(model, data, 0).scores(rows, ""), expected)


def test_the_start_of_a_lora_follows_the_generator_alone(clip: Path) -> None:
    settings = BackboneSettings(source="x", lora=LoraSettings())

    def first(seed: int) -> torch.Tensor:
        named = set_trainable(opened_clip(clip), settings, torch_generator(seed))
        return next(value for name, value in named if "lora_A" in name)

    state = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_lora_that_reaches_nothing_is_refused(clip: Path) -> None:
    settings = BackboneSettings(source="x", lora=LoraSettings(targets=("to_q",)))
    with pytest.raises(SettingsError, match=r"targets to_q name no layer.*allowed: .*q_proj"):
        set_trainable(opened_clip(clip), settings, torch_generator(0))


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_made_of_whole_prompts(data: Preferences) -> None:
    pairs = data.splits["train"]
    batches = list(Batches(data, torch.arange(len(pairs))).shuffled(20, torch_generator(0)))
    assert sorted(torch.cat([batch.pairs for batch in batches]).tolist()) == list(range(len(pairs)))
    owners = [set(data.prompt_of[pairs.image_a[batch.pairs]].tolist()) for batch in batches]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 48
    assert all(len(batch) == 21 for batch in batches[:-1])


def test_shuffling_follows_the_generator(data: Preferences) -> None:
    batches = Batches(data, torch.arange(len(data.splits["train"])))

    def order(seed: int) -> list[int]:
        return torch.cat([b.pairs for b in batches.shuffled(20, torch_generator(seed))]).tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_only_the_asked_prompts_are_in_batches(data: Preferences) -> None:
    pairs = data.splits["train"]
    some = data.prompt_of[pairs.image_a].unique()[:5]
    batches = Batches(data, torch.arange(len(pairs)), some)
    assert len(batches) == 15
    found = torch.cat([batch.pairs for batch in batches.shuffled(4, torch_generator(0))])
    assert set(data.prompt_of[pairs.image_a[found]].tolist()) == set(some.tolist())


# --- states --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_states_that_are_kept_score_as_those_that_are_not(
    kind: str, data: Preferences, tmp_path: Path
) -> None:
    model = opened(kind, tmp_path)
    set_trainable(model, BackboneSettings(source="x", trainable="heads"), torch_generator(0))
    rows = torch.tensor([5, 2, 2, 200])
    mirrored = torch.tensor([True, False, True, False])
    kept, anew = States(model, data, 64), States(model, data, 0)
    with torch.no_grad():
        assert torch.allclose(kept.score(rows), anew.score(rows), atol=1e-5)
        found = kept.score(rows, mirrored)
        assert torch.allclose(found, anew.score(rows, mirrored), atol=1e-5)
    # A random BLIP hardly looks at its patches' places: to it a mirrored picture is the same.
    assert kind == "blip" or abs(float(found[1] - found[2])) > 1e-6
    assert found[3] == kept.score(rows)[3]


def test_a_symmetric_model_is_measured_on_both_sides(clip: Path, data: Preferences) -> None:
    model = opened_clip(clip)
    rows, turned = torch.arange(5), torch.ones(5, dtype=torch.bool)
    states = States(model, data, 0)
    with torch.no_grad():
        expected = (states.score(rows) + states.score(rows, turned)) / 2
    plain = states.scores(rows, "")
    model.symmetric = True
    assert torch.allclose(states.scores(rows, ""), expected)
    assert not torch.allclose(plain, expected)


def test_a_tower_that_learns_is_never_kept(clip: Path, data: Preferences) -> None:
    model = opened_clip(clip)
    set_trainable(model, BackboneSettings(source="x", trainable="all"), torch_generator(0))
    states = States(model, data, 64)
    before = states.score(torch.arange(3))
    with torch.no_grad():
        for parameter in model.towers["image"].parameters():
            parameter.mul_(1.1)
    assert not torch.allclose(states.score(torch.arange(3)), before)


# --- epochs --------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_calibrated(clip: Path, data: Preferences) -> None:
    # A rate that ruins the model: the loss of the kept epoch must be the lowest of the curve.
    model = opened_clip(clip)
    settings = changed(learning_rate=0.05, epochs=4, patience=4)
    training = train(model, data, settings, torch_generator(3, "train"))
    pairs = data.splits["validation"]
    margin = pair_margin(States(model, data, 0), pairs, "scoring")
    loss = float(bradley_terry_loss(margin, pairs.preference).mean())
    best = training.fitted.best
    # The scale goes through a logarithm and back.
    assert loss == pytest.approx(best.validation_loss, rel=1e-5)
    assert best.validation_loss == min(e.validation_loss for e in training.fitted.epochs)
    assert len(training.fitted.epochs) == 5


def test_a_training_that_ruins_the_backbone_stops_and_is_not_kept(
    clip: Path, data: Preferences
) -> None:
    good = opened_clip(clip)
    train(good, data, PLAIN, torch_generator(1))
    before = pair_margin(States(good, data, 0), data.splits["test"], "scoring")
    settings = changed(learning_rate=1.0, epochs=9, patience=2)
    training = train(good, data, settings, torch_generator(2))
    assert training.fitted.best.update == 0
    assert training.fitted.stopped_early
    assert len(training.fitted.epochs) == 3
    after = pair_margin(States(good, data, 0), data.splits["test"], "scoring")
    assert torch.allclose(after, before, rtol=1e-4)


def too_sure(model: RewardModel, factor: float) -> RewardModel:
    model.scale_scores(factor)
    return model


def test_a_backbone_that_is_too_sure_is_brought_down_before_it_learns(
    clip: Path, data: Preferences
) -> None:
    good = opened_clip(clip)
    train(good, data, PLAIN, torch_generator(1))
    # At this rate nothing is learnt: the losses are those of the start.
    still = changed(learning_rate=1e-9, epochs=1)
    plain = train(good, data, still, torch_generator(2)).fitted.epochs
    sure = train(too_sure(good, 50.0), data, still, torch_generator(2)).fitted.epochs
    for first, second in zip(plain, sure, strict=True):
        assert second.train_loss == pytest.approx(first.train_loss, rel=0.02)
        assert second.train_loss < 0.5
        assert second.validation_loss == pytest.approx(first.validation_loss, rel=1e-3)


def test_what_was_learnt_of_people_belongs_to_the_kept_epoch(clip: Path, data: Preferences) -> None:
    good = opened_clip(clip)
    train(good, data, PLAIN, torch_generator(1))
    settings = changed(objective={"annotators": "reliability"}, learning_rate=1.0, epochs=2)
    training = train(good, data, settings, torch_generator(2))
    assert training.fitted.best.update == 0
    # sigmoid(2), where everybody starts.
    assert training.fitted.habits.reliability().tolist() == [pytest.approx(0.8808, abs=1e-4)]


def test_mirroring_draws_from_the_generator_and_changes_the_training(
    clip: Path, data: Preferences
) -> None:
    def first_loss(horizontal_flip: bool) -> float:
        settings = changed(horizontal_flip=horizontal_flip, epochs=1)
        training = train(opened_clip(clip), data, settings, torch_generator(1))
        return training.fitted.epochs[1].train_loss

    assert first_loss(True) == first_loss(True)
    assert first_loss(True) != first_loss(False)


def test_learning_rate_rises_then_falls_to_zero() -> None:
    assert 0 < learning_rate(0.0) < 0.2
    assert learning_rate(0.05) == pytest.approx(1.0)
    assert learning_rate(0.525) == pytest.approx(0.5)
    assert learning_rate(1.0) == pytest.approx(0.0)


# --- labels and objectives -----------------------------------------------------------------------

OBJECTIVES: dict[str, dict[str, Any]] = {
    "label smoothing": {"label_smoothing": 0.1},
    "davidson": {"ties": "davidson"},
    "ties left out": {"ties": "leave_out"},
    "data smoothing": {"data_smoothing": 0.1},
    "reliability": {"annotators": "reliability"},
    "prompt classification": {
        "prompt_classification": PromptClassificationSettings(weight=0.1, num_prompts=3)
    },
    "ensemble": {"ensemble": EnsembleSettings(members=2)},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_learns_what_people_prefer(
    name: str, clip: Path, data: Preferences
) -> None:
    settings = changed(objective=OBJECTIVES[name])
    plain = train(opened_clip(clip), data, PLAIN, torch_generator(1))
    training = train(opened_clip(clip), data, settings, torch_generator(1))
    assert accuracy(training) > 0.85
    assert training.fitted.epochs[1:] != plain.fitted.epochs[1:]


@pytest.mark.parametrize("kind", ["mlp", "blip", "convolutional blip"])
def test_every_architecture_learns(kind: str, data: Preferences, tmp_path: Path) -> None:
    model = open_backbone(architecture_of(kind), backbone(kind, tmp_path), torch_generator(3))
    settings = changed(learning_rate=3e-3, epochs=8, patience=8)
    training = train(model, data, settings, torch_generator(1))
    # What an untrained image tower lets through of the colour, an MLP behind it finds.
    assert accuracy(training) > (0.7 if kind == "mlp" else 0.85)


def reversed_labels(pairs: Pairs, chosen: torch.Tensor) -> Pairs:
    preference = torch.where(chosen, 1 - pairs.preference, pairs.preference)
    return replace(pairs, preference=preference)


def test_the_ensemble_finds_the_labels_that_were_turned_round(
    clip: Path, data: Preferences
) -> None:
    pairs = data.splits["train"]
    turned = (torch.rand(len(pairs), generator=torch_generator(5)) < 0.2) & (
        pairs.preference != 0.5
    )
    noisy = with_train(data, reversed_labels(pairs, turned))
    ensemble = EnsembleSettings(members=4, flip_fraction=0.2, soften_fraction=0.0)
    settings = changed(objective={"ensemble": ensemble})
    training = train(opened_clip(clip), noisy, settings, torch_generator(1))
    mended = training.mended
    assert mended is not None
    was = noisy.splits["train"].preference
    flipped = (mended.targets.preference - was).abs() > 0.9
    assert mended.num_flipped == int(flipped.sum()) > 0
    # Chance would find a fifth.
    assert float(turned[flipped].float().mean()) > 0.6
    assert float(flipped[turned].float().mean()) > 0.6


def test_no_member_is_asked_about_what_it_was_trained_on(clip: Path, data: Preferences) -> None:
    # Two members with half of the prompts each: whatever both were trained on has no strength, and
    # no pair was asked of both unless neither had it.
    ensemble = EnsembleSettings(members=2, share=0.5)
    settings = changed(objective={"ensemble": ensemble}, epochs=1)
    mended = train(opened_clip(clip), data, settings, torch_generator(1)).mended
    assert mended is not None
    decided = data.splits["train"].preference != 0.5
    unknown = mended.strength.mean[decided] == 0
    assert 0.1 < float(unknown.float().mean()) < 0.45
    settings = changed(objective={"ensemble": ensemble.model_copy(update={"share": 1.0})}, epochs=1)
    mended = train(opened_clip(clip), data, settings, torch_generator(1)).mended
    assert mended is not None
    assert (mended.strength.mean[decided] != 0).all()


def test_a_label_that_no_member_may_judge_stays_as_it_is(clip: Path, data: Preferences) -> None:
    ensemble = EnsembleSettings(members=2, flip_fraction=0.0, soften_fraction=0.5)
    settings = changed(objective={"ensemble": ensemble}, epochs=1)
    mended = train(opened_clip(clip), data, settings, torch_generator(1)).mended
    assert mended is not None
    was = data.splits["train"].preference
    unknown = (mended.strength.mean == 0) & (was != 0.5)
    assert unknown.any()
    assert torch.equal(mended.targets.preference[unknown], was[unknown])
    # The fractions are of what was judged.
    assert mended.num_softened == round(0.5 * int((mended.strength.mean != 0).sum()))


def test_somebody_who_never_errs_does_not_break_the_gradient(data: Preferences) -> None:
    habits = Habits(1, 0)
    with torch.no_grad():
        habits.reliability_logit.fill_(40.0)
    margin = torch.tensor([0.5, -0.5], requires_grad=True)
    reliability_loss(
        margin, torch.tensor([1.0, 1.0]), habits.reliability().expand(2)
    ).sum().backward()
    assert margin.grad is not None and margin.grad.isfinite().all()
    assert habits.reliability_logit.grad is not None
    assert habits.reliability_logit.grad.isfinite().all()


def test_a_liar_is_found_out(clip: Path, data: Preferences) -> None:
    pairs = data.splits["train"]
    # Every third judgement is the liar's.
    annotator = (torch.arange(len(pairs)) % 3 == 0).to(torch.int32)
    lying = replace(reversed_labels(pairs, annotator == 1), annotator=annotator)
    noisy = replace(with_train(data, lying), annotators=("honest", "liar"))
    settings = changed(
        objective={"annotators": "reliability"}, epochs=16, patience=16, batch_size=12
    )
    training = train(opened_clip(clip), noisy, settings, torch_generator(1))
    honest, liar = training.fitted.habits.reliability().tolist()
    assert liar < 0.4 < 0.8 < honest


def ranked(data: Preferences, clip: Path) -> Preferences:
    """The training pairs replaced by a whole ranking of each prompt's pictures, by redness."""
    images = torch.cat([data.splits["train"].image_a, data.splits["train"].image_b]).unique()
    order = data.prompt_of[images]
    score = redness(data.images.pixels(images))
    rank = torch.stack(
        [
            (score[order == prompt] > value).sum()
            for prompt, value in zip(order.tolist(), score, strict=True)
        ]
    )
    _, ranking = order.unique(return_inverse=True)
    nobody = torch.zeros(len(images), dtype=torch.int32)
    rankings = Rankings(images, rank.to(torch.int32), ranking.to(torch.int32), nobody)
    train_split = data.splits["train"]
    read_off = replace(train_split, ranking=torch.zeros_like(train_split.ranking))
    return replace(with_train(data, read_off), rankings={**data.rankings, "train": rankings})


def test_rankings_teach_as_whole_orders(clip: Path, data: Preferences) -> None:
    settings = changed(objective={"rankings": "plackett_luce"})
    training = train(opened_clip(clip), ranked(data, clip), settings, torch_generator(1))
    assert accuracy(training) > 0.85


@pytest.mark.parametrize("loss", ["ordinal", "squared_error"])
@pytest.mark.parametrize("steps", [2, 5, 0])
def test_ratings_teach_without_any_pair(
    loss: str, steps: int, clip: Path, data: Preferences
) -> None:
    pairs = data.splits["train"]
    images = torch.cat([pairs.image_a, pairs.image_b]).unique()
    share = (redness(data.images.pixels(images)) / 150 + 0.5).clamp(0, 1)
    share = (share * (steps - 1)).round() / (steps - 1) if steps else share
    one = torch.ones(len(images))
    ratings = Ratings(
        image=images,
        question=torch.zeros(len(images), dtype=torch.int32),
        value=1 + 4 * share,
        low=one,
        high=5 * one,
        steps=torch.full((len(images),), steps, dtype=torch.int32),
        annotator=torch.zeros(len(images), dtype=torch.int32),
    )
    undecided = replace(pairs, preference=torch.full_like(pairs.preference, 0.5))
    rated = replace(
        with_train(data, undecided),
        ratings={**data.ratings, "train": ratings},
        questions=("quality",),
    )
    settings = changed(
        objective={"ties": "leave_out", "ratings_weight": 1.0, "ratings_loss": loss},
        epochs=8,
        patience=8,
    )
    training = train(opened_clip(clip), rated, settings, torch_generator(1))
    assert accuracy(training) > 0.8


def test_the_learning_curve_rises_with_nested_labels(clip: Path, data: Preferences) -> None:
    settings = changed(learning_curve=LearningCurveSettings(shares=(0.02, 0.5)))
    training = train(opened_clip(clip), data, settings, torch_generator(1))
    assert [point.prompts for point in training.curve] == [1, 24, 48]
    assert [point.judgements for point in training.curve] == [3, 72, 144]
    assert training.curve[0].accuracy.value < training.curve[-1].accuracy.value
    assert training.backbone_accuracy.value < 0.75


def test_only_prompts_with_a_label_that_is_learnt_from_are_shared_out(
    clip: Path, data: Preferences
) -> None:
    pairs = data.splits["train"]
    prompt = data.prompt_of[pairs.image_a]
    spoken = prompt.unique()[:3]
    tied = torch.where(torch.isin(prompt, spoken), pairs.preference, 0.5)
    sparse = with_train(data, replace(pairs, preference=tied))
    objective = ObjectiveSettings(ties="leave_out")
    assert torch.equal(trained_prompts(sparse, objective), spoken)
    assert len(trained_prompts(sparse, ObjectiveSettings())) == 48
    # A share of one prompt has a label, whichever it is.
    curve = LearningCurveSettings(shares=(0.01,))
    settings = changed(objective={"ties": "leave_out"}, learning_curve=curve, epochs=1)
    points = train(opened_clip(clip), sparse, settings, torch_generator(1)).curve
    assert [point.prompts for point in points] == [1, 3]


def test_labels_that_the_objective_does_not_ask_for_are_one_line(
    clip: Path, data: Preferences
) -> None:
    pairs = data.splits["train"]
    tied = with_train(data, replace(pairs, preference=torch.full_like(pairs.preference, 0.5)))
    settings = changed(objective={"ties": "leave_out"})
    with pytest.raises(SettingsError, match=r"no label that it learns from; allowed: ties half"):
        train(opened_clip(clip), tied, settings, torch_generator(1))


def test_the_points_of_a_curve_leave_no_trace_but_in_the_generator(
    clip: Path, data: Preferences
) -> None:
    settings = changed(
        learning_curve=LearningCurveSettings(shares=(0.5,)), learning_rate=1e-9, epochs=1
    )
    training = train(opened_clip(clip), data, settings, torch_generator(1))
    # At a rate that changes nothing every point is the backbone, to the last digit.
    assert [point.accuracy for point in training.curve] == [training.backbone_accuracy] * 2


def test_davidson_and_reliability_exclude_one_another() -> None:
    with pytest.raises(ValueError, match="exclude one another"):
        ObjectiveSettings(ties="davidson", annotators="reliability")
