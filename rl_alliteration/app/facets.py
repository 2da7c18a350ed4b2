"""What trials differ in: to choose some of them, to group them, and to tell two of them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

from rl_alliteration.app.choices import Choices
from rl_alliteration.app.events import Pair
from rl_alliteration.app.index import Known, Snapshot
from rl_alliteration.config import MODEL, ORIGINAL, SETTINGS
from rl_alliteration.errors import UserError
from rl_alliteration.names import coefficient

_BESIDE = ("algorithm", "beta", "reward", "target_kl", "prompt", "reward_version", "algorithm_version")
"""Settings that are part of another facet, or say too much for one."""
MOST_OPTIONS = 60
"""Values of a facet, at most: of seeds there may be thousands."""


@dataclasses.dataclass(frozen=True)
class Facet:
    """Something that trials differ in."""

    name: str
    """In addresses."""
    title: str
    values: Mapping[Pair, str]
    """In words, by trial."""

    @property
    def options(self) -> list[tuple[str, int]]:
        """Each value, and how many trials have it; in the order of the trials."""
        counts: dict[str, int] = {}
        for value in self.values.values():
            counts[value] = counts.get(value, 0) + 1
        return list(counts.items())


def facets(snapshot: Snapshot) -> list[Facet]:
    """All in which trials differ."""
    trials = snapshot.trials

    def of(name: str, title: str, value: dict[Pair, str]) -> list[Facet]:
        different = set(value.values())
        return [Facet(name, title, value)] if 1 < len(different) <= MOST_OPTIONS else []

    found = of("experiment", "Experiment", {pair: pair[0] for pair in trials})
    found += of("state", "State", {pair: one.trial.status for pair, one in trials.items()})
    found += of("reward", "Reward", {pair: one.trial.reward_function for pair, one in trials.items()})
    found += of("algorithm", "Algorithm", {pair: one.trial.algorithm for pair, one in trials.items()})
    found += of(
        "beta",
        "Beta",
        {pair: ORIGINAL if one.trial.is_original else coefficient(one.planned.config) for pair, one in trials.items()},
    )
    for name, declared in SETTINGS.items():
        if declared.kind != MODEL and name not in _BESIDE:
            # The original has none of an update's settings: it is no value of its own.
            values = {
                pair: declared.words(getattr(one.planned.config, name))
                for pair, one in trials.items()
                if not one.trial.is_original
            }
            found += of(name, name.replace("_", " ").capitalize(), values)
    found += of("model", "Model", {pair: one.planned.model for pair, one in trials.items()})
    return found


def chosen(snapshot: Snapshot, known: Sequence[Facet], choices: Choices) -> list[Known]:
    """The trials that an address asks for.

    Raises:
        UserError: it asks for a value that no trial has.
    """
    found = list(snapshot.trials.values())
    for facet in known:
        wanted = choices.all(facet.name)
        options = {value for value, _ in facet.options}
        if strange := [value for value in wanted if value not in options]:
            raise UserError(
                f"{facet.name}: {strange[0][:80]!r} is not accepted; give one of {', '.join(options)[:300]}"
            )
        if wanted:
            found = [one for one in found if facet.values.get(one.pair) in wanted]
    words = choices.text("trial").casefold().split()
    if words:
        found = [one for one in found if all(word in _name(one) for word in words)]
    return [one for one in found if one.note.starred] if choices.flag("starred") else found


def _name(one: Known) -> str:
    return f"{one.trial.name} {one.trial.trial_id} {one.trial.experiment} {one.note.name}".casefold()


def setting(one: Known) -> tuple[Hashable, ...]:
    """What a trial's seeds have in common: on different tables, and with different rewards, these are others."""
    return one.trial.reward_function, one.trial.algorithm, one.trial.coefficient
