"""`python -m components.finetuning`"""

import sys

from components.contracts.stage import stage_main
from components.finetuning.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("finetuning", run, open_tracker))
