"""Stage 4: align the base model with a reward by training a LoRA.

Reads `data/prompts/{train,validation}.parquet`, the base model and, where the reward is a trained
model, `models/reward`; methods on stored preferences also read `data/preferences`. Writes
`models/lora/` (weights that plain diffusers loads, and `adapter.json`), `reports/curves.csv` (one
row an update) and `reports/finetuning.json`. Checkpoints
live in `.work/finetuning/` and are no outs.

`algorithms/` tells each method in one file, `losses/` holds the mathematics, `experience/` what is
collected and remembered; `fit.py` is the one loop and knows no method.
"""
