"""Forks in a request: `--from EXPERIMENT/TRIAL@GENERATION`, and what is that trial's. No Ray, no torch."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from rl_alliteration.config import ORIGINAL, SAMPLING, TrialConfig
from rl_alliteration.errors import Failure, UserError
from rl_alliteration.flags import SharedSettings
from rl_alliteration.foreign import Damaged
from rl_alliteration.identifiers import EXPERIMENT, TRAINED
from rl_alliteration.names import find_trial
from rl_alliteration.results.cards import ModelCard, read_card
from rl_alliteration.results.forks import kept_parent
from rl_alliteration.results.parts import stored_generations
from rl_alliteration.results.reader import last_event, trial_ids
from rl_alliteration.results.storage import Storage, open_storage
from rl_alliteration.rl.advantages import ALGORITHMS
from rl_alliteration.setting import settings_of
from rl_alliteration.tune.axes import UPDATE
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.prompts import prompts_of

if TYPE_CHECKING:
    from rl_alliteration.lm.loading import LoadedModel

_PLACE = re.compile(
    rf"(?P<experiment>{EXPERIMENT})/(?!{ORIGINAL}\b)(?P<trial_id>[0-9a-z][0-9a-z_.-]*)@(?P<generation>[0-9]{{1,12}})",
    re.ASCII,
)
_WHOLE = re.compile(TRAINED, re.ASCII)
_SAMPLING = [name for name, one in settings_of(SharedSettings).items() if one.kind == SAMPLING]
_ROUNDING = [name for name in settings_of(SharedSettings) if name not in _SAMPLING]
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Sweep)}


@dataclasses.dataclass(frozen=True)
class Place:
    """A trial's model after so many texts."""

    experiment: str
    trial_id: str
    """Or so much of it as no other trial of the experiment has, until `parent_of` has looked."""
    generation: int

    @property
    def ancestor(self) -> str:
        """As a fork's configuration has it."""
        return f"{self.trial_id}@{self.generation}"

    def __str__(self) -> str:
        return f"{self.experiment}/{self.ancestor}"


