"""From measured samples to dense runtime tables.

Reading guide: `schema.sql` and `store.py` (what is kept), `profiling/` and `importers/` (whence it comes),
`learners/` (how an unseen shape is predicted), `load.py` (who joins them), `tables.py` (what the simulator
gets)."""
