"""The before/after grid: the same prompt and noise, base above and LoRA below, by task."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from components.evaluation.measure import Draws, Measured
from components.pages.page import shown

MAX_SAMPLES = 4
"""Images of a prompt that are shown; more would make each too small to judge by eye."""
SHOWN_SIDE = 128
"""Side of a shown image in pixels; a 64 px image is doubled."""
MAX_SHOWN_SIDE = 256

PAPER, INK, MUTED, RULE = "#fbfaf7", "#1d1f23", "#70757d", "#e2dfd8"
ACCENT, CORRECT = "#3056d3", "#15803d"
MARGIN, GAP, COLUMN_GAP, LABEL, BADGE, RADIUS = 48, 8, 44, 62, 26, 8


@dataclass(frozen=True)
class Block:
    """One prompt of the grid: what each model drew of it and what the judge said."""

    category: str
    prompt: str
    base: UInt8[Tensor, "s 3 h w"]
    lora: UInt8[Tensor, "s 3 h w"]
    base_correct: Sequence[bool]
    lora_correct: Sequence[bool]


def choose_blocks(draws: Draws, base: Measured, lora: Measured, per_category: int) -> list[Block]:
    """The first prompts of each category as they were drawn: no result decides what is shown."""
    blocks = []
    for category in draws.category_names:
        of_category = [i for i, name in enumerate(draws.categories) if name == category]
        for prompt in of_category[:per_category]:
            rows = np.flatnonzero(draws.prompt_of == prompt)[:MAX_SAMPLES]
            blocks.append(
                Block(
                    category=category,
                    prompt=draws.prompts[prompt],
                    base=base.images[rows],
                    lora=lora.images[rows],
                    base_correct=base.correct[rows].tolist(),
                    lora_correct=lora.correct[rows].tolist(),
                )
            )
    return blocks


def draw_grid(blocks: Sequence[Block], error_rate: float) -> bytes:
    """PNG bytes of the whole grid, two prompts beside each other; `error_rate` is the judge's."""
    side = min(max(SHOWN_SIDE, blocks[0].base.shape[-1]), MAX_SHOWN_SIDE)
    samples = max(len(block.base) for block in blocks)
    block_width = samples * side + (samples - 1) * GAP
    block_height = 34 + 2 * side + GAP
    columns = min(2, max(_per_category(blocks).values()))
    header, heading, spacing = 74, 50, 30
    rows_of = {name: -(-count // columns) for name, count in _per_category(blocks).items()}
    width = 2 * MARGIN + LABEL + columns * block_width + (columns - 1) * COLUMN_GAP
    height = header + MARGIN
    height += sum(heading + rows * (block_height + spacing) for rows in rows_of.values())
    sheet = Image.new("RGB", (max(width, 560), height), PAPER)
    pen = ImageDraw.Draw(sheet)
    _header(sheet, pen, header, error_rate)
    top = header
    for category in rows_of:
        pen.line((MARGIN, top + 8, sheet.width - MARGIN, top + 8), fill=RULE)
        pen.text((MARGIN, top + 20), category, font=_font(category, 17), fill=MUTED)
        top += heading
        members = [block for block in blocks if block.category == category]
        for index, block in enumerate(members):
            left = MARGIN + LABEL + (index % columns) * (block_width + COLUMN_GAP)
            _draw_block(sheet, pen, block, left, top, block_width, side)
            if index % columns == 0:
                for row, (name, colour) in enumerate((("base", MUTED), ("LoRA", ACCENT))):
                    middle = top + 34 + row * (side + GAP) + side // 2
                    pen.text((MARGIN, middle), name, font=_font(name, 17), fill=colour, anchor="lm")
            if index % columns == columns - 1 or index == len(members) - 1:
                top += block_height + spacing
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _per_category(blocks: Sequence[Block]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for block in blocks:
        counts[block.category] = counts.get(block.category, 0) + 1
    return counts


def _header(sheet: Image.Image, pen: ImageDraw.ImageDraw, height: int, error_rate: float) -> None:
    text = "Same prompt, same noise: base above, LoRA below"
    pen.text((MARGIN, height // 2), text, font=_font(text, 22), fill=INK, anchor="lm")
    errs = f", which errs in {100 * error_rate:.2g} %" if np.isfinite(error_rate) else ""
    note = f"correct, says the judge{errs}"
    font = _font(note, 17)
    left = sheet.width - MARGIN - int(font.getlength(note))
    if left > MARGIN + 560:
        pen.text((left, height // 2), note, font=font, fill=MUTED, anchor="lm")
        badge = _badge(BADGE)
        sheet.paste(badge, (left - BADGE - 10, height // 2 - BADGE // 2), badge)


def _draw_block(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    block: Block,
    left: int,
    top: int,
    width: int,
    side: int,
) -> None:
    font = _font(block.prompt, 20)
    pen.text((left, top), _fitted(block.prompt, font, width), font=font, fill=INK)
    mask = _rounded_mask(side)
    badge = _badge(BADGE)
    rows = ((block.base, block.base_correct), (block.lora, block.lora_correct))
    for row, (images, verdicts) in enumerate(rows):
        for column, (image, correct) in enumerate(zip(images, verdicts, strict=True)):
            x, y = left + column * (side + GAP), top + 34 + row * (side + GAP)
            sheet.paste(shown(image, side), (x, y), mask)
            pen.rounded_rectangle(
                (x, y, x + side - 1, y + side - 1),
                RADIUS,
                outline=CORRECT if correct else RULE,
                width=2 if correct else 1,
            )
            if correct:
                corner = (x + side - BADGE - 5, y + side - BADGE - 5)
                sheet.paste(badge, corner, badge)


def _badge(side: int) -> Image.Image:
    """A white tick on a green disc, drawn large and reduced so that its edges are smooth."""
    big = Image.new("RGBA", (side * 4, side * 4))
    pen = ImageDraw.Draw(big)
    pen.ellipse((0, 0, side * 4 - 1, side * 4 - 1), fill="white")
    pen.ellipse((7, 7, side * 4 - 8, side * 4 - 8), fill=CORRECT)
    tick = [(side * 1.15, side * 2.1), (side * 1.75, side * 2.7), (side * 2.85, side * 1.4)]
    pen.line(tick, fill="white", width=side // 2, joint="curve")
    return big.resize((side, side), Image.Resampling.LANCZOS)


def _rounded_mask(side: int) -> Image.Image:
    big = Image.new("L", (side * 4, side * 4))
    ImageDraw.Draw(big).rounded_rectangle((0, 0, side * 4 - 1, side * 4 - 1), RADIUS * 4, fill=255)
    return big.resize((side, side), Image.Resampling.LANCZOS)


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """`text`, shortened with dots where it is wider than its block."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text.rstrip()}..."


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that is the same on every machine: Pillow's own, or one with more scripts."""
    if text.isascii():
        font = ImageFont.load_default(size)
        if isinstance(font, ImageFont.FreeTypeFont):
            return font
    import matplotlib

    return ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size
    )
