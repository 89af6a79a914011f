"""Tiny detectors with random weights, each in a folder of the published form."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LABELS = {0: "dog", 1: "mouse", 2: "cat"}
"""COCO's names; GenEval calls a mouse a computer mouse."""
TOWER = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2
}  # fmt: skip
SIZE = 32


def _named() -> dict[str, Any]:
    return {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}


def yolos() -> Any:
    from transformers import YolosConfig, YolosForObjectDetection

    config = YolosConfig(
        **TOWER, **_named(), image_size=[SIZE, SIZE], patch_size=8, num_detection_tokens=8,
        initializer_range=0.2,
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    # Untrained, its eight tokens would all see the same object.
    torch.nn.init.normal_(model.vit.embeddings.detection_tokens)
    return model


def detr() -> Any:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
        out_features=["stage2"],
    )  # fmt: skip
    config = DetrConfig(
        **_named(), use_timm_backbone=False, backbone=None, use_pretrained_backbone=False,
        backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, num_queries=8, init_std=0.5,
    )  # fmt: skip
    return DetrForObjectDetection(config)


def mask2former() -> Any:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=SIZE, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        **_named(), backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
        dim_feedforward=32, num_queries=8,
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config)
    # Spread the classes: untrained, every query sees each of them alike.
    torch.nn.init.normal_(model.class_predictor.weight, std=0.5)
    return model


def owlv2() -> Any:
    from transformers import Owlv2Config, Owlv2ForObjectDetection

    config = Owlv2Config(
        text_config={
            **TOWER, "vocab_size": 55, "max_position_embeddings": 24, "bos_token_id": 53,
            "eos_token_id": 54,
        },
        vision_config={**TOWER, "image_size": SIZE, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    return Owlv2ForObjectDetection(config)


MAKERS: dict[str, tuple[Callable[[], Any], str]] = {
    "yolos": (yolos, "YolosImageProcessor"),
    "detr": (detr, "DetrImageProcessor"),
    "mask2former": (mask2former, "Mask2FormerImageProcessor"),
    "owlv2": (owlv2, "Owlv2ImageProcessor"),
}
WORDS = "owlv2"


def tiny_detector(folder: Path, kind: str, seed: int = 0) -> Path:
    """Write a detector of `MAKERS` with what it needs; the same seed gives the same weights."""
    make, processor = MAKERS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        make().save_pretrained(folder)
    size: dict[str, int] = {"height": SIZE, "width": SIZE}
    if kind in ("yolos", "detr"):
        size = {"shortest_edge": SIZE, "longest_edge": 48}
    content = {"image_processor_type": processor, "size": size}
    if kind == WORDS:
        content["processor_class"] = "Owlv2Processor"
        _tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def _tokenizer() -> Any:
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = ["!", *letters, "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], pad_token="!", model_max_length=24)
