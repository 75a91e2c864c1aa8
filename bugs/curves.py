"""What each patch does to a learning curve: python bugs/curves.py

Runs the script of each patch without and with it, on a small environment, five seeds each. From the stored
bugs/curves.csv it draws bugs/curves.png and writes the table of bugs/README.md. Runs that are stored
are skipped, so the same command goes on after a stop; `python bugs/curves.py --draw` makes figure and table
alone. Needs benchmark/requirements.txt.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BUGS = Path(__file__).resolve().parent
sys.path.insert(0, str(BUGS.parent / "benchmark"))

import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from learning import binned  # noqa: E402
from plot import put  # noqa: E402
from records import ROOT, read, write  # noqa: E402
from tables import spread_of, table  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

SEEDS = range(1, 6)
PENDULUM = "sac --total-timesteps 5000"
TWO_JOINTS = "ppo --env-id Reacher-v5 --total-timesteps 60000 --gamma 0.95 --gae-lambda 0.95 --norm-obs"
COMMANDS = {  # script and flags; their budget is --total-timesteps
    "dqn-time-limit": "dqn --total-timesteps 30000",
    "ppo-time-limit": "ppo --total-timesteps 50000",
    "sac-time-limit": PENDULUM,
    "gamma-not-to-the-n": "dqn --total-timesteps 30000",
    "next-episode-as-successor": "dqn --total-timesteps 30000",
    "target-from-online-network": "dqn --total-timesteps 30000",
    "double-dqn-swapped-networks": "double_dqn --total-timesteps 30000",
    "dueling-mean-over-batch": "dueling_dqn --total-timesteps 30000",
    "noisy-one-draw-for-both": "noisy_dqn --total-timesteps 30000",
    "per-weighted-errors-as-priorities": "per_dqn --total-timesteps 30000",
    "per-beta-fixed": "per_dqn --total-timesteps 30000",
    "reinforce-whole-return-for-every-step": "reinforce --total-timesteps 150000",
    "reinforce-mean-times-sum": "reinforce --total-timesteps 150000",
    "a2c-no-bootstrap-at-the-rollouts-end": "a2c --total-timesteps 100000",
    "gae-across-an-end": "ppo --total-timesteps 50000",
    "ppo-ratio-against-itself": "ppo --total-timesteps 50000",
    "ppo-advantages-normalised-over-the-wrong-axis": "ppo --total-timesteps 50000",
    "ppo-normaliser-not-saved": TWO_JOINTS,
    "gaussian-no-sum-over-actions": TWO_JOINTS,
    "sac-no-tanh-correction": PENDULUM,
    "sac-target-entropy-sign": PENDULUM,
    "sac-maximum-of-the-critics": PENDULUM}


def perform(patch: str, command: str, seed: int) -> list[dict]:
    """Rows of the curve of one run, in a copy of the script; without a patch its name is empty."""
    script, *flags = command.split()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(ROOT / f"{script}.py", folder)
        if patch:
            subprocess.run(["git", "apply", BUGS / f"{patch}.patch"], cwd=folder, check=True)
        words = [sys.executable, f"{script}.py", *flags, "--seed", str(seed)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        out = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout
        (run,) = Path(folder).glob("runs/*")
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        episodes = [(event.step, event.value) for event in events.Scalars("charts/episodic_return")]
    evaluation = re.findall(r"^eval: mean (\S+)", out, re.M)[-1]
    curve = binned(episodes, int(command.partition("--total-timesteps ")[2].split()[0]), bins=25)
    key = {"command": command, "patch": patch, "seed": str(seed)}
    return [key | {"step": str(step), "return": f"{value:.6g}", "evaluation": evaluation}
            for step, value, _ in curve]


def draw(rows: list[dict], path: Path) -> None:
    """A panel per patch: right and wrong, the mean of the seeds and each seed."""
    there = [patch for patch in COMMANDS if any(row["patch"] == patch for row in rows)]
    lines = -(-len(there) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(11, 2.1 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(there):]:
        axis.remove()
    for axis, patch in zip(axes.flat, there, strict=False):
        for side, color, label in ("", "#0072b2", "right"), (patch, "#d55e00", "wrong"):
            curve = [row for row in rows if row["patch"] == side and row["command"] == COMMANDS[patch]]
            if not curve:
                continue
            points = {}
            for row in curve:
                points.setdefault(int(row["step"]), []).append(float(row["return"]))
            for seed in {row["seed"] for row in curve}:
                own = [(int(row["step"]), float(row["return"])) for row in curve if row["seed"] == seed]
                axis.plot(*zip(*own, strict=True), color=color, linewidth=0.5, alpha=0.5)
            middle = sorted((step, sum(point) / len(point)) for step, point in points.items())
            axis.plot(*zip(*middle, strict=True), color=color, linewidth=2, linestyle="--" if side else "-",
                      label=label)
            last = {row["seed"]: float(row["evaluation"]) for row in curve}.values()
            axis.plot([], [], " ", label=f"evaluation {sum(last) / len(last):.0f}")
        axis.set_title(patch, fontsize=8, loc="left")
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, frameon=False)
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step else "0")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def report(rows: list[dict]) -> str:
    """A row per patch: both measures without and with it, mean and standard deviation of the seeds."""
    lines = []
    for patch, command in COMMANDS.items():
        cells = []
        for side in "", patch:
            seeds = {}
            for row in rows:
                if row["patch"] == side and row["command"] == command:
                    seeds.setdefault(row["seed"], []).append((float(row["return"]), float(row["evaluation"])))
            cells.append(np.array([np.mean(points, axis=0) for points in seeds.values()]))  # (S, 2)
        lines.append([patch, *(spread_of(side[:, i]) for i in (0, 1) for side in cells)])
    head = ["patch", "return in training, without", "with the patch", "evaluation, without", "with the patch"]
    return table(head, lines) + "\n"


def main() -> None:
    path = BUGS / "curves.csv"
    todo = [(side, command, seed) for seed in SEEDS for patch, command in COMMANDS.items()
            for side in ("", patch)]
    for side, command, seed in dict.fromkeys(todo) if "--draw" not in sys.argv else ():
        key = {"command": command, "patch": side, "seed": str(seed)}
        rows = read(path)
        if not any(key.items() <= row.items() for row in rows):
            rows += perform(side, command, seed)
            write(path, rows)
            print(key, rows[-1]["evaluation"], flush=True)
    draw(read(path), BUGS / "curves.png")
    put(BUGS / "README.md", "curves", report(read(path)))


if __name__ == "__main__":
    main()
