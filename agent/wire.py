"""Messages from and to protobuf, field by field. An absent optional number is None, never zero."""

from __future__ import annotations

from typing import Any

from servecast.agent.messages import (
    Conditions,
    Device,
    Event,
    Group,
    KernelSupport,
    Link,
    Node,
    Outcome,
    Phase,
    Placement,
    Rendezvous,
    Samples,
    Settings,
    Status,
)
from servecast.agent.stopping import Flag, Statistics, StopReason
from servecast.compiler.kernels import KernelCase
from servecast.protos import agent_pb2 as pb


def _set(message: Any, value: object, *names: str) -> None:
    """Copies the attributes that are not None. ``message`` is Any: no base class has protobuf's fields."""
    for name in names:
        found = getattr(value, name)
        if found is not None:
            setattr(message, name, found)


def _get(message: Any, name: str) -> Any:
    """An optional field, or None where it is absent."""
    return getattr(message, name) if message.HasField(name) else None


def case_to_wire(case: KernelCase) -> pb.KernelCase:
    return pb.KernelCase(
        kernel=case.kernel, dtype=case.dtype, kv_dtype=case.kv_dtype, dims=dict(case.dims)
    )


def case_from_wire(case: pb.KernelCase) -> KernelCase:
    return KernelCase(case.kernel, case.dtype, case.kv_dtype, tuple(sorted(case.dims.items())))


def settings_to_wire(settings: Settings) -> pb.Settings:
    message = pb.Settings()
    _set(message, settings, "relative_ci", "min_samples", "max_samples", "max_case_s", "method")
    return message


def settings_from_wire(message: pb.Settings) -> Settings:
    """Zero and empty are how the wire says: the agent's default."""
    return Settings(
        relative_ci=message.relative_ci or None,
        min_samples=message.min_samples or None,
        max_samples=message.max_samples or None,
        max_case_s=message.max_case_s or None,
        method=message.method or None,
    )


def group_to_wire(group: Group) -> pb.Group:
    message = pb.Group()
    _set(message, group, "world_size", "first_rank", "local_ranks", "rendezvous", "host")
    return message


def group_from_wire(message: pb.Group) -> Group:
    return Group(
        message.world_size,
        message.first_rank,
        message.local_ranks,
        message.rendezvous,
        message.host,
    )


def placement_from_wire(message: pb.ProfileRequest) -> Placement:
    """A collective runs on all devices, from the thread of the first."""
    group = group_from_wire(message.group) if message.HasField("group") else None
    device = 0 if any("degree" in case.dims for case in message.cases) else message.device
    return Placement(device, group)


def _device_to_wire(device: Device) -> pb.Device:
    message = pb.Device()
    _set(message, device, *Device.__dataclass_fields__)
    return message


def _device_from_wire(message: pb.Device) -> Device:
    return Device(
        index=message.index,
        name=message.name,
        uuid=message.uuid,
        memory_bytes=message.memory_bytes,
        processors=message.processors,
        cache_bytes=_get(message, "cache_bytes"),
        power_limit_w=_get(message, "power_limit_w"),
        max_clock_mhz=_get(message, "max_clock_mhz"),
        capability=message.capability,
    )


def _support_to_wire(support: KernelSupport) -> pb.KernelSupport:
    return pb.KernelSupport(
        kernel=support.kernel,
        dims=support.dims,
        dtypes=support.dtypes,
        kv_dtypes=support.kv_dtypes,
        max_degree=support.max_degree,
        library=support.library,
    )


def _support_from_wire(message: pb.KernelSupport) -> KernelSupport:
    return KernelSupport(
        message.kernel,
        tuple(message.dims),
        tuple(message.dtypes),
        tuple(message.kv_dtypes),
        message.max_degree,
        message.library,
    )


def node_to_wire(node: Node) -> pb.Node:
    message = pb.Node(
        devices=[_device_to_wire(device) for device in node.devices],
        links=[pb.Link(a=k.a, b=k.b, kind=k.kind, lanes=k.lanes) for k in node.links],
        versions=dict(node.versions),
        kernels=[_support_to_wire(support) for support in node.kernels],
    )
    _set(message, node, "protocol_version", "agent_version", "hostname", "backend", "sku")
    _set(message, node, "threads", "max_cases")
    return message