@dataclasses.dataclass(frozen=True)
class Parent:
    """The trial that forks begin from."""

    place: Place
    config: TrialConfig
    card: ModelCard

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Of its forks."""
        return (*self.config.ancestors, self.place.ancestor)

    def __str__(self) -> str:
        place = self.place
        return (
            f"from {place.experiment}/{place.trial_id} after {place.generation:,} texts: its model "
            f"{self.card.model}, prompt and sampling, and whatever of its settings is not given"
        )

    def completed(self, sweep: Sweep) -> Sweep:
        """The sweep with the parent's values where it has none.

        Raises:
            UserError: it asks for another prompt or sampling, or for a preset.
        """
        config = self.config
        if sweep.preset is not None:
            raise UserError("--preset: --from takes what is not given from its trial; leave one of the two out")
        for name in _SAMPLING:
            if getattr(sweep, name) not in (_DEFAULTS[name], getattr(config, name)):
                self._refuse(name.replace("_", "-"), getattr(sweep, name), getattr(config, name))
        if (sweep.prompt or sweep.prompts is not None) and prompts_of(sweep) != config.prompts:
            self._refuse("prompts" if sweep.prompts is not None else "prompt", prompts_of(sweep), config.prompts)
        steered = not sweep.beta and not sweep.target_kl
        target = () if config.target_kl is None else (config.target_kl,)
        registered = ALGORITHMS.get(config.algorithm)
        rest: dict[str, Any] = {name: getattr(config, name) for name in _SAMPLING}
        for name in _ROUNDING:
            given = getattr(sweep, name)
            rest[name] = getattr(config, name) if given == _DEFAULTS[name] else given
        rest |= {name: getattr(sweep, name) or (getattr(config, name),) for name in UPDATE}
        own_size = registered is not None and registered.group_size == config.group_size
        same_model = sweep.model == _DEFAULTS["model"]
        return dataclasses.replace(
            sweep,
            experiment=sweep.experiment or self.place.experiment,
            from_trial=str(self.place),
            model=self.card.model if same_model else sweep.model,
            revision=sweep.revision or (self.card.revision if same_model else None),
            tokenizer=sweep.tokenizer or self.card.tokenizer_source,
            prompt=config.prompts,
            prompts=None,
            reward_of=config.reward_of if sweep.reward_of is None else sweep.reward_of,
            reward=config.reward if sweep.reward is None else sweep.reward,
            algorithm=sweep.algorithm or (config.algorithm,),
            beta=(config.beta,) if steered else sweep.beta,
            target_kl=target if steered else sweep.target_kl,
            seed=sweep.seed or (config.seed,),
            learning_rate=sweep.learning_rate or (config.learning_rate,),
            group_size=sweep.group_size or (() if own_size else (config.group_size,)),
            **rest,
        )

    def check(self, loaded: LoadedModel, model: str) -> None:
        """Whether a model is the parent's.

        Raises:
            UserError: it is not.
        """
        if (difference := loaded.differs(self.config)) is not None:
            raise UserError(
                f"--model: {model!r} is not the model that {self.place.trial_id} began with: {difference}; a fork has "
                "its parent's, give --model only with the folder that that one is in now"
            )

    def moved(self, error: UserError) -> UserError:
        """What to say where the model cannot be loaded."""
        return UserError(
            f"--model: the model of {self.place.trial_id} was {self.card.model!r}, and cannot be had ({error}); "
            "give the folder that it is in now"
        )

    def _refuse(self, flag: str, given: object, own: object) -> None:
        raise UserError(f"--{flag}: {given!r} is not accepted with --from, whose trial has {own!r}; leave it out")


def place_of(text: str) -> Place:
    """What `--from` says.

    Raises:
        UserError: it is no trial that is trained, with a generation.
    """
    match = _PLACE.fullmatch(text)
    if match is None or not int(match["generation"]):
        raise UserError(
            f"--from: {text[:200]!r} is not accepted; give EXPERIMENT/TRIAL@GENERATION, of this storage "
            "a trial with updates, as `query` shows it, and a generation above 0"
        )
    return Place(match["experiment"], match["trial_id"], int(match["generation"]))


def parent_of(sweep: Sweep) -> Parent | None:
    """The trial that a sweep forks; None if it forks none.

    Of a parent that was removed, a fork that has begun keeps what there is to know.

    Raises:
        UserError: it is not there, or has no such generation.
        Failure: what is stored of it is damaged.
    """
    if sweep.from_trial is None:
        return None
    storage = open_storage(sweep.storage)
    place = _whole(storage, place_of(sweep.from_trial))
    config = _stored(storage, place)
    return Parent(place, config, _card(storage, config))


def _known(storage: Storage, experiment: str) -> list[str]:
    try:
        return [name for _, name in trial_ids(storage, experiment) if _WHOLE.fullmatch(name)]
    except UserError:
        return []


def _whole(storage: Storage, place: Place) -> Place:
    """With the whole id of the trial that a person means. One that is whole already may have been removed."""
    if _WHOLE.fullmatch(place.trial_id):
        return place
    known = _known(storage, place.experiment)
    return dataclasses.replace(place, trial_id=find_trial(place.trial_id, known, place.experiment, "--from"))


def _stored(storage: Storage, place: Place) -> TrialConfig:
    known = _known(storage, place.experiment)
    event = last_event(storage, place.experiment, place.trial_id) if place.trial_id in known else None
    there = stored_generations(storage, place.experiment, place.trial_id) if event is not None else 0
    if (event is None or place.generation > there) and (kept := kept_parent(storage, place.ancestor)) is not None:
        return kept
    if event is None:
        told = f"; there is: {', '.join(known)}" if known else ", which is not in this storage"
        raise UserError(
            f"--from: {place.trial_id!r} is not in {place.experiment!r}{told}; "
            f"nor does a fork keep its model of generation {place.generation}"
        )
    config = TrialConfig.from_json(event["config"], place.trial_id)
    if place.generation > there or place.generation % config.group_size:
        raise UserError(
            f"--from: generation {place.generation} is not accepted; {place.trial_id} has a model after every "
            f"{config.group_size} texts, up to {there}"
        )
    return config


def _card(storage: Storage, config: TrialConfig) -> ModelCard:
    try:
        return read_card(storage, config.model_fingerprint)
    except (FileNotFoundError, Damaged) as error:
        told = error if isinstance(error, Damaged) else "the card of its model is missing"
        raise Failure(f"--from: {told}; the command that began {config.trial_id} writes it again") from error
