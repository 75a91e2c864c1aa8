"""Tables of results, and what stands beside each of them: commit, versions and machine."""
import contextlib
import csv
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def read(path: Path) -> list[dict]:
    """Rows of a table; none if it is not there."""
    with contextlib.suppress(FileNotFoundError), open(path, newline="") as file:
        return list(csv.DictReader(file))
    return []


def write(path: Path, rows: list[dict]) -> None:
    """Write the table whole: a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".tmp"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".tmp"), path)


def commit_of(path: str, folder=ROOT) -> str:
    """The commit that last changed a path of a checkout; with a + if the path has changed since."""
    git = [subprocess.run(["git", *words.split(), path], cwd=folder, text=True, capture_output=True)
           for words in ("log -1 --format=%h --", "status --porcelain --")]
    return (git[0].stdout.strip() or "unknown") + "+" * bool(git[1].stdout)


def versions(*packages: str) -> str:
    """Of Python and these packages."""
    found = [f"{name} {version(name)}" for name in packages]
    return ", ".join([f"python {platform.python_version()}", *found])


def machine(gpu: bool = True) -> str:
    """Model and cores of the processor, and the GPU, if there is one and it counts."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    gpus = [torch.cuda.get_device_name()] if gpu and torch.cuda.is_available() else []
    return ", ".join([model[1] if model else platform.machine(), f"{os.cpu_count()} cores", *gpus])
