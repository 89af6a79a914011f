"""Stage 5: does the LoRA draw what was asked better than the base, by a judge that was no reward?

Reads `data/prompts/test.parquet` (prompts that nothing was trained on), the base model,
`models/lora`, `models/reward`, and for the page `reports/*.json` and `reports/curves.csv` of the
stages before. Both models draw every prompt from the same noise, so that each pair of images
differs by the LoRA alone.

Writes `reports/evaluation.json` (every figure), `reports/evaluation_by_category.csv`,
`reports/grid.png` (before and after, by task) and `reports/report.html` (one self-contained page).
"""
