"""The one place that writes results, and its options: JSON with date, commit, versions, seed and the machine."""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pcircuits_diffusion.evaluate.curves import dump

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = ("pcircuits", "torch", "numpy", "tokenizers")
PEERS = ("libcirkit", "spflow", "torch-struct", "pomegranate", "dynamax", "jax", "hmmlearn", "torch", "numpy")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a command that writes a result."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--reduced", action="store_true")
    options.add_argument("--out", type=Path, default=RESULTS)
    return options


def write(name: str, results: Mapping[str, Any], *, seed: int, folder: Path = RESULTS) -> Path:
    """Writes `folder/name.json`: the results under "results", and what they were measured with."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {"benchmark": name, "seed": seed, **provenance(), "results": results}
    path.write_text(dump(record), encoding="utf-8")
    return path


def provenance() -> dict[str, Any]:
    """Date (UTC), commit, versions and machine."""
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"date": now, "commit": commit(), "versions": versions(), "machine": machine()}


def commit() -> str | None:
    """The checked-out commit, with "+changes" where the tree differs from it; None outside a git checkout."""
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", "pcircuits", "pcircuits_diffusion", "benchmarks/*.py")
    return f"{head}+changes" if head and changes else head


def versions() -> dict[str, str]:
    installed = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: v for name, v in installed.items() if v}}


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of the compared libraries in the environment of an interpreter; empty where there is none."""
    if not python.exists():
        return {}
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    installed = json.loads(done.stdout)
    return {name: installed[name] for name in PEERS if name in installed}


def machine() -> dict[str, Any]:
    """Processor, cores, threads in use and memory; nothing that names the computer."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
