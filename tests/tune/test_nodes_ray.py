"""Several nodes, with GPUs that Ray is told of: one trial each, late nodes are used, a lost node's trials move."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import urllib.request
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from commands import assert_verified, texts
from heads import ROOT, add_node, end, kill_node, node_logs, prometheus, ray_head, wait_for

from rl_alliteration.tune.metrics import COUNTERS, DASHBOARD, GAUGES

SETTINGS = [
    *("--experiment", "tiny", "--max-length", "16", "--group-size", "4", "--learning-rate", "0.01"),
    *("--beta", "0", "1", "2", "--max-generations", "600", "--checkpoint-every", "100", "--reward", "slow"),
]
# A reward that takes its time, and tells where it was computed.
SCRIPT = """
import json, os, socket, sys, time
import ray
from rl_alliteration.cli.main import main
from rl_alliteration.rl.rewards import reward

@reward("slow")
def slow(text):
    if "FOLDER" in os.environ:
        time.sleep(0.05)  # a trial must last longer than an actor takes to start: Tune reuses actors that run
        node = ray.get_runtime_context().get_node_id()
        seen = (os.environ.get("CUDA_VISIBLE_DEVICES"), node, os.getpid(), time.time())
        with open(os.environ["FOLDER"] + "/" + str(os.getpid()), "a") as file:
            file.write(json.dumps(seen) + "\\n")
    return float(text.count("a"))

main(sys.argv[1:])
"""
# As an autoscaler tells the cluster what its node types could bring.
CAPACITY = """
import ray, ray._raylet as r
from ray.core.generated import autoscaler_pb2
from ray.experimental.internal_kv import _internal_kv_put
ray.init(address="auto", logging_level="ERROR")
group = autoscaler_pb2.NodeGroupConfig(resources={"CPU": 1, "GPU": 1}, max_count=2, name="gpu")
config = autoscaler_pb2.ClusterConfig(node_group_configs=[group])
namespace = r.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
_internal_kv_put(r.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, config.SerializeToString(), namespace=namespace)
"""


def scraped(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Ray's endpoint, as Prometheus reads it."""
    from prometheus_client.parser import text_string_to_metric_families

    body = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    found = defaultdict(list)
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            if sample.name.startswith("ray_rl_alliteration_"):
                found[sample.name.removeprefix("ray_rl_alliteration_")].append((sample.labels, sample.value))
    return found


