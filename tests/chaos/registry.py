"""A discovery server as a process of its own: ``python registry.py PORT FILE``.

Serves what the file says, read anew for each request: who kills the server loses no registration,
as with a real one that keeps them on disk. The file is a JSON object ``{"peers": [address, ...],
"leaving": [address, ...]}``, and is replaced, never written to.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    file: Path

    def do_GET(self) -> None:
        body = self.file.read_bytes()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):  # who asked has not waited for the answer
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class'
        pass


def main() -> None:
    _Handler.file = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()


if __name__ == "__main__":
    main()
