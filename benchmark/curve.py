"""Keep the learning curve of a finished run: python benchmark/curve.py RUN_FOLDER --commit COMMIT

Writes benchmark/results/<script>__<environment>__<variant>__<seed>.csv. Lines that begin with # say how it
was made; below them is a row per finished training episode: the transition that ended it, and its return.
"""
import argparse
import csv
import importlib
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = "torch", "gymnasium", "ale-py", "mujoco", "numpy"


def changed_flags(script: str, args: dict) -> list[str]:
    """Flags that differ from the script's defaults, as one would type them, and the seed."""
    sys.path.insert(0, str(ROOT))
    defaults = asdict(importlib.import_module(script).Args())
    return [word for name, value in args.items() if name == "seed" or value != defaults[name]
            for word in (f"--{name.replace('_', '-')}", str(value))]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="runs/..., with its model.pt or checkpoint.pt")
    parser.add_argument("--commit", required=True, help="of the script that made the run")
    parser.add_argument("--variant", default="default", help="a word for the settings, for the file's name")
    options = parser.parse_args()
    path = options.folder / "model.pt"
    path = path if path.exists() else options.folder / "checkpoint.pt"
    state = torch.load(path, mmap=True, weights_only=True)
    script, args = state["script"], state["args"] | {"resume": "", "evaluate": ""}
    events = EventAccumulator(str(options.folder), size_guidance={"scalars": 0})
    events.Reload()
    about = {
        "script": script, "environment": args["env_id"], "seed": args["seed"], "commit": options.commit,
        "command": " ".join(["python", f"{script}.py", *changed_flags(script, args)]),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
    environment = args["env_id"].replace("/", "-")
    name = f"{script}__{environment}__{options.variant}__{args['seed']}.csv"
    out = ROOT / "benchmark" / "results" / name
    with open(out, "w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in about.items())
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["step", "return"])
        rows.writerows((event.step, event.value) for event in events.Scalars("charts/episodic_return"))
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
