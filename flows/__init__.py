"""Prefect's coat around the stages: the chain, the command line, and one stage as a child process.

The flow never imports a stage: it asks DVC's command line for each one, in a process group that
dies with its caller. `dvc repro` without any of this gives the same bytes.
"""
