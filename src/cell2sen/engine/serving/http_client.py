"""JSON over HTTP: one server that the user named, with timeouts, retries and clear errors."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

#: Environment variable with the key that a server may ask for. It is sent to that server only.
KEY = "CELL2SEN_API_KEY"

#: Answers after which the same request may succeed.
_AGAIN = frozenset({408, 429, 500, 502, 503, 504})

#: Longest wait before a retry, in seconds, whatever the server asks for.
_LONGEST_WAIT = 30.0


class Refused(ValueError):
    """Error for a request that the server answered with a refusal, such as 400 or 404."""

    def __init__(self, status: int, message: str, text: str) -> None:
        super().__init__(text)
        self.status, self.message = status, message


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would send prompts, and the key, to a machine that the user did not name."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Server:
    """A server with an interface like OpenAI's.

    Parameters
    ----------
    url
        ``http://`` or ``https://``, host, port, and the path before ``/completions`` (default: ``/v1``). What follows
        ``#`` is the name of a model, in :attr:`model`.
    timeout
        Seconds without an answer after which a request has failed.
    tries
        Attempts of a request that fails for reasons that may pass.

    Raises
    ------
    ValueError
        No such address.
    """

    def __init__(self, url: str, *, timeout: float = 600.0, tries: int = 4) -> None:
        address, _, self.model = url.partition("#")
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url must be an address such as http://localhost:8000, found {url!r}")
        self.url = address.rstrip("/") if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1"
        self.timeout, self.tries = timeout, tries
        self._open = urllib.request.build_opener(_NoRedirect).open

    def get(self, path: str, *, tries: int | None = None) -> Any:
        """Answer to a GET request of ``URL/path``."""
        return self._request(path, None, self.tries if tries is None else tries)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Answer to a POST request of ``URL/path``.

        Raises
        ------
        Refused
            The server refused this request; the error has its message.
        ConnectionError
            No answer, or none that can be read, after all tries.
        """
        return self._request(path, json.dumps(body).encode(), self.tries)

    def _request(self, path: str, body: bytes | None, tries: int) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        url = f"{self.url}/{path}"
        for left in range(tries - 1, -1, -1):
            wait = min(2.0 ** (tries - 1 - left) / 2, _LONGEST_WAIT)
            try:
                with self._open(urllib.request.Request(url, body, headers), timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                message = _message(error)
                if error.code not in _AGAIN:
                    raise Refused(error.code, message, _refusal(url, error, message)) from None
                reason = f"answered {error.code}: {message}"
                wait = _asked_wait(error.headers.get("Retry-After"), wait)
            except ValueError:
                raise ConnectionError(f"{url} did not answer in JSON; is it a server of completions?") from None
            except TimeoutError:
                reason = f"did not answer within {self.timeout:g} seconds"
            except (OSError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", error)
                reason = f"cannot be reached: {cause if str(cause) else type(cause).__name__}"
            if left:
                time.sleep(wait)
        raise ConnectionError(f"{url} {reason}" + (f" ({tries} tries)" if tries > 1 else ""))


def _asked_wait(header: str | None, otherwise: float) -> float:
    """Waiting time of a ``Retry-After`` header, seconds; `otherwise` without a whole number there."""
    asked = (header or "").strip()
    return min(float(asked), _LONGEST_WAIT) if asked.isdecimal() else otherwise


def _message(error: urllib.error.HTTPError) -> str:
    """The server's own words, in whichever of the usual places they are."""
    text = error.read().decode(errors="replace")
    try:
        answer = json.loads(text)
    except ValueError:
        return " ".join(text.split())[:300] or str(error.reason)
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and answer.get(name):
            found = answer[name]
            return str(found.get("message", found) if isinstance(found, dict) else found)[:1000]
    return str(answer)[:300]


def _refusal(url: str, error: urllib.error.HTTPError, message: str) -> str:
    if 300 <= error.code < 400:
        there = error.headers.get("Location", "another address")
        return f"{url} points to {there}; name that address if you trust it"
    if error.code in (401, 403):
        return f"{url} refuses access ({error.code}): {message}; a key goes into the environment variable {KEY}"
    return f"{url} answered {error.code}: {message}"
