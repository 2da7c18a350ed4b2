"""The cluster that trials run on: the connection to it, what it can give, whether its nodes share the storage."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from rl_alliteration.errors import Failure, UserError
from rl_alliteration.results.storage import Storage
from rl_alliteration.tune.own_ray import core_processes, lives, own_ray
from rl_alliteration.tune.plan import Sweep
from rl_alliteration.tune.run_flags import gpus_asked
from rl_alliteration.tune.signals import StopRequest
from rl_alliteration.tune.submission import TOKEN_HELP

_PROBE_SECONDS = 60.0
_LOOK_SECONDS = 0.01
_REACH_EVERY_SECONDS = 1.0
_REACH_SECONDS = 5.0
_MISSES = 3


def local_resources() -> dict[str, float]:
    """CPUs and GPUs that a Ray of this machine's own would have, before it is started."""
    from ray._private.accelerators import NvidiaGPUAcceleratorManager

    gpus = NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return {"CPU": float(ray._private.utils.get_num_cpus()), "GPU": float(gpus)}


def cluster_capacity() -> dict[str, float]:
    """Most CPUs and GPUs: of the live nodes, and of what an autoscaler's node types could bring."""
    from ray._private.state import state

    live = ray.cluster_resources()
    possible = state.get_max_resources_from_cluster_config() or {}
    return {key: max(float(live.get(key, 0)), float(possible.get(key, 0))) for key in ("CPU", "GPU")}


def check_resources(sweep: Sweep, available: Mapping[str, float]) -> None:
    """Refuse what neither a live node nor an autoscaler could ever give.

    Raises:
        UserError: it is more than there is; says what there is.
    """
    for flag, asked, kind in (
        ("--gpus-per-trial", gpus_asked(sweep) or 0.0, "GPU"),
        ("--cpus-per-trial", sweep.cpus_per_trial, "CPU"),
    ):
        there = available.get(kind, 0.0)
        if asked > there:
            raise UserError(
                f"{flag}: {asked:g} asked for, but live nodes and an autoscaler's node types "
                f"could bring {there:g} {kind}s; give at most {there:g}"
            )


def check_shared(storage: Storage) -> None:
    """Have each other node write to a folder of results, and look for it here.

    Raises:
        UserError: a node has a folder of its own there.
    """
    if storage.folder("") is None:
        return
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    probes = {node["NodeManagerHostname"]: f"staging/probe-{uuid.uuid4().hex}" for node in others}
    written = [
        _write_probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)).remote(
            str(storage), path
        )
        for node, path in zip(others, probes.values(), strict=True)
    ]
    ray.wait(written, num_returns=len(written), timeout=_PROBE_SECONDS) if written else None
    for host, path in probes.items():
        if not storage.exists(path):
            raise UserError(
                f"--storage: what the node {host} writes to {str(storage)!r} is not seen here; "
                "give a folder that all nodes share, or s3://bucket/prefix"
            )
        storage.delete(path)


@ray.remote(num_cpus=0)
def _write_probe(root: str, path: str) -> None:
    Storage(root).put(path, b"")


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster; for `local`, a Ray of this process's own that ends with it."""
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "WARNING", "log_to_driver": False}
    # It tells of a token that only this process's own Ray uses, and repeats errors that we tell in one line.
    for name in ("ray._private.authentication", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if threading.current_thread() is not threading.main_thread():  # it warns that it cannot take SIGTERM there
        logging.getLogger("ray._private").setLevel(logging.ERROR)
    if address == "local":
        with own_ray(**quiet):
            yield
        return
    try:
        _check_reachable(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise Failure(
            f"no Ray at {address!r}: {' '.join(str(error).split())[:300]}; if it requires a token: {TOKEN_HELP}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ending_with_ray(stop: StopRequest, console: Console) -> Iterator[None]:
    """End this process soon after a Ray of its own has ended: Ray itself tries for a minute, then aborts.

    A signal to every process of a job ends both: a batch system's. What is published stays, as after any kill; the
    lease of a process that is gone is nobody's.
    """
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    core = core_processes()
    over = threading.Event()

    def lost() -> bool:
        """Whether Ray has ended, once that is seen; False if it has not when this process is done."""
        living, missed, looked = core, 0, time.monotonic()
        while missed < _MISSES:
            if over.wait(_LOOK_SECONDS):
                return False
            if stop.arrived is not None and not all(map(lives, living)):
                return True  # the signal was for all of them: soon Ray ends this process without a word
            if time.monotonic() - looked < _REACH_EVERY_SECONDS:
                continue
            looked = time.monotonic()
            if stop.arrived is None:  # a helper of Ray's that died long before says nothing of the signal
                living = [process for process in living if lives(process)]
            try:
                socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()
                missed = 0
            except OSError:
                missed += 1
        return True

    def watch() -> None:
        if not lost():
            return
        arrived = stop.arrived
        console.show_cursor()
        told = "Stopped" if arrived is not None else "Ray has ended"
        console.print(f"{told}. The same command goes on from here.")
        code = 1 if arrived is None else 128 + arrived
        stop.lost(code)
        os._exit(code)

    thread = threading.Thread(target=watch, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes.

    Raises:
        OSError: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
