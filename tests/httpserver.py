"""A range server on the loopback that can fail in the ways that real ones do."""

from __future__ import annotations

import http.server
import re
import threading
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong.

    `kind` is an HTTP status, or "drop" (half a body, then the end), "stall" (a
    promise, then silence), "garble" (right length, wrong bytes), "html" (a login page),
    "norange" (the whole file, whatever was asked) or "cut" (the object is shorter).
    """

    kind: str
    times: float = float("inf")  # requests that fail before the server heals
    beyond: int = 0  # only requests that start at or after this byte fail
    method: str = ""  # only requests of this method fail
    retry_after: int | None = None
    seconds: float = 5.0  # of silence, of a stall


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**20  # head and body in one packet, or each answer waits 40 ms

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, *, head):
        place = self.server.place
        name = self.path.split("?")[0].lstrip("/")
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        fault = place.strike(self.command, start)
        kind = fault.kind if fault else "ok"
        place.log.append((self.command, self.path, self.headers.get("Range"), kind))
        if name not in place.files or kind.isdigit():
            self.refuse(int(kind) if kind.isdigit() else 404, fault)
            return
        whole = place.files[name]
        if kind == "cut":
            whole = whole[: len(whole) // 2]
        if kind == "html":
            self.send(200, b"<html>Please log in</html>", head=head, of="text/html")
        elif asked and kind != "norange":
            stop = min(int(asked[2] or len(whole)) + 1, len(whole))
            self.send_part(whole, start, stop, fault, head=head)
        else:
            self.send(200, self.spoilt(whole, kind), head=head)

    def refuse(self, status, fault):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        if fault and fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        self.end_headers()

    def send_part(self, whole, start, stop, fault, *, head):
        kind = fault.kind if fault else "ok"
        if start >= len(whole):
            self.refuse(416, None)
            return
        body = self.spoilt(whole[start:stop], kind)
        sent = {"drop": body[: len(body) // 2], "stall": b""}.get(kind, body)
        span = f"bytes {start}-{stop - 1}/{len(whole)}"
        self.send(206, sent, head=head, length=len(body), span=span)
        if kind == "stall" and not head:
            self.wfile.flush()
            self.server.place.over.wait(fault.seconds)
        self.close_connection |= kind in ("drop", "stall")

    def spoilt(self, body, kind):
        return bytes(b ^ 0x5A for b in body) if kind == "garble" else body

    def send(self, status, body, *, head, of="image/tiff", length=None, span=None):
        self.send_response(status)
        self.send_header("Content-Type", of)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Accept-Ranges", "bytes")
        if self.server.place.tags:
            whole = self.server.place.files[self.path.split("?")[0].lstrip("/")]
            tags = self.server.place.tags
            said = tags if isinstance(tags, str) else f'"{zlib.crc32(whole):08x}"'
            self.send_header("ETag", said)
        if span:
            self.send_header("Content-Range", span)
        self.end_headers()
        if not head:
            self.wfile.write(body)


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing: clients that hang up are part of the game."""


class Place:
    """A running server of named files, to use in a ``with``; `tags`: entity tags."""

    def __init__(self, files: Mapping[str, bytes], *, tags: bool | str = False):
        self.files, self.tags = dict(files), tags
        self.fault: Fault | None = None
        self.struck = 0
        self.log: list[tuple] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    def __enter__(self):
        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.server.place = self
        serve = self.server.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def break_with(self, fault: Fault | None):
        """Fail like this from now on."""
        with self.lock:
            self.fault, self.struck = fault, 0
            self.log.clear()

    def strike(self, method, start):
        """Return the fault of a request that starts at byte `start`, if it has one."""
        with self.lock:
            fault = self.fault
            if fault is None or start < fault.beyond or self.struck >= fault.times:
                return None
            if fault.method not in ("", method):
                return None
            self.struck += 1
            return fault

    def url(self, name, query="sig=SECRET&se=2026"):
        """Return the address of a file, signed."""
        port = self.server.server_address[1]
        return f"http://127.0.0.1:{port}/{name}" + (f"?{query}" if query else "")
