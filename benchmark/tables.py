"""The tables of both pages, as Markdown, from the stored results: plot.py writes them into the pages."""
import importlib
import math
import re
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import tyro
from records import ROOT, read
from scipy import stats

FEWEST = 5  # seeds of an interval: that of two would hold their median in half of all cases, at best
PONG = "pong", "pong-n-step", "pong-eps", "pong-policy"  # their tables say when curves are above 0 and 15
BOARD = {"cartpole": 475, "acrobot": -100, "inverted-pendulum": 950, "pendulum": -200, "hopper": 2500,
         "pong": 18, "pong-n-step": 18, "pong-policy": 18}  # suite: the score of the board
SHOWN = "cartpole", "pendulum", "hopper", "halfcheetah", "pong", "pong-policy"  # suites on the front page
PEERS = "stable-baselines3", "CleanRL"
UNKNOWN = "-"


class Result(NamedTuple):
    """What is stored of a label's seeds."""

    rows: list[dict]  # of runs.csv, by seed
    total: int  # transitions of a run
    evaluation: np.ndarray  # (S,) mean return of the final evaluation
    curves: list[np.ndarray]  # S curves of (last transition of a bin, mean training return in it, episodes)

    def training(self) -> np.ndarray:
        """(S,) mean return of the episodes in the last 5 % of the transitions, or else in the last bin that
        has one; (0,) without curves."""
        curves = [curve for curve in self.curves if len(curve)]
        late = [curve[curve[:, 0] > min(0.95 * self.total, curve[-1, 0] - 1)] for curve in curves]
        return np.array([np.average(part[:, 1], weights=part[:, 2]) for part in late])


def args_of(command: str):
    """The Args of a stored command, with today's defaults."""
    script, *words = command.split()[1:]
    sys.path.insert(0, str(ROOT))
    return tyro.cli(importlib.import_module(script.removesuffix(".py")).Args, args=words)


def results_of(folder: Path) -> dict[str, Result]:
    """Label -> what is stored of its seeds in the folder of a suite."""
    runs, points = read(folder / "runs.csv"), {}
    for row in read(folder / "curves.csv"):
        point = int(row["step"]), float(row["return"]), int(row["episodes"] or 1)  # runs of before: no count
        points.setdefault((row["label"], row["seed"]), []).append(point)
    found = {}
    for label in dict.fromkeys(row["label"] for row in runs):
        rows = sorted((row for row in runs if row["label"] == label), key=lambda row: int(row["seed"]))
        curves = [np.array(points.get((label, row["seed"]), [])).reshape(-1, 3) for row in rows]
        total = args_of(rows[0]["command"]).total_timesteps
        found[label] = Result(rows, total, np.array([float(row["eval mean"]) for row in rows]), curves)
    return found


# ---- statistics


