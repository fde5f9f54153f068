"""Where and with what a number was computed: recorded beside it, never part of an identity."""

import os
import platform
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "scikit-image", "pandas", "dgmbench")


@cache
def machine() -> dict[str, Any]:
    """Processor, cores, memory, operating system and interpreter; no host or user names."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


@cache
def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _PACKAGES}


@cache
def commit() -> str | None:
    """The git commit of the working tree, with `+` where tracked files differ from it; None outside git."""
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "src", "workflow"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Linux counts in `ru_maxrss` what the parent had in memory when it started this process.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def measured(seconds: float, device: str, threads: int) -> dict[str, Any]:
    """What is recorded beside a result: cost, place and versions."""
    return {
        "seconds": round(seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "device": device,
        "threads": threads,
        "machine": machine(),
        "commit": commit(),
        "versions": versions(),
    }
