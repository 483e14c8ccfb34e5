"""A bucket on this machine: moto's S3 behind a door that throttles, fails and lies."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

SLOW = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code>"
    b"<Message>Please reduce your request rate.</Message></Error>"
)

DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>No.</Message></Error>"


@dataclass
class Door:
    """``throttled`` and ``failing``: of how many requests one is answered 503 or 500 and not let
    through, ``deaf``: of how many puts one is done and answered 500; 0 for none. ``lists``: whether
    a listing says anything. ``asked``: requests by method, LIST apart; ``paths``: what of;
    ``put``: how often each was written."""

    throttled: int = 0
    failing: int = 0
    deaf: int = 0
    lists: bool = True
    asked: Counter[str] = field(default_factory=Counter)
    paths: set[str] = field(default_factory=set)
    put: Counter[str] = field(default_factory=Counter)

    def turns_away(self, number: int) -> bool:
        return any(each and number % each == 0 for each in (self.throttled, self.failing))

    def __call__(self, application: Any) -> Any:
        def app(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
            listing = method == "GET" and "list-type" in query
            self.asked["LIST" if listing else method] += 1
            self.asked["all"] += 1
            self.paths.add(environ["PATH_INFO"])
            self.put[environ["PATH_INFO"]] += method == "PUT"
            number = self.asked["all"]
            if method == "PUT" and self.turns_away(number):
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            if self.throttled and number % self.throttled == 0:
                return _answer(start, "503 Slow Down", SLOW)
            if self.failing and number % self.failing == 0:
                return _answer(start, "500 Internal Server Error", b"")
            if listing and not self.lists:
                environ["QUERY_STRING"] = query.replace("prefix=", "prefix=nothing-of-this")
            if self.deaf and method == "PUT" and self.asked["PUT"] % self.deaf == 0:
                list(application(environ, lambda *a: None))
                return _answer(start, "500 Internal Server Error", b"")
            return application(environ, start)

        return app


def _answer(start: Any, status: str, body: bytes) -> list[bytes]:
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def _served(application: Any) -> Iterator[str]:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def refusing() -> Iterator[str]:
    """The address of a server that lets nobody in."""
    with _served(lambda environ, start: _answer(start, "403 Forbidden", DENIED)) as address:
        yield address


@contextmanager
def serving(door: Door) -> Iterator[str]:
    """The address of the server, with a bucket ``studies``."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app

    with _served(door(DomainDispatcherApplication(create_backend_app))) as address:
        urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()  # of a test before
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
        client.create_bucket(Bucket="studies")
        yield address
