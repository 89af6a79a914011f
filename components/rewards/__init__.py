"""Stage 3, rewards: trains the model whose score stands in for people during fine-tuning.

Reads `data/preferences/` and a backbone. Writes `models/reward/` (its weights and the constants
that standardise its score); what was measured as `reports/rewards.json`, as a page that people read
(`rewards.html`) and as tables of its curves; and the audit. Other rooms may use the shelf
`components.rewards.scorers`, and nothing else of this room.
"""