def iqm(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Interquartile mean: without the lowest and highest quarter, rounded down to whole values."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(values: np.ndarray) -> tuple:
    """Ends of the 95 % percentile bootstrap interval of the interquartile mean over the first axis."""
    found = stats.bootstrap((values,), iqm, axis=0, n_resamples=2000, method="percentile", rng=0)
    return found.confidence_interval


def first_at(curve: np.ndarray, score: float, points: int = 5) -> float:
    """The transition at which the mean return of the episodes in so many successive points first reaches the
    score, or inf."""
    if len(curve) < points:
        return math.inf
    _, means, episodes = curve.T
    sums, counts = (np.convolve(part, np.ones(points), "valid") for part in (means * episodes, episodes))
    reached = np.flatnonzero(sums >= score * counts - 1e-9)
    return curve[reached[0] + points - 1, 0] if len(reached) else math.inf


def above(curves: list[np.ndarray], level: float) -> tuple[str, str]:
    """Transitions at which each curve is first above the level, and from which on it stays there."""
    firsts, stays = [], []
    for curve in curves:
        high = curve[:, 1] > level
        last_low = np.flatnonzero(~high)[-1] if (~high).any() else -1
        firsts.append(f"{curve[high.argmax(), 0]:,.0f}" if high.any() else "never")
        stays.append(f"{curve[last_low + 1, 0]:,.0f}" if last_low + 1 < len(curve) else "never")
    return " / ".join(firsts), " / ".join(stays)


# ---- text


def table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread_of(values: np.ndarray, digits: int = 1) -> str:
    """Mean and, of several seeds, standard deviation."""
    if not len(values):
        return UNKNOWN
    deviation = f" ± {values.std(ddof=1):,.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():,.{digits}f}{deviation}"


def suite_table(suite: str, results: dict[str, Result]) -> str:
    """A row per label: both ways of measuring, and for Pong where the curves cross 0 and 15."""
    seeds = max(len(result.rows) for result in results.values())
    rows = []
    for label, result in results.items():
        values = result.evaluation
        row = {"run": label, "seeds": len(values), "transitions": f"{result.total:,}",
               "evaluation": spread_of(values)}
        if seeds >= FEWEST:
            many = len(values) >= FEWEST
            row["its IQM"] = f"{iqm(values):,.1f}" if many else UNKNOWN
            row["95 % interval"] = "{:,.1f} to {:,.1f}".format(*interval(values)) if many else UNKNOWN
        if seeds > 1:
            row["lowest"] = f"{values.min():,.1f}"
        row["training, last 5 %"] = spread_of(result.training())
        if suite in PONG:
            row["first above 0 at"], row["stays above 0 from"] = above(result.curves, 0)
            row["first above 15 at"] = above(result.curves, 15)[0]
        rows.append(row)
    return table(list(rows[0]), [list(row.values()) for row in rows])


def seeds_table(results: dict[str, Result]) -> str:
    """Each seed's evaluation and training return, of up to ten seeds."""
    seeds = sorted({int(row["seed"]) for result in results.values() for row in result.rows})[:10]
    rows = []
    for label, result in results.items():
        for name, values in (("evaluation", result.evaluation), ("training, last 5 %", result.training())):
            own = [int(row["seed"]) for row in result.rows]
            cells = dict(zip(own, values, strict=False)) if len(values) == len(own) else {}
            rows.append([label, name, *(f"{cells[seed]:,.1f}" if seed in cells else "" for seed in seeds)])
    return table(["run", "measure", *(f"seed {seed}" for seed in seeds)], rows)


def suite_report(suite: str, results: dict[str, Result], figure: str, source: str) -> str:
    """Command, figure and tables of a suite; figure and source are links."""
    every = [row for result in results.values() for row in result.rows]
    environment, machine, commits = ("; ".join(dict.fromkeys(row[name] for row in every))
                                     for name in ("environment", "machine", "commit"))
    each = f"<details><summary>Each seed</summary>\n\n{seeds_table(results)}\n\n</details>\n\n"
    return (f"**{suite}** on {environment}: `python benchmark/learning.py --suite {suite}`\n\n"
            f"![{suite}]({figure})\n\n"
            f"{suite_table(suite, results)}\n\n{each if len(every) > len(results) else ''}"
            f"Commands and versions: [runs.csv]({source}). Commits: {commits}. Machine: {machine}.\n")


def board_rows(stored: dict[str, dict[str, Result]]) -> list[list]:
    """Time to a score: the fastest label first, by the median of its seeds."""
    found = []
    for suite, score in BOARD.items():
        rows = []
        for label, result in stored.get(suite, {}).items():
            steps = [first_at(curve, score) for curve in result.curves]
            seconds = [float(row["wall seconds"] or "nan") / result.total for row in result.rows]
            seconds = [step * each for step, each in zip(steps, seconds, strict=True)]
            known = math.isfinite(median(steps)) and not any(map(math.isnan, seconds))
            rows.append((median(steps), [
                f"{result.rows[0]['environment']}, {score:,}", label,
                f"{sum(map(math.isfinite, steps))} of {len(steps)}",
                f"{median(steps):,.0f}" if math.isfinite(median(steps)) else UNKNOWN,
                f"{median(seconds):,.0f}" if known else UNKNOWN, f"{result.total:,}"]))
        found += [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return found


def board_report(stored: dict[str, dict[str, Result]]) -> str:
    head = ["environment, score", "run", "seeds that reach it", "transitions, median", "seconds, median",
            "budget"]
    return table(head, board_rows(stored)) + "\n"


def updates_of(command: str) -> str:
    """Gradient steps of a run of this command, where its flags tell."""
    args = args_of(command)
    if hasattr(args, "learning_starts"):
        return f"{(args.total_timesteps - args.learning_starts) // args.train_frequency:,}"
    if not hasattr(args, "num_steps"):
        return UNKNOWN  # depends on the lengths of the episodes
    rollouts = -(-args.total_timesteps // (args.num_envs * args.num_steps))
    return f"{rollouts * getattr(args, 'update_epochs', 1) * getattr(args, 'num_minibatches', 1):,}"


def score_of(row: dict) -> str:
    """A published score, with the digits it was published with."""
    text = f"{float(row['score']):,}".removesuffix(".0")
    return text + (f" ± {float(row['spread']):,}" if row["spread"] else "")


def verdict(ours: np.ndarray, theirs: float, spread: float, seeds: int) -> str:
    """Whether our mean differs from theirs with p < .05 by Welch's t-test. Where their deviation is not known
    (0), the test is whether their mean could be one more run of ours."""
    difference = ours.mean() - theirs
    if len(ours) == 1 or difference == 0:
        return "one seed" if difference else "equal"
    p = stats.ttest_ind_from_stats(ours.mean(), ours.std(ddof=1), len(ours), theirs, spread,
                                   seeds if spread else 1, equal_var=not spread).pvalue
    return "undecided" if p >= 0.05 else "higher" if difference > 0 else "**lower**"


def published_report(published: list[dict], stored: dict[str, dict[str, Result]]) -> str:
    """Every published number beside ours, measured the same way, with protocol and source."""
    head = ["environment", "run", "measure", "ours", "our seeds", "our transitions", "our updates", "theirs",
            "by", "their seeds", "their version", "their transitions", "their updates", "ours is"]
    rows = []
    for row in published:
        result = stored.get(row["suite"], {}).get(row["label"])
        ours = [UNKNOWN, "", "", ""]
        values = {"training": Result.training, "evaluation": lambda result: result.evaluation}
        values = values[row["measure"]](result) if result and row["measure"] else np.empty(0)
        if len(values):
            command = result.rows[0]["command"]
            ours = [spread_of(values), len(values), f"{result.total:,}", updates_of(command)]
        updates = f"{int(row['updates']):,}" if row["updates"] else UNKNOWN
        rows.append([row["environment"], row["label"], row["measure"] or UNKNOWN, *ours, score_of(row),
                     f"[{row['project']}]({row['source']})", row["seeds"] or UNKNOWN,
                     row["version"] or UNKNOWN, f"{int(row['transitions']):,}", updates,
                     verdict(values, float(row["score"]), float(row["spread"] or 0), int(row["seeds"] or 1))
                     if len(values) else "not run"])
    return table(head, rows) + "\n"


def short(number: str | int) -> str:
    """500k for 500000, 1M for 1000000."""
    number = int(number)
    return f"{number / 1e6:g}M" if number >= 1_000_000 else f"{number / 1000:g}k"


def front_report(published: list[dict], stored: dict[str, dict[str, Result]]) -> str:
    """For the front page: a row per environment and run, both ways of measuring, without numbers that were
    read off a plot."""
    rows = []
    for suite, label in dict.fromkeys((row["suite"], row["label"]) for row in published):
        result = stored.get(suite, {}).get(label)
        if not result or suite not in SHOWN:
            continue
        cells, digits = {}, 0 if abs(result.evaluation.mean()) >= 100 else 1
        for row in published:
            if (row["suite"], row["label"]) == (suite, label) and "its plot" not in row["project"]:
                project = re.sub(r" \(.*", "", row["project"])
                cells.setdefault(row["measure"], []).append(
                    f"{float(row['score']):,.{digits}f} ({project}, {short(row['transitions'])})")
        if not cells:
            continue
        budget = short(result.total)
        rows.append([result.rows[0]["environment"].removeprefix("ALE/"),
                     f"{label.removesuffix(f' {budget}')}, {budget}",
                     len(result.rows), spread_of(result.evaluation, digits),
                     "; ".join(cells.get("evaluation", [UNKNOWN])), spread_of(result.training(), digits),
                     "; ".join(cells.get("training", [UNKNOWN]))])
    head = ["environment", "run", "seeds", "evaluation", "published", "training", "published"]
    return table(head, rows) + "\n"


def overestimation_report(rows: list[dict], source: str) -> str:
    """Estimate, realised value and gap over the second half of training, and the gap's standard error."""
    cells = []
    for script in dict.fromkeys(row["script"] for row in rows):
        seeds = {}
        for row in rows:
            if row["script"] == script:
                seeds.setdefault(row["seed"], []).append((float(row["estimate"]), float(row["realised"])))
        means = np.array([np.mean(values[len(values) // 2:], axis=0) for values in seeds.values()])  # (S, 2)
        gaps = means[:, 0] - means[:, 1]
        error = f"{gaps.std(ddof=1) / len(gaps)**0.5:.2f}" if len(gaps) > 1 else UNKNOWN
        cells.append([script, len(seeds), *(f"{mean:.2f}" for mean in (*means.mean(0), gaps.mean())), error])
    head = ["script", "seeds", "estimate", "realised", "gap", "standard error"]
    commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
    return (f"{table(head, cells)}\n\n`{rows[0]['command']}`: [overestimation.csv]({source}). Commits:"
            f" {commits}. Machine: {rows[0]['machine']}.\n")


def speed_report(rows: list[dict], source: str) -> str:
    """The table of speed.csv, which source links to, without the comparisons with the scripts of before."""
    rows = [row for row in rows if row["against"] != "first edition"]
    head = ["row", "transitions/s", "against", "its transitions/s", "ratio", "lowest to highest", "rounds",
            "threads", "MB", "its MB", "commit"]
    cells = [[row["row"], row["ours"], row["against"], row["theirs"], row["ratio"],
              f"{row['lowest']} to {row['highest']}", row["rounds"], row["threads"], row["our MB"],
              row["their MB"], row["commit"]] for row in rows]
    made = "; ".join(dict.fromkeys(part for name in ("machine", "versions", "date") for row in rows
                                   for part in row[name].split("; ")))
    command = "python benchmark/speed.py --old FOLDER --cleanrl FOLDER --cleanrl-python PYTHON"
    return f"{table(head, cells)}\n\n`{command}`: {made}. Each row's commands: [speed.csv]({source}).\n"


def gpu_report(folder: Path, source: str) -> str:
    """What gpu.py found: speed of both devices, an update with and without a CUDA graph, the profile."""
    pairs = {}
    for row in read(folder / "speed.csv"):
        command = row["command"].removeprefix("python ").replace(" --checkpoint-frequency 0", "")
        pairs.setdefault(command, []).append(row)
    cells = [[f"`{command}`", *(pair[i][name] for name in ("transitions/s", "updates/s") for i in (0, 1)),
              f"{float(pair[0]['transitions/s']) / float(pair[1]['transitions/s']):.2f}"]
             for command, pair in pairs.items()]
    devices = [row["device"] for row in next(iter(pairs.values()))]
    head = ["run", *(f"{device} {name}" for name in ("transitions/s", "updates/s") for device in devices),
            "ratio"]
    names = "eager ms", "graph ms", "times", "error"
    trial = table(["an update of", *names],
                  [[row["script"], *(row[name] for name in names)] for row in read(folder / "graphs.csv")])
    profile = (folder / "profile-dqn.txt").read_text()
    cpu, gpu = re.findall(r"Self (?:CPU|CUDA) time total: (\S+)", profile)[:2]
    row = next(iter(pairs.values()))[0]
    return (f"{table(head, cells)}\n\n{trial}\n\n"
            f"In a [profile]({source}/profile-dqn.txt) of 500 transitions and 300 updates of the first row"
            f" the processor works {cpu} and the card {gpu}.\n\n"
            f"Commit {row['commit']}. Machine: {row['machine']}; {row['versions']}. Files:"
            f" [gpu]({source}).\n")


def front_speed_report(rows: list[dict]) -> str:
    """For the front page: a line per row of the benchmark, against other projects."""
    others = [name for name in PEERS if any(row["against"] == name for row in rows)]
    cells = []
    for name in dict.fromkeys(row["row"] for row in rows if row["against"] in others):
        if name in ("dqn-8-envs", "ppo-hopper"):  # no room
            continue
        mine = {row["against"]: row for row in rows if row["row"] == name}
        first = next(mine[other] for other in others if other in mine)
        cells.append([name, f"{float(first['ours']):,.0f}"])
        for other in others:
            row = mine.get(other)
            cells[-1] += [f"{float(row['theirs']):,.0f}", row["ratio"]] if row else [UNKNOWN, UNKNOWN]
        sizes = first["our MB"], mine[others[0]]["their MB"] if others[0] in mine else math.nan
        cells[-1] += [f"{float(size):,.0f}" for size in sizes]
    head = ["row", "ours/s", *(part for name in others for part in (f"{name}/s", "ratio")), "MB",
            f"{others[0]}'s MB" if others else "MB"]
    return table(head, cells) + "\n"
