"""What one deployment for several traces is: its replicas, what it is worth to each, how sure it is. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from servecast.simulator.search.objective import Objective, Row

ROLES = ("prefill", "decode")
RENTED = ("replicas", "gpus", "usd_per_hour")


def value_of(row: Row, deployed: Row, objective: Objective) -> float:
    """A trace's figure by what is deployed for all of them.

    Equal replicas carry as much for a dollar however many they are. Roles apart do not: what is deployed
    holds whole copies of the trace's own, and carries as much as these at least.
    """
    value = objective.value(row)
    if not objective.higher_is_better or not all(row.get(role) for role in ROLES):
        return value
    copies = min(deployed[role]["replicas"] // row[role]["replicas"] for role in ROLES)
    return float(value * copies * row["usd_per_hour"] / deployed["usd_per_hour"])


def deployed_for(rows: Sequence[Row]) -> Row:
    """What carries the most demanding of the traces, role by role where they are apart."""
    most = max(rows, key=lambda row: row["replicas"])
    if not all(row.get(role) for row in rows for role in ROLES):
        return {name: most[name] for name in RENTED}
    roles = {role: max((row[role] for row in rows), key=lambda r: r["replicas"]) for role in ROLES}
    return {**{name: sum(role[name] for role in roles.values()) for name in RENTED}, **roles}


def as_sure(rows: Sequence[Row], deployed: Row) -> Row:
    """What carries each trace as surely as is asked; as deployed, each is as sure as its own row says."""
    known = [row["rate_confidence"] for row in rows if row.get("rate_confidence") is not None]
    sizes = [row["at_confidence"] for row in rows if row.get("at_confidence")]
    most = _of_all(sizes, deployed)
    return {
        "rate_confidence": min(known) if len(known) == len(rows) else None,
        "at_confidence": most if len(sizes) == len(rows) else None,
    }


def _of_all(sizes: Sequence[Row], deployed: Row) -> Row | None:
    """The largest, of each role where they are apart, and no fewer than are deployed."""
    if not sizes or not all(role in deployed for role in ROLES):
        return max(sizes, key=lambda size: size["usd_per_hour"], default=None)
    counts = {
        role: max(deployed[role]["replicas"], *(size[role] for size in sizes)) for role in ROLES
    }
    rented = {
        name: sum(
            deployed[role][name] / deployed[role]["replicas"] * counts[role] for role in ROLES
        )
        for name in RENTED
    }
    return {**rented, "replicas": sum(counts.values()), "gpus": round(rented["gpus"]), **counts}
