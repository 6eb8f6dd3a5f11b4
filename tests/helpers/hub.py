"""A Hugging Face hub on this machine: one repository, served as the real one does, for tests of downloads."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def serve(folder: Path, repository: str, *, broken: str = "", forged: str = "") -> Iterator[tuple[str, list[str]]]:
    """Address of the hub, and the paths of the files that were downloaded so far.

    Parameters
    ----------
    broken
        File whose download ends in the middle, the first time.
    forged
        File that is served with other bytes than the hub's hash is of.
    """
    asked: list[str] = []
    left = {broken}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/{repository}"):
                revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
                if revision not in ("main", COMMIT):
                    self.answer(b"{}", status=404, headers={"X-Error-Code": "RevisionNotFound"})
                elif "/tree/" in path:
                    entries = [{"type": "file", **sibling(file)} for file in files()]
                    self.answer(json.dumps(entries).encode())
                else:
                    info = {"id": repository, "modelId": repository, "sha": COMMIT, "tags": [], "private": False}
                    self.answer(json.dumps({**info, "siblings": [sibling(file) for file in files()]}).encode())
            elif path.startswith(f"/{repository}/resolve/"):
                file = folder / path.split("/resolve/")[1].split("/", 1)[1]
                content = file.read_bytes()
                tag = hashlib.sha256(content).hexdigest()
                if self.command == "GET":
                    asked.append(file.name)
                content = bytes(len(content)) if file.name == forged else content
                self.answer(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})
            else:
                self.answer(b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})

        def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            begin = 0
            if (wanted := self.headers.get("Range")) and status == 200:
                begin, status = int(wanted.removeprefix("bytes=").partition("-")[0]), 206
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if status == 206:
                self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - begin))
            self.end_headers()
            if self.command == "HEAD":
                return
            if left and Path(self.path).name in left:
                left.clear()
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content[begin:])

    def files() -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.is_file())

    def sibling(file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        large = (
            {"lfs": {"size": len(content), "sha256": digest, "oid": digest, "pointerSize": 130}}
            if file.suffix != ".json"
            else {}
        )
        return {"rfilename": file.name, "path": file.name, "oid": digest[:40], "size": len(content), **large}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
