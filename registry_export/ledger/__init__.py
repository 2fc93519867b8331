"""The ledger: every export that was asked for, who works on it, and what became of it.

`Ledger` owns every query on jobs, `Promotions` what the reconciler remembers, `Reversions` what is put back,
`Verifications` when each version was verified last, `KnownExports` what need not be made twice, `LearntCosts` what
the steps of exports take, `Vouchers` what gates go by, in the registry's own database. Several workers share one
database and never talk to each other: a claim is a conditional UPDATE, held by a lease that lapses with its worker, and
every time in it is the database's own.
"""

from registry_export.ledger.census import Census, Count
from registry_export.ledger.database import Database, missing_file
from registry_export.ledger.heartbeat import Heartbeat
from registry_export.ledger.jobs import SETTLED, VERIFY, WAITING, Job, JobState
from registry_export.ledger.known_exports import KnownExport, KnownExports
from registry_export.ledger.ledger import Ledger
from registry_export.ledger.outbox_reader import OutboxReader
from registry_export.ledger.promotions import Promotion, Promotions
from registry_export.ledger.reversions import Reversions
from registry_export.ledger.step_costs import LearntCosts
from registry_export.ledger.verifications import History, Verifications
from registry_export.ledger.vouchers import Vouchers

__all__ = [
    "SETTLED",
    "VERIFY",
    "WAITING",
    "Census",
    "Count",
    "Database",
    "Heartbeat",
    "History",
    "Job",
    "JobState",
    "KnownExport",
    "KnownExports",
    "LearntCosts",
    "Ledger",
    "OutboxReader",
    "Promotion",
    "Promotions",
    "Reversions",
    "Verifications",
    "Vouchers",
    "missing_file",
]
