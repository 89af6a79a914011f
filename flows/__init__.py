"""Prefect flows and the console script: the thin coat around the stages."""
