"""Requests to a server: addresses, timeouts, retries, refusals."""

from __future__ import annotations

import pytest
from completions_server import FakeServer

from cell2sen.engine.serving import http_client
from cell2sen.engine.serving.http_client import KEY, Refused, Server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(http_client.time, "sleep", seconds.append)
    return seconds


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://there", "file:///etc/hosts", "http://", "", "8000"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match="an address such as http://localhost:8000"):
        Server(url)


def test_addresses_and_names_of_models() -> None:
    assert Server("http://there:8000").url == "http://there:8000/v1"
    assert Server("https://there/").url == "https://there/v1"
    assert Server("http://there/api/v2/").url == "http://there/api/v2"
    assert Server("http://there#org/model").url == "http://there/v1"
    assert Server("http://there#org/model").model == "org/model"


def test_the_key_is_sent_if_there_is_one(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Server(fake.url).get("models")
    assert "Authorization" not in fake.requests[-1][2]
    monkeypatch.setenv(KEY, "secret")
    Server(fake.url).get("models")
    assert fake.requests[-1][2]["Authorization"] == "Bearer secret"


def test_failures_that_may_pass_are_tried_again(fake: FakeServer, waits: list[float]) -> None:
    fake.failures += [(503, "busy"), (429, "slow down"), (500, "")]
    assert Server(fake.url).get("models") == {"data": [{"id": "tiny"}]}
    assert waits == [0.5, 1.0, 2.0]
    fake.failures += [(503, "busy")] * 4
    with pytest.raises(ConnectionError, match=r"/v1/models answered 503: busy \(4 tries\)"):
        Server(fake.url).get("models")


def test_refusals_are_not_tried_again(fake: FakeServer, waits: list[float]) -> None:
    for status, body, expected in [
        (400, '{"error": {"message": "too long"}}', "answered 400: too long"),
        (422, '{"error": "not that"}', "answered 422: not that"),
        (404, '{"detail": "Not Found"}', "answered 404: Not Found"),
        (401, '{"message": "who?"}', "refuses access .401.: who.*CELL2SEN_API_KEY"),
        (400, "<html> plain\n text", "answered 400: <html> plain text"),
        (302, "http://elsewhere/v1", "points to http://elsewhere/v1; name that address"),
    ]:
        fake.failures.append((status, body))
        with pytest.raises(Refused, match=expected) as caught:
            Server(fake.url).post("completions", {})
        assert caught.value.status == status
        assert isinstance(caught.value, ValueError)
    assert not waits


def test_no_server_no_answer_no_json(fake: FakeServer, waits: list[float]) -> None:
    with pytest.raises(ConnectionError, match=r"cannot be reached: .*refused"):
        Server("http://127.0.0.1:9").get("models", tries=1)
    assert not waits
    fake.failures += [(0, "0.3")] * 2
    with pytest.raises(ConnectionError, match=r"did not answer within 0.05 seconds \(2 tries\)"):
        Server(fake.url, timeout=0.05, tries=2).get("models")
    fake.failures.append((200, "<html>a page</html>"))
    with pytest.raises(ConnectionError, match="did not answer in JSON"):
        Server(fake.url).get("models")
