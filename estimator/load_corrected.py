"""Tables that an engine's own log of its steps corrects; apart, as what solves for them loads slowly."""

from __future__ import annotations

from pathlib import Path

from servecast.compiler.hardware import Sku
from servecast.compiler.sharded import ShardedProgram
from servecast.estimator.load import TableLoader
from servecast.estimator.step_log import StepLog
from servecast.estimator.tables import RuntimeTables, TableBounds
from servecast.estimator.whole_steps import corrected


class CorrectedTableLoader(TableLoader):
    """As its parent; what is kept is kept uncorrected."""

    def __init__(self, store_path: Path | None, steps: StepLog) -> None:
        super().__init__(store_path)
        self._steps = steps

    def tables(self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds) -> RuntimeTables:
        return corrected(super().tables(sharded, sku, bounds), self._steps)

    def drawn_tables(
        self, sharded: ShardedProgram, sku: Sku, bounds: TableBounds, draw: int
    ) -> RuntimeTables:
        return corrected(super().drawn_tables(sharded, sku, bounds, draw), self._steps)

    def notes(self, sku: Sku) -> tuple[str, ...]:
        count = len(self._steps.seconds)
        told = f"{sku.name}: times are corrected by {count} steps of an engine's log"
        return (*super().notes(sku), told)
