"""What differs between two models: operators, sizes, memory."""

from __future__ import annotations

from collections.abc import Sequence

from servecast.compiler.dump_text import format_text, kind_text, shape_text
from servecast.compiler.program import Program, Site
from servecast.compiler.shard import shard
from servecast.compiler.sharded import Parallelism

_Row = tuple[str, str]  # an operator's place, and what it is


def diff_programs(one: Program, other: Program) -> str:
    """Operators that changed, went or came, then the totals; one line if nothing differs."""
    before, after = _rows(one, {}), _rows(other, _paired_names(one, other))
    lines = [f"--- {one.model}", f"+++ {other.model}"]
    changes = _changes(dict(before), dict(after))
    totals = [
        f"  {name}: {_change(a, b)}"
        for (name, a), (_, b) in zip(_totals(one), _totals(other), strict=True)
        if a != b
    ]
    if not changes and not totals:
        return f"{one.model} and {other.model}: no difference in operators or memory\n"
    return "\n".join([*lines, *changes, "totals", *(totals or ["  no difference"])]) + "\n"


def _rows(program: Program, names: dict[str, str]) -> list[_Row]:
    """Operators by layer and name, numbered where a layer has several of one name."""
    rows = []
    for name, run in {run.name: run for run in program.runs}.items():
        count = sum(each.count for each in program.runs if each.name == name)
        shown = names.get(name, name)
        rows.append((shown, f"x {count}"))
        seen: dict[str, int] = {}
        for site in run.sites:
            seen[site.name] = seen.get(site.name, 0) + 1
            number = f" #{seen[site.name]}" if seen[site.name] > 1 else ""
            rows.append((f"{shown}.{site.name}{number}", _what(site)))
    return rows


def _paired_names(one: Program, other: Program) -> dict[str, str]:
    """What the other's layers are called here: as equal layers are, else by a name not taken yet."""
    ours = {run.sites: run.name for run in one.runs}
    equal = {run.name: ours[run.sites] for run in other.runs if run.sites in ours}
    taken = set(equal.values())
    names = dict(equal)
    for run in other.runs:
        if run.name not in names:
            free = run.name if run.name not in taken else f"{run.name} of {other.model}"
            names[run.name] = free
            taken.add(free)
    return names


def _what(site: Site) -> str:
    return f"{kind_text(site.op)} {shape_text(site.op)} {format_text(site.op)} {site.split.value}"


def _changes(before: dict[str, str], after: dict[str, str]) -> list[str]:
    lines = []
    for place in [*before, *(place for place in after if place not in before)]:
        old, new = before.get(place), after.get(place)
        if old == new:
            continue
        lines += [f"- {place}: {old}"] if old is not None else []
        lines += [f"+ {place}: {new}"] if new is not None else []
    return lines


def _totals(program: Program) -> Sequence[tuple[str, int]]:
    (stage,) = shard(program, Parallelism()).stages
    return (
        ("layers", program.num_layers),
        ("parameters", program.parameters),
        ("weight bytes", stage.weight_bytes),
        ("KV bytes per token", stage.kv_bytes_per_token),
        ("context tokens", program.context_tokens),
    )


def _change(before: int, after: int) -> str:
    ratio = f" (x {after / before:.3g})" if before else ""
    return f"{before:,} -> {after:,}{ratio}"
