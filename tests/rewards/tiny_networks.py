"""The published networks at a size that runs in a test, with their files as their authors lay them
out.

`shrink` swaps the sizes in the modules under test; everything else of them runs as it is.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertTokenizer, CLIPConfig, CLIPModel, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from components.rewards.pictures import CLIP_MEAN, CLIP_STD
from components.rewards.scorers import aesthetic, hps_v2, hps_v3_network, image_reward
from components.rewards.scorers.checkpoints import (
    Source,
    load_weights,
    published_shapes,
    unallocated,
)
from tests.support.given_numbers import weights
from tests.support.tiny_clip import tiny_clip

KEYS = Path(__file__).with_name("keys")

OPEN_CLIP: dict[str, Any] = {
    "projection_dim": 24,
    "text_config": hps_v2.ARCHITECTURE["text_config"]
    | {
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 54,
        "max_position_embeddings": 12,
        "bos_token_id": 52,
        "eos_token_id": 53,
    },
    "vision_config": hps_v2.ARCHITECTURE["vision_config"]
    | {
        "hidden_size": 40,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
    },
}
"""For the tokenizer of `tiny_clip`."""
BLIP_VISION = image_reward.VISION | {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
BLIP_TEXT = image_reward.TEXT | {
    "vocab_size": 59,
    "hidden_size": 24,
    "encoder_hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
"""For the tokenizer of `tiny_bert`."""
LANGUAGE = hps_v3_network.ARCHITECTURE["text_config"]
QWEN: dict[str, Any] = {
    "text_config": LANGUAGE
    | {
        "vocab_size": 271,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rope_parameters": LANGUAGE["rope_parameters"] | {"mrope_section": [1, 1, 2]},
    },
    "vision_config": hps_v3_network.ARCHITECTURE["vision_config"]
    | {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2},
    "vision_start_token_id": 265,
    "vision_end_token_id": 266,
    "image_token_id": 268,
    "video_token_id": 269,
}
"""For the tokenizer of `tiny_qwen`."""


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Build the published networks at the sizes above."""
    patch.setattr(hps_v2, "ARCHITECTURE", OPEN_CLIP)
    patch.setattr(image_reward, "VISION", BLIP_VISION)
    patch.setattr(image_reward, "TEXT", BLIP_TEXT)
    patch.setattr(hps_v3_network, "ARCHITECTURE", QWEN)


def published(name: str) -> dict[str, list[int]]:
    """Names and shapes of an official checkpoint, from `keys/`.

    `{0..31}` in a name stands for the number of a layer.
    """
    content = json.loads((KEYS / f"{name}.json").read_text())
    shapes: dict[str, list[int]] = {}
    for pattern, shape in content["keys"].items():
        found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        numbers = range(int(found[1]), int(found[2]) + 1) if found else [""]
        for number in numbers:
            shapes[pattern.replace(found[0], str(number)) if found else pattern] = shape
    assert len(shapes) == content["num_keys"]
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == content["num_values"]
    return shapes


def given(module: torch.nn.Module, naming: Callable[[str], Any]) -> dict[str, torch.Tensor]:
    """What the official file of a module holds when its weights are the given numbers."""
    return weights(published_shapes(module, naming))


def tiny_bert(folder: Path) -> Path:
    """Write BERT's tokenizer with a piece for each letter; two tokens are left for BLIP's marks."""
    letters = string.ascii_lowercase
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    vocab = {piece: number for number, piece in enumerate(pieces[:57])}
    BertTokenizer(vocab=vocab, do_lower_case=True).save_pretrained(folder)
    return folder


QWEN_MARKS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""In the order in which Qwen2-VL numbers them behind its vocabulary."""


def tiny_qwen(folder: Path) -> Path:
    """Write Qwen2-VL's tokenizer with a token for each byte and its own special tokens."""
    vocab = {letter: byte for byte, letter in bytes_to_unicode().items()}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": list(QWEN_MARKS)})
    tokenizer.save_pretrained(folder)
    return folder


def write_official(folder: Path) -> Path:
    """Write the files of all six scorers as their authors lay them out, with the given weights.

    Beside them `clip/`, `bert/` and `qwen/` with the tokenizers, and `quick/`, a CLIP with OpenAI's
    activation. `shrink` must be in force.
    """
    tiny_clip(folder / "clip")
    tiny_bert(folder / "bert")
    tiny_qwen(folder / "qwen")
    with unallocated():
        open_clip = CLIPModel(CLIPConfig(**OPEN_CLIP))
        blip, qwen = image_reward.Blip(), hps_v3_network.RewardQwen()
        mlp = aesthetic.LinearStack(OPEN_CLIP["projection_dim"])
    clip = given(open_clip, hps_v2.open_clip_name)
    torch.save({"epoch": 1, "state_dict": clip}, folder / hps_v2.FILES["2.1"])
    torch.save(given(blip, image_reward.official_name), folder / image_reward.FILE)
    torch.save(given(mlp, Source), folder / "mlp.pth")
    save_file(given(qwen, hps_v3_network.official_name), folder / "HPSv3.safetensors")
    _write_quick(folder)
    return folder


def _write_quick(folder: Path) -> None:
    towers = {
        key: value | {"hidden_act": "quick_gelu"} if isinstance(value, dict) else value
        for key, value in OPEN_CLIP.items()
    }
    clip = CLIPModel(CLIPConfig(**towers))
    load_weights(clip, folder / hps_v2.FILES["2.1"], "a tiny CLIP", hps_v2.open_clip_name)
    clip.save_pretrained(folder / "quick")
    processor = json.loads((folder / "clip/preprocessor_config.json").read_text()) | {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    }
    (folder / "quick/preprocessor_config.json").write_text(json.dumps(processor))
