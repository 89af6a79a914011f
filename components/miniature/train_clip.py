"""Train the small CLIP of the miniature world: python -m components.miniature.train_clip.

It plays the part that CLIP plays for PickScore: the backbone from which a reward model is tuned.
CLIP's text tower, and a ConvNeXt as its image tower: on as few pictures as are here, a vision
transformer of the same cost learns to count far more slowly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    ConvNextConfig,
    ConvNextModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from components.miniature import tokens, training
from components.miniature.judge import COLOUR_NAMES, MAX_COUNT, PLACE_NAMES
from components.miniature.scenes import Scene, all_scenes, caption, render
from components.miniature.train_judge import augment, labels
from components.miniature.train_unet import text_config
from components.miniature.world import BASE_STYLES, HELD_OUT_STYLE, IMAGE_SIZE, OBJECTS, TASKS

CLIP_DIR = training.ROOM / "clip"
MEAN = STD = (0.5, 0.5, 0.5)
EMBEDDING_WIDTH = 128
NUM_STEPS = 10
FIRST_STEPS = (3, 4, 5, 6)
"""Denoising steps at which a picture is taken up again: a smaller one changes more."""
# How many scenes of each task stand together for one object: its hard negatives.
BUCKETS = {"colour": 2, "count": 2, "location": 2, "composition": 1, "plain": 1}


def image_tower() -> ConvNextModel:
    """Return an untrained ConvNeXt for 64-pixel pictures, with one vector of 192 a picture."""
    widths = [48, 96, 192]
    return ConvNextModel(
        ConvNextConfig(
            patch_size=4,
            num_stages=len(widths),
            depths=[2, 3, 2],
            hidden_sizes=widths,
            hidden_size=widths[-1],  # asked for by the dual encoder, which joins any two towers
            image_size=IMAGE_SIZE,
            layer_scale_init_value=0.1,  # the default is for trainings a hundred times as long
        )
    )


class ClipWithReadout(nn.Module):
    """CLIP and, in training only, heads that read the scene from the picture's embedding.

    With few pictures the contrast alone is slow to notice counts and small objects; the heads are
    thrown away afterwards.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        vision, text = image_tower(), CLIPTextModel(text_config(tokenizer))
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            vision.config, text.config, projection_dim=EMBEDDING_WIDTH
        )
        self.clip = VisionTextDualEncoderModel(config, vision, text)
        num_logits = len(OBJECTS) * (MAX_COUNT + 1) + len(COLOUR_NAMES) + len(PLACE_NAMES)
        self.readout = nn.Sequential(
            nn.Linear(vision.config.hidden_size, 256), nn.GELU(), nn.Linear(256, num_logits)
        )


def unordered_scenes() -> list[Scene]:
    """Return every captioned scene once: of "a cat and a dog" and "a dog and a cat" the first."""
    scenes = [scene for task in TASKS for scene in all_scenes(task)]
    seen: set[tuple[object, ...]] = set()
    unique = []
    for scene in scenes:
        key = (frozenset(scene.objects), scene.background)
        if key not in seen:
            seen.add(key)
            unique.append(scene)
    return unique


def is_held_out(index: int, scene: Scene) -> bool:
    """Every ninth caption but the plain ones is never trained on."""
    return scene.task != "plain" and index % 9 == 4


def draw_table(scenes: Sequence[Scene], num: int, seed: int, styles: Sequence[str]) -> Tensor:
    """Draw `num` pictures of each scene: uint8 [len(scenes), num, 3, 64, 64]."""
    rng = np.random.default_rng(seed)
    images = [[render(scene, rng, styles) for _ in range(num)] for scene in scenes]
    return torch.from_numpy(np.array(images)).permute(0, 1, 4, 2, 3).contiguous()


