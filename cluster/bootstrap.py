"""Makes `.venv` from the lock files and says so: `python3.11 cluster/bootstrap.py`.

Run by whatever Python 3.11 the machine has, before anything is installed: the standard library alone,
and nothing of this package. Done once for each state of the lock files, whose digest it leaves behind.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
INSTALLER, LOCK, MODELS = "requirements-uv.lock", "requirements.lock", "requirements-models.lock"
STAMP = VENV / ".installed"
WANTED = (3, 11)


def main() -> None:
    began = time.monotonic()
    if sys.version_info[:2] != WANTED:
        have = sys.version.split()[0]
        refuse(f"Python {have} is not 3.11", "install python3.11, or name it: make up PYTHON=…")
    wanted = digest()
    if not STAMP.exists() or STAMP.read_text() != wanted:
        install()
        STAMP.write_text(wanted)
    took = time.monotonic() - began
    shown = "<1 s" if took < 1 else f"{took:.0f} s"
    print(f"  ✓ {'environment':<22} {f'.venv, {packages()} packages':<42} {shown:>5}", flush=True)


def digest() -> str:
    total = hashlib.sha256(sys.version.encode())
    for name in (INSTALLER, LOCK, MODELS):
        total.update((ROOT / name).read_bytes())
    return total.hexdigest()


def install() -> None:
    """From the locks, by hash. An unfinished folder is made anew; the log is shown when a step fails."""
    if not (VENV / "bin" / "python").exists() or not STAMP.exists():
        shutil.rmtree(VENV, ignore_errors=True)
        run(sys.executable, "-m", "venv", str(VENV))
    pip = (str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--require-hashes", "-r", INSTALLER)
    uv = (str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV / "bin" / "python"))
    compiled = ("--require-hashes", "--compile-bytecode")
    run(*uv, *compiled, "-r", LOCK)
    run(*uv, *compiled, "--no-deps", "-r", MODELS)


def run(*command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        print(done.stdout, file=sys.stderr)
        refuse(f"`{' '.join(command[:4])} …` failed", "see above: is the index reachable, the disk full?")


def packages() -> int:
    return len(list(VENV.glob("lib/python*/site-packages/*.dist-info")))


def refuse(problem: str, remedy: str) -> None:
    print(f"  ✗ {problem}\n    → {remedy}", file=sys.stderr, flush=True)
    raise SystemExit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        STAMP.unlink(missing_ok=True)
        raise SystemExit(130) from None
