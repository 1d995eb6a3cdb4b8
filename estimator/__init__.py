"""From measured samples to dense runtime tables.

Reading guide: `schema.sql` and `store.py` (what is kept), `importers/` (whence it comes), `roofline.py`
and `regressors.py` (how an unseen shape is predicted), `tables.py` (what the simulator gets)."""
