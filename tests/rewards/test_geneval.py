"""GenEval end to end: tiny detectors and a tiny CLIP, with the preparation of the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from components.contracts.errors import DataError, ModelError, SettingsError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.clip_towers import ClipTowers
from components.rewards.scorers.geneval_colours import TEMPLATES, ColourReader, cut_out
from components.rewards.scorers.geneval_detectors import box_around, load_detector
from components.rewards.scorers.geneval_rules import COLOURS, Detection, Limits, keep
from components.rewards.scorers.geneval_tasks import Tasks
from components.rewards.scorers.settings import GenevalScorerSettings
from tests.rewards.tiny_detectors import LABELS, MAKERS, tiny_detector
from tests.support.tiny_clip import tiny_clip

CPU = ComputeSettings(device="cpu", threads=1)
DEVICE = torch.device("cpu")
NAMES = ("dog", "computer mouse", "cat")
DOG, MOUSE, CAT = ({"class": name, "count": 1} for name in NAMES)
ROWS = [
    {"tag": "two_object", "include": [DOG, MOUSE], "prompt": "a dog and a mouse"},
    {"tag": "counting", "include": [CAT | {"count": 4}], "prompt": "four cats"},
    {"tag": "colors", "include": [MOUSE | {"color": "red"}], "prompt": "a red mouse"},
    {"tag": "position", "include": [CAT, DOG | {"position": ["above", 0]}], "prompt": "dog on cat"},
]
PROMPTS = [str(row["prompt"]) for row in ROWS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a detector of each kind, a CLIP that can read whole sentences, and tasks."""
    root = tmp_path_factory.mktemp("project")
    for kind in MAKERS:
        tiny_detector(root / kind, kind)
    tiny_clip(root / "clip", text_length=48)
    write_tasks(root, ROWS)
    return root