def node_from_wire(message: pb.Node) -> Node:
    return Node(
        agent_version=message.agent_version,
        hostname=message.hostname,
        backend=message.backend,
        sku=message.sku,
        devices=tuple(_device_from_wire(device) for device in message.devices),
        links=tuple(Link(k.a, k.b, k.kind, k.lanes) for k in message.links),
        versions=tuple(sorted(message.versions.items())),
        kernels=tuple(_support_from_wire(support) for support in message.kernels),
        threads=message.threads,
        max_cases=message.max_cases,
        protocol_version=message.protocol_version,
    )


def _conditions_to_wire(conditions: Conditions) -> pb.Conditions:
    message = pb.Conditions(throttle_reasons=conditions.throttle_reasons)
    _set(message, conditions, "clock_mhz", "memory_clock_mhz", "temperature_c", "power_w")
    _set(message, conditions, "host_load", "steal")
    return message


def _conditions_from_wire(message: pb.Conditions) -> Conditions:
    return Conditions(
        clock_mhz=_get(message, "clock_mhz"),
        memory_clock_mhz=_get(message, "memory_clock_mhz"),
        temperature_c=_get(message, "temperature_c"),
        power_w=_get(message, "power_w"),
        throttle_reasons=tuple(message.throttle_reasons),
        host_load=_get(message, "host_load"),
        steal=_get(message, "steal"),
    )


def _outcome_to_wire(outcome: Outcome) -> pb.Outcome:
    message = pb.Outcome(
        status=outcome.status.name,
        stop_reason=outcome.stop_reason.name if outcome.stop_reason else None,
        flags=[flag.value for flag in outcome.flags],
        before=_conditions_to_wire(outcome.before),
        after=_conditions_to_wire(outcome.after),
    )
    _set(message, outcome, "message", "method", "launches_per_sample", "rotated_buffers")
    _set(message, outcome, "host_launch_us", "energy_j", "library")
    if outcome.statistics is not None:
        _set(message.statistics, outcome.statistics, *Statistics.__dataclass_fields__)
    return message


def _outcome_from_wire(message: pb.Outcome) -> Outcome:
    found = message.statistics
    statistics = Statistics(
        found.n, found.mean_us, found.std_us, found.min_us, found.median_us, found.p90_us
    )
    return Outcome(
        status=Status[pb.Status.Name(message.status)],
        message=message.message,
        statistics=statistics if message.HasField("statistics") else None,
        stop_reason=StopReason[pb.StopReason.Name(message.stop_reason)]
        if message.stop_reason
        else None,
        method=message.method,
        launches_per_sample=message.launches_per_sample,
        rotated_buffers=message.rotated_buffers,
        host_launch_us=_get(message, "host_launch_us"),
        energy_j=_get(message, "energy_j"),
        flags=tuple(Flag(flag) for flag in message.flags),
        before=_conditions_from_wire(message.before),
        after=_conditions_from_wire(message.after),
        library=message.library,
    )


def event_to_wire(index: int, event: Event) -> pb.ProfileEvent:
    """An event of the request's case number ``index``."""
    match event:
        case Phase():
            return pb.ProfileEvent(case_index=index, phase=event.name)
        case Samples():
            samples = pb.Samples(runtime_us=event.runtime_us)
            return pb.ProfileEvent(case_index=index, samples=samples)
        case Outcome():
            return pb.ProfileEvent(case_index=index, outcome=_outcome_to_wire(event))
        case Rendezvous():
            rendezvous = pb.Rendezvous(address=event.address)
            return pb.ProfileEvent(case_index=index, rendezvous=rendezvous)


def event_from_wire(message: pb.ProfileEvent) -> Event:
    """Raises ValueError on an event that this protocol version does not have."""
    match message.WhichOneof("event"):
        case "phase":
            return Phase[pb.Phase.Name(message.phase)]
        case "samples":
            return Samples(tuple(message.samples.runtime_us))
        case "outcome":
            return _outcome_from_wire(message.outcome)
        case "rendezvous":
            return Rendezvous(message.rendezvous.address)
        case other:
            raise ValueError(f"unknown event {other!r}")
