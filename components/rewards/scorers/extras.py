"""Libraries that only some scorers need: imported when one of these is built."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from components.contracts.errors import SettingsError


def import_extra(module: str, extra: str, scorer: str) -> ModuleType:
    """The module that the scorer needs, which `pip install 'konomi[extra]'` brings.

    Raises:
        SettingsError: it is not installed, or a library that it needs is not.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"the scorer '{scorer}' needs '{module}', which cannot be imported ({error})",
            allowed=f"pip install 'konomi[{extra}]'",
        ) from None
