"""Shared by all tests: one thread, so that neither time nor bits depend on the core count."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
