"""What of deploy/ can be checked without a cluster: fields, names, flags and versions agree with
each other and with the programs that read them. Nothing runs on Kubernetes or in a container."""

from __future__ import annotations

import copy
import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from tests.cli_calls import call
from tests.conftest import ROOT
from tests.kubernetes_fields import schema_of

DEPLOY = ROOT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
OVERLAY = DEPLOY / "kubernetes" / "gcs-fault-tolerance"
PAGE = (ROOT / "docs" / "cluster.md").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILES = (ROOT / "Dockerfile", DEPLOY / "mlflow.Dockerfile")
KUEUES_GROUPS = 7
"""Of workers; Kueue takes eight sets of pods a job, and the head is one."""


def manifests() -> list[dict[str, Any]]:
    """Those of both kustomizations, the overlay's patches applied."""
    out = []
    for folder in (BASE, OVERLAY):
        for name in kustomization(folder)["resources"]:
            if (folder / name).is_file():
                out += [part for part in yaml.safe_load_all((folder / name).read_text()) if part]
    for patch in kustomization(OVERLAY)["patches"]:
        (target,) = [m for m in out if (m["kind"], named(m)) == tuple(patch["target"].values())]
        for change in yaml.safe_load(patch["patch"]):
            *way, last = change["path"].strip("/").split("/")
            place: Any = target
            for step in way:
                place = place[step]
            assert change["op"] == "add" and last not in place
            place[last] = change["value"]
    return out