@torch.no_grad()
def redraw(table: Tensor, scenes: Sequence[Scene], seed: int) -> Tensor:
    """Let the base model draw the pictures again from their half-noised latents.

    What stands where survives the noise, the strokes become the base model's own. A backbone that
    has seen only clean drawings is nearly blind to the pictures that a reward has to tell apart.

    Args:
        table: uint8 [num_scenes, num, 3, 64, 64].
        scenes: one for each row.
        seed: of the noise.

    Returns:
        Pictures of the same shape and type.
    """
    from components.miniature.figures import load_base

    pipeline = load_base()
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(NUM_STEPS)
    scale = pipeline.vae.config.scaling_factor
    prompts = [caption(scene) for scene in scenes]
    encoded = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt")
    states = pipeline.text_encoder(encoded.input_ids).last_hidden_state
    generator = torch.Generator().manual_seed(seed)
    redrawn = torch.empty_like(table).flatten(0, 1)
    text_row = torch.arange(len(scenes)).repeat_interleave(table.shape[1])
    # In random order, so that every scene is met at every depth of noise.
    order = torch.randperm(len(redrawn), generator=generator)
    for number, rows in enumerate(order.split(64)):
        first = FIRST_STEPS[number % len(FIRST_STEPS)]
        pictures = training.to_unit(table.flatten(0, 1)[rows]).contiguous()
        x0 = pipeline.vae.encode(pictures).latent_dist.mean * scale
        timesteps = scheduler.timesteps[first:]
        noise = torch.randn(x0.shape, generator=generator)
        latents = scheduler.add_noise(x0, noise, timesteps[:1])
        for timestep in timesteps:
            output = pipeline.unet(latents, timestep, states[text_row[rows]]).sample
            latents = scheduler.step(
                output, timestep, latents, eta=1.0, generator=generator
            ).prev_sample
        decoded = pipeline.vae.decode(latents / scale).sample
        redrawn[rows] = ((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        if number % 10 == 0:
            print(f"redrawn {number * 64}/{len(order)}", flush=True)
    return redrawn.view(table.shape)


def contrast(image: Tensor, text: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Return CLIP's symmetric loss when a caption may stand several times in the batch.

    Args:
        image: normalised embeddings [b, d].
        text: normalised embeddings [b, d].
        same: bool [b, b], true where the captions agree.
        scale: the inverse temperature.
    """
    logits = scale * image @ text.T
    target = same.float() / same.sum(1, keepdim=True)
    rows = -(target * logits.log_softmax(1)).sum(1).mean()
    columns = -(target * logits.log_softmax(0).T).sum(1).mean()
    return (rows + columns) / 2


@torch.no_grad()
def examine(
    clip: VisionTextDualEncoderModel,
    input_ids: Tensor,
    scenes: Sequence[Scene],
    seed: int,
    style: Sequence[str],
) -> dict[str, object]:
    """Measure retrieval: how often the caption of a fresh render comes first."""
    text = functional.normalize(embed_text(clip, input_ids), dim=-1)
    chosen = [i for i, scene in enumerate(scenes) if is_held_out(i, scene)]
    pictures = draw_table([scenes[i] for i in chosen], 4, seed, style).flatten(0, 1)
    image = torch.cat([embed_image(clip, training.to_unit(p)) for p in pictures.split(64)])
    similarity = functional.normalize(image, dim=-1) @ text.T
    truth = torch.tensor(chosen).repeat_interleave(4)
    among_all = similarity.argsort(1, descending=True)
    position = torch.tensor(chosen)
    among_held_out = position[similarity[:, position].argmax(1)] == truth
    tasks = np.repeat([scenes[i].task for i in chosen], 4)
    first = (among_all[:, 0] == truth).numpy()
    return {
        "num_captions": len(scenes),
        "num_held_out_captions": len(chosen),
        "top1_among_held_out": float(among_held_out.float().mean()),
        "top1_among_all": float(first.mean()),
        "top5_among_all": float((among_all[:, :5] == truth[:, None]).any(1).float().mean()),
        "top1_among_held_out_by_task": {
            task: float(among_held_out.numpy()[tasks == task].mean()) for task in TASKS[:-1]
        },
        "top1_among_all_by_task": {task: float(first[tasks == task].mean()) for task in TASKS[:-1]},
    }


def embed_text(clip: VisionTextDualEncoderModel, input_ids: Tensor) -> Tensor:
    """Return projected text embeddings [b, 128], not normalised."""
    found: Tensor = clip.text_projection(clip.text_model(input_ids).pooler_output)
    return found


def embed_image(clip: VisionTextDualEncoderModel, images: Tensor) -> Tensor:
    """Return projected embeddings [b, 128] of pictures in [-1, 1], not normalised."""
    found: Tensor = clip.visual_projection(clip.vision_model(images).pooler_output)
    return found


def batch_indices(
    scenes: Sequence[Scene],
    num_objects: int,
    rng: np.random.Generator,
    buckets: dict[str, dict[str, list[int]]],
) -> list[int]:
    """Return scene indices: of each of `num_objects` objects eight scenes that differ otherwise."""
    found: list[int] = []
    for name in rng.choice(len(OBJECTS), num_objects, replace=False):
        for task, num in BUCKETS.items():
            found.extend(rng.choice(buckets[OBJECTS[name]][task], num, replace=False).tolist())
    return found


def main() -> None:
    """Train, measure retrieval, and write clip/."""
    chosen = training.settings("clip")
    torch.set_num_threads(chosen["num_threads"])
    tokenizer = tokens.build()
    scenes = unordered_scenes()
    per_scene = chosen["num_scenes"] // len(scenes)
    table = draw_table(scenes, per_scene, chosen["seed"], BASE_STYLES)
    num_redrawn = chosen["num_redrawn_per_scene"]
    again = redraw(table[:, :num_redrawn], scenes, chosen["seed"])
    table = torch.cat([table, again], 1)
    # Of every batch half are drawings, half the base model's own.
    share = torch.tensor([0.5 / per_scene] * per_scene + [0.5 / num_redrawn] * num_redrawn)
    encoded = tokenizer([caption(s) for s in scenes], padding="max_length", return_tensors="pt")
    input_ids = encoded.input_ids
    counts, colours, places = labels(scenes)
    buckets = {
        name: {
            task: [
                i
                for i, s in enumerate(scenes)
                if s.task == task and name in {o for o, _, _ in s.objects} and not is_held_out(i, s)
            ]
            for task in TASKS
        }
        for name in OBJECTS
    }
    with training.initialised_from(chosen["seed"]):
        model = ClipWithReadout(tokenizer)
    print(f"{sum(p.numel() for p in model.clip.parameters()) / 1e6:.2f} M parameters", flush=True)

    def loss(update: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng([chosen["seed"], update])
        index = torch.tensor(batch_indices(scenes, chosen["batch_size"] // 8, rng, buckets))
        copy = torch.multinomial(share, len(index), replacement=True, generator=generator)
        images = augment(training.to_unit(table[index, copy]), generator)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = model.clip.vision_model(images).pooler_output
            image = model.clip.visual_projection(pooled)
            text = embed_text(model.clip, input_ids[index])
            logits = model.readout(pooled)
        image, text = (functional.normalize(e.float(), dim=-1) for e in (image, text))
        total = contrast(
            image, text, index[:, None] == index[None], model.clip.logit_scale.exp().clamp(max=50)
        )
        sizes = [len(OBJECTS) * (MAX_COUNT + 1), len(COLOUR_NAMES), len(PLACE_NAMES)]
        count_logits, colour_logits, place_logits = logits.float().split(sizes, 1)
        count_loss = functional.cross_entropy(
            count_logits.reshape(-1, MAX_COUNT + 1), counts[index].flatten(), reduction="sum"
        )
        return (
            total
            + chosen["readout_weight"] * count_loss / len(index)
            + chosen["readout_weight"] * functional.cross_entropy(colour_logits, colours[index])
            + chosen["readout_weight"] * functional.cross_entropy(place_logits, places[index])
        )

    weights, seconds = training.train(
        "clip",
        model,
        loss,
        num_updates=chosen["num_updates"],
        learning_rate=chosen["learning_rate"],
        seed=chosen["seed"],
        num_warmup=100,
        ema_decay=0.99,
    )
    model.load_state_dict({**model.state_dict(), **weights})
    clip = model.clip.eval().half().float()  # examine what is written
    report = {
        "base_styles": examine(clip, input_ids, scenes, chosen["seed"] + 1000, BASE_STYLES),
        "held_out_style": examine(clip, input_ids, scenes, chosen["seed"] + 2000, [HELD_OUT_STYLE]),
        "train_seconds": round(seconds),
    }
    print(json.dumps(report), flush=True)
    processor = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )

    def save(folder: str) -> None:
        clip.half().save_pretrained(folder)
        tokens.save(tokenizer, folder)
        processor.save_pretrained(folder)
        training.open_as_float32(Path(folder) / "config.json")

    training.save_folder(save, CLIP_DIR)
    training.write_json(training.ROOM / "reports" / "clip.json", report)
    training.finish("clip")


if __name__ == "__main__":
    main()
