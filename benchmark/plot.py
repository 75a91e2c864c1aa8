"""Figures and tables from the stored results alone: python benchmark/plot.py

Draws benchmark/figures/<suite>.png for each suite in benchmark/results/, and front.png for the README. A
curve is the interquartile mean of the seeds' training returns over the transitions, with its 95 % bootstrap
interval from five seeds on. Of fewer seeds it is their mean, and each seed is a thin line.
Writes the tables into benchmark/README.md, each between marks such as <!-- board --> and <!-- /board -->, and
the two tables of the front page into README.md. Where a file has no such marks, they come at its end. With
--readme it writes only that file.
"""
import argparse
import os
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from records import ROOT, read
from suites import POLICY, SUITES, VALUE
from tables import (
    FEWEST,
    Result,
    board_report,
    front_report,
    front_speed_report,
    gpu_report,
    interval,
    iqm,
    overestimation_report,
    published_report,
    results_of,
    speed_report,
    suite_report,
)

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
FRONT = {  # suite: name and curves of a panel of the front page's figure
    "cartpole": ("CartPole", ("dqn", "vpg", "a2c", "ppo")),
    "hopper": ("Hopper", ("sac", "ppo")),
    "pong": ("Pong", ("dqn", "double_dqn", "noisy_dqn", "dqn n-step 4")),
}


def aligned(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Steps (P,) and returns (S, P) of a label's seeds, from where all have one; where no episode ended in a
    bin, the value before it stands."""
    steps = np.unique(np.concatenate([curve[:, 0] for curve in result.curves]))
    value = np.full((len(result.curves), len(steps)), np.nan)
    for row, curve in zip(value, result.curves, strict=True):
        row[np.searchsorted(steps, curve[:, 0])] = curve[:, 1]
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
            middle = iqm(values) if len(values) >= FEWEST else values.mean(0)
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
             "from five seeds on, interquartile mean and 95 % interval" if max(counts) >= FEWEST else
             "mean of the seeds (thin lines)" if max(counts) > 1 else "one seed")
    figure.suptitle(f"{suite}: {title}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_front(stored: dict, path: Path) -> None:
    """The front page's figure: a panel per suite, narrow enough for a phone. Each curve is the mean of the
    seeds, smoothed over 5 points, and is named at its end."""
    there = {suite: stored[suite] for suite in FRONT if suite in stored}
    figure, axes = plt.subplots(len(there), 1, figsize=(5, 2.1 * len(there)), squeeze=False,
                                layout="constrained")
    for axis, (suite, results) in zip(axes.flat, there.items(), strict=True):
        name, labels = FRONT[suite]
        curves, ends = {}, []
        for label, (color, _) in zip([label for label in labels if label in results], STYLES, strict=False):
            steps, values = aligned(results[label])
            curves[label] = steps[4:], np.convolve(values.mean(0), np.ones(5) / 5, "valid"), color
            axis.plot(*curves[label][:2], color=color, linewidth=2)
        axis.margins(y=0.2)
        (_, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        for label, (steps, middle, color) in curves.items():
            if steps[-1] > 0.8 * right:
                ends.append(((middle[-1] - bottom) / (top - bottom), label, color))
                continue
            others = [np.interp(steps[-1], *other[:2]) for other in curves.values()]
            over = middle[-1] >= max(others)
            axis.annotate(label, (steps[-1], middle[-1]), (0, 5 if over else -5), color=color, fontsize=11,
                          textcoords="offset points", va="bottom" if over else "top")
        ends.sort()
        for place, (_, label, color) in zip(spread([end[0] for end in ends], 0.15), ends, strict=True):
            axis.text(1.02, place, label, color=color, va="center", fontsize=11, transform=axis.transAxes)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k" if step else "0")
        axis.tick_params(labelsize=10)
        seeds = max(len(results[label].rows) for label in curves)
        title = f"{name}, {seeds} seeds" if seeds > 1 else f"{name}, one seed"
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_ylabel("return", fontsize=10)
    axes.flat[-1].set_xlabel("transitions", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)
    plt.close(figure)


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
    parser.add_argument("--readme", type=Path, help="default: benchmark/README.md, and README.md")
    options = parser.parse_args()
    page = options.readme or ROOT / "benchmark" / "README.md"
    stored = {suite: results_of(options.results / suite) for suite in SUITES
              if (options.results / suite / "runs.csv").exists()}
    for suite, results in stored.items():
        figure, source = options.figures / f"{suite}.png", options.results / suite / "runs.csv"
        draw(suite, {label: aligned(result) for label, result in results.items()}, figure)
        put(page, suite, suite_report(suite, results, *(link(path, page) for path in (figure, source))))
    published = read(ROOT / "benchmark" / "published.csv")
    put(page, "board", board_report(stored))
    put(page, "published", published_report(published, stored))
    over, speed = (options.results / f"{name}.csv" for name in ("overestimation", "speed"))
    if over.exists():
        put(page, "overestimation", overestimation_report(read(over), link(over, page)))
    if speed.exists():
        put(page, "speed", speed_report(read(speed), link(speed, page)))
    if (gpu := options.results / "gpu").exists():
        put(page, "gpu", gpu_report(gpu, link(gpu, page)))
    if not options.readme:
        draw_front(stored, options.figures / "front.png")
        put(ROOT / "README.md", "results", front_report(published, stored))
        put(ROOT / "README.md", "speed", front_speed_report(read(speed)))


if __name__ == "__main__":
    main()
