"""Stage 1: curate prompts and split them.

Reads the sources that `params.yaml` names (text, csv, tsv, json lines, parquet) and the tokenizer
of the base model. Writes `data/prompts/{train,validation,test}.parquet` with `dropped.csv` beside
them, `reports/prompts.json` and `reports/prompts_kept.csv`.
"""
