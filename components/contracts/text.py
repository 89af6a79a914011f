"""What a prompt is before anything else happens to it: one line of composed, visible Unicode.

Two prompts that look alike must be one prompt, or the test split leaks into the training split. So
every room that takes prompts in cleans them here, before their id is computed.
"""

from __future__ import annotations

import unicodedata

INVISIBLE = ("Cc", "Cf", "Cs")
"""Unicode categories of control, format (zero-width, direction) and lone surrogate characters."""


def has_invisible(text: str) -> bool:
    """Whether a control, zero-width or surrogate character, other than white space, is in it."""
    return any(_is_invisible(character) for character in text)


def clean_prompt(text: str) -> str:
    """The text in NFC, without invisible characters, with each run of white space as one blank.

    Cleaning twice is cleaning once. Joiners go too: an emoji that was joined from two becomes two.
    """
    visible = "".join(character for character in text if not _is_invisible(character))
    return " ".join(unicodedata.normalize("NFC", visible).split())


def prompt_key(prompt: str) -> str:
    """What two spellings of one prompt share: equal keys are duplicates, whatever the capitals."""
    # Folding can leave a sequence decomposed, and composing can leave one unfolded.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", prompt).casefold())


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in INVISIBLE and not character.isspace()
