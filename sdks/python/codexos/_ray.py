"""A Ray Dataset, written to a collection by the workers that hold its blocks: no row passes through the driver."""

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codexos._connection import Connection
from codexos._options import Options
from codexos._records import MOST_DOCUMENTS
from codexos._sync.collections import write_rows
from codexos._sync.transport import Transport

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True)
class DatasetWriter:
    """All that a worker needs. run: one for each `write`, so that a task that is tried anew repeats no job."""

    connection: Connection
    options: Options
    collection_id: str
    run: str

    def write(self, table: "pyarrow.Table") -> list[str]:
        """The ids of the jobs that take these rows in."""
        with closing(Transport(self.connection, self.options)) as transport:
            return [job.id for job in write_rows(transport, self.collection_id, table, self.run)]


def write_dataset(dataset: Any, writer: DatasetWriter) -> list[dict[str, Any]]:
    """The answers to what the workers sent, one for each job."""
    rows = dataset.map_batches(
        write_batch, fn_kwargs={"writer": writer}, batch_size=MOST_DOCUMENTS, batch_format="pyarrow"
    ).take_all()
    ids = dict.fromkeys(row["job_id"] for row in rows)
    return [{"job_id": job_id, "status": "queued"} for job_id in ids]


def write_batch(table: "pyarrow.Table", writer: DatasetWriter) -> "pyarrow.Table":
    import pyarrow

    return pyarrow.table({"job_id": pyarrow.array(writer.write(table), pyarrow.string())})
