"""The errors that a user can meet, and the exit status of each.

    KonomiError
    ├── BadInput              2   a file, a setting or a command that a person can mend
    │   ├── SettingsError     2   params.yaml: unknown key, wrong type, out of range
    │   ├── DataError         2   a data file that cannot be read as what it should be
    │   └── ModelError        2   a model folder that is missing, truncated or of another kind
    ├── QuarantinedData      65   data that can be read but must not be trained on
    ├── GuardError           70   a law of the method was broken: training must not go on
    └── TransientError       75   a retry can help: a busy lock, a server that is away

Each message is one line: where, what, and what is allowed.
"""

from __future__ import annotations

from pathlib import Path


class KonomiError(Exception):
    """Root of every error that is reported as one line."""

    exit_code = 1

    def __init__(self, line: str = "") -> None:
        # A message that holds somebody's data stays one line whatever that data holds.
        super().__init__(" ".join(line.split()))


class BadInput(KonomiError):
    """Something a person can mend: named file, place, and what is allowed."""

    exit_code = 2

    def __init__(
        self, what: str, *, file: Path | str | None = None, place: str = "", allowed: str = ""
    ) -> None:
        head = [str(file)] if file is not None else []
        if place:
            head.append(place)
        line = ": ".join([*head, what])
        if allowed:
            line += f"; allowed: {allowed}"
        super().__init__(line)


class SettingsError(BadInput):
    """`params.yaml` (or a profile) does not describe a run."""


class DataError(BadInput):
    """A data file is missing, empty, truncated, or not of the expected form."""


class ModelError(BadInput):
    """A model folder is missing, truncated, or not of the expected kind."""


class QuarantinedData(KonomiError):
    """Data that was read without trouble and must still not be trained on."""

    exit_code = 65


class GuardError(KonomiError):
    """A guard of architecture section 6 tripped: the run stops before it does harm."""

    exit_code = 70


class TransientError(KonomiError):
    """A later try of the same command can succeed."""

    exit_code = 75
