"""Stands between Ray Serve and HAProxy: finishes the configuration Serve wrote, then becomes HAProxy.

Serve runs this file as its HAProxy binary (`run/haproxy`), at the start and for each reload. Serve's
configuration has no room for ours, so its text is edited in place:

- errors made by the proxy have the API's error shape; what the app would call UNAVAILABLE is a 503
- requests get time limits and a Host check; a client's X-Forwarded-For is replaced
- statistics are left out, metrics listen on loopback, the admin socket is its owner's alone
- no syslog: a request is logged by the application

A proxy left over by a killed actor is asked to hand over its port (`-sf`): Serve only knows its own.
The standard library alone, so that it starts in 20 ms: it delays each reload.
"""

import json
import os
import re
import sys
from pathlib import Path

ERRORS = {
    400: ("VALIDATION_ERROR", "The request is not valid HTTP or its header is too large"),
    408: ("VALIDATION_ERROR", "The request did not arrive in time"),
    414: ("VALIDATION_ERROR", "The URL is too long"),
    502: ("UNAVAILABLE", "The API is restarting"),
    503: ("UNAVAILABLE", "The API is not ready"),
    504: ("UNAVAILABLE", "The API did not answer in time"),
}
PHRASES = {400: "Bad Request", 408: "Request Timeout", 414: "URI Too Long", 503: "Service Unavailable"}
LONGEST_URL = 8192


def main(arguments: list[str]) -> None:
    binary, run, hosts, command = arguments[0], Path(arguments[1]), arguments[2], arguments[3:]
    path = Path(command[command.index("-f") + 1])
    pid_file = run / "haproxy.pid"
    predecessor = _living(pid_file, path)
    write_error_files(path.parent)
    path.write_text(finish(_routable(path, predecessor), path.parent, hosts.split()))
    if predecessor and str(predecessor) not in command:
        command = [*command, "-sf", str(predecessor)]
    pid_file.write_text(str(os.getpid()))
    os.execv(binary, [binary, *command])


def finish(text: str, folder: Path, hosts: list[str]) -> str:
    """Serve's configuration with ours worked in. Finished text comes back unchanged."""
    if "timeout http-request" in text:
        return text
    text = re.sub(r"^    log .*\n", "", text, flags=re.M)
    text = re.sub(r"^    errorfile .*\n", "", text, flags=re.M)
    text = text.replace("mode 666 level admin", "mode 600 level admin")
    text = re.sub(r"^listen stats\n(?:  .*\n)+", "", text, flags=re.M)
    text = re.sub(r"(?<=^    bind ):(?=\d+$)", "127.0.0.1:", text, flags=re.M)
    text = text.replace("defaults\n    mode http\n", "defaults\n    mode http\n" + _defaults(folder))
    text = re.sub(r"(?<=^frontend http_frontend\n)(    bind .*\n)", rf"\1{_frontend(folder, hosts)}", text, flags=re.M)
    return re.sub(r"(?<=^backend default_backend\n).*\n", f"    http-request return {_answer(503, folder)}\n", text, flags=re.M)


def _defaults(folder: Path) -> str:
    files = "".join(f"    errorfile {status} {folder}/{status}.http\n" for status in ERRORS if status != 414)
    return f"    timeout http-request 10s\n{files}"


def _frontend(folder: Path, hosts: list[str]) -> str:
    named = f" !{{ req.hdr(host),host_only -m str -i {' '.join(hosts)} }}" if hosts else " FALSE"
    return (
        f"    http-request return {_answer(414, folder)} if {{ url_len gt {LONGEST_URL} }}\n"
        f"    http-request deny deny_status 400 if !{{ req.hdr_cnt(host) eq 1 }} or{named}\n"
        "    http-request wait-for-body time 10s if { method POST PUT PATCH DELETE }\n"
        "    http-request set-header X-Forwarded-For %[src]\n"
        "    http-request del-header Forwarded\n"
    )


def _answer(status: int, folder: Path) -> str:
    retry = ' hdr Retry-After "1"' if status == 503 else ""
    return f"status {status} content-type application/json file {folder}/{status}.json{retry}"


def write_error_files(folder: Path) -> None:
    """STATUS.json is the body, STATUS.http a whole answer; 502 and 504 are told as 503."""
    for status, (code, message) in ERRORS.items():
        body = json.dumps({"error": _error(code, message)})
        shown = 503 if code == "UNAVAILABLE" else status
        head = [
            f"HTTP/1.1 {shown} {PHRASES[shown]}",
            "Content-Type: application/json",
            "Cache-Control: no-store",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(["Retry-After: 1"] if shown == 503 else []),
        ]
        (folder / f"{status}.json").write_text(body)
        (folder / f"{status}.http").write_text("\r\n".join([*head, "", body]))


def _error(code: str, message: str) -> dict[str, object]:
    return {
        "code": code,
        "message": message,
        "details": {},
        "request_id": None,
        "retryable": code == "UNAVAILABLE",
        "docs_url": f"/docs/errors#{code}",
    }


def _routable(path: Path, predecessor: int | None) -> str:
    """The text to run. A fresh actor begins without backends: while a predecessor serves, keep its own."""
    text, last = path.read_text(), path.with_suffix(".last")
    if "\n    use_backend " in text:
        last.write_text(text)
    elif predecessor and last.exists():
        return last.read_text()
    return text


def _living(pid_file: Path, config: Path) -> int | None:
    """The recorded proxy, if it still runs with this configuration."""
    try:
        pid = int(pid_file.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if str(config).encode() in command else None


if __name__ == "__main__":
    main(sys.argv[1:])
