"""Somebody else's code (a reward, a loss) runs in this process: what it changes of it is put back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch


def _working_directory() -> str:
    with contextlib.suppress(OSError):  # it may be gone
        return os.getcwd()
    return ""


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (_deterministic, lambda flags: torch.use_deterministic_algorithms(flags[0], warn_only=flags[1])),
    (_working_directory, os.chdir),
)
"""What of this process would change later numbers, or where a reward finds its files. The global random state is not
among it: nothing here draws from that."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A reward is somebody else's code: what it changes of this process is put back."""
    before = [get() for get, _ in _SETTINGS]
    try:
        yield
    finally:
        for value, (get, put) in zip(before, _SETTINGS, strict=True):
            if get() != value:
                put(value)
