"""Shared by all tests: one thread, so that timings and bits do not depend on the machine's core count."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
