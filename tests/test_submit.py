"""A study goes to a cluster as a Ray job: what travels with it, and what comes back."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from coin_ray.cluster import same_code, submission
from coin_ray.data.synthetic import generated_samples
from coin_ray.errors import UserError
from coin_ray.files import write_bytes
from coin_ray.study import package
from coin_ray.study.command_line import Request
from coin_ray.study.package import Package, packed, words
from coin_ray.study.study import resolve
from tests.cli_calls import call
from tests.conftest import ROOT

STUDY = """study: sent
extends: ../own
data: {mine: {path: ../tiles, mpp: 0.25}, drawn: {test: 1, size: 64}}
baseline: {rounds.count: 0, uss.family: none}
"""
OWN = "profile: own\nextends: mini\nseeds: 1\n"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study among others, a search space of its own above it, tiles beside."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "COIN_RAY_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    (folder / "studies").mkdir(parents=True)
    (folder / "studies" / "s.yaml").write_text(STUDY)
    (folder / "own").write_text(OWN)
    generated_samples(folder / "tiles", 1, size=64, seed=3)
    monkeypatch.chdir(folder)
    return folder


def pack(folder: Path, study: str = "studies/s.yaml", **asked: Any) -> Package:
    folder.mkdir(exist_ok=True)
    return packed(study, Request(**asked), folder)


def test_a_study_and_its_images_resolve_in_the_package_alone(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = resolve("studies/s.yaml")
    sent = pack(tmp_path / "sent")
    assert not sent.left and not sent.absent and sent.name == "sent"
    project.rename(tmp_path / "elsewhere")
    monkeypatch.chdir(sent.folder)
    there = resolve(sent.study, sent.request)
    assert there.name == here.name and there.profile == here.profile == "own"
    assert [cell.config for cell in there.cells] == [cell.config for cell in here.cells]
    images = next(spec for spec in there.data if spec.name == "mine")
    assert images.mpp == 0.25 and images.path and (Path(images.path) / "image").is_dir()
    assert images.path.startswith(str(sent.folder))


def test_what_the_command_line_names_travels_under_its_name(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "set" / "test").mkdir(parents=True)
    (project / "tiles" / "image").rename(project / "set" / "test" / "image")
    (project / "set" / "test" / ".hidden").write_text("not for others")
    asked: dict[str, Any] = {"data": ("set/test",), "train": (str(project / "set" / "test"),)}
    asked |= {"settings": ("ot.lambda=0.3",), "seeds": "2", "profile": "own", "mpp": 0.5}
    (project / "search_spaces").mkdir()
    (project / "search_spaces" / "own.yaml").write_text(OWN)
    here = resolve("studies/s.yaml", Request(**asked))
    sent = pack(tmp_path / "sent", **asked)
    assert not list(sent.folder.rglob(".hidden"))
    monkeypatch.chdir(sent.folder)
    there = resolve(sent.study, sent.request)
    assert [spec.name for spec in there.data] == [spec.name for spec in here.data] == ["set-test"]
    assert there.data[0].is_test and there.data[0].train_paths == (there.data[0].path,)
    assert [c.config for c in there.cells] == [c.config for c in here.cells]
    assert len(there.cells) == 2
    asked_again = words(sent.request)
    assert asked_again.count("--data") == asked_again.count("--train") == 1
    assert asked_again[asked_again.index("--mpp") + 1] == "0.5"


def test_what_is_too_large_stays_and_is_named(project: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(package.MOST)
    write_bytes(project / "tiles" / "image" / "large.png", noise)
    sent = pack(tmp_path / "sent")
    assert sent.size < package.MOST / 100
    assert len(sent.left) == 1 and str(project / "tiles") in sent.left[0]
    block = yaml.safe_load((sent.folder / sent.study).read_text())["data"]
    assert block["mine"] == {"path": str(project / "tiles"), "mpp": 0.25}
    assert block["drawn"] == {"test": 1, "size": 64}


def test_what_is_not_here_is_looked_for_there(project: Path, tmp_path: Path) -> None:
    sent = pack(tmp_path / "a", data=("/shared/tiles", "b=s3://bucket/tiles"))
    assert sent.request.data == ("tiles=/shared/tiles", "b=s3://bucket/tiles")
    assert sent.absent == ["/shared/tiles", "s3://bucket/tiles"] and len(sent.left) == 2
    with pytest.raises(UserError, match="no such folder"):
        pack(tmp_path / "b", data=("nowhere",))
    (project / "studies" / "s.yaml").write_text(STUDY.replace("../own", str(project / "own")))
    with pytest.raises(UserError, match="extends where that lies near"):
        pack(tmp_path / "c")


def test_no_name_of_a_study_is_a_command_there(project: Path, tmp_path: Path) -> None:
    """A job is called after its study, also where that is only looked at there."""
    study = project / "studies" / "s.yaml"
    study.write_text(study.read_text().replace("study: sent\n", 'study: "$(id)"\n'))
    with pytest.raises(UserError, match="cannot name a study"):
        pack(tmp_path / "a", data=("/shared/tiles",))


def test_the_name_of_a_job_is_what_it_does(project: Path, tmp_path: Path) -> None:
    first = pack(tmp_path / "a").digest(["sweep"])
    assert pack(tmp_path / "b").digest(["sweep"]) == first
    assert pack(tmp_path / "b").digest(["sweep", "--seeds", "2"]) != first
    (project / "tiles" / "image" / "new.png").write_bytes(b"")
    assert pack(tmp_path / "d").digest(["sweep"]) != first


def test_a_job_that_runs_is_found_again_and_others_are_numbered() -> None:
    def job(name: str | None, status: str) -> Any:
        return SimpleNamespace(submission_id=name, status=SimpleNamespace(value=status))

    jobs = [job("s-ab-1", "FAILED"), job("s-ab-9", "SUCCEEDED"), job("s-cd-30", "RUNNING")]
    client = SimpleNamespace(list_jobs=lambda: [*jobs, job(None, "RUNNING")])
    assert submission.current(client, "", "s-ab") == (None, 10)
    jobs.append(job("s-ab-10", "PENDING"))
    assert submission.current(client, "", "s-ab") == ("s-ab-10", 11)
    assert submission.current(client, "", "s-x") == (None, 1)


def test_a_log_goes_on_where_its_connection_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"line {n}\n" for n in range(6 * submission.TRIES)]  # a long night
    monkeypatch.setattr(submission, "PAUSE", 0.0)

    class Client:
        tries = 0

        async def tail_job_logs(self, job: str) -> Any:
            self.tries += 1
            for number, text in enumerate(lines):
                if number == 3 * self.tries:
                    raise RuntimeError("WebSocket connection closed unexpectedly")
                yield text

        def get_job_info(self, job: str) -> Any:
            over = self.tries >= 2 * submission.TRIES
            return SimpleNamespace(status=SimpleNamespace(value="FAILED" if over else "RUNNING"))

    shown: list[str] = []
    submission.follow(Client(), "", "j", shown.append)
    assert "".join(shown) == "".join(lines)


def test_a_report_is_written_into_its_folder_alone(tmp_path: Path) -> None:
    def zipped(name: str) -> bytes:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as out:
            out.writestr(name, "text")
        return held.getvalue()

    submission.unpack(zipped("figures/a.svg"), tmp_path / "r")
    assert (tmp_path / "r" / "figures" / "a.svg").read_text() == "text"
    for name in ("../a.svg", "/a.svg", "a/../../b"):
        with pytest.raises(UserError, match="leads out"):
            submission.unpack(zipped(name), tmp_path / "r")
    (tmp_path / "r" / "mine").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        submission.unpack(zipped("mine"), tmp_path / "r")


def test_a_job_has_the_code_of_who_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert same_code.job()["runtime_env"]["env_vars"]
    monkeypatch.setenv(same_code.CODE, "0.0.0 of another")
    with pytest.raises(UserError, match="another coin-ray than who started it"):
        same_code.check_worker()
    assert not same_code.job()["runtime_env"]["env_vars"], "Ray refuses to hear it twice"


HERE = ("--address", "http://127.0.0.1:9", "--workspace", "/w")


def test_what_cannot_be_sent_is_refused() -> None:
    for options, said in (
        ((), "needs the dashboard"),
        (("--address", "10.0.0.1:6379"), "needs the dashboard"),
        (("--address", "http://127.0.0.1:9", "--workspace", "here"), "all nodes"),
        (("--address", "http://127.0.0.1:9", "--workspace", "s3://"), "no address of a bucket"),
        (HERE, "no Ray dashboard"),
        ((*HERE, "--job", "x"), "a study and a job"),
        ((*HERE, "--python", "a 'b"), "--python is no command"),
        ((*HERE, "--python", " "), "--python is empty"),
        ((*HERE, "--out", "tiles/image/generated_3_0000.png"), "a folder is needed"),
        (("--job", "x", *HERE), "no Ray dashboard"),
    ):
        study = () if options[:1] == ("--job",) else ("studies/s.yaml",)
        done = call("submit", *study, *options)
        assert done.exit_code == 2 and said in done.stderr, done.output


@pytest.fixture
def dashboard() -> Iterator[str]:
    """A node with a dashboard, whose agent listens where no other one does. A second one here would
    unpack the job's package into the same folder, and empty that first."""
    from ray.cluster_utils import Cluster

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0}
    head |= {"dashboard_agent_listen_port": port}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield f"http://{made.head_node.webui_url}"
    finally:
        made.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_is_left_found_again_and_gives_its_report(
    dashboard: str, project: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "coin_ray.cli", "submit", "studies/s.yaml", "--no-tracking"]
    command += ["--address", dashboard, "--workspace", str(tmp_path / "w"), "--device", "cpu"]
    command += ["--python", f"env PYTHONPATH={ROOT} {sys.executable}", "--out", "fetched"]
    first = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment)
    assert first.stdout is not None and first.stderr is not None
    said = ""
    for line in first.stdout:
        said += line
        if line.startswith("Ray cluster:"):
            break
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "the job goes on" in err, said + out + err
    assert "package: " in said and "left out" not in said and "2 data sets" in said

    again = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "this runs already" in again.stdout and again.stdout.count("Ray cluster:") == 1
    assert "(RAY_ADDRESS;" in again.stdout, "the job's own cluster"
    assert "2/2 cells" in again.stdout
    local = call("sweep", "studies/s.yaml", "--local", "--no-tracking", "--workspace", "here")
    assert local.exit_code == 0, local.output
    (made,) = (project / "here" / "runs").glob("*/report/results.csv")
    assert (project / "fetched" / "results.csv").read_bytes() == made.read_bytes()

    # A job that fails says why, and its code is ours; a third one computes nothing.
    absent = [*command[:-2], "--data", "/nowhere/tiles"]
    failed = subprocess.run(absent, capture_output=True, text=True, env=environment, timeout=200)
    assert failed.returncode == 2, failed.stdout + failed.stderr
    assert "checked there, not here: /nowhere/tiles" in failed.stdout
    assert "there is no such folder" in failed.stdout and "failed" in failed.stderr
