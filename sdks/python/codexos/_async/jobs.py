from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, Self

from codexos._async.paging import AsyncPages, listed
from codexos._async.streams import AsyncEventStream
from codexos._async.transport import AsyncTransport
from codexos._call import Call, Countdown, path, value_of
from codexos._listing import Listing
from codexos.errors import ConflictError
from codexos.types.rag import DocumentStatus, JobDocument, JobEvent, JobInfo, JobStatus, Progress


class AsyncJob:
    """An ingestion job. `info` is what was known of it last; `refresh` and `wait` ask anew."""

    def __init__(self, transport: AsyncTransport, info: JobInfo):
        self._transport = transport
        self.info = info

    @property
    def id(self) -> str:
        return self.info.id

    @property
    def status(self) -> JobStatus:
        return self.info.status

    @property
    def progress(self) -> Progress:
        return self.info.progress

    @property
    def has_ended(self) -> bool:
        return self.status not in ("queued", "running")

    async def refresh(self) -> Self:
        response = await self._transport.send(Call("GET", path("rag", "jobs", self.id)))
        self.info = JobInfo.read(value_of(response))
        return self

    async def wait(
        self, *, progress: Callable[[Self], object] | None = None, timeout: float | None = None
    ) -> Self:
        """Until it has ended, however that is. progress: called with this job whenever it got on.

        timeout: seconds. Raises WaitTimeoutError; it goes on all the same.
        """
        await self.refresh()
        if not self.has_ended:
            async with self.events(timeout=timeout) as events:
                async for event in events:
                    if progress is not None and event.progress is not None and not event.is_last:
                        self.info = self.info.at(event)
                        progress(self)
            await self.refresh()
        if progress is not None:
            progress(self)
        return self

    def events(self, *, after: int = 0, timeout: float | None = None) -> AsyncEventStream[JobEvent]:
        """What it tells, from the first event to the last; live and afterwards. See `executions.stream`."""
        where = path("rag", "jobs", self.id, "events")
        return AsyncEventStream(self._transport, where, JobEvent.read, after, timeout)

    def documents(
        self, *, status: DocumentStatus | None = None, limit: int | None = None
    ) -> AsyncPages[JobDocument]:
        """What became of its documents, of each kind the first 10,000; those that failed come first."""
        call = Call("GET", path("rag", "jobs", self.id, "documents"), {"status": status, "limit": limit})
        return listed(self._transport, Listing(call, "documents", JobDocument.read))

    async def cancel(self) -> Self:
        """What it has taken in stays. Raises ConflictError when it has ended otherwise."""
        await self._transport.send(Call("POST", path("rag", "jobs", self.id, "cancel")))
        return await self.refresh()

    async def retry(self) -> AsyncJob:
        """A new job for what failed in this one."""
        response = await self._transport.send(Call("POST", path("rag", "jobs", self.id, "retry")))
        return ordered(self._transport, self.info.collection_id, value_of(response))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {self.status}, {self.progress})"


class AsyncJobGroup:
    """The jobs of one `write`, which may take several; in all else like one."""

    def __init__(self, jobs: Sequence[AsyncJob]):
        self.jobs = jobs

    @property
    def status(self) -> JobStatus:
        """What holds of any of them, the worst first; an empty group is completed."""
        found = {job.status for job in self.jobs}
        order: tuple[JobStatus, ...]
        order = ("running", "queued", "failed", "cancelled", "completed_with_errors")
        return next((status for status in order if status in found), "completed")

    @property
    def progress(self) -> Progress:
        """The sum of theirs."""
        counts = [one.name for one in fields(Progress) if one.name != "raw"]
        return Progress.read({name: sum(getattr(job.progress, name) for job in self.jobs) for name in counts})

    @property
    def has_ended(self) -> bool:
        return all(job.has_ended for job in self.jobs)

    async def refresh(self) -> Self:
        for job in self.jobs:
            await job.refresh()
        return self

    async def wait(
        self, *, progress: Callable[[Self], object] | None = None, timeout: float | None = None
    ) -> Self:
        """As of a job; the time is that of all."""
        left = Countdown(timeout)
        for job in self.jobs:
            tell = None if progress is None else lambda _: progress(self)
            await job.wait(progress=tell, timeout=left())
        return self

    async def documents(self, *, status: DocumentStatus | None = None) -> AsyncIterator[JobDocument]:
        for job in self.jobs:
            async for document in job.documents(status=status, limit=100):
                yield document

    async def cancel(self) -> Self:
        """Those that have not ended."""
        for job in await self._active():
            with suppress(ConflictError):
                await job.cancel()
        return await self.refresh()

    async def retry(self) -> AsyncJobGroup:
        """New jobs for what failed in these."""
        failed = [job for job in self.jobs if job.has_ended and job.status != "completed"]
        return AsyncJobGroup([await job.retry() for job in failed])

    async def _active(self) -> list[AsyncJob]:
        await self.refresh()
        return [job for job in self.jobs if not job.has_ended]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.jobs)} jobs, {self.status}, {self.progress})"


class AsyncJobs:
    def __init__(self, transport: AsyncTransport):
        self._transport = transport

    async def get(self, job_id: str) -> AsyncJob:
        response = await self._transport.send(Call("GET", path("rag", "jobs", job_id)))
        return AsyncJob(self._transport, JobInfo.read(value_of(response)))


def ordered(transport: AsyncTransport, collection_id: str, raw: Mapping[str, Any]) -> AsyncJob:
    """From the answer to an order, which calls the id `job_id` and knows no counts yet."""
    known = {"id": raw["job_id"], "collection_id": collection_id, "progress": {}}
    return AsyncJob(transport, JobInfo.read({**raw, **known}))
