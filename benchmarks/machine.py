"""What a result was measured on: processor, JAX device, versions."""

import importlib.metadata
import os
import pathlib
import platform

import jax


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def describe(*packages):
    """One line, without a date."""
    device = jax.devices()[0]
    parts = [processor(), f"{len(os.sched_getaffinity(0))} cores"]
    if device.platform != "cpu":
        parts.append(f"JAX on {device.device_kind}")
    parts.append(f"Python {platform.python_version()}")
    parts += [f"{name} {installed(name) or 'not installed'}" for name in packages]
    return ", ".join(parts) + "."
