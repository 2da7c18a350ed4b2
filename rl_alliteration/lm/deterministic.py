"""Kernels whose results are the same each time."""

from __future__ import annotations

import os

import torch


def deterministic(*, strict: bool) -> None:
    """Have PyTorch take them.

    Not strict: an operation that has none on a GPU is told, not refused. There PyTorch then leaves even those as they
    are that have one to be asked for, above all the gradients of attention.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU's first product is computed
    # Not `use_deterministic_algorithms`, which imports PyTorch's compiler: a second, for which nothing here has a use.
    torch.set_deterministic_debug_mode("error" if strict else "warn")
