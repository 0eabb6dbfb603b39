"""How a call reaches the API: with the key, again when that may help, and with errors as exceptions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import httpx2

from codexos._call import Call
from codexos._connection import Connection
from codexos._limits import RateLimits, limits_of
from codexos._options import AGENT, CONNECT_S, Options
from codexos._retries import is_gone, pause
from codexos._sync.concurrency import sleep
from codexos.errors import CodexOSError, disconnected, error_of

log = logging.getLogger("codexos")


class Transport:
    """One for each client; those made by `with_options` share the connections and what is known of limits."""

    def __init__(self, connection: Connection, options: Options, http: httpx2.Client | None = None):
        self.connection, self.options = connection, options
        self.http = http or httpx2.Client()
        self._told: list[RateLimits] = []

    @property
    def limits(self) -> RateLimits | None:
        return self._told[-1] if self._told else None

    def but(self, **changes: Any) -> Transport:
        other = Transport(self.connection, replace(self.options, **changes), self.http)
        other._told = self._told
        return other

    def send(self, call: Call) -> httpx2.Response:
        """The answer to it, read whole. Raises CodexOSError when there is none, or when it is an error."""
        headers, attempt = call.own_headers(), 0
        while True:
            try:
                with self._opened(call, headers, self.options.timeout + call.wait_s) as response:
                    response.read()
                    return response
            except CodexOSError as error:
                if attempt and is_gone(call, error):
                    return httpx2.Response(204)
                if (wait_s := pause(error, attempt, self.options.max_retries)) is None:
                    raise
                log.debug("%s %s failed (%s), again in %.1f s", call.method, call.path, error, wait_s)
            sleep(wait_s)
            attempt += 1

    @contextmanager
    def open(self, call: Call, silence_s: float) -> Iterator[httpx2.Response]:
        """The answer as it comes, tried once. silence_s: how long nothing may come. Raises CodexOSError."""
        with self._opened(call, call.own_headers(), silence_s) as response:
            yield response

    @contextmanager
    def _opened(self, call: Call, headers: dict[str, str], silence_s: float) -> Iterator[httpx2.Response]:
        with call.files() as files:
            request = self.http.build_request(
                call.method,
                self.connection.base_url + call.path,
                params=call.params() or None,
                json=call.json,
                files=files,
                headers={**self._headers(), **headers},
                timeout=httpx2.Timeout(silence_s, connect=min(CONNECT_S, silence_s)),
            )
            try:
                response = self.http.send(request, stream=True)
                with closing(response):
                    self._note(response.headers)
                    if response.status_code >= 300 and response.status_code != 304:
                        raise _refusal(response)
                    yield response
            except httpx2.RequestError as error:
                raise disconnected(error) from error

    def _headers(self) -> dict[str, str]:
        own = {"authorization": f"Bearer {self.connection.api_key}", "user-agent": AGENT}
        return {**own, **self.options.headers}

    def _note(self, headers: httpx2.Headers) -> None:
        if (limits := limits_of(headers)) is not None:
            self._told[:] = [limits]

    def close(self) -> None:
        self.http.close()


def _refusal(response: httpx2.Response) -> CodexOSError:
    response.read()
    try:
        body = response.json()
    except ValueError:
        body = None
    return error_of(response.status_code, body, response.headers)
