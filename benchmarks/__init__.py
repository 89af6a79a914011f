"""Measurements too slow for the tests; each writes a json under `results/`, which is committed."""
