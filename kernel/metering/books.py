"""All that is done with what was used: shown, closed and moved, sampled, and checked."""

from dataclasses import dataclass

from kernel.metering.ledger import Ledger
from kernel.metering.reconcile import Reconciler
from kernel.metering.sampler import Sampler
from kernel.metering.usage import Usage


@dataclass(frozen=True, slots=True)
class Books:
    usage: Usage
    ledger: Ledger
    sampler: Sampler
    reconciler: Reconciler
