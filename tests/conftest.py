"""Tests run side by side, one process a core: torch must not start a team of threads in each."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start

import torch

torch.set_num_threads(1)
