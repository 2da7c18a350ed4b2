"""The views, one module each."""

from __future__ import annotations

from rl_alliteration.app.page import View
from rl_alliteration.app.views import compare, curves, frontier, rollouts, search, texts, trial, trials

VIEWS: dict[str, View] = {
    "": View("Trials", trials.page),
    "trial": View("", trial.page),
    "curves": View("Curves", curves.page),
    "rollouts": View("Rollouts", rollouts.page),
    "texts": View("Texts", texts.page),
    "compare": View("Compare", compare.page),
    "frontier": View("Frontier", frontier.page),
    "search": View("Search", search.page),
}
"""By their addresses."""