def write_tasks(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand((count, 3, 5, 7), generator=generator)
    images = torch.nn.functional.interpolate(small, (40, 56), mode="nearest")
    return (images * 255).round().to(torch.uint8)


def arrays(images: torch.Tensor) -> list[numpy.ndarray]:
    return [numpy.ascontiguousarray(image.permute(1, 2, 0)) for image in images]


# --- detectors ------------------------------------------------------------------------------------


def in_order(detections: list[Detection]) -> list[tuple[str, float, tuple[float, ...]]]:
    return sorted((one.name, one.score, tuple(one.box)) for one in detections)


@pytest.mark.parametrize("kind", ["yolos", "detr"])
def test_boxes_are_those_of_the_library(root: Path, kind: str) -> None:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection

    images = pictures(2)
    processor = AutoImageProcessor.from_pretrained(root / kind, backend="pil")
    model = AutoModelForObjectDetection.from_pretrained(root / kind).eval()
    with torch.no_grad():
        outputs = model(**processor(images=arrays(images), return_tensors="pt"))
    results = processor.post_process_object_detection(outputs, 0.1, [(40, 56)] * 2)
    found = load_detector(root / kind, NAMES, 0.1, DEVICE).find(images, [NAMES, NAMES])
    names = dict(enumerate(NAMES))
    for result, detections in zip(results, found, strict=True):
        columns = (result[key].tolist() for key in ("labels", "scores", "boxes"))
        rows = zip(*columns, strict=True)
        expected = [(names[label], score, tuple(box)) for label, score, box in rows]
        assert len(expected) > 1
        assert in_order(detections) == sorted(expected)


def test_masks_are_those_of_the_library(root: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    images = pictures(2)
    processor = AutoImageProcessor.from_pretrained(root / "mask2former", backend="pil")
    model = AutoModelForUniversalSegmentation.from_pretrained(root / "mask2former").eval()
    with torch.no_grad():
        outputs = model(**processor(images=arrays(images), return_tensors="pt"))
    results = processor.post_process_instance_segmentation(
        outputs, 0.1, target_sizes=[(40, 56)] * 2, return_binary_maps=True
    )
    found = load_detector(root / "mask2former", NAMES, 0.1, DEVICE).find(images, [NAMES, NAMES])
    for result, detections in zip(results, found, strict=True):
        assert len(detections) == len(result["segments_info"]) > 1
        rows = zip(result["segments_info"], result["segmentation"], detections, strict=True)
        for segment, mask, one in rows:
            assert LABELS[segment["label_id"]] in one.name
            assert one.score == segment["score"]
            assert torch.equal(one.mask, mask.bool())
            assert one.box == box_around(mask.bool())


def test_words_are_sought_as_the_library_does(root: Path) -> None:
    from transformers import AutoProcessor, Owlv2ForObjectDetection

    images = pictures(2)
    processor = AutoProcessor.from_pretrained(root / "owlv2", backend="pil")
    model = Owlv2ForObjectDetection.from_pretrained(root / "owlv2").eval()
    wanted = [("unicorn", "dog"), ("sea",)]
    found = load_detector(root / "owlv2", ["unicorn"], 0.1, DEVICE).find(images, wanted)
    for image, names, detections in zip(images, wanted, found, strict=True):
        words = [[f"a photo of a {name}" for name in names]]
        inputs = processor(text=words, images=arrays(image[None]), return_tensors="pt")
        with torch.no_grad():
            outputs = model(**inputs)
        (result,) = processor.post_process_grounded_object_detection(outputs, 0.1, [(40, 56)])
        expected = zip(result["labels"].tolist(), result["scores"].tolist(), strict=True)
        assert len(detections) > 1
        assert sorted((one.name, one.score) for one in detections) == sorted(
            (names[label], score) for label, score in expected
        )


@pytest.mark.parametrize("kind", list(MAKERS))
def test_only_classes_that_matter_and_sure_enough_are_found(root: Path, kind: str) -> None:
    images = pictures(2)
    everything = load_detector(root / kind, NAMES, 0.0, DEVICE).find(images, [NAMES] * 2)
    scores = sorted(one.score for one in everything[0])
    middle = (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2
    sure = load_detector(root / kind, NAMES, middle, DEVICE).find(images, [NAMES] * 2)
    assert 0 < len(sure[0]) < len(everything[0])
    assert all(one.score >= middle for one in sure[0])
    few = load_detector(root / kind, NAMES, 0.0, DEVICE).find(images, [("cat",), ("dog",)])[0]
    assert {one.name for one in few} <= {"cat"}


def test_a_mask_has_a_box_around_it() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    assert box_around(mask) == (2.0, 1.0, 6.0, 4.0)


def test_a_class_that_the_detector_does_not_know_is_one_line(root: Path) -> None:
    message = (
        r"yolos: the detector knows no 'fox' \(1 classes .*; allowed: cat, computer mouse, dog"
    )
    with pytest.raises(SettingsError, match=message):
        load_detector(root / "yolos", ["dog", "fox"], 0.1, DEVICE)


def test_another_kind_of_model_is_one_line(root: Path) -> None:
    with pytest.raises(ModelError, match=r"clip: model_type 'clip'; allowed: a detector \(Mask2"):
        load_detector(root / "clip", NAMES, 0.1, DEVICE)
    with pytest.raises(ModelError, match=r"nowhere: is no usable model here"):
        load_detector("nowhere", NAMES, 0.1, DEVICE)


# --- colours --------------------------------------------------------------------------------------


def test_an_object_is_cut_out_as_pillow_does() -> None:
    image = pictures(1)[0]
    picture = Image.fromarray(arrays(image[None])[0])
    box = (3.4, 5.6, 20.5, 30.2)
    expected = numpy.asarray(picture.crop(tuple(map(round, box))))
    found = cut_out(image, Detection("dog", 1.0, box))
    assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(expected.copy()))
    mask = torch.rand((40, 56), generator=torch.Generator().manual_seed(0)) > 0.5
    grey = Image.new("RGB", picture.size, "#999")
    covered = Image.composite(picture, grey, Image.fromarray(mask.numpy()))
    expected = numpy.asarray(covered.crop(tuple(map(round, box))))
    found = cut_out(image, Detection("dog", 1.0, box, mask))
    assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(expected.copy()))


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((-9, -9, 10, 12), (3, 12, 10)),
        ((50, 30, 90, 90), (3, 10, 6)),
        ((7.2, 7.2, 7.3, 7.3), (3, 1, 1)),
        ((99, 99, 120, 120), (3, 1, 1)),
        ((-20, -20, -5, -5), (3, 1, 1)),
    ],
)
def test_a_box_beside_the_picture_leaves_a_pixel_at_least(
    box: tuple[float, float, float, float], shape: tuple[int, ...]
) -> None:
    assert cut_out(pictures(1)[0], Detection("dog", 1.0, box)).shape == shape


