"""From a workload and runtime tables to the cheapest configuration.

Reading guide: `engine.py` (one replica, exact), `reference.py` (the same semantics as plain objects),
`metrics.py`, `search/`."""
