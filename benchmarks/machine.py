"""What benchmarks share: what they were measured on, their options and their output."""

import argparse
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


def options(description):
    """A parser with --quick, to which a script adds its own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    return parser


def printed(report):
    """The text of the lines, each printed as soon as it is there."""
    lines = []
    for line in report:
        print(line, flush=True)
        lines.append(line)
    return "\n".join(lines) + "\n"
