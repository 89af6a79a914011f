"""`python -m components.rewards`: stage 3 of the pipeline."""

import sys

from components.contracts.stage import stage_main
from components.rewards.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("rewards", run, open_tracker))
