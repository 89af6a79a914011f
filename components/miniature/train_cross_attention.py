"""Train the small cross-attention tower: python -m components.miniature.train_cross_attention.

It plays the part that BLIP plays for ImageReward: a text encoder that looks at the picture while it
reads. The pictures are seen through CLIP's image tower, which stays as it is, so that the places of
its last map are computed once for every picture. As in BLIP's image-text matching a caption has to
win against others that nearly say the same; the head that tells them apart is thrown away.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    CLIPTokenizer,
    VisionTextDualEncoderModel,
)

from components.miniature import tokens, training
from components.miniature.scenes import Scene, caption
from components.miniature.train_clip import (
    CLIP_DIR,
    draw_table,
    is_held_out,
    redraw,
    unordered_scenes,
)
from components.miniature.train_judge import augment
from components.miniature.world import BASE_STYLES, HELD_OUT_STYLE

FOLDER = training.ROOM / "cross_attention"
NUM_NEAR = 24
"""Captions that share most words with a caption: its hard negatives are drawn from them."""
SMALL_WORDS = frozenset({"a", "an", "and", "the", "on", "in", "of"})
PROCESSOR = "preprocessor_config.json"


class Matcher(nn.Module):
    """The text tower and, in training only, a linear head that says how well the two match."""

    def __init__(self, tokenizer: CLIPTokenizer, width: int, num_layers: int, image_width: int):
        super().__init__()
        self.text = BlipTextModel(
            BlipTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=num_layers,
                num_attention_heads=4,
                encoder_hidden_size=image_width,
                max_position_embeddings=tokenizer.model_max_length,
                projection_dim=width,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                sep_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            add_pooling_layer=False,
        )
        self.head = nn.Linear(width, 1)

    def forward(self, places: Tensor, input_ids: Tensor) -> Tensor:
        """Logits of a match, [b], of places [b, m, d] and captions [b, n]."""
        # CLIP's tokenizer fills up with the mark that ends a caption: the first one is read.
        pad = self.text.config.pad_token_id
        mask = ((input_ids == pad).cumsum(dim=1) <= 1).long()
        states = self.text(
            input_ids=input_ids, attention_mask=mask, encoder_hidden_states=places
        ).last_hidden_state
        found: Tensor = self.head(states[:, 0]).squeeze(-1)
        return found


@torch.no_grad()
def places_of(clip: VisionTextDualEncoderModel, images: Tensor) -> Tensor:
    """The places of the image tower's last map, fp16 [b, m, d], of uint8 pictures."""
    parts = [
        clip.vision_model(pixel_values=training.to_unit(part)).last_hidden_state
        for part in images.split(128)
    ]
    return torch.cat(parts).flatten(2).transpose(1, 2).half()


def near_captions(scenes: list[Scene]) -> Tensor:
    """For each caption the `NUM_NEAR` that share the largest part of its words, [s, k]; captions
    that are held out are never among them."""
    words = [set(caption(scene).split()) - SMALL_WORDS for scene in scenes]
    overlap = torch.zeros(len(scenes), len(scenes))
    for row, own in enumerate(words):
        for column, other in enumerate(words):
            if row != column and not is_held_out(column, scenes[column]):
                overlap[row, column] = len(own & other) / len(own | other)
    return overlap.topk(NUM_NEAR, dim=1).indices


@torch.no_grad()
def examine(
    model: Matcher, clip: VisionTextDualEncoderModel, scenes: list[Scene], ids: Tensor, seed: int
) -> dict[str, float]:
    """How often the caption of a fresh render comes first among itself and its nearest ones."""
    near = near_captions(scenes)
    held_out = [row for row, scene in enumerate(scenes) if is_held_out(row, scene)]
    found = {}
    for name, styles in (("base_styles", BASE_STYLES), ("held_out_style", [HELD_OUT_STYLE])):
        pictures = draw_table([scenes[row] for row in held_out], 2, seed, styles).flatten(0, 1)
        places = places_of(clip, pictures).float()
        own = torch.tensor(held_out).repeat_interleave(2)
        candidates = torch.cat([own[:, None], near[own]], dim=1)
        wins = [
            int(model(row.expand(len(names), -1, -1), ids[names]).argmax()) == 0
            for row, names in zip(places, candidates, strict=True)
        ]
        found[f"{name}_top1_of_{NUM_NEAR + 1}"] = sum(wins) / len(wins)
    return found


def main() -> None:
    """Train, measure, and write cross_attention/."""
    chosen = training.settings("cross_attention")
    torch.set_num_threads(chosen["num_threads"])
    tokenizer = tokens.build()
    scenes = unordered_scenes()
    clip = VisionTextDualEncoderModel.from_pretrained(CLIP_DIR, dtype=torch.float32).eval()
    table = draw_table(scenes, chosen["num_per_scene"], chosen["seed"], BASE_STYLES)
    again = redraw(table[:, : chosen["num_redrawn_per_scene"]], scenes, chosen["seed"])
    table = torch.cat([table, again], 1)
    generator = torch.Generator().manual_seed(chosen["seed"])
    changed = [
        training.to_bytes(augment(training.to_unit(part), generator))
        for part in table.flatten(0, 1).split(256)
    ]
    places = places_of(clip, torch.cat(changed)).unflatten(0, table.shape[:2])
    encoded = tokenizer([caption(s) for s in scenes], padding="max_length", return_tensors="pt")
    ids, near = encoded.input_ids, near_captions(scenes)
    trained = torch.tensor([row for row, s in enumerate(scenes) if not is_held_out(row, s)])
    with training.initialised_from(chosen["seed"]):
        model = Matcher(tokenizer, chosen["width"], chosen["num_layers"], places.shape[-1])
    print(f"{sum(p.numel() for p in model.text.parameters()) / 1e6:.2f} M parameters", flush=True)

    def loss(update: int, generator: torch.Generator) -> Tensor:
        def draw(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        size, others = chosen["batch_size"], chosen["num_captions"] - 1
        own = trained[draw(len(trained), size)]
        hard = near[own[:, None], draw(NUM_NEAR, size, others - 1)]
        candidates = torch.cat([own[:, None], hard, trained[draw(len(trained), size, 1)]], dim=1)
        seen = places[own, draw(places.shape[1], size)].float()
        logits = model(seen.repeat_interleave(others + 1, dim=0), ids[candidates.flatten()]).view(
            size, -1
        )
        # The random caption may be the own one.
        again = candidates[:, 1:] == own[:, None]
        logits = torch.cat([logits[:, :1], logits[:, 1:].masked_fill(again, -1e4)], dim=1)
        return functional.cross_entropy(logits, torch.zeros(size, dtype=torch.long))

    weights, seconds = training.train(
        "cross_attention",
        model,
        loss,
        num_updates=chosen["num_updates"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        num_warmup=100,
        ema_decay=0.99,
    )
    model.load_state_dict({**model.state_dict(), **weights})
    model = model.eval().half().float()  # examine what is written
    report = {
        **examine(model, clip, scenes, ids, chosen["seed"] + 1000),
        "train_seconds": round(seconds),
    }
    print(json.dumps(report), flush=True)

    def save(folder: str) -> None:
        for name, tower in (("image", clip.vision_model), ("text", model.text)):
            tower.half().save_pretrained(Path(folder) / name)
            training.open_as_float32(Path(folder) / name / "config.json")
        tokens.save(tokenizer, folder)
        shutil.copy(CLIP_DIR / PROCESSOR, folder)

    training.save_folder(save, FOLDER)
    training.write_json(training.ROOM / "reports" / "cross_attention.json", report)
    training.finish("cross_attention")


if __name__ == "__main__":
    main()
