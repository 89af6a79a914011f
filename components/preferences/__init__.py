"""Stage 2: candidate images and what people prefer among them.

Reads `data/prompts` and the base model, and asks the people that `params.yaml` names; or reads
labels that exist already (docs/label_data.md). Writes `data/preferences` (the tables
`samples.parquet`, `pairs.parquet`, `rankings.parquet` and `ratings.parquet`,
`images/images-00000.tar` and so on, `latents/latents-00000.safetensors` and so on),
`reports/preferences.json` and `reports/preferences_by_category.csv`.
"""
