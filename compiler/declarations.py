"""GPUs and services: quantities in their units, and names checked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from servecast.compiler import syntax as s
from servecast.compiler.check import PLAIN_FORMATS
from servecast.compiler.hardware import Price, Sku
from servecast.compiler.service import METRICS, Service, Slo
from servecast.compiler.suggest import did_you_mean

GB_PREFIXES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
BYTES = {
    "B": 1.0,
    **{f"{p}B": float(f) for p, f in GB_PREFIXES.items() if p},
    **{f"{p}iB": float(1024**i) for i, p in enumerate("KMGT", start=1)},
}
BYTES_PER_S = {f"{unit}/s": factor for unit, factor in BYTES.items()}
FLOPS_PER_S = {
    f"{p}{unit}/s": float(f) for p, f in GB_PREFIXES.items() if p for unit in ("FLOP", "OP")
}
SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
WATTS = {"W": 1.0}
USD_PER_H = {"USD/h": 1.0}

PEAK_FORMATS = (*PLAIN_FORMATS, "int4", "tf32")


def measure(
    quantity: s.Quantity, units: dict[str, float], what: str, source: s.SourceText
) -> float:
    """A quantity in the base unit.

    Raises:
        SpecError: the unit is not one for this quantity, or the quantity is zero.
    """
    if quantity.unit not in units:
        hint = did_you_mean(quantity.unit, units)
        common = ", ".join(unit for unit in units if unit not in ("B", "B/s", "KB", "KB/s"))
        message = f"{what} cannot be in {quantity.unit!r}{hint}; its units are {common}"
        raise source.error(quantity.at, message)
    if quantity.value <= 0:
        raise source.error(quantity.at, f"{what} must be positive")
    return quantity.value * units[quantity.unit]


def lower_sku(declaration: s.SkuDeclaration, source: s.SourceText) -> Sku:
    """A GPU as its datasheet gives it."""
    items: dict[str, s.SkuItem] = {}
    peaks: dict[str, float] = {}
    prices: dict[str, Price] = {}
    for item in declaration.items:
        if item.kind:
            _add_price(item, prices, source)
            continue
        if item.keyword == "peak":
            _add_peak(item, peaks, source)
            continue
        if item.keyword in items:
            line = items[item.keyword].at.line
            raise source.error(item.at, f"{item.keyword} is already given on line {line}")
        items[item.keyword] = item
    for keyword in ("memory", "bandwidth", "node", "between nodes", "power", "price"):
        if keyword not in items:
            raise source.error(declaration.at, f"{declaration.name!r} does not give {keyword!r}")
    if not peaks:
        message = f"{declaration.name!r} gives no peak, as in peak bf16 989 TFLOP/s"
        raise source.error(declaration.at, message)

    def first(keyword: str, units: dict[str, float]) -> float:
        return measure(items[keyword].quantities[0], units, keyword, source)

    return Sku(
        name=declaration.name,
        memory_bytes=round(first("memory", BYTES)),
        bandwidth_bytes_per_s=first("bandwidth", BYTES_PER_S),
        peak_flops_per_s=tuple(peaks.items()),
        gpus_per_node=items["node"].count,
        link_kind=items["node"].word,
        link_bytes_per_s=first("node", BYTES_PER_S),
        network_bytes_per_s=first("between nodes", BYTES_PER_S),
        power_idle_w=first("power", WATTS),
        power_peak_w=measure(items["power"].quantities[1], WATTS, "power", source),
        usd_per_hour=first("price", USD_PER_H),
        price_source=items["price"].word or f"as given in {source.path}",
        prices=tuple(prices.values()),
    )


def _add_price(item: s.SkuItem, prices: dict[str, Price], source: s.SourceText) -> None:
    if item.kind in prices:
        raise source.error(item.at, f"price {item.kind} is already given")
    usd_per_hour = measure(item.quantities[0], USD_PER_H, "price", source)
    given = item.word or f"as given in {source.path}"
    prices[item.kind] = Price(item.kind, usd_per_hour, given)


def _add_peak(item: s.SkuItem, peaks: dict[str, float], source: s.SourceText) -> None:
    if item.word not in PEAK_FORMATS:
        hint = did_you_mean(item.word, PEAK_FORMATS)
        known = ", ".join(PEAK_FORMATS)
        raise source.error(item.at, f"unknown format {item.word!r}{hint}; known: {known}")
    if item.word in peaks:
        raise source.error(item.at, f"peak {item.word} is already given")
    peaks[item.word] = measure(item.quantities[0], FLOPS_PER_S, "peak", source)


def lower_slo(target: s.SloTarget, source: s.SourceText) -> Slo:
    """A latency target in seconds; the mean has no percentile."""
    if target.metric not in METRICS:
        hint = did_you_mean(target.metric, METRICS)
        known = ", ".join(METRICS)
        raise source.error(target.at, f"unknown metric {target.metric!r}{hint}; known: {known}")
    limit_s = measure(target.limit, SECONDS, target.metric, source)
    return Slo(target.metric, _percentile(target, source), limit_s)


def _percentile(target: s.SloTarget, source: s.SourceText) -> float | None:
    if target.statistic == "mean":
        return None
    try:
        percentile = float(target.statistic.removeprefix("p"))
    except ValueError:
        percentile = 0.0
    if not target.statistic.startswith("p") or not 0 < percentile < 100:
        message = f"{target.statistic!r} is no statistic; use p50, p90, p99, p99.9, … or mean"
        raise source.error(target.at, message)
    return percentile


def lower_service(
    declaration: s.ServiceDeclaration, source: s.SourceText, known_skus: Collection[str]
) -> Service:
    """The question asked, with what is not said left empty."""
    service = Service(declaration.name)
    seen: set[str] = set()
    for item in declaration.items:
        if isinstance(item, s.SloTarget):
            service = replace(service, slos=(*service.slos, lower_slo(item, source)))
            continue
        if item.keyword in seen:
            raise source.error(item.at, f"search {item.keyword} is already given")
        seen.add(item.keyword)
        if any(count < 1 for count in item.counts):
            raise source.error(item.at, f"search {item.keyword}: counts are at least 1")
        for sku in item.words if item.keyword in SKU_AXES else ():
            if sku not in known_skus:
                hint = did_you_mean(sku, known_skus)
                known = ", ".join(known_skus)
                raise source.error(item.at, f"unknown GPU {sku!r}{hint}; known: {known}")
        if item.keyword in ONE_WORD and len(item.words) > 1:
            raise source.error(item.at, f"search {item.keyword}: one of them")
        service = _with_axis(service, item)
    return service


FIELDS = {
    "skus": "skus",
    "tp": "tp",
    "pp": "pp",
    "ep": "ep",
    "dp": "dp",
    "batch": "max_num_seqs",
    "chunk": "max_batched_tokens",
    "precision": "precisions",
    "policy": "policies",
    "router": "routers",
    "mode": "modes",
    "prefill": "prefill_skus",
    "decode": "decode_skus",
}
"""Of a `Service`, by the word of the axis."""
SKU_AXES = ("skus", "prefill", "decode")
ONE_WORD = {"objective": "objective", "prices": "price_kind"}


def _with_axis(service: Service, axis: s.SearchAxis) -> Service:
    if axis.keyword == "gpus":
        return replace(service, max_gpus=axis.counts[0])
    if axis.keyword in ONE_WORD:
        word: dict[str, Any] = {ONE_WORD[axis.keyword]: axis.words[0]}
        return replace(service, **word)
    values: dict[str, Any] = {FIELDS[axis.keyword]: axis.words or axis.counts}
    return replace(service, **values)
