"""A server in front of MLflow's that can be dead, broken, slow, or away for a while."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.chaos_runs import Attack, Target, wait
from benchmarks.chaos_schedules import SLOW, Fault

HOPS = {"connection", "transfer-encoding", "content-length", "host", "accept-encoding"}
"""Headers that are of one connection only, and what would compress its answers."""


class Front:
    """Passes requests on to ``address`` while ``mode`` is ``up``; ``dead`` refuses connections and
    drops the answers that are under way, ``500`` answers so, ``slow`` waits first."""

    def __init__(self, address: str) -> None:
        self.behind, self.mode, self.asked = urlsplit(address).netloc, "up", 0
        self._server = self._listen(0)
        self.port = int(self._server.server_address[1])
        self.address = f"http://127.0.0.1:{self.port}"

    def _listen(self, port: int) -> ThreadingHTTPServer:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                front.serve(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass  # every request would be a line on the terminal

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def turn(self, mode: str) -> None:
        if mode == self.mode:
            return
        was, self.mode = self.mode, mode
        if mode == "dead":
            self.close()
        elif was == "dead":
            self._server = self._listen(self.port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        self.asked += 1
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.mode == "slow":
            time.sleep(SLOW)
        status, kind, answer = 500, "text/plain", b"chaos"
        if self.mode in ("up", "slow"):
            connection = http.client.HTTPConnection(self.behind, timeout=60)
            own = {k: v for k, v in request.headers.items() if k.lower() not in HOPS}
            connection.request(request.command, request.path, body, own)
            found = connection.getresponse()
            status, answer = found.status, found.read()
            kind = found.getheader("Content-Type") or "application/json"
            connection.close()
        request.close_connection = self.mode == "dead"
        if self.mode == "dead":
            return  # MLflow has done it, and who asked will never know
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Front]:
    """MLflow's own server over a database in ``folder``, and the front before it."""
    from coin_ray.tracking.mlflow_store import connect
    from coin_ray.tracking.server import running_server

    connect(folder, f"sqlite:///{folder.resolve()}/mlflow.db")  # its tables
    with running_server(folder) as address:
        front = Front(address)
        try:
            yield front
        finally:
            front.turn("up")
            front.close()


def ill(fault: Fault, target: Target, front: Front) -> Attack:
    """A tracker that is ill from a moment on: to the end of the run, or for ``seconds``."""
    while target.stored() < fault.when:
        yield False
    modes = {"tracker 500": "500", "tracker slow": "slow"}
    front.turn(modes.get(fault.kind, "dead"))
    if fault.seconds:
        try:
            yield from wait(fault.seconds)
        finally:
            front.turn("up")
