"""What trials need of the driver's process: the reward, credentials, the working directory."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable

import ray
from ray.tune.execution import class_cache

from rl_alliteration.config import TrialConfig
from rl_alliteration.errors import UserError
from rl_alliteration.rl.expressions import parse
from rl_alliteration.rl.rewards import REWARDS, Reward, get_reward
from rl_alliteration.rl.trying import try_reward
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.submission import ray_address, runs_as_job
from rl_alliteration.tune.trainable import NamedReward

_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
_PLACES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
"""Where the storage is. A profile or a certificate is a file of this machine, which others need not have."""


def to_send(sweep: Sweep, parameters: str) -> Reward | NamedReward:
    """The reward as trials get it: by value, so that nodes need not have the user's module.

    One that cannot be sent, since it uses a lock or an open file of its module, is imported by name where trials have
    the driver's files: on this machine, or in a job with its folder.

    Raises:
        UserError: it cannot be sent, and cannot be imported there.
    """
    assert sweep.reward
    reward = get_reward(sweep.reward, parameters)
    names = parse(sweep.reward)
    for name in names:
        if ":" in name:
            ray.cloudpickle.register_pickle_by_value(sys.modules[name.split(":")[0]])
    try:
        ray.cloudpickle.dumps(reward)
        return reward
    except Exception as error:  # each kind of object has its own
        importable = all(name not in REWARDS and not name.startswith("__main__:") for name in names)
        if importable and (ray_address(sweep) == "local" or runs_as_job()):
            return NamedReward(sweep.reward, parameters)
        raise UserError(
            f"--reward: {sweep.reward!r} cannot be sent to the trials: {_unsendable(names)}{error}; "
            "make such objects within the function, or give MODULE:FUNCTION and submit the sweep as a job"
        ) from error


def try_as_sent(sweep: Sweep, config: TrialConfig) -> None:
    """Try the sweep's reward, before Ray starts, where its tables are known: on a copy, so that what it keeps from one
    call to the next is not sent to trials.

    Raises:
        UserError: it does not work, or cannot be sent.
    """
    sent = to_send(sweep, config.reward_parameters)
    if isinstance(sent, NamedReward):
        copy = get_reward(sent.expression, sent.parameters)
    else:
        copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(sent))
    if config.reward_parameters or not copy.needs:
        try_reward(copy, config.prompt)


def _unsendable(names: Iterable[str]) -> str:
    """The first object of a reward's module that cannot be sent, as the beginning of a message."""
    for name in names:
        function = get_reward(name).function
        for used in sorted(getattr(getattr(function, "__code__", None), "co_names", ())):
            try:
                ray.cloudpickle.dumps(function.__globals__.get(used))
            except Exception:
                return f"it uses {used!r}, "
    return ""


def working_directory() -> str:
    with contextlib.suppress(OSError):  # it may be gone
        return os.getcwd()
    return ""


def credentials() -> dict[str, str]:
    """Variables that trials need to reach the storage; nothing may write the secrets among them down.

    Tune passes them on in each actor's runtime environment, which Ray's agent writes to its log. They go with the
    trials' parameters instead.
    """
    kept = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in kept if name not in _SECRETS}
    return {name: os.environ[name] for name in (*_SECRETS, *_PLACES) if name in os.environ}