def test_the_colour_is_the_nearest_in_clip(root: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    towers = ClipTowers.load(root / "clip", root / "clip", 1, even_crop=True)
    reader = ColourReader(towers)
    model = CLIPModel.from_pretrained(root / "clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(root / "clip")

    def unit(words: list[str]) -> torch.Tensor:
        encoded = tokenizer(words, padding="max_length", max_length=48, return_tensors="pt")
        pooled = model.text_model(input_ids=encoded["input_ids"]).pooler_output
        return torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)

    image, boxes = pictures(1, seed=4)[0], [(0, 0, 16, 16), (8, 8, 40, 24), (20, 0, 56, 40)]
    detections = [Detection("dog", 1.0, box) for box in boxes]
    found = reader.colours(image, detections)
    with torch.no_grad():
        for one, colour in zip(detections, found, strict=True):
            features = towers.image(cut_out(image, one)[None])[0]
            likeness = [
                float(
                    torch.nn.functional.cosine_similarity(
                        unit([t.format(colour=word, name="dog") for t in TEMPLATES]).mean(dim=0),
                        features,
                        dim=0,
                    )
                )
                for word in COLOURS
            ]
            assert COLOURS[int(torch.tensor(likeness).argmax())] == colour
            # Near ties would say nothing.
            best, second = sorted(likeness)[-1:-3:-1]
            assert best - second > 1e-4
    assert reader.colours(image, detections[1:2]) == found[1:2]


# --- the scorer -----------------------------------------------------------------------------------


def build(root: Path, detector: str = "mask2former", **changes: Any) -> Scorer:
    fields = {"threshold": 0.1, "counting_threshold": 0.2, **changes}
    settings = GenevalScorerSettings(tasks="tasks.jsonl", detector=detector, clip="clip", **fields)
    return build_scorer(settings, CPU, root)


@pytest.mark.parametrize(
    ("kind", "score"), [*((kind, "soft") for kind in MAKERS), ("mask2former", "strict")]
)
def test_scores_are_the_rules_on_what_is_found(root: Path, kind: str, score: str) -> None:
    from components.rewards.scorers.geneval_rules import agreement, correct

    images, prompts = pictures(4, seed=1), PROMPTS
    scores = build(root, kind, score=score).score(images, prompts)
    assert scores.dtype == torch.float32
    tasks = Tasks.read(root / "tasks.jsonl").of(prompts)
    reader = ColourReader(ClipTowers.load(root / "clip", root / "clip", 1, even_crop=True))
    rule = correct if score == "strict" else agreement
    limits = Limits(threshold=0.1, counting_threshold=0.2)
    detector = load_detector(root / kind, NAMES, 0.1, DEVICE)
    found = detector.find(images, [task.names for task in tasks])
    expected = [
        float(rule(keep(seen, task, limits), task, lambda d, i=i: reader.colours(i, d), limits))
        for i, seen, task in zip(images, found, tasks, strict=True)
    ]
    assert scores.tolist() == pytest.approx(expected)


def test_pictures_are_told_apart(root: Path) -> None:
    images = pictures(12, seed=2)
    scores = build(root, score="soft").score(images, PROMPTS * 3)
    assert float(scores.min()) >= 0 and float(scores.max()) <= 1
    assert len(set(scores.tolist())) > 3
    strict = build(root).score(images, PROMPTS * 3)
    assert set(strict.tolist()) <= {0.0, 1.0}


def test_bytes_floats_and_batches_score_alike(root: Path) -> None:
    images = pictures(5, seed=3)
    prompts = [PROMPTS[number % 4] for number in range(5)]
    scorer = build(root, score="soft")
    scores = scorer.score(images, prompts)
    assert torch.equal(scorer.score(images.float() / 255, prompts), scores)
    rows = zip(images, prompts, strict=True)
    alone = [scorer.score(image[None], [prompt]) for image, prompt in rows]
    assert torch.equal(torch.cat(alone), scores)


def test_without_colours_no_clip_is_needed(root: Path, tmp_path: Path) -> None:
    write_tasks(tmp_path, ROWS[:1])
    settings = GenevalScorerSettings(tasks="tasks.jsonl", detector=str(root / "yolos"), clip="no")
    scorer = build_scorer(settings, CPU, tmp_path)
    assert scorer.score(pictures(1), PROMPTS[:1]).shape == (1,)
    write_tasks(tmp_path, ROWS)
    with pytest.raises(ModelError, match=r"^no: is no usable model here"):
        build_scorer(settings, CPU, tmp_path)


def test_a_prompt_without_a_task_is_one_line(root: Path) -> None:
    with pytest.raises(DataError, match="has no task for 1 prompts, the first is 'a fox'"):
        build(root).score(pictures(1), ["a fox"])


def test_tasks_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tasks.jsonl: no such file"):
        build(tmp_path)
