"""The cluster files, offline: what Ray checks, and what it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from heads import ROOT
from jsonschema import Draft202012Validator

from rl_alliteration.cli import main as cli
from rl_alliteration.tune.plan import Sweep, resolve
from rl_alliteration.tune.submission import JOB_ENVIRONMENT

CLUSTERS = ["cluster.yaml", "cluster.gcp.yaml"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
IMAGE = re.compile(r"rayproject/ray:(?P<version>[\d.]+)-py311-(cpu|gpu)")


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `ray get-auth-token --generate` leaves: Ray checks that files to be sent exist."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)


@pytest.mark.parametrize("name", CLUSTERS)
def test_ray_accepts_the_file(name: str) -> None:
    from ray.autoscaler._private import util

    for node_type in load(name)["available_node_types"].values():
        assert "resources" in node_type  # else Ray would ask the cloud for them
    config = util.prepare_config(load(name))
    util.validate_config(config)
    with pytest.raises(Exception, match="max_wrokers"):
        util.validate_config(util.prepare_config({**load(name), "max_wrokers": 3}))


@pytest.mark.parametrize("name", CLUSTERS)
def test_what_ray_does_not_check(name: str) -> None:
    config = load(name)
    head, gpu = config["available_node_types"]["head"], config["available_node_types"]["gpu"]
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0}
    assert (gpu["resources"]["GPU"], gpu["min_workers"]) == (1, 0)
    assert gpu["max_workers"] == config["max_workers"] == 16
    assert 5 <= config["idle_timeout_minutes"] <= 10
    for key in ("head_image", "worker_image"):
        image = IMAGE.fullmatch(config["docker"][key])
        assert image is not None and image["version"] == PINS["ray"]
    assert config["docker"]["worker_image"].endswith("-gpu")
    assert any("--constraint ~/rl_alliteration/constraints.txt" in line for line in config["setup_commands"])
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["rsync_filter"] == [".gitignore"]
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    assert all("RAY_AUTH_MODE=token" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    node = gpu["node_config"]
    if name == "cluster.yaml":
        assert node["InstanceMarketOptions"]["MarketType"] == "spot"
        assert (node["InstanceType"], head["node_config"]["InstanceType"]) == ("g6.xlarge", "m6i.xlarge")
        assert "InstanceMarketOptions" not in head["node_config"]
        assert all("ImageId" in n["node_config"] for n in (head, gpu))  # Ray's own default is an image of 2018
    else:
        assert node["scheduling"]["provisioningModel"] == "SPOT"
        assert (node["machineType"], head["node_config"]["machineType"]) == ("g2-standard-4", "n2-standard-4")
        assert "scheduling" not in head["node_config"]


def _object(required: str, optional: str = "", **known: Any) -> dict[str, Any]:
    properties = {name: {} for name in (required + " " + optional).split()} | known
    return {"type": "object", "properties": properties, "required": required.split(), "additionalProperties": False}


_TEMPLATE = _object("spec", spec=_object("containers", "serviceAccountName tolerations", containers={
    "type": "array", "minItems": 1, "items": _object(
        "name image resources", "env ports", resources=_object("requests limits"))}))  # fmt: skip
_COUNT = {"type": "integer", "minimum": 0}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
# The fields of ray.io/v1 that a sweep needs (KubeRay's reference): a typing error in a name must not pass.
RAYJOB = _object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    spec=_object(
        "entrypoint runtimeEnvYAML shutdownAfterJobFinishes rayClusterSpec",
        "submissionMode activeDeadlineSeconds suspend",
        entrypoint={"type": "string"},
        runtimeEnvYAML={"type": "string"},
        backoffLimit=_COUNT,
        ttlSecondsAfterFinished=_COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        rayClusterSpec=_object(
            "rayVersion headGroupSpec workerGroupSpecs",
            authOptions=_object("", mode={"enum": ["token"]}),
            enableInTreeAutoscaling={"type": "boolean"},
            autoscalerOptions=_object("", idleTimeoutSeconds=_COUNT, upscalingMode={"enum": ["Default", "Aggressive"]}),
            headGroupSpec=_object("rayStartParams template", rayStartParams=_STRINGS, template=_TEMPLATE),
            workerGroupSpecs={
                "type": "array",
                "items": _object(
                    "groupName replicas minReplicas maxReplicas rayStartParams template",
                    replicas=_COUNT,
                    minReplicas=_COUNT,
                    maxReplicas=_COUNT,
                    rayStartParams=_STRINGS,
                    template=_TEMPLATE,
                ),
            },
        ),
    ),
)


def test_the_rayjob_is_one_and_its_sweep_is_accepted() -> None:
    job = load("rayjob.yaml")
    assert list(Draft202012Validator(RAYJOB).iter_errors(job)) == []
    spec = job["spec"]
    assert list(Draft202012Validator(RAYJOB).iter_errors({**job, "spec": {**spec, "entryPoint": "x"}}))
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == JOB_ENVIRONMENT
    words = spec["entrypoint"].split()
    assert words[:3] == ["python", "-m", "rl_alliteration.cli"]
    sweep = cli.parse(words[3:])
    assert isinstance(sweep, Sweep)
    assert resolve(sweep).experiment == "beta_coarse"
    cluster = spec["rayClusterSpec"]
    assert (cluster["rayVersion"], cluster["authOptions"]["mode"]) == (PINS["ray"], "token")
    assert cluster["enableInTreeAutoscaling"] and cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    group = cluster["workerGroupSpecs"][0]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (0, 0, 16)
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", [*CLUSTERS, "rayjob.yaml", "runtime_env.yaml"])
def test_no_secret_is_in_the_file(name: str) -> None:
    assert not re.search(r"AKIA|aws_secret|AWS_SECRET|-----BEGIN|\b[0-9a-f]{64}\b", (ROOT / name).read_text())


def test_the_images_in_the_comments_are_those_pinned() -> None:
    for name in ("rayjob.yaml", *CLUSTERS):
        for found in IMAGE.finditer(Path(ROOT / name).read_text()):
            assert found["version"] == PINS["ray"]
