"""`python -m components.prompts`."""

import sys

from components.contracts.stage import stage_main
from components.prompts.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("prompts", run, open_tracker))
