"""How fast a batch is scored in place, against the loops over PIL images that are usual.

    python -m benchmarks.scoring --device cpu

Every way scores the same pictures (bytes on the device, as the policy decodes them) for the same
prompts with the same weights, in turn, several times in one process:

    in place        this project's scorer: one call for the batch, nothing leaves the device
    PIL             each picture to PIL, through the model's own image processor and tokenizer, and
                    through the model alone (ImageReward's `score`, flow_grpo's ImageReward scorer)
    PIL and disk    as PIL, by way of a PNG file (`score(prompt, path)` of ImageReward and HPSv2)
    PIL in a batch  all pictures to PIL and through the processor at once, one forward pass, every
                    prompt encoded anew (flow_grpo's PickScore): the best that is usual

For the first way the scorer is made anew for each repetition, so that it too has to encode every
prompt once; in a run it is kept, and prompts come again (in place, known prompts). The models are
the miniature's CLIP on pictures of its size, where Python's overhead rules, and a CLIP ViT-B/32 of
the published size with random weights on pictures of 512 pixels, where the model does. The cosines
of all ways must agree. The result is `benchmarks/results/scoring.json`, one entry a device; the
exit status is 1 where the miniature's ratio to the loop over PIL is below the claim.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from components.contracts.artifacts import read_json, write_json
from components.contracts.device import find_device
from components.contracts.errors import GuardError
from components.contracts.settings import ComputeSettings
from components.contracts.stage import git_revision
from components.miniature.scenes import caption, render, sample_scene
from components.rewards.backbones.two_towers import TwoTowers
from components.rewards.scorers.checked import CheckedScorer
from components.rewards.scorers.model import ModelScorer

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scoring.json"
MINIATURE_CLIP = ROOT / "components" / "miniature" / "clip"
GROUP = 8
"""Pictures of one prompt."""
CLAIM = 3.0
"""How many times the images a second of the usual loop: what this measures."""
TOLERANCE = 2e-3
"""Of a cosine: what resizing by another program, and sums in another order, may change."""

Way = Callable[[UInt8[Tensor, "b 3 h w"], Sequence[str]], Float[Tensor, " b"]]
"""Cosines of pictures and prompts."""


@dataclass(frozen=True)
class Case:
    """A model, and pictures of the size that it is asked to score."""

    name: str
    model: TwoTowers
    processor: Any
    images: UInt8[Tensor, "b 3 h w"]
    prompts: Sequence[str]

    def usual(self, pictures: Sequence[Image.Image], prompts: Sequence[str]) -> Tensor:
        """What the scorers of the field do with the pictures that they are given."""
        model = self.model
        pixels = self.processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            image = model.image_states(pixels.to(model.device))
            text = model.text_states(model.tokenize(prompts))
            return model.score(image, text) / model.clip.logit_scale.exp()


def main() -> int:
    """Measure every case, print a line for each way, write the file; 1 where the claim fails."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--images", type=int, default=32, help="pictures of a batch")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = find_device(ComputeSettings(device=options.device))
    load, found = os.getloadavg()[0], {}
    for make in (miniature, vit_b_32):
        case = make(device, options.images)
        found[case.name] = measure(case, options.repetitions)
    kept = read_json(options.out) if options.out.exists() else {}
    entry = {
        "git_revision": git_revision(ROOT),
        "machine": {
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            # What else ran on the machine: all ways suffer from it in turn.
            "load_before": round(load, 1),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "torch": torch.__version__,
        },
        "images": options.images,
        "prompts": options.images // GROUP,
        "repetitions": options.repetitions,
        "cases": found,
    }
    write_json(options.out, {**kept, device.type: entry})
    return int(found["miniature_clip"]["times_the_usual_loop"]["median"] < CLAIM)


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """Images a second of each way, in turn; the order changes from repetition to repetition.

    Raises:
        GuardError: the ways do not give the same cosines.
    """
    with tempfile.TemporaryDirectory() as folder:
        ways = ways_of(case, Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        cosines = {}
        for repetition in range(-1, repetitions):
            order = list(ways)[repetition % len(ways) :] + list(ways)[: repetition % len(ways)]
            for name in order:
                started = time.perf_counter()
                cosine = ways[name](case.images, case.prompts)
                cosines[name] = cosine.cpu()  # waits for the device
                if repetition >= 0:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    differences = agreement(cosines)
    speeds = {
        name: spread([len(case.images) / value for value in values])
        for name, values in seconds.items()
    }
    ratios = {
        name: spread([b / a for a, b in zip(seconds["in_place"], values, strict=True)])
        for name, values in seconds.items()
        if name != "in_place"
    }
    for name, speed in speeds.items():
        ratio = (
            f", in place is {ratios[name]['median']:.1f} times as fast" if name in ratios else ""
        )
        print(
            f"{case.name} {name}: {speed['median']:.0f} images/s "
            f"({speed['low']:.0f} to {speed['high']:.0f}){ratio}",
            file=sys.stderr,
            flush=True,
        )
    return {
        "image_size": list(case.images.shape[-2:]),
        "images_per_second": speeds,
        "times_the_usual_loop": ratios["pil"],
        "times_the_usual_loop_by_way_of_a_disk": ratios["pil_and_disk"],
        "times_the_best_usual_way": ratios["pil_in_a_batch"],
        "largest_difference_of_a_cosine": differences,
        "spread_of_cosines": float(cosines["in_place"].std()),
    }


def ways_of(case: Case, folder: Path) -> dict[str, Way]:
    """Each way to score, ready."""
    scale = float(case.model.clip.logit_scale.exp())
    kept = CheckedScorer(ModelScorer(case.model), "in place")

    def known_prompts(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (kept.score(images, prompts) * case.model.std + case.model.mean) / scale

    def in_place(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scorer = CheckedScorer(ModelScorer(case.model), "in place")
        return (scorer.score(images, prompts) * case.model.std + case.model.mean) / scale

    def pil(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = [
            case.usual([to_pil(image)], [prompt]).item()
            for image, prompt in zip(images, prompts, strict=True)
        ]
        return torch.tensor(scores)

    def pil_and_disk(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = []
        for number, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            path = folder / f"{number}.png"
            to_pil(image).save(path)
            with Image.open(path) as picture:
                scores.append(case.usual([picture.convert("RGB")], [prompt]).item())
        return torch.tensor(scores)

    def pil_in_a_batch(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return case.usual([to_pil(image) for image in images], prompts)

    return {
        "in_place": in_place,
        "in_place_known_prompts": known_prompts,
        "pil": pil,
        "pil_and_disk": pil_and_disk,
        "pil_in_a_batch": pil_in_a_batch,
    }


def to_pil(image: UInt8[Tensor, "3 h w"]) -> Image.Image:
    """A picture as PIL holds it."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def agreement(cosines: dict[str, Tensor]) -> float:
    """The largest difference of any way to ours.

    Raises:
        GuardError: it is more than `TOLERANCE`.
    """
    differences = [cosine - cosines["in_place"] for cosine in cosines.values()]
    # torch's maximum, since Python's passes over what is not a number.
    largest = float(torch.stack(differences).abs().max())
    if not largest <= TOLERANCE:
        raise GuardError(f"the ways to score differ by {largest:.2g}; allowed: {TOLERANCE:g}")
    return largest


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": round(statistics.median(values), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def miniature(device: torch.device, count: int) -> Case:
    """The miniature's CLIP, pictures of 64 pixels: nothing is resized."""
    model = TwoTowers.open(Path(MINIATURE_CLIP), torch.Generator())
    return _case("miniature_clip", model, device, *scenes(count, 1))


def vit_b_32(device: torch.device, count: int) -> Case:
    """CLIP ViT-B/32 as published, 151 million random weights, pictures of 512 pixels.

    Its tokenizer is the miniature's, whose words are fewer; what is computed is the same.
    """
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE_CLIP)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIPModel(CLIPConfig(text_config=ends, **ends))
    clip.eval()
    processor = CLIPImageProcessorPil().to_dict()
    model = TwoTowers(clip, tokenizer, processor, "ViT-B/32")
    return _case("clip_vit_b_32", model, device, *scenes(count, 8))


def scenes(count: int, factor: int) -> tuple[UInt8[Tensor, "b 3 h w"], list[str]]:
    """Pictures of the miniature's world, enlarged, and a prompt for each eight of them."""
    generator = np.random.default_rng(0)
    drawn, prompts = [], []
    for _ in range(count // GROUP):
        scene = sample_scene(generator)
        prompts += [caption(scene)] * GROUP
        for _ in range(GROUP):
            picture = Image.fromarray(render(scene, generator))
            size = (picture.width * factor, picture.height * factor)
            buffer = io.BytesIO()
            # By way of JPEG, so that enlarged pictures have grain as photographs have.
            picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
            drawn.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous(), prompts


def _case(
    name: str, model: TwoTowers, device: torch.device, images: Tensor, prompts: list[str]
) -> Case:
    model = model.to(device).eval().requires_grad_(False)
    processor = CLIPImageProcessorPil(**model.processor)
    return Case(name, model, processor, images.to(device), prompts)


if __name__ == "__main__":
    sys.exit(main())