@pytest.mark.chaos
def test_a_lost_nodes_trials_move_and_nothing_is_lost(tmp_path: Path, tiny_gpt_neo_folder: Path) -> None:
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    seen = tmp_path / "seen"
    seen.mkdir()
    model = ["--model", str(tiny_gpt_neo_folder)]

    def places() -> set[tuple[Any, ...]]:
        return {tuple(line[:2]) for line in sightings(seen)}

    with (
        ray_head(0, FOLDER=str(seen), RL_ALLITERATION_FAKE_GPUS="1") as head,
        prometheus(head, tmp_path) as ask,
    ):
        environment = head.environment | {"RAY_AUTH_MODE": "token", "RAY_ADDRESS": head.address}
        subprocess.run([sys.executable, "-c", CAPACITY], env=environment, check=True, timeout=60)
        log = (tmp_path / "log").open("w")
        driver = subprocess.Popen(
            [sys.executable, script, "sweep", "--storage", tmp_path / "moved", *model, *SETTINGS],
            env=environment | {"PYTHONUNBUFFERED": "1"}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said = (tmp_path / "log").read_text
        wait_for(lambda: "waiting for GPUs: 4 trials need 1 each, live nodes have 0" in said(), 90, said)
        nodes = []
        try:
            for count in (1, 2):  # both are late
                nodes.append(add_node(head, 1))
                wait_for(
                    lambda count=count: len(places()) == count, 90, lambda: f"{places()} {node_logs(head)} {said()}"
                )
            # a report sets all gauges, and Ray exports each on its own
            exported = {*GAUGES, "trials"} - {"variety"}
            wait_for(lambda: scraped(head.metrics_port).keys() >= exported, 60, said)
            metrics = scraped(head.metrics_port)
            if ask is not None:  # what the dashboard shows of a sweep that has just begun
                for query in dashboard_queries():
                    always = re.search(r"raw_reward|kl_penalty|per_second|_trials", query)
                    wait_for(lambda query=query, always=always: ask(query) or not always, 30, lambda q=query: q)
                (states,) = [ask(q) for q in dashboard_queries() if "_trials" in q]
                assert {one["metric"]["state"] for one in states} >= {"running", "planned"}
            kill_node(nodes[0])
            assert driver.wait(300) == 0, said()
        finally:
            for node in nodes[1:]:
                end(node)
    lines = sightings(seen)
    assert {device for device, *_ in lines} == {"0"}  # one GPU each
    assert len({node for _, node, *_ in lines}) == 2
    for node in {node for _, node, *_ in lines}:  # and never two trials on one
        by_process = defaultdict(list)
        for _, where, process, at in lines:
            if where == node:
                by_process[process].append(at)
        spans = sorted((min(times), max(times)) for times in by_process.values())
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
    assert_verified(tmp_path / "moved")
    alone = subprocess.run(
        [sys.executable, script, "sweep", "--storage", tmp_path / "alone", *model, *SETTINGS],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert texts(tmp_path / "moved") == texts(tmp_path / "alone")

    for labels, value in metrics["raw_reward"]:
        assert (labels["experiment"], labels["seed"], value >= 0) == ("tiny", "0", True)
        assert labels["trial"].startswith(f"{labels['algorithm']}-")
    counts = {labels["state"]: value for labels, value in metrics["trials"]}
    assert (sum(counts.values()), counts["running"] >= 1) == (4, True)


def sightings(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for path in folder.iterdir() for line in path.read_text().splitlines() if line[-1:] == "]"]


def test_a_folder_that_is_a_nodes_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of another node comes back from elsewhere."""
    import ray

    from rl_alliteration.errors import UserError
    from rl_alliteration.results.storage import Storage
    from rl_alliteration.tune import cluster

    class Probe:
        options = classmethod(lambda cls, **_: cls)
        remote = staticmethod(lambda root, path: Storage(tmp_path / "another_disk").put(path, b""))

    nodes = [{"Alive": True, "NodeID": name, "NodeManagerHostname": name} for name in ("here", "there")]
    context = type("Context", (), {"get_node_id": lambda self: "here"})
    for name, value in {"nodes": lambda: nodes, "get_runtime_context": context, "wait": lambda *_, **__: None}.items():
        monkeypatch.setattr(ray, name, value)
    monkeypatch.setattr(cluster, "NodeAffinitySchedulingStrategy", lambda *_, **__: None)
    monkeypatch.setattr(cluster, "_write_probe", Probe)
    with pytest.raises(UserError, match=r"what the node there writes to .* is not seen here; give a folder that all"):
        cluster.check_shared(Storage(tmp_path))
    Probe.remote = staticmethod(lambda root, path: Storage(root).put(path, b""))
    cluster.check_shared(Storage(tmp_path))
    assert Storage(tmp_path).list("staging") == []


def dashboard_queries() -> set[str]:
    """What the Grafana dashboard asks Prometheus, of all experiments."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {target["expr"].replace("$Experiment", ".*") for panel in panels for target in panel["targets"]}


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = dashboard_queries()
    named = set(re.findall(r"ray_rl_alliteration_(\w+)", " ".join(asked)))
    assert named <= {*GAUGES, "trials", *(f"{name}_total" for name in COUNTERS)}
    assert named >= {"raw_reward", "kl_penalty", "variety", "generations_per_second", "trials"}
    assert any("ray_node_gpus_utilization" in expression for expression in asked)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
