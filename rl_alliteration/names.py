"""What trials are called, by what sets each apart from those it is shown among; and which one a person means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Protocol

from rl_alliteration.config import MODEL, ORIGINAL, SETTINGS, PlannedTrial, TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.flags import UpdateSettings
from rl_alliteration.setting import settings_of

_BETA = SETTINGS["beta"].words
_LEAST = 4
"""Characters of a hash that are shown at least: fewer would soon be another trial's too."""
_LISTED = 8


class Penalised(Protocol):
    """What has a KL coefficient: a configuration, or a trial that was measured."""

    @property
    def beta(self) -> float: ...

    @property
    def target_kl(self) -> float | None: ...


def coefficient(trial: Penalised) -> str:
    """`beta 60`, or `KL target 0.1` where a controller sets beta."""
    return SETTINGS["target_kl"].words(trial.target_kl) if trial.target_kl is not None else _BETA(trial.beta)


def update_words(update: UpdateSettings) -> str:
    """The settings of an update that are not the study's: `credit to-go, linear rate`; or `the study's`."""
    declared = settings_of(UpdateSettings)
    values = {name: getattr(update, name) for name in declared}
    words = [one.words(values[name]) for name, one in declared.items() if values[name] != one.left_out_at]
    return ", ".join(words) or "the study's"


def trial_names(trials: Sequence[PlannedTrial], always: Collection[str] = ()) -> list[str]:
    """Short names of trials that are shown together, in their order: `rloo beta 60 seed 0, rate 0.0005`.

    Algorithm, coefficient and seed, and then whatever else differs among those that these do not tell apart: trials
    of different configurations have different names. Settings of `always` are in each name if any two trials differ
    in them.
    """
    told = [name for name in always if len({getattr(trial.config, name) for trial in trials}) > 1]

    def base(config: TrialConfig) -> str:
        return ", ".join([_base(config), *(SETTINGS[name].words(getattr(config, name)) for name in told)])

    words = differences(trials, base)
    return [", ".join([base(trial.config), *others]) for trial, others in zip(trials, words, strict=True)]


def _base(config: TrialConfig) -> str:
    return ORIGINAL if config.algorithm == ORIGINAL else f"{config.algorithm} {coefficient(config)} seed {config.seed}"


def differences(
    trials: Sequence[PlannedTrial], alike: Callable[[TrialConfig], Hashable], but: Collection[str] = ()
) -> list[list[str]]:
    """Of each trial, in words, the settings that differ among those of equal `alike`; those named in `but` apart.

    One that is left out of an id at its default goes without saying there: only the others say it.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, trial in enumerate(trials):
        groups.setdefault(alike(trial.config), []).append(place)
    found: list[list[str]] = [[] for _ in trials]
    for group in groups.values():
        settings = [_settings(trials[place], but) for place in group]
        differing = [name for name in settings[0] if len({values[name][0] for values in settings}) > 1]
        for place, values in zip(group, settings, strict=True):
            found[place] = [values[name][1] for name in differing if values[name][1]]
    return found


def _settings(trial: PlannedTrial, but: Collection[str]) -> dict[str, tuple[Hashable, str]]:
    """Each setting's value and words; the model is one, whatever of it differs."""
    config = trial.config
    found: dict[str, tuple[Hashable, str]] = {}
    for name, declared in SETTINGS.items():
        if declared.kind != MODEL and name not in but:
            value = getattr(config, name)
            found[name] = (value, "" if value == declared.left_out_at else declared.words(value))
    if config.target_kl is not None and "beta" in found:
        found["beta"] = (config.beta, f"from {_BETA(config.beta)}")
    model = config.model_fingerprint
    return found | {"model": (model, f"{trial.model}@{model[:4]}")}


def find_trial(given: str, known: Collection[str], place: str, flag: str = "--trial") -> str:
    """The id that a person means by it, by its beginning up to a dash or into its hash, or by the hash's beginning.

    Numbers are not cut: `rloo-beta4` is not `rloo-beta40-seed0-1a2b3c4d`; `rloo-beta40`, `1a2b` and the whole are.

    Args:
        given: by the person.
        known: the ids that there are.
        place: what they are of, for messages.
        flag: that it was given with.

    Raises:
        UserError: there is none, or more than one.
    """
    found = [given] if given in known else sorted({one for one in known if _means(given, one)})
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{flag}: {given!r} may be any of {_listed(found)}; give more of its id")
    raise UserError(f"{flag}: {given!r} is not in {place!r}; there is: {_listed(sorted(known)) or 'none'}")


def _means(given: str, trial_id: str) -> bool:
    name, _, digest = trial_id.rpartition("-")
    up_to_a_dash = f"{name}-".startswith(f"{given}-")
    into_its_hash = given.startswith(f"{name}-") and trial_id.startswith(given)
    return bool(given) and (up_to_a_dash or into_its_hash or digest.startswith(given))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def short_ids(trial_ids: Collection[str]) -> dict[str, str]:
    """Of each id the shortest beginning of its hash by which `find_trial` finds it among them."""
    ids = set(trial_ids)

    def short(trial_id: str) -> str:
        digest = trial_id.rpartition("-")[2]
        for length in range(_LEAST, len(digest) + 1):
            if [one for one in ids if _means(digest[:length], one)] == [trial_id]:
                return digest[:length]
        return trial_id

    return {trial_id: short(trial_id) for trial_id in ids}
