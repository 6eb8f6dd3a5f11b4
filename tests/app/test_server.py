"""The server: who is let in, what is served, frames, events of jobs, the download."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2", reason="starlette's test client needs httpx2")

from cell2sen.app import server
from cell2sen.app.frames import Answer, pack, unpack
from cell2sen.app.page import Page
from cell2sen.data.progress import Report

ORIGIN = {"origin": "http://127.0.0.1:8765"}


def client_of(page: Page, *, signed_in: bool = True, hosts: frozenset[str] = frozenset()) -> Any:
    from starlette.testclient import TestClient

    app = server.application(page, token="secret", port=8765, hosts=hosts)
    client = TestClient(app, base_url="http://127.0.0.1:8765", follow_redirects=False)
    if signed_in:
        assert client.get("/?token=secret").status_code == 303
    return client


def ask(client: Any, verb: str, body: dict[str, Any] | None = None, **arrays: Any) -> Answer:
    content = pack(
        {"verb": verb, "body": body or {}}, {name: np.asarray(a, dtype=np.uint32) for name, a in arrays.items()}
    )
    response = client.post("/api/ask", content=content, headers=ORIGIN)
    assert response.status_code == 200, unpack(response.content)
    return unpack(response.content)


def test_the_token_is_traded_for_a_cookie(page: Page) -> None:
    client = client_of(page, signed_in=False)
    for path in ("/", "/page.js", "/api/cells.h5ad", "/?token=", "/?token=wrong", "/?token=sécret"):
        assert client.get(path).status_code == 401, path
    assert client.post("/api/ask?token=secret", content=pack({"verb": "about"}), headers=ORIGIN).status_code == 401
    response = client.get("/?token=secret")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert re.match(r"cell2sen_8765=[\w-]{40,}; HttpOnly; Path=/; SameSite=strict$", cookie), cookie
    assert "secret" not in cookie
    assert client.get("/").status_code == 200
    for wrong in (
        "cell2sen_8765=secret",
        "cell2sen_8765=",
        "cell2sen_1=" + cookie.split("=")[1].split(";")[0],
        "=;=\x01",
    ):
        stranger = client_of(page, signed_in=False)
        assert stranger.get("/", headers={"cookie": wrong}).status_code == 401, wrong


def test_hosts_origins_and_sizes(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(page)
    content = pack({"verb": "about", "body": {}})
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "[::2]:8765", ""):
        assert client.get("/", headers={"host": host}).status_code == 421, host
    for host in ("localhost", "LOCALHOST:9999", "127.0.0.1:1", "[::1]:8765"):
        assert client.get("/", headers={"host": host}).status_code == 200, host
    assert (
        client_of(page, hosts=frozenset({"lab.example"})).get("/", headers={"host": "lab.example:8765"}).status_code
        == 200
    )
    for headers in ({}, {"origin": "null"}, {"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:8766"}):
        assert client.post("/api/ask", content=content, headers=headers).status_code == 403
        assert client.delete("/api/jobs/1", headers=headers).status_code == 403
    monkeypatch.setattr(server, "MAX_BODY", 100)
    assert client.post("/api/ask", content=b"x" * 101, headers=ORIGIN).status_code == 413
    streamed = client.post("/api/ask", content=(b"x" * 60 for _ in range(3)), headers=ORIGIN)
    assert streamed.status_code == 413


def test_headers_of_every_answer(page: Page) -> None:
    client = client_of(page)
    answers = [client.get(path) for path in ("/", "/page.js", "/missing.js")]
    answers += [client_of(page, signed_in=False).get("/"), client.get("/", headers={"host": "evil.example"})]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_files_of_the_page_and_nothing_else(page: Page) -> None:
    client = client_of(page)
    for name, kind in server.FILES.items():
        response = client.get(f"/{name}")
        assert response.headers["content-type"] == kind
        assert response.content == (server.STATIC / name).read_bytes()
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", response.content), name
    assert set(server.FILES) == {path.name for path in server.STATIC.iterdir()}
    for path in ("/../server.py", "/..%2fserver.py", "/%2e%2e/server.py", "/etc/passwd", "/api/nothing", "/server.py"):
        assert client.get(path).status_code == 404, path


def test_verbs_over_http(page: Page) -> None:
    client = client_of(page)
    assert ask(client, "about")[0]["n_cells"] == 60
    np.testing.assert_array_equal(
        ask(client, "points", {"map": "X_umap"})[1]["x"], page.ask("points", {"map": "X_umap"})[1]["x"]
    )
    assert ask(client, "sentences", rows=[1, 2])[0]["n"] == 2
    for verb, message in (("__class__", "no verb"), ("sentences", "no cells")):
        response = client.post("/api/ask", content=pack({"verb": verb}), headers=ORIGIN)
        assert response.status_code == 400
        assert message in unpack(response.content)[0]["error"]
    assert client.post("/api/ask", content=b"\1", headers=ORIGIN).status_code == 400
    assert client.get("/api/ask").status_code == 405


def test_unforeseen_errors_are_answers_too(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(symbol: str) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(page.cells, "gene", fail)
    response = client_of(page).post("/api/ask", content=pack({"verb": "gene"}), headers=ORIGIN)
    assert response.status_code == 500
    assert unpack(response.content)[0]["error"] == "ZeroDivisionError: oh"


def test_events_of_a_job_and_its_result(page: Page) -> None:
    client = client_of(page)
    number = ask(client, "start", {"work": "annotate"}, rows=range(10))[0]["job"]
    events = [json.loads(line[6:]) for line in client.get(f"/api/jobs/{number}/events").text.splitlines() if line]
    assert events[-1]["state"] == "done"
    assert [event["version"] for event in events] == sorted({event["version"] for event in events})
    assert ask(client, "result", {"job": number})[0]["work"] == "annotate"
    assert client.get("/api/jobs/77/events").status_code == 404


def test_delete_cancels(page: Page, slow_report: Callable[[Report], Answer]) -> None:
    client = client_of(page)
    number = page.jobs.start("slow", slow_report)
    assert client.delete(f"/api/jobs/{number}", headers=ORIGIN).status_code == 200
    assert '"state": "cancelled"' in client.get(f"/api/jobs/{number}/events").text
    assert client.delete("/api/jobs/77", headers=ORIGIN).status_code == 400


def test_download(page: Page, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    client = client_of(page)
    response = client.get("/api/cells.h5ad")
    assert 'filename="cells.cell2sen.h5ad"' in response.headers["content-disposition"]
    (tmp_path / "cells.h5ad").write_bytes(response.content)
    assert anndata.read_h5ad(tmp_path / "cells.h5ad").n_obs == 60

    def changed(path: object) -> None:
        raise ValueError("the file has changed")

    monkeypatch.setattr(page.results, "save", changed)
    assert client.get("/api/cells.h5ad").status_code == 409


def test_a_port_that_is_taken() -> None:
    opened = server.listen("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="cannot listen on"):
            server.listen("127.0.0.1", opened.getsockname()[1])
    finally:
        opened.close()
