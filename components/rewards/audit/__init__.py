"""How far a reward can be trusted, before any fine-tuning: `run_audit` in `run.py`.

What the reward picks is shown to a judge that is not the reward (`best_of_n.py`), pictures are
edited in ways that their prompts do not ask for (`edits.py`, `sensitivity.py`), and the reward is
set against plain statistics of colour (`correlation.py`). Four checks (`checks.py`) decide.
"""
