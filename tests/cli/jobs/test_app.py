"""The command app."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import anndata
import pytest
from cells import cells
from command import Run, digest

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")


def test_the_page_is_served_until_it_is_interrupted(
    run: Run, file: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    serve = uvicorn.Server.run

    def watched(server: Any, sockets: Any) -> None:
        def visit() -> None:
            url = opened[0]
            until = time.monotonic() + 20
            while not server.started and time.monotonic() < until:
                time.sleep(0.02)
            browser = urllib.request.build_opener(
                urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({})
            )
            seen["page"] = browser.open(url).read().decode()
            server.should_exit = True

        thread = threading.Thread(target=visit)
        thread.start()
        serve(server, sockets)
        thread.join()
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", watched)
    before = digest(file)
    done = run("app", file, "--model", model)
    assert done.code == 0, done.err
    url = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{32}", done.err)
    assert url is not None, done.err
    assert opened == [url[0]]
    assert 'src="/start.js"' in seen["page"]
    assert digest(file) == before

    opened.clear()
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    done = run("app", file, "--model", model, "--json", "--no-browser")
    assert json.loads(done.out)["n_cells"] == 6
    assert opened == []


class Touch:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_wrong_calls_are_refused(run: Run, file: Path, model: str, tmp_path: Path) -> None:
    for arguments, message in (
        (["--host", "0.0.0.0"], "--anyone-with-the-address"),
        (["--label", "donor"], "--reference and --label belong together"),
        (["--host", "192.0.2.1", "--anyone-with-the-address"], "cannot listen on 192.0.2.1"),
    ):
        done = run("app", file, "--model", model, "--no-browser", *arguments)
        assert done.code == 1
        assert message in done.err, done.err
    (tmp_path / "samples.csv").write_text("sample,replicate\na,1\nb,2\n")
    done = run("app", "samples.csv", "--no-browser")
    assert done.code == 1
    assert "samples.csv has no genes but replicate" in done.err
    store, trace = tmp_path / "forged.zarr", tmp_path / "ran"
    with anndata.settings.override(zarr_write_format=2):
        cells().write_zarr(store)
    forged = json.loads((store / "X" / "data" / ".zarray").read_text()) | {"compressor": {"id": "pickle"}}
    (store / "X" / "data" / ".zarray").write_text(json.dumps(forged))
    (store / ".zmetadata").unlink()
    (store / "X" / "data" / "0").write_bytes(pickle.dumps(Touch(trace)))
    done = run("app", store, "--no-browser")
    assert done.code == 1
    assert "holds pickled objects" in done.err
    assert not trace.exists()
    (tmp_path / "broken.h5ad").write_bytes(b"no such format")
    assert run("app", "broken.h5ad", "--no-browser").code == 1
    assert run("app", "missing.h5ad", "--no-browser").code == 1
