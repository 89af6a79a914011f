"""`python -m components.preferences`."""

import sys

from components.contracts.stage import stage_main
from components.preferences.stage import run
from components.tracking import open_tracker

if __name__ == "__main__":
    sys.exit(stage_main("preferences", run, open_tracker))
