"""What the benchmark programs share: the machine in words, timings, and an avatar to measure with."""

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch: its idle threads must not spin beside Numba's

PACKAGES = ("torch", "numba", "numpy", "onnxruntime", "gsplat")


def machine() -> dict[str, Any]:
    """CPU, cores, memory, load and versions."""
    cpu = platform.processor() or platform.machine()
    vector = ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        facts = {name.strip(): value.strip() for name, value in facts.items()}
        cpu, flags = facts.get("model name", cpu), facts.get("flags", "").split()
        vector = next((name for name in ("avx512f", "avx2", "avx") if name in flags), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": " ".join(part for part in (cpu, vector) if part),
        "cores": os.cpu_count(),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "versions": versions,
        "load": [round(load, 2) for load in os.getloadavg()],
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def cpu_seconds() -> float:
    """CPU time of this process and of the programs that it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True)
class Cost:
    """Best time of several runs, in milliseconds per item: by the clock, and of all processors together."""

    wall: float
    cpu: float


def cost(job: Callable[[], object], items: int = 1, repeats: int = 5) -> Cost:
    """What `job` costs per item; it runs once before anything is counted."""
    job()
    walls, cpus = [], []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), cpu_seconds()
        job()
        walls.append((time.perf_counter() - wall) / items * 1e3)
        cpus.append((cpu_seconds() - cpu) / items * 1e3)
    return Cost(round(min(walls), 2), round(min(cpus), 2))


def make_avatar(model: str, folder: Path) -> Path:
    """The sample portrait's avatar as the encoder of `model` sees it, without fitting."""
    from flexavatar_cli.core.options import MatteOptions, TrackOptions
    from flexavatar_cli.media.samples import sample_portrait
    from flexavatar_cli.stages import encoding
    from flexavatar_cli.stages.instruments import load_instruments
    from flexavatar_cli.stages.shots import Shot, matte_step, track_step
    from flexavatar_cli.stages.workfolder import WorkFolder

    instruments, work, photo = load_instruments(model, "cpu"), WorkFolder(folder), sample_portrait()
    matte, track = matte_step(work, photo, MatteOptions()), track_step(work, photo, TrackOptions(), instruments.head)
    return encoding.encode(Shot(photo, matte, track), instruments).save(folder / "sample.avatar")


def temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """A folder that goes when the program ends."""
    return tempfile.TemporaryDirectory(prefix="flexavatar-bench-")


def flexavatar(*arguments: object) -> list[str]:
    """The command line of the program in this checkout."""
    return [sys.executable, "-c", "from flexavatar_cli.cli.app import main; main()", *map(str, arguments)]


def finish(result: dict[str, Any], wanted: bool) -> None:
    """End with one JSON line, if wanted."""
    if wanted:
        print(json.dumps(result))