def kustomization(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def named(manifest: dict[str, Any]) -> str:
    return manifest["metadata"]["name"]


def rayjob() -> dict[str, Any]:
    (job,) = [m for m in manifests() if m["kind"] == "RayJob"]
    return job["spec"]


def found(key: str, tree: Any) -> Iterator[Any]:
    """Every value under a key, anywhere in a tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from found(key, value)
    elif isinstance(tree, list):
        for value in tree:
            yield from found(key, value)


def joined(lists: Iterable[list[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(lists))


def check(manifest: dict[str, Any]) -> None:
    Draft202012Validator(schema_of(manifest)).validate(manifest)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize("manifest", manifests(), ids=lambda m: f"{m['kind']}-{named(m)}")
def test_a_manifest_has_known_fields_only(manifest: dict[str, Any]) -> None:
    check(manifest)


def test_the_schema_refuses_what_the_api_server_would() -> None:
    (job,) = [m for m in manifests() if m["kind"] == "RayJob"]
    for key, value in (("entryPoint", "coin-ray"), ("backoffLimit", "3")):
        with pytest.raises(ValidationError):
            check({**job, "spec": {**job["spec"], key: value}})
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0
    with pytest.raises(ValidationError):
        check(wrong)


def test_every_file_is_listed_and_kubectl_puts_them_together() -> None:
    for folder in (BASE, OVERLAY):
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert there == set(kustomization(folder)["resources"]) - {"../base"}
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl")
    done = subprocess.run(["kubectl", "kustomize", OVERLAY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [part for part in yaml.safe_load_all(done.stdout) if part]
    assert sorted((m["kind"], named(m)) for m in made) == sorted(
        (m["kind"], named(m)) for m in manifests()
    )
    images = {image for image in found("image", made) if "coin-ray" in image}
    assert images == {
        f"{image['newName']}:{image['newTag']}" for image in kustomization(BASE)["images"]
    }


def test_what_a_manifest_names_is_there_or_on_the_page() -> None:
    every = manifests()
    claims = {named(m) for m in every if m["kind"] == "PersistentVolumeClaim"}
    assert set(found("claimName", every)) <= claims
    secrets = {secret["name"] for secret in found("secretKeyRef", every)}
    assert secrets == {"coin-ray-postgres", "coin-ray-redis"}
    for secret in secrets:
        assert f"create secret generic {secret} --from-literal=password=" in PAGE
    assert not [m for m in every if m["kind"] == "Secret"]
    services = {named(m) for m in every if m["kind"] == "Service"}
    assert {"mlflow", "postgres", "redis"} == services
    for manifest in every:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            spec = manifest["spec"]
            labels = spec["template"]["metadata"]["labels"]
            assert spec["selector"]["matchLabels"].items() <= labels.items()
        for pod in (p for p in found("spec", manifest) if "containers" in p):
            volumes = {v["name"] for v in pod.get("volumes", [])}
            volumes |= {named(t) for t in manifest["spec"].get("volumeClaimTemplates", [])}
            assert {m["name"] for m in joined(found("volumeMounts", pod))} <= volumes


def test_the_head_stays_and_takes_no_work_and_workers_may_go() -> None:
    cluster = rayjob()["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == head["rayStartParams"]["num-gpus"] == "0"
    assert "tolerations" not in head["template"]["spec"]
    (refused,) = found("requiredDuringSchedulingIgnoredDuringExecution", head)
    rules = {e["key"]: e for e in joined(found("matchExpressions", refused))}
    assert {rule["operator"] for rule in rules.values()} == {"NotIn"}
    wanted = {e["key"]: e["values"] for e in joined(found("matchExpressions", workers))}
    assert wanted == {key: rule["values"] for key, rule in rules.items()}
    tolerated = {t["key"] for t in workers["template"]["spec"]["tolerations"]}
    assert tolerated >= {"nvidia.com/gpu", "cloud.google.com/gke-spot"}
    (gpu,) = workers["template"]["spec"]["containers"]
    limits, requests = gpu["resources"]["limits"], gpu["resources"]["requests"]
    assert limits["nvidia.com/gpu"] == requests["nvidia.com/gpu"]
    assert {m["mountPath"] for m in joined(found("volumeMounts", cluster))} == {"/results"}


def test_kueue_can_admit_the_job() -> None:
    (job,) = [m for m in manifests() if m["kind"] == "RayJob"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True and "clusterSelector" not in spec
    assert not spec["rayClusterSpec"].get("enableInTreeAutoscaling")
    assert len(spec["rayClusterSpec"]["workerGroupSpecs"]) <= KUEUES_GROUPS
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


def test_versions_are_those_that_are_pinned() -> None:
    assert rayjob()["rayClusterSpec"]["rayVersion"] == pins()["ray"]
    assert f"mlflow=={pins()['mlflow']}" in (DEPLOY / "mlflow.Dockerfile").read_text()


def test_every_flag_is_one_that_ray_and_mlflow_know() -> None:
    from mlflow.cli import server
    from ray.scripts.scripts import start

    def flags(command: Any) -> set[str]:
        return {flag for option in command.params for flag in option.opts}

    cluster = rayjob()["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {f"--{name}" for group in groups for name in group["rayStartParams"]} <= flags(start)
    script = (DEPLOY / "slurm" / "coin-ray.sbatch").read_text()
    body = script[script.index("local start=(") : script.index('start "${start[@]}"')]
    used = set(re.findall(r"(?<=[\s(])--[a-z-]+", body)) - {"--address"}
    assert len(used) > 10 and used <= flags(start)
    (mlflow,) = [m for m in manifests() if m["kind"] == "Deployment"]
    (container,) = mlflow["spec"]["template"]["spec"]["containers"]
    for words in (container["args"], COMPOSE["services"]["mlflow"]["command"]):
        assert {word.split("=")[0] for word in words} <= flags(server)


def test_the_sweep_of_the_job_is_a_command_that_we_have() -> None:
    program, verb, study, *rest = shlex.split(rayjob()["entrypoint"])
    assert program == "coin-ray" and (ROOT / "ablations" / f"{study}.yaml").is_file()
    known = call(verb, "--help").output
    assert all(word in known for word in rest if word.startswith("--"))


def test_no_password_stands_in_a_file_or_in_an_argument() -> None:
    assert "PGPASSWORD" in str(COMPOSE["services"]["mlflow"]["environment"])
    for uri in re.findall(r"postgresql://\S+", (DEPLOY / "compose.yaml").read_text()):
        assert uri.startswith("postgresql://mlflow@postgres")
    for path in DEPLOY.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            if found_ := re.search(r"PASSWORD: (\S+)", line):
                assert found_[1].startswith("${MLFLOW_DB_PASSWORD:?"), line
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert "**/.env" in (ROOT / ".dockerignore").read_text().splitlines()


SERVICE = {
    *("image", "build", "profiles", "entrypoint", "command", "init", "shm_size", "environment"),
    *("stop_grace_period", "volumes", "depends_on", "deploy", "restart", "ports", "healthcheck"),
}
"""Fields of a service, of the Compose specification, that we use."""
HEALTH = {"test", "interval", "timeout", "retries", "start_period"}


def test_the_compose_file() -> None:
    assert set(COMPOSE) == {"name", "services", "volumes"}
    for name, service in COMPOSE["services"].items():
        assert set(service) <= SERVICE, name
        assert set(service.get("healthcheck", {})) <= HEALTH
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in COMPOSE["services"][other]
        for volume in service["volumes"]:
            source = volume.removeprefix("${TILES:-./tiles}:/tiles:ro")
            assert not source or source.split(":")[0] in COMPOSE["volumes"]
        if build := service.get("build"):
            context = DEPLOY / build["context"]
            assert (context / build.get("dockerfile", "Dockerfile")).is_file()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "MLflow asks nobody who he is"
    assert COMPOSE["services"]["sweep"]["entrypoint"] == ["coin-ray", "sweep"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_steps_of_an_image_are_scripts_and_what_they_copy_is_here(path: Path) -> None:
    text = re.sub(r"\\\n", " ", path.read_text())
    steps = [line.split(None, 1) for line in text.splitlines() if line and line[0] != "#"]
    known = {"ARG", "FROM", "RUN", "USER", "WORKDIR", "ENV", "COPY", "VOLUME", "EXPOSE"}
    assert {step for step, _ in steps} <= known | {"ENTRYPOINT", "CMD"}
    scripts = [body for step, body in steps if step == "RUN"]
    assert scripts
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for target in re.findall(r"\bmake (\w+)", script):
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for step, body in steps:
        if step == "COPY":
            *sources, _ = [word for word in body.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)


def test_the_page_links_what_it_speaks_of() -> None:
    for link in re.findall(r"\]\(([^)#]+)", PAGE):
        if not link.startswith("http"):
            assert (ROOT / "docs" / link).exists(), link
    assert "docs/cluster.md" in (ROOT / "README.md").read_text()
    written = set(re.findall(r"COIN_RAY_[A-Z_]+", PAGE))
    script = (DEPLOY / "slurm" / "coin-ray.sbatch").read_text()
    assert written <= set(re.findall(r"COIN_RAY_[A-Z_]+", script))
