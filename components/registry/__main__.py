"""`python -m components.registry`: check the LoRA and register it."""

import sys

from components.contracts.stage import stage_main
from components.registry.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("registry", run, open_tracker))
