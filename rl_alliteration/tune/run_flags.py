"""What the flags of a run, not of its trials, come to: GPUs, checkpoints to keep, reasons to stop a trial."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rl_alliteration.analysis.stopping import COLLAPSE, PLATEAU
from rl_alliteration.errors import UserError
from rl_alliteration.flags import RECORDED
from rl_alliteration.tune.trackers import check_trackers
from rl_alliteration.tune.web_hook import web_hook

if TYPE_CHECKING:
    from rl_alliteration.tune.plan import Sweep


def gpus_asked(sweep: Sweep) -> float | None:
    """GPUs per trial; None for `auto`.

    Raises:
        UserError: neither `auto` nor a number that Ray can share out.
    """
    if sweep.gpus_per_trial == "auto":
        return None
    try:
        gpus = float(sweep.gpus_per_trial)
    except ValueError:
        gpus = math.nan
    if not (math.isfinite(gpus) and gpus >= 0 and (gpus <= 1 or gpus.is_integer())):
        raise UserError(
            f"--gpus-per-trial: {sweep.gpus_per_trial!r} is not accepted; "
            "give auto, a share of a GPU such as 0.25, or a whole number"
        )
    return gpus


def checkpoints_kept(sweep: Sweep) -> int | None:
    """How many checkpoints to keep; None for all.

    Raises:
        UserError: neither `all` nor a number.
    """
    if sweep.keep_checkpoints == "all":
        return None
    if not sweep.keep_checkpoints.isdecimal() or int(sweep.keep_checkpoints) < 1:
        raise UserError(f"--keep-checkpoints: {sweep.keep_checkpoints!r} is not accepted; give all, or 1 or more")
    return None if sweep.stop_on_collapse else int(sweep.keep_checkpoints)


def stop_reasons(sweep: Sweep) -> tuple[str, ...]:
    """For what a trial is stopped before its end: the reasons of `analysis.stopping.EarlyStopping`."""
    return (COLLAPSE,) * sweep.stop_on_collapse + (PLATEAU,) * sweep.stop_on_plateau


def check_run_flags(sweep: Sweep) -> None:
    """Whether each is one that a run can be made with.

    Raises:
        UserError: one is not.
    """
    check_trackers(sweep.log_to)
    gpus_asked(sweep)
    checkpoints_kept(sweep)
    web_hook(sweep.notify_url)
    if sweep.record_tokens not in RECORDED:
        raise UserError(f"--record-tokens: {sweep.record_tokens!r} is not accepted; give one of {', '.join(RECORDED)}")
    if sweep.max_failures < 0:
        raise UserError(f"--max-failures: {sweep.max_failures} is not accepted; give 0 or more")
    for flag, hours in (("max-hours", sweep.max_hours), ("max-device-hours", sweep.max_device_hours)):
        if hours is not None and not 0 < hours < math.inf:
            raise UserError(f"--{flag}: {hours:g} is not accepted; give hours, more than 0")
    if not 0 < sweep.publish_every < math.inf:
        raise UserError(f"--publish-every: {sweep.publish_every:g} is not accepted; give minutes, more than 0")
