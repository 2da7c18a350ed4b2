"""Sweeps of reinforcement learning on language models: how much reward for how much variety?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rl_alliteration")
except PackageNotFoundError:  # run from a checkout that was never installed, as `ray job submit` does
    __version__ = "0+unknown"
