"""Stage 2: candidate images and what people prefer among them.

Reads `data/prompts` and the base model, and asks the people that `params.yaml` names; or reads a
file of labelled pairs that somebody brings. Writes `data/preferences` (`samples.parquet`,
`pairs.parquet`, `images/images-00000.tar` and so on, `latents/latents-00000.safetensors` and so
on), `reports/preferences.json` and `reports/preferences_by_category.csv`.
"""
