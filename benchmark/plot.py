"""Figures and tables from the stored results alone: python benchmark/plot.py

Draws benchmark/figures/<suite>.png for each suite in benchmark/results/: over the transitions, the
interquartile mean of the seeds' training returns, with its 95 % bootstrap interval from five seeds on, and
below that each of them as a thin line.
Writes the tables into the README, that of a suite between <!-- suite --> and <!-- /suite --> and that of
speed.csv between <!-- speed --> and <!-- /speed -->; where a file has no such marks, they come at its end.
"""
import argparse
import os
import re
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from records import ROOT, read
from scipy import stats
from suites import POLICY, SUITES, VALUE

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

STYLES = [("black", "-"), ("#0072b2", "--"), ("#d55e00", "-."), ("#009e73", ":"), ("#cc79a7", (0, (8, 2))),
          ("#777777", (0, (3, 1, 1, 1, 1, 1)))]  # told apart by their dashes where there is no colour
LABELS = {suite: [label for label, *_ in curves] for suite, curves in SUITES.items()}
# each child beside its parent
FAMILIES = [["dqn", child] for child in VALUE[1:]] + [list(pair) for pair in pairwise(POLICY)]
FOUR_STEPS = [label for label in LABELS["pong-n-step"] if "eps" not in label]
PANELS = {suite: [labels] for suite, labels in LABELS.items()} | {  # which curves share a panel
    "cartpole": FAMILIES, "acrobot": FAMILIES,
    "pendulum": [list(POLICY), ["sac"]], "inverted-pendulum": [list(POLICY), ["sac"]],
    "pong": [["dqn", label] for label in LABELS["pong"][1:]] + [LABELS["pong"]],
    "pong-n-step": [[FOUR_STEPS[0], label] for label in LABELS["pong-n-step"][1:]] + [FOUR_STEPS],
    "reduction": [LABELS["reduction"][:2], LABELS["reduction"][2:]]}
FEWEST = 5  # seeds of an interval: that of two would hold their median in half of all cases, at best
PONG = "pong", "pong-n-step", "pong-eps"  # their tables say when curves are above 0 and 15


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: without the lowest and highest quarter, rounded down to whole values."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: np.ndarray) -> tuple:
    """Ends of the 95 % percentile bootstrap interval of the interquartile mean over the first axis."""
    found = stats.bootstrap((values,), iqm, axis=0, n_resamples=2000, method="percentile", rng=0)
    return found.confidence_interval


