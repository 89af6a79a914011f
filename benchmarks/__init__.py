"""Measurements that are too slow for the tests; each writes a json under `results/` that is committed."""
