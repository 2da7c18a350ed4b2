"""Sweeps of reinforcement learning on language models: how much reward for how much variety?

    import rl_alliteration
    results = rl_alliteration.run(rl_alliteration.Sweep(storage="results", experiment="first", beta=(0, 10)))

The names below are those of `rl_alliteration.interface`, imported when they are used; torch and Ray come with a run.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_alliteration.interface import (
        Failure,
        Results,
        Search,
        Sweep,
        TrialsFailed,
        UserError,
        algorithm,
        open_results,
        reward,
        run,
    )

__all__ = [
    "Failure",
    "Results",
    "Search",
    "Sweep",
    "TrialsFailed",
    "UserError",
    "algorithm",
    "open_results",
    "reward",
    "run",
]

try:
    __version__ = version("rl_alliteration")
except PackageNotFoundError:  # run from a checkout that was never installed, as `ray job submit` does
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("rl_alliteration.interface"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
