"""A bucket of Google's, as far as an emulator on this machine is one: what ``test_bucket`` asks of
S3, by gcsfs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coin_ray import bucket
from coin_ray.cluster.probing import measured
from coin_ray.store.artifacts import Artifact, Store
from coin_ray.store.keys import make_key
from tests.cli_calls import call

pytest.importorskip("gcsfs", reason="gcsfs is not installed: coin-ray[gcs]")
pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")

KEY = make_key("embed", 2, "tile", {}, {"image": "abc"})
MADE = Artifact({"a": np.arange(3)}, {"n": 3})


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Its handlers, with a bucket ``studies``; as it comes it knows no conditions."""
    from gcp_storage_emulator.handlers import objects
    from gcp_storage_emulator.server import create_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="studies")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("COIN_RAY_CACHE", str(tmp_path / "here"))
    bucket._system.cache_clear()
    yield objects
    bucket._system.cache_clear()
    server.stop()


@pytest.fixture
def conditions(emulator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``ifGenerationMatch=0`` as Google's server takes it: 412 where the object is there."""
    upload = emulator._multipart_upload

    def conditional(request: Any, response: Any, storage: Any) -> Any:
        name = request.data["meta"]["name"]
        if request.query.get("ifGenerationMatch") == ["0"]:
            there = storage.get_file_list(request.params["bucket_name"], prefix=name)
            if any(one["name"] == name for one in there[0]):
                response.status = HTTPStatus.PRECONDITION_FAILED
                return None
        return upload(request, response, storage)

    monkeypatch.setattr(emulator, "_multipart_upload", conditional)


def test_what_one_machine_made_another_finds(
    conditions: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Store(bucket.local("gs://studies/one/store"))
    with monkeypatch.context() as other:
        other.setenv("COIN_RAY_CACHE", str(tmp_path / "there"))
        there = Store(bucket.local("gs://studies/one/store"))
    here.get(KEY, lambda: MADE)
    there.save(KEY, Artifact({"a": np.zeros(3)}), 0.0)
    assert there.load(KEY).arrays["a"].tolist() == [0, 1, 2], "the first writer wins"
    assert there.stored([KEY]) == {KEY.digest}
    assert bucket.read(here.claim(KEY)) is None, "the lease is given back"
    told = call("store", "ls", "--workspace", "gs://studies/one").output
    assert "embed" in told and "store: gs://studies/one/store" in told
    assert "MB/s, clock 0 s off" in measured(here.root / "probe")
    done = call("store", "gc", "--quota", "0B", "--workspace", "gs://studies/one")
    assert done.exit_code == 0 and "embed: 1 artifacts" in done.output, done.output
    assert bucket.names(bucket.local("gs://studies")) == {}


def test_a_server_that_keeps_no_condition_is_found_out(emulator: Any) -> None:
    """Of two writers the first has to win, and this one lets the second."""
    with pytest.raises(OSError, match="overwritten"):
        measured(bucket.local("gs://studies/one/probe"))
    assert bucket.names(bucket.local("gs://studies")) == {}
