"""`python -m components.evaluation`: measure the LoRA against the base and write the report."""

import sys

from components.contracts.stage import stage_main
from components.evaluation.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("evaluation", run, open_tracker))
