"""Stands between Ray Serve and HAProxy: finishes the configuration Serve wrote, then becomes HAProxy.

Serve runs this file as its HAProxy binary (`run/haproxy`), at the start and for each reload. Serve's
configuration has no room for ours, so its text is edited in place:

- errors made by the proxy have the API's error shape; what the API would call UNAVAILABLE is a 503
- requests get time and size limits and a Host check; a client's X-Forwarded-For is replaced
- statistics are left out, metrics listen on loopback, the admin socket is its owner's alone
- no syslog: requests are logged by the application

A proxy left over by a killed actor is asked to hand over its port (`-sf`, `-x`): Serve knows only its own.
The standard library alone, so that it starts in 20 ms: it delays each reload. What HAProxy refuses before
it has a request (a header it cannot parse or hold in its buffer) it answers with a page of its own.
"""

import json
import os
import re
import sys
from pathlib import Path

ERRORS = {
    400: ("VALIDATION_ERROR", "The request is not valid, names another host, or its header is too large"),
    405: ("METHOD_NOT_ALLOWED", "Method not allowed"),
    408: ("VALIDATION_ERROR", "The request did not arrive in time"),
    414: ("VALIDATION_ERROR", "The URL is too long"),
    502: ("UNAVAILABLE", "The API is restarting"),
    503: ("UNAVAILABLE", "The API is not ready"),
    504: ("UNAVAILABLE", "The API did not answer in time"),
}
BY_HAPROXY = (400, 408, 502, 503, 504)
LONGEST_URL = 8 * 1024
LARGEST_HEADER = 16 * 1024
MARK = "unique-id-format"


def main(arguments: list[str]) -> None:
    binary, run, hosts, command = arguments[0], Path(arguments[1]), arguments[2], arguments[3:]
    path = Path(command[command.index("-f") + 1])
    pid_file = run / "haproxy.pid"
    predecessor = living(pid_file, path)
    write_bodies(path.parent)
    path.write_text(finish(_routable(path, predecessor), path.parent, hosts.split()))
    if predecessor and str(predecessor) not in command:
        command = [*command, "-sf", str(predecessor), "-x", str(path.parent / "s")]
    pid_file.write_text(str(os.getpid()))
    os.execv(binary, [binary, *command])


def finish(text: str, folder: Path, hosts: list[str]) -> str:
    """Serve's configuration with ours worked in. Finished text comes back unchanged."""
    if MARK in text:
        return text
    text = re.sub(r"^    (log|errorfile) .*\n", "", text, flags=re.M)
    text = re.sub(r"^listen stats\n(?:  .*\n)+", "", text, flags=re.M)
    text = text.replace("mode 666 level admin", "mode 600 level admin")
    text = re.sub(r"^    bind :(\d+)$", r"    bind 127.0.0.1:\1", text, flags=re.M)
    text = _after(r"^defaults\n", text, _defaults(folder))
    text = _after(r"^frontend http_frontend\n    bind .*\n", text, _frontend(folder, hosts))
    nothing = f"    http-request return {_answer(503, folder)}\n"
    return re.sub(r"(^backend default_backend\n).*\n", lambda found: found[1] + nothing, text, flags=re.M)


def _after(pattern: str, text: str, addition: str) -> str:
    return re.sub(pattern, lambda found: found[0] + addition, text, flags=re.M)


def _defaults(folder: Path) -> str:
    errors = "".join(f"    http-error {_answer(status, folder)}\n" for status in BY_HAPROXY)
    return f"    timeout http-request 10s\n    {MARK} req_%[uuid]\n{errors}"


def _frontend(folder: Path, hosts: list[str]) -> str:
    foreign = f"!{{ req.hdr(host),host_only -m str -i {' '.join(hosts)} }}" if hosts else "FALSE"
    return (
        f"    http-request return {_answer(414, folder)} if {{ url_len gt {LONGEST_URL} }}\n"
        f"    http-request return {_answer(405, folder)} if METH_CONNECT\n"
        f"    http-request deny deny_status 400 if {{ req.hdrs,length gt {LARGEST_HEADER} }}\n"
        f"    http-request deny deny_status 400 if !{{ req.hdr_cnt(host) eq 1 }} or {foreign}\n"
        "    http-request wait-for-body time 10s if { method POST PUT PATCH DELETE }\n"
        "    http-request set-header X-Forwarded-For %[src]\n"
        "    http-request del-header Forwarded\n"
        "    http-request del-header Sec-WebSocket-Extensions\n"  # no compression: what it unpacks to has no bound
        "    http-request set-header X-Request-Id %[unique-id] if !{ req.hdr(X-Request-Id) -m found }\n"
        "    http-response set-header X-Request-Id %[res.hdr(X-Request-Id,1)]\n"  # Serve adds the caller's raw one
        "    http-after-response set-header X-Content-Type-Options nosniff\n"
        "    http-after-response set-status 503 if { status 502 504 }\n"
    )


def _answer(status: int, folder: Path) -> str:
    """A whole answer, as `return` and `http-error` take it."""
    more = ' hdr Retry-After "1"' if status >= 500 else ""
    if status == 405:
        more = ' hdr Allow "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"'
    return (
        f"status {status} content-type application/json lf-file {folder}/{status}.json"
        f' hdr X-Request-Id "%[unique-id]" hdr Cache-Control "no-store"{more}'
    )


def write_bodies(folder: Path) -> None:
    for status, (code, message) in ERRORS.items():
        error = {
            "code": code,
            "message": message,
            "details": {},
            "request_id": "%[unique-id]",
            "retryable": code == "UNAVAILABLE",
            "docs_url": f"/docs/errors#{code}",
        }
        (folder / f"{status}.json").write_text(json.dumps({"error": error}))


def _routable(path: Path, predecessor: int | None) -> str:
    """The text to run. A fresh actor begins without backends: while a predecessor serves, keep its own."""
    text, last = path.read_text(), path.with_suffix(".last")
    if "\n    use_backend " in text:
        last.write_text(text)
    elif predecessor and last.exists():
        return last.read_text()
    return text


def living(pid_file: Path, configuration: Path) -> int | None:
    """The recorded proxy, if it still runs with this configuration."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(configuration).encode() in command else None


if __name__ == "__main__":
    main(sys.argv[1:])
