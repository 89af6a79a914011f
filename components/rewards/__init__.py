"""Stage 3, rewards: trains the model whose score stands in for people during fine-tuning.

Reads `data/preferences/` and a CLIP backbone. Writes `models/reward/` (a CLIP folder and the
constants that standardise its score), `reports/rewards.json`, `rewards_curve.csv` and
`rewards_calibration.csv`. Other rooms may use the shelf `components.rewards.scorers`, and nothing
else of this room.
"""