def aligned(rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (P,) and returns (S, P) of a label's seeds, from where all have one; where no episode ended in a
    bin, the value before it stands."""
    steps = np.unique([int(row["step"]) for row in rows])
    seeds = sorted({row["seed"] for row in rows}, key=int)
    value = np.full((len(seeds), len(steps)), np.nan)
    for row in rows:
        value[seeds.index(row["seed"]), np.searchsorted(steps, int(row["step"]))] = float(row["return"])
    last = np.maximum.accumulate(np.where(np.isnan(value), 0, np.arange(len(steps))), axis=1)
    value = np.take_along_axis(value, last, axis=1)
    there = ~np.isnan(value).any(axis=0)
    return steps[there], value[:, there]


def spread(heights: list[float], gap: float = 0.085, top: float = 1.0) -> list[float]:
    """The heights, ascending, moved apart to `gap`, and below `top`."""
    moved = list(heights)
    for _ in range(200):
        moved[-1] = min(moved[-1], top)
        for i in range(len(moved) - 1):
            lack = max(gap - moved[i + 1] + moved[i], 0)
            moved[i], moved[i + 1] = moved[i] - lack / 2, moved[i + 1] + lack / 2
    return moved


def draw(suite: str, curves: dict, path: Path) -> None:
    """A panel per group of the curves that are there, each named beside its end, with its dashes."""
    panels = [[label for label in panel if label in curves] for panel in PANELS[suite]]
    panels = [panel for i, panel in enumerate(panels)  # none twice, where some curves are not there
              if panel and not any(set(panel) <= set(other) for other in panels[:i])]
    columns = min(len(panels), 3 if len(panels) > 4 else 2)
    rows = -(-len(panels) // columns)
    size = (4 * columns, 2.4 * rows) if columns > 2 else (5 * columns, 3 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    ends = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for label, (color, dashes) in zip(panel, STYLES, strict=False):
            steps, values = curves[label]
            middle = iqm(values)
            axis.plot(steps, middle, color=color, linestyle=dashes, linewidth=1.6)
            if len(values) >= FEWEST:
                axis.fill_between(steps, *interval(values), color=color, alpha=0.15, linewidth=0)
            elif len(values) > 1:
                axis.plot(steps, values.T, color=color, linestyle=dashes, linewidth=0.5, alpha=0.6)
            ends[axis, label] = middle[-len(middle) // 10:].mean(), color, dashes
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step else "0")
        axis.set(xlabel="transitions", ylabel="return in training" if axis in axes[:, 0] else "")
    counts = {len(values) for _, values in curves.values()}  # of seeds
    bottom, top = axes[0, 0].get_ylim()
    for axis, panel in zip(axes.flat, panels, strict=False):
        panel = sorted(panel, key=lambda label: ends[axis, label][0])
        places = spread([(ends[axis, label][0] - bottom) / (top - bottom) for label in panel])
        for label, place in zip(panel, places, strict=True):
            _, color, dashes = ends[axis, label]
            axis.plot([1.02, 1.12], [place, place], color=color, linestyle=dashes, linewidth=1.6,
                      clip_on=False, transform=axis.transAxes)
            name = label if len(counts) == 1 else f"{label} ({len(curves[label][1])})"
            axis.text(1.14, place, name, va="center", fontsize=9, transform=axis.transAxes)
    for axis in axes.flat[len(panels):]:
        axis.remove()
    title = (f"interquartile mean of {max(counts)} seeds, 95 % interval" if min(counts) >= FEWEST else
             "mean of the seeds (thin lines)" if max(counts) > 1 else "one seed")
    figure.suptitle(f"{suite}: {title}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def above(curve: tuple | None, level: float) -> list[str]:
    """Transitions at which each seed's curve is first above the level, and from which on it stays there."""
    steps, values = curve or (np.empty(0), np.empty((0, 0)))
    high = values > level
    stays = np.logical_and.accumulate(high[:, ::-1], axis=1)[:, ::-1]
    return [" / ".join(f"{steps[row.argmax()]:,}" if row.any() else "never" for row in rows)
            for rows in (high, stays)]


def last_tenth(curve: tuple | None) -> str:
    """Lowest and highest point of all seeds' curves over the last tenth of the transitions."""
    if not curve:
        return ""
    steps, values = curve
    points = values[:, steps > 0.9 * steps[-1]]
    return f"{points.min():.1f} to {points.max():.1f}"


def report(suite: str, runs: list[dict], curves: dict, figure: str, source: str) -> str:
    """Command, figure, and table of the final evaluations; figure and source are links."""
    head = ["run", "seeds", "transitions", "evaluation", "95 % interval or each", "lowest", "last tenth"]
    head += ["first above 0 at", "stays above 0 from", "first above 15 at"] if suite in PONG else []
    rows = []
    for label in dict.fromkeys(row["label"] for row in runs):
        mine = sorted((row for row in runs if row["label"] == label), key=lambda row: int(row["seed"]))
        means = np.array([float(row["eval mean"]) for row in mine])
        ends = ("{:.1f} to {:.1f}".format(*interval(means)) if len(means) >= FEWEST else
                " / ".join(f"{mean:.1f}" for mean in means))
        asked = re.findall(r"--total-timesteps (\d+)", mine[0]["command"])  # the last one counts
        total = int(asked[-1]) if asked else curves[label][0][-1] if label in curves else ""
        rows.append([label, len(mine), f"{total:,}" if total else "", f"{iqm(means):.1f}", ends,
                     f"{means.min():.1f}", last_tenth(curves.get(label))])
        if suite in PONG:
            rows[-1] += above(curves.get(label), 0) + above(curves.get(label), 15)[:1]
    environment, machine = ("; ".join(dict.fromkeys(row[name] for row in runs))
                            for name in ("environment", "machine"))
    return (f"**{suite}** on {environment}: `python benchmark/learning.py --suite {suite}`\n\n"
            f"![{suite}]({figure})\n\n"
            f"{table(head, rows)}\n\n"
            f"Commands, commits, versions: [runs.csv]({source}). Machine: {machine}.\n")


def speed_report(rows: list[dict], source: str) -> str:
    """The table of speed.csv, which source links to."""
    head = ["row", "transitions/s", "against", "its transitions/s", "ratio", "lowest to highest", "rounds",
            "threads", "MB", "its MB"]
    cells = [[row["row"], row["ours"], row["against"], row["theirs"], row["ratio"],
              f"{row['lowest']} to {row['highest']}", row["rounds"], row["threads"], row["our MB"],
              row["their MB"]] for row in rows]
    made = "; ".join("; ".join(dict.fromkeys(row[name] for row in rows))
                     for name in ("machine", "versions", "date"))
    return (f"{table(head, cells)}\n\n`python benchmark/speed.py`: {made}. Each row's commands:"
            f" [speed.csv]({source}).\n")


def link(path: Path, readme: Path) -> str:
    """The path as a page beside the readme would link to it."""
    return Path(os.path.relpath(path, readme.parent)).as_posix()


def put(readme: Path, name: str, text: str) -> None:
    """Write the text between the marks of that name; where there are none, they come at the end."""
    old = readme.read_text() if readme.exists() else ""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if begin not in old or end not in old:
        old += f"{begin}{end}\n"
    readme.write_text(old[:old.index(begin)] + begin + text + old[old.index(end):])


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmark" / "results")
    parser.add_argument("--figures", type=Path, default=ROOT / "benchmark" / "figures")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args()
    for suite in SUITES:
        if (options.results / suite / "runs.csv").exists():
            runs, points = (read(options.results / suite / name) for name in ("runs.csv", "curves.csv"))
            curves = {label: aligned([row for row in points if row["label"] == label])
                      for label in dict.fromkeys(row["label"] for row in points)}
            figure, source = options.figures / f"{suite}.png", options.results / suite / "runs.csv"
            draw(suite, curves, figure)
            links = (link(path, options.readme) for path in (figure, source))
            put(options.readme, suite, report(suite, runs, curves, *links))
    speed = options.results / "speed.csv"
    if speed.exists():
        put(options.readme, "speed", speed_report(read(speed), link(speed, options.readme)))


if __name__ == "__main__":
    main()
