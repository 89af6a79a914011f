"""Detectors of transformers behind one call: which objects are where in a picture?

    masks   Mask2Former and MaskFormer: an outline of each object, as GenEval's own detector
    boxes   DETR, RT-DETR, YOLOS and their kin: a box of each object
    words   OWLv2 and OWL-ViT: a box of each object of whatever class is asked for

Preparation and post-processing are each detector's own, in transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, UInt8
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
from transformers.models.auto import modeling_auto

from components.contracts.errors import ModelError, SettingsError
from components.rewards.scorers.geneval_rules import Box, Detection
from components.rewards.scorers.hub import pretrained

WHAT = "a detector (Mask2Former, MaskFormer, DETR, RT-DETR, YOLOS, OWLv2, ...) with its processor"
MASKS, WORDS = ("mask2former", "maskformer"), ("owlv2", "owlvit")
"""Model types; every other one that transformers can load for object detection gives boxes."""
ALIASES = {
    "mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard",
    "motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch",
    "pottedplant": "potted plant", "diningtable": "dining table", "tvmonitor": "tv",
}  # fmt: skip
"""COCO's two sets of class names, where they differ from GenEval's."""
Images = UInt8[Tensor, "b 3 h w"]


class Detector(Protocol):
    """Finds objects; every picture is seen on its own."""

    def find(self, images: Images, names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """The objects of each picture, in any order; `names` are the classes that matter in it."""
        ...


def load_detector(
    source: Path | str, names: Sequence[str], threshold: float, device: torch.device
) -> Detector:
    """The detector in a folder, or of a hub name, that knows the classes `names`.

    It gives no object of which it is less sure than `threshold`.

    Raises:
        ModelError: it is missing, truncated, or no detector.
        SettingsError: it does not know one of the classes.
    """
    config = pretrained(AutoConfig, source, WHAT)
    words = config.model_type in WORDS
    kind: Any = _kinds(config.model_type).get(type(config), None)
    if kind is None:
        raise ModelError(f"model_type '{config.model_type}'", file=source, allowed=WHAT)
    known = {number: _name(label) for number, label in config.id2label.items()}
    unknown = [name for name in names if name not in known.values()]
    if unknown and not words:
        raise SettingsError(
            f"the detector knows no '{unknown[0]}' ({len(unknown)} classes that it does not know)",
            file=source,
            allowed=", ".join(sorted(set(known.values()))[:20]) + ", ...",
        )
    processor = pretrained(
        AutoProcessor if words else AutoImageProcessor, source, WHAT, backend="pil"
    )
    model = pretrained(kind, source, WHAT).to(device)
    if words:
        return WordDetector(model, processor, threshold)
    found = MaskDetector if config.model_type in MASKS else BoxDetector
    return found(model, processor, threshold, known)


def _kinds(model_type: str) -> Mapping[Any, Any]:
    if model_type in MASKS:
        return modeling_auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
    if model_type in WORDS:
        return modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING
    return modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING


class BoxDetector:
    """One box for each object."""

    def __init__(
        self, model: Any, processor: Any, threshold: float, known: Mapping[int, str]
    ) -> None:
        """`known` are the classes by the numbers of their labels."""
        self._model, self._processor = model, processor
        self._threshold, self._known = threshold, known

    @torch.no_grad()
    def find(self, images: Images, names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """See `Detector`."""
        inputs = self._processor(images=_arrays(images), return_tensors="pt")
        outputs = self._model(**inputs.to(self._model.device))
        sizes = [tuple(images.shape[-2:])] * len(images)
        results = self._read(outputs, sizes)
        return [
            [one for one in result if one.name in wanted]
            for result, wanted in zip(results, names, strict=True)
        ]

    def _read(self, outputs: Any, sizes: list[Any]) -> list[list[Detection]]:
        results = self._processor.post_process_object_detection(
            outputs, threshold=self._threshold, target_sizes=sizes
        )
        return [_boxes(result, self._known) for result in results]


class MaskDetector(BoxDetector):
    """One outline, and the box around it, for each object."""

    def _read(self, outputs: Any, sizes: list[Any]) -> list[list[Detection]]:
        # The library draws its map of segments on the CPU, wherever the outlines are.
        outputs.class_queries_logits = outputs.class_queries_logits.cpu()
        outputs.masks_queries_logits = outputs.masks_queries_logits.cpu()
        results = self._processor.post_process_instance_segmentation(
            outputs, threshold=self._threshold, target_sizes=sizes, return_binary_maps=True
        )
        return [self._outlines(result) for result in results]

    def _outlines(self, result: Mapping[str, Any]) -> list[Detection]:
        found = []
        for segment, mask in zip(result["segments_info"], result["segmentation"], strict=False):
            name = self._known[segment["label_id"]]
            found.append(Detection(name, segment["score"], box_around(mask > 0), mask > 0))
        return found


class WordDetector:
    """One box for each object of the classes that are asked for, one picture at a time."""

    def __init__(self, model: Any, processor: Any, threshold: float) -> None:
        self._model, self._processor, self._threshold = model, processor, threshold

    @torch.no_grad()
    def find(self, images: Images, names: Sequence[Sequence[str]]) -> list[list[Detection]]:
        """See `Detector`."""
        return [
            self._found(image[None], wanted) for image, wanted in zip(images, names, strict=True)
        ]

    def _found(self, image: UInt8[Tensor, "1 3 h w"], names: Sequence[str]) -> list[Detection]:
        words = [[f"a photo of a {name}" for name in names]]
        inputs = self._processor(text=words, images=_arrays(image), return_tensors="pt")
        outputs = self._model(**inputs.to(self._model.device))
        (result,) = self._processor.post_process_grounded_object_detection(
            outputs, threshold=self._threshold, target_sizes=[tuple(image.shape[-2:])]
        )
        return _boxes(result, dict(enumerate(names)))


def box_around(mask: Bool[Tensor, "h w"]) -> Box:
    """From the first pixel of a mask to one behind its last."""
    rows, columns = (mask.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _boxes(result: Mapping[str, Tensor], known: Mapping[int, str]) -> list[Detection]:
    rows = zip(
        result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True
    )
    return [Detection(known[label], score, tuple(box)) for label, score, box in rows]


def _arrays(images: Images) -> list[Any]:
    return [image.permute(1, 2, 0).contiguous().cpu().numpy() for image in images]


def _name(label: str) -> str:
    word = str(label).lower()
    return ALIASES.get(word, word)
