"""From a workload and runtime tables to the cheapest configuration.

Reading guide, in the order that data flows: `traffic/` (what arrives), `engine/` (what becomes of it, exact)
and `reference/` (the same as plain objects), `metrics/` (what a run comes to), `search/` (which
configurations, how much each carries), `measured/` (recordings of real engines), `deploy/`, `report/`,
`commands/`."""
