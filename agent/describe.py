"""A node as text for people."""

from __future__ import annotations

from servecast.agent.messages import Device, Node


def node_text(node: Node) -> str:
    """Several lines: the node, its devices, versions and kernels."""
    lines = [
        f"{node.hostname}: agent {node.agent_version}, protocol {node.protocol_version}, "
        f"backend {node.backend}, SKU {node.sku or 'unknown (say --sku)'}"
    ]
    if node.threads:
        lines.append(f"  threads of a kernel: {node.threads}")
    lines += [f"  device {device.index}: {_device_text(device)}" for device in node.devices]
    lines += [f"  link {k.a}-{k.b}: {k.kind}" + f" x{k.lanes}" * bool(k.lanes) for k in node.links]
    lines.append("  " + ", ".join(f"{name} {version}" for name, version in node.versions))
    for kernel in node.kernels:
        cache = f", cache {' '.join(kernel.kv_dtypes)}" if kernel.kv_dtypes else ""
        lines.append(
            f"  {kernel.kernel} ({' '.join(kernel.dims)}), {kernel.library}: "
            f"{' '.join(kernel.dtypes)}{cache}"
        )
    return "\n".join(lines)


def _device_text(device: Device) -> str:
    parts = [
        device.name,
        f"{device.memory_bytes / 2**30:.1f} GiB",
        f"{device.processors} processors",
    ]
    if device.cache_bytes is not None:
        parts.append(f"cache {device.cache_bytes / 2**20:.0f} MiB")
    if device.power_limit_w is not None:
        parts.append(f"limit {device.power_limit_w:.0f} W")
    if device.capability:
        parts.append(f"compute {device.capability}")
    return ", ".join(parts)
