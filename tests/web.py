"""A web server on this machine with files that it may send badly."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Site:
    """What a server has, how it sends it, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Path of an address → content."""
    ranges: bool = True
    """Whether parts can be had."""
    tag: str = '"1"'
    """ETag of all files; none if empty."""
    faults: list[str] = field(default_factory=list)
    """Of the next answers, one each: break (half of what was asked for), stall (after half), shift (another part),
    to ADDRESS (a redirect), or a status."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Path, Range and If-Range of each request."""
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, headers = self.site, self.headers
        site.asked.append((self.path, headers.get("Range", ""), headers.get("If-Range", "")))
        fault = site.faults.pop(0) if site.faults else ""
        if fault.startswith("to "):
            self.send_response(302)
            self.send_header("Location", fault[3:])
            self.end_headers()
        elif fault.isdecimal() or self.path not in site.files:
            self.send_error(int(fault or 404))
        else:
            self._send(site.files[self.path], fault)

    def _send(self, content: bytes, fault: str) -> None:
        wanted = self.headers.get("Range") if self.site.ranges else None
        if wanted and self.headers.get("If-Range", self.site.tag) == self.site.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start + (fault == 'shift')}-{len(content) - 1}/{len(content)}"
            )
            content = content[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.site.tag:
            self.send_header("ETag", self.site.tag)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault in ("break", "stall") else content)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(2)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Inside this block, a server sends the files of `site`, whose address is filled in."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site})) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield site
        finally:
            server.shutdown()
