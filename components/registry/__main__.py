"""`python -m components.registry`: check reward model and LoRA and register them."""

import sys

from components.contracts.stage import stage_main
from components.registry.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("registry", run, open_tracker))
