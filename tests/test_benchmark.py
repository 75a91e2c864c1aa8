"""The benchmark's suites name flags that exist, its results survive a crash, and its arithmetic is right."""
import fcntl
import functools
import math
import os
import re
import signal
import subprocess
import sys
import time
from statistics import fmean, median, stdev

import pytest
import tyro
from common import ROOT, as_it_was, call, checkpoint, load

sys.path.insert(0, str(ROOT / "benchmark"))
import learning  # noqa: E402
import records  # noqa: E402
import speed  # noqa: E402
import suites  # noqa: E402

THERE = {path.stem for path in ROOT.glob("*.py")}
RESULTS, PUBLISHED = ROOT / "benchmark" / "results", records.read(ROOT / "benchmark" / "published.csv")
PAGE, FRONT = (ROOT / "benchmark" / "README.md").read_text(), (ROOT / "README.md").read_text()


def fields_of(words: list[str]) -> set[str]:
    return {word[2:].removeprefix("no-").replace("-", "_") for word in words if word.startswith("--")}


def assert_taken(script: str, words: list[str], cwd) -> None:
    """The script refuses none of these flags."""
    args = tyro.cli(load(script).Args, args=words)
    with as_it_was(cwd):  # MuJoCo may write a log
        envs, _ = load(script).set_up(args)
        load(script).check(args, envs)
        envs.close()


@pytest.mark.parametrize("suite", [  # these three have every script
    suite if suite in ("cartpole", "pendulum", "pong") else pytest.param(suite, marks=pytest.mark.slow)
    for suite in suites.SUITES])
def test_suite_names_flags_that_exist(suite, tmp_path):
    """... with values that the script takes, and no two of its runs are alike."""
    runs = suites.runs_of(suite)
    assert {run.script for run in runs} == {curve[1] for curve in suites.SUITES[suite]} & THERE
    for run in runs:
        python, script, *words = run.command.split()
        assert (python, script) == ("python", f"{run.script}.py")
        assert fields_of(words) <= set(vars(load(run.script).Args())), run.command
        if run.seed == "1":
            assert_taken(run.script, words, tmp_path)
    assert len({run.command for run in runs}) == len({(run.label, run.seed) for run in runs}) == len(runs)


def test_rows_of_speed_name_flags_that_exist_and_equal_budgets(tmp_path):
    for name, row in speed.ROWS.items():
        for side in (row.ours, *row.theirs.values()):
            assert speed.transitions(side) == speed.transitions(row.ours), name
            script, *words = side.split()
            if script.removesuffix(".py") in THERE:
                assert_taken(script.removesuffix(".py"), words, tmp_path)


def test_a_ratio_of_speeds_is_the_median_of_its_rounds():
    """Theirs over ours: 3, 1 and 4. That of the medians is 1.5."""
    sides = {"ours": ("", str(ROOT), speed.ROWS["dqn"].ours),
             speed.SB3: ("", str(ROOT), speed.ROWS["dqn"].theirs[speed.SB3])}
    ours, theirs = ([{"seconds": seconds, "megabytes": 1, "versions": ""} for seconds in part]
                    for part in ((2, 4, 5), (6, 4, 20)))
    row = speed.summary("dqn", speed.SB3, sides, ours, theirs)
    assert [row[name] for name in ("ours", "theirs", "ratio", "lowest", "highest", "rounds")] == [
        "10000.0", "6666.7", "3.00", "1.00", "4.00", 3]


def test_run_line(tmp_path, monkeypatch):
    """Of the environment asked for, continued lines joined; nothing where there is none."""
    lines = ['"""One.', "", "Run:", "    python x.py", "    python x.py --env-id A-v1 --gamma 0.9 \\\\",
             "        --n-step 3", '"""']
    (tmp_path / "x.py").write_text("\n".join(lines))
    monkeypatch.setattr(suites, "ROOT", tmp_path)
    assert suites.run_line("x", "A-v1").split() == ["--gamma", "0.9", "--n-step", "3"]
    assert suites.run_line("x", "B-v1") == ""


def test_binned():
    """Bins of 10 transitions: a bin holds its last transition, and the last one what is beyond the end."""
    episodes = [(1, 2.0), (10, 4.0), (11, 5.0), (35, 7.0), (103, 1.0), (99, 3.0)]
    assert learning.binned(episodes, 100, 10) == [(10, 3.0, 2), (20, 5.0, 1), (40, 7.0, 1), (100, 2.0, 2)]


def make_run(label: str = "dqn", seed: str = "1", command: str = "python dqn.py") -> suites.Run:
    return suites.Run("cartpole", label, label, "CartPole-v1", seed, command)


def test_store_replaces_a_run_and_keeps_the_order(tmp_path):
    path = tmp_path / "cartpole" / "runs.csv"
    for run, value in ((make_run("per_dqn"), 1), (make_run(seed="10"), 2), (make_run(seed="2"), 3),
                       (make_run(seed="10"), 4)):
        learning.store(run, path, [{"eval mean": value, "command": run.command}])
    found = [(row["label"], row["seed"], row["eval mean"]) for row in records.read(path)]
    assert found == [("dqn", "2", "3"), ("dqn", "10", "4"), ("per_dqn", "1", "1")]
    assert learning.is_stored(make_run(seed="2"), tmp_path)
    assert not learning.is_stored(make_run(seed="3"), tmp_path)
    assert not learning.is_stored(make_run(seed="2", command="python dqn.py --gamma 0.9"), tmp_path)


def test_a_crash_while_writing_keeps_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    records.write(path, [{"a": "1"}])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        records.write(path, [{"a": "2"}])
    assert records.read(path) == [{"a": "1"}]


def test_another_budget_spares_the_stored_results(monkeypatch, capsys):
    def perform(*_):
        raise RuntimeError("not run")
    monkeypatch.setattr(learning, "perform", perform)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for flags, results in ((), "benchmark/results"), (("--total-timesteps", "5"), "runs/tried"):
        monkeypatch.setattr(sys, "argv", ["learning.py", "--suite", "cartpole", "--seeds", "99", *flags])
        with pytest.raises(SystemExit):
            learning.main()
        assert f"9 runs, 0 of them in {ROOT / results}" in capsys.readouterr().out


# ---- whole runs

def start(tmp_path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, ROOT / "benchmark" / "learning.py", "--suite", "cartpole", "--only", "dqn",
               "--seeds", "1", "--results", tmp_path / "results", "--runs", tmp_path / "runs", *flags]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(condition) -> None:
    end = time.time() + 60
    while not condition():
        assert time.time() < end
        time.sleep(0.05)


def logs(tmp_path) -> list:
    return list(tmp_path.glob("runs/cartpole/*/*.log"))


@pytest.mark.slow
def test_parent_is_killed_and_its_run_waited_for(tmp_path):
    """After kill -9 the run goes on by itself; the next start neither begins it again nor loses it."""
    first = start(tmp_path, "--total-timesteps", "2000")
    wait_for(lambda: logs(tmp_path))
    time.sleep(0.2)  # from its log to its process
    first.send_signal(signal.SIGKILL)
    first.wait()
    (lock,) = tmp_path.glob("runs/cartpole/*.lock")
    with open(lock) as file, pytest.raises(BlockingIOError):  # the run, still importing, has it
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    out, _ = start(tmp_path, "--total-timesteps", "2000").communicate(timeout=120)
    assert len(logs(tmp_path)) == 1, out
    (row,) = records.read(tmp_path / "results" / "cartpole" / "runs.csv")
    text = logs(tmp_path)[0].read_text()
    assert row["eval mean"] == re.findall(r"eval: mean (\S+)", text)[-1]
    assert row["command"] == "python dqn.py --env-id CartPole-v1 --seed 1 --total-timesteps 2000"
    assert all(row.values()) and float(row["wall seconds"]) > 0
    curve = records.read(tmp_path / "results" / "cartpole" / "curves.csv")
    assert len(curve) > 10 and int(curve[-1]["step"]) <= 2000 and float(curve[0]["return"]) > 5
    again, _ = start(tmp_path, "--total-timesteps", "2000").communicate(timeout=120)
    assert "1 runs, 1 of them in" in again and len(logs(tmp_path)) == 1


def has_begun(folder) -> bool:
    """Whether there is a checkpoint beyond the first, which is of step 0."""
    return any(checkpoint(path)["step"] for path in folder.glob("runs/*/checkpoint.pt"))


@pytest.mark.slow
def test_run_is_killed_and_resumed(tmp_path, monkeypatch):
    """From its checkpoint, to the curve and the evaluation of a run never stopped."""
    (run,) = [run for run in suites.runs_of("cartpole", ["dqn"], [1], 6000)]
    run = run._replace(command=f"{run.command} --checkpoint-frequency 1000")
    found = []
    for folder, kill in (tmp_path / "whole", False), (tmp_path / "halves", True):
        active = {}
        if kill:
            def popen(*words, active=active, folder=folder, begin=subprocess.Popen, **names):
                process = begin(*words, **names)
                wait_for(lambda: has_begun(folder))
                process.kill()
                return process
            with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="exit status -9"):
                patch.setattr(subprocess, "Popen", popen)
                learning.perform(run, folder, 1, active)
            assert 0 < checkpoint(next(folder.glob("runs/*/checkpoint.pt")))["step"] < 6000
        learning.perform(run, folder, 1, active)
        assert len(list(folder.glob("runs/*"))) == 1 and len(list(folder.glob("*.log"))) == 1 + kill
        learning.harvest(run, folder, tmp_path / f"{folder.name}-results", "abc")
        table = tmp_path / f"{folder.name}-results" / "cartpole"
        found.append((learning.evaluation(folder), (table / "curves.csv").read_text()))
        assert not list(folder.glob("runs/*/checkpoint.pt"))
    assert found[0] == found[1]


# ---- figures and tables

def write_results(results) -> None:
    """Five seeds of dqn and three of ppo, whose returns are step * seed at 10 and 20 transitions."""
    for label in ("dqn", "ppo"):
        for seed in "12345" if label == "dqn" else "213":
            run = make_run(label, seed, f"python {label}.py --total-timesteps 20")
            mean = "500.00" if label == "dqn" else f"50{seed}.00"
            row = {"eval mean": mean, "wall seconds": "120", "commit": "abc", "command": run.command,
                   "versions": "torch 2", "machine": "a machine"}
            learning.store(run, results / "cartpole" / "runs.csv", [row])
            points = [{"step": str(step), "return": str(step * int(seed)), "episodes": "1"}
                      for step in (10, 20)]
            learning.store(run, results / "cartpole" / "curves.csv", points)


@pytest.mark.slow
def test_statistics(tmp_path):
    """Of the tables and figures, by hand."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    import numpy as np
    import plot
    import tables
    values = np.array([[100.0], [0.0], [4.0], [2.0], [3.0], [5.0], [1.0], [-9.0]])
    assert tables.iqm(values) == 2.5  # of 1, 2, 3 and 4
    low, high = tables.interval(values)
    assert -9 <= low < 2.5 < high <= 100
    curves = [np.array([(10, 1), (30, 3)]), np.array([(20, 5), (40, 6)])]
    steps, returns = plot.aligned(tables.Result([], 40, np.zeros(2), curves))
    assert steps.tolist() == [20, 30, 40] and returns.tolist() == [[1, 3, 3], [5, 5, 6]]
    assert tables.above(curves, 1) == ("30 / 20", "30 / 20")
    assert tables.above([np.array([(20, 2), (30, 0)]), np.array([(20, 0), (40, 1)])], 0) == (
        "20 / 40", "never / 40")
    curve = np.array([(step, step) for step in range(1, 11)])
    curve = np.c_[curve, np.ones(10)]
    assert tables.first_at(curve, 3) == 5  # the mean of 1 to 5
    assert tables.first_at(curve, 3.5) == 6 and tables.first_at(curve, 8) == 10
    assert tables.first_at(curve, 8.1) == math.inf == tables.first_at(curve[:4], 0)
    curve[4, 2] = 5  # the fifth point has five episodes: (1 + 2 + 3 + 4 + 5 * 5) / 9
    assert tables.first_at(curve, 35 / 9) == 5 and tables.first_at(curve, 3.9) == 6
    result = tables.Result([], 10, np.zeros(1), [curve, np.array([(4, 2, 1), (5, 8, 3)])])
    assert result.training().tolist() == [10, 8]  # of the last twentieth; of the last point there is
    result = tables.Result([], 200, np.zeros(1), [np.array([(180, 0, 9), (192, 2, 1), (200, 8, 3)])])
    assert result.training().tolist() == [6.5]
    ours = np.array([98.0, 100.0, 102.0])  # a single run differs beyond 4.303 * 2 * sqrt(4 / 3) = 9.94
    for theirs, word in (109.9, "undecided"), (110.0, "**lower**"), (90.0, "higher"), (100.0, "equal"):
        assert tables.verdict(ours, theirs, 0, 1) == word
    assert tables.verdict(np.array([99.5]), 100, 0, 1) == "one seed"
    # Welch: of 97 +- 2 over 3 seeds t is 3 / sqrt(8 / 3) = 1.84, and 2.776 is needed; of 95.4 it is 2.82
    assert tables.verdict(ours, 97, 2, 3) == "undecided" and tables.verdict(ours, 95.4, 2, 3) == "higher"
    dqn = "python dqn.py --learning-starts 1000 --train-frequency 4 --total-timesteps 5000"
    ppo = "python ppo.py --num-envs 2 --num-steps 8 --total-timesteps 17 --update-epochs 3"  # 2 minibatches
    assert (tables.updates_of(dqn), tables.updates_of(ppo)) == ("1,000", "12")
    assert tables.updates_of("python vpg.py") == "-"
    places = plot.spread([0.5, 0.5, 0.52, 1.2], 0.1)
    assert max(places) <= 1.0 + 1e-6 and min(np.diff(places)) > 0.09


@pytest.mark.slow
def test_plot(tmp_path):
    """From stored results alone: figures and tables, between their marks, with links from where they are."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    results, readme = tmp_path / "results", tmp_path / "README.md"
    readme.write_text("before\n<!-- cartpole -->\nold\n<!-- /cartpole -->\nafter\n")
    write_results(results)
    front = FRONT, (ROOT / "benchmark" / "figures" / "front.png").read_bytes()
    command = [sys.executable, ROOT / "benchmark" / "plot.py", "--results", results, "--figures",
               tmp_path / "figures", "--readme", readme]
    subprocess.run(command, check=True)
    text = readme.read_text()
    assert (tmp_path / "figures" / "cartpole.png").stat().st_size > 5000
    assert text.startswith("before\n<!-- cartpole -->\n**cartpole**") and "old" not in text
    assert "<!-- /cartpole -->\nafter\n" in text
    assert "| dqn | 5 | 20 | 500.0 ± 0.0 | 500.0 | 500.0 to 500.0 | 500.0 | 60.0 ± 31.6 |" in text
    assert "| ppo | 3 | 20 | 502.0 ± 1.0 | - | - | 501.0 | 40.0 ± 20.0 |" in text  # fewer seeds than five
    assert "| ppo | evaluation | 501.0 | 502.0 | 503.0 |  |  |" in text
    subprocess.run(command, check=True)
    assert readme.read_text() == text
    assert front == ((ROOT / "README.md").read_text(),
                     (ROOT / "benchmark" / "figures" / "front.png").read_bytes())
    command[-1] = results / "tables.md"  # links are from where the tables are
    subprocess.run(command, check=True)
    links = re.findall(r"\]\((?!http)(.+?)\)", command[-1].read_text())
    assert len(links) == 2 and all((results / path).is_file() for path in links)
    import plot
    import tables
    everything = {suite: tables.results_of(RESULTS / suite) for suite in plot.FRONT}
    plot.draw_front(everything, tmp_path / "front.png")
    sys.path.insert(0, str(ROOT / "bugs"))
    import curves
    curves.draw(records.read(ROOT / "bugs" / "curves.csv"), tmp_path / "curves.png")
    assert all((tmp_path / name).stat().st_size > 50_000 for name in ("front.png", "curves.png"))


def test_stored_results_are_small_and_whole():
    """Every run of a table has its curve and every curve its run; all of it is below 3 MB."""
    for suite in suites.SUITES:
        runs, curves = (records.read(RESULTS / suite / name) for name in ("runs.csv", "curves.csv"))
        key = ("label", "script", "environment", "seed")
        assert {tuple(row[name] for name in key) for row in curves} == {
            tuple(row[name] for name in key) for row in runs}
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 3e6


def table_rows(page: str, name: str, number: int = 0) -> list[list[str]]:
    """Cells of the table of that number between the marks of that name, without head and rule."""
    part = page.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    block = re.findall(r"(?:^\|.*\n)+", part, re.M)[number]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in block.splitlines()][2:]


def mean_of(points: list[tuple]) -> float:
    """The mean return of all episodes of these points."""
    return sum(value * count for _, value, count in points) / sum(count for _, _, count in points)


def stored(suite: str) -> dict[str, dict]:
    """What a suite's files hold, by other code than that of the tables: label -> evaluations, curves..."""
    runs, points = (records.read(RESULTS / suite / name) for name in ("runs.csv", "curves.csv"))
    found = {}
    for run in sorted(runs, key=lambda run: int(run["seed"])):
        curve = sorted((int(point["step"]), float(point["return"]), int(point["episodes"] or 1))
                       for point in points if (point["label"], point["seed"]) == (run["label"], run["seed"]))
        mine = found.setdefault(run["label"], {"evaluation": [], "curves": [], "runs": []})
        mine["evaluation"].append(float(run["eval mean"]))
        mine["curves"].append(curve)
        mine["runs"].append(run)
    for mine in found.values():
        asked = mine["runs"][0]["command"].partition("--total-timesteps ")[2].split()
        script = mine["runs"][0]["script"]
        mine["total"] = int(asked[0]) if asked else load(script).Args().total_timesteps
        late = [[point for point in curve if point[0] > 0.95 * mine["total"]] or curve[-1:]
                for curve in mine["curves"]]
        mine["training"] = [mean_of(points) for points in late]
    return found


BOARDS = {"cartpole": 475, "acrobot": -100, "inverted-pendulum": 950, "pendulum": -200, "hopper": 2500,
          "pong": 18, "pong-n-step": 18, "pong-policy": 18}
STORED = {suite: stored(suite) for suite in suites.SUITES}  # {} where nothing is stored yet


def shows(cell: str, *expected: float, digits: int = 1) -> bool:
    """Whether these are the numbers of a cell. A number may be rounded either way: the mean of numbers that
    ends in 5 depends on the order of its sum."""
    numbers = [float(number.replace(",", "")) for number in re.findall(r"-?[\d,]*\.?\d+", cell)]
    return len(numbers) == len(expected) and all(
        abs(number - value) <= 0.501 * 10**-digits for number, value in zip(numbers, expected, strict=True))


def spread(values: list[float]) -> list[float]:
    """Mean and, of several, standard deviation."""
    return [fmean(values), stdev(values)] if len(values) > 1 else values


def suite_faults(page: str, suite: str) -> list:
    """Rows of a suite's two tables that are not as stored."""
    most = max(len(mine["runs"]) for mine in STORED[suite].values())
    rows, seeds = table_rows(page, suite), table_rows(page, suite, 1) if most > 1 else []
    if [row[0] for row in rows] != list(STORED[suite]) or len(seeds) != 2 * len(rows) * (most > 1):
        return ["labels"]
    faults = []
    for i, (row, (label, mine)) in enumerate(zip(rows, STORED[suite].items(), strict=True)):
        means = sorted(mine["evaluation"])
        middle = [fmean(means[len(means) // 4:len(means) - len(means) // 4])] if len(means) > 4 else []
        right = [row[1] == str(len(means)), row[2] == f"{mine['total']:,}", shows(row[3], *spread(means)),
                 most < 5 or shows(row[4], *middle) or row[4] == "-" and not middle,
                 most == 1 or shows(row[6 if most > 4 else 4], means[0])]
        if middle:
            low, high = (float(number.replace(",", "")) for number in row[5].split(" to "))
            right.append(means[0] - 0.05 <= low <= middle[0] + 0.05)
            right.append(middle[0] - 0.05 <= high <= means[-1] + 0.05)
        row = row[7 if most > 4 else 5 if most > 1 else 4:]
        right.append(shows(row[0], *spread(mine["training"])))
        if suite.startswith("pong"):
            over = [[step for step, value, _ in curve if value > 0] for curve in mine["curves"]]
            under = [[0, *(step for step, value, _ in curve if value <= 0)] for curve in mine["curves"]]
            stays = [[step for step in high if step > low[-1]] for high, low in zip(over, under, strict=True)]
            high = [[step for step, value, _ in curve if value > 15] for curve in mine["curves"]]
            right.append(row[1:] == [" / ".join(f"{steps[0]:,}" if steps else "never" for steps in each)
                                     for each in (over, stays, high)])
        for cells, name in zip(seeds[2 * i:2 * i + 2], ("evaluation", "training"), strict=False):
            right.append(cells[0] == label and cells[1].startswith(name))
            right.append(all(shows(cell, value) for cell, value in
                             zip([cell for cell in cells[2:] if cell.strip()], mine[name], strict=True)))
        faults += [label] * (not all(right))
    return faults


def board_faults(page: str) -> list[str]:
    """Rows of the board that are not as stored."""
    faults, seen = [], set()
    for row in table_rows(page, "board"):
        environment, score = row[0].split(", ")
        score = float(score.replace(",", ""))
        suite = next((suite for suite in BOARDS if (suite, row[1]) not in seen and row[1] in STORED[suite]
                      and STORED[suite][row[1]]["runs"][0]["environment"] == environment), None)
        if not suite:
            return [f"no run: {row[1]}"]
        mine, reached, seconds = STORED[suite][row[1]], [], []
        for run, curve in zip(mine["runs"], mine["curves"], strict=True):
            steps = [curve[i][0] for i in range(4, len(curve))
                     if mean_of(curve[i - 4:i + 1]) >= score - 1e-9]
            reached.append(steps[0] if steps else math.inf)
            seconds.append(reached[-1] * float(run["wall seconds"] or "nan") / mine["total"])
        middle = median(reached)
        there = sum(step < math.inf for step in reached)
        right = [score == BOARDS[suite], row[2] == f"{there} of {len(reached)}",
                 row[5] == f"{mine['total']:,}",
                 row[3] == "-" if middle == math.inf else shows(row[3], middle, digits=0),
                 row[4] == "-" if middle == math.inf or math.isnan(sum(seconds))
                 else shows(row[4], median(seconds), digits=0)]
        faults += [f"{suite}: {row[1]}"] * (not all(right))
        seen.add((suite, row[1]))
    return faults if seen == {(suite, label) for suite in BOARDS for label in STORED[suite]} else ["rows"]


@functools.cache
def beyond_chance(values: tuple, score: float, deviation: float, seeds: str) -> bool:
    """Welch's t-test with p < .05, or where theirs has no deviation, that of one more of ours."""
    ours, freedom = stdev(values)**2, len(values) - 1
    error = ours * (1 + 1 / len(values))
    if deviation:
        parts = ours / len(values), deviation**2 / int(seeds)
        error = sum(parts)
        freedom = error**2 / (parts[0]**2 / freedom + parts[1]**2 / (int(seeds) - 1))
    least = math.atan2(abs(fmean(values) - score), (error * freedom)**0.5)  # of the angle; t is its tangent
    angles = [(i + 0.5) * math.pi / 20_000 for i in range(10_000)]
    weights = [math.cos(angle)**(freedom - 1) for angle in angles]  # Student's t, over the angle
    beyond = sum(weight for angle, weight in zip(angles, weights, strict=True) if angle > least)
    return beyond < 0.05 * sum(weights)


def published_faults(page: str) -> list[str]:
    """Rows of the table beside published numbers that are neither as stored nor as published."""
    rows, faults = table_rows(page, "published"), []
    if len(PUBLISHED) != len(rows):
        return ["rows"]
    for row, theirs in zip(rows, PUBLISHED, strict=True):
        mine = STORED.get(theirs["suite"], {}).get(theirs["label"])
        numbers = [float(theirs[name]) for name in ("score", "spread") if theirs[name]]
        right = [row[0] == theirs["environment"], row[1] == theirs["label"],
                 shows(row[7], *numbers, digits=2),
                 row[8] == f"[{theirs['project']}]({theirs['source']})", row[9] == (theirs["seeds"] or "-"),
                 row[10] == (theirs["version"] or "-"), row[11] == f"{int(theirs['transitions']):,}",
                 row[12] == (f"{int(theirs['updates']):,}" if theirs["updates"] else "-")]
        if mine:
            right += [row[2] == theirs["measure"], shows(row[3], *spread(mine[theirs["measure"]])),
                      row[4] == str(len(mine["runs"])), row[5] == f"{mine['total']:,}"]
            values = mine[theirs["measure"]]
            difference = fmean(values) - numbers[0]
            word = "higher" if difference > 0 else "**lower**"
            if len(values) == 1 or not difference:
                word = "one seed" if difference else "equal"
            elif not beyond_chance(tuple(values), numbers[0], sum(numbers[1:]), theirs["seeds"]):
                word = "undecided"
            right.append(row[13] == word)
        else:
            right += [row[3] == "-", row[13] == "not run"]
        faults += [f"{row[0]}: {row[1]}"] * (not all(right))
    return faults


def front_faults(page: str) -> list[str]:
    """Rows of the front page's results that are not as stored."""
    faults = []
    for row in table_rows(page, "results"):
        label, budget = row[1].rsplit(", ", 1)
        label = f"{label} {budget}" if budget == "1M" and label == "sac" else label
        (mine,) = [STORED[suite][label] for suite in (*BOARDS, "halfcheetah") if label in STORED[suite]
                   and STORED[suite][label]["runs"][0]["environment"].endswith(row[0])
                   and suite != "pong-n-step"]
        digits = 0 if abs(fmean(mine["evaluation"])) >= 100 else 1
        right = [row[2] == str(len(mine["runs"])), shows(row[3], *spread(mine["evaluation"]), digits=digits),
                 shows(row[5], *spread(mine["training"]), digits=digits)]
        published = [theirs for theirs in PUBLISHED
                     if theirs["label"] == label and mine is STORED.get(theirs["suite"], {}).get(label)]
        for cell, measure in (row[4], "evaluation"), (row[6], "training"):
            found = [float(number.replace(",", "")) for number in re.findall(r"(-?[\d,.]+) \(", cell)]
            known = [float(theirs["score"]) for theirs in published
                     if theirs["measure"] == measure and "plot" not in theirs["project"]]
            right.append(len(found) == len(known) and all(
                abs(number - value) <= 0.501 / 10**digits
                for number, value in zip(found, known, strict=True)))
        faults += [f"{row[0]}: {row[1]}"] * (not all(right))
    return faults


def speed_faults(page: str, front: str) -> list[str]:
    """Whether the two tables of speed are not as stored."""
    names = "row,ours,against,theirs,ratio,lowest,highest,rounds,threads,our MB,their MB,commit".split(",")
    rows = records.read(RESULTS / "speed.csv")
    shown = [[*row[:5], *row[5].split(" to "), *row[6:]] for row in table_rows(page, "speed")]
    faults = ["speed"] * (shown != [[row[name] for name in names] for row in rows
                                    if row["against"] != "first edition"])
    others = [name for name in ("stable-baselines3", "CleanRL") if name in {row["against"] for row in rows}]
    lines = table_rows(front, "speed")
    for name, *cells in lines:
        mine = {row["against"]: row for row in rows if row["row"] == name}
        for i, other in enumerate(others):
            there, ratio = cells[1 + 2 * i:3 + 2 * i]
            if other in mine:
                good = shows(there, float(mine[other]["theirs"]), digits=0) and ratio == mine[other]["ratio"]
            else:
                good = there == ratio == "-"
            faults += [f"front: {name}"] * (not good)
        ours = [float(mine[other]["ours"]) for other in others if other in mine]
        faults += [f"front: {name}"] * (not ours or not shows(cells[0], ours[0], digits=0))
        if others[0] in mine:
            memory = [mine[others[0]][name] for name in ("our MB", "their MB")]
            faults += [f"front: {name}"] * (cells[-2:] != [f"{int(size):,}" for size in memory])
    left_out = {"dqn-8-envs", "ppo-hopper"}
    same = {row[0] for row in lines} | left_out == {row["row"] for row in rows if row["against"] in others}
    return faults if same else [*faults, "front: rows"]


def overestimation_faults(page: str) -> list[str]:
    rows, faults = records.read(RESULTS / "overestimation.csv"), []
    for script, seeds, *cells in table_rows(page, "overestimation"):
        means = []
        for seed in dict.fromkeys(row["seed"] for row in rows):
            mine = [row for row in rows if (row["script"], row["seed"]) == (script, seed)]
            late = mine[len(mine) // 2:]
            means.append([fmean(float(row[name]) for row in late) for name in ("estimate", "realised")])
        gaps = [estimate - realised for estimate, realised in means]
        expected = [fmean(mean[0] for mean in means), fmean(mean[1] for mean in means), fmean(gaps),
                    stdev(gaps) / len(gaps)**0.5]
        if seeds != str(len(means)) or not shows(" ".join(cells), *expected, digits=2):
            faults.append(script)
    return faults


def gpu_faults(page: str) -> list[str]:
    """Whether the tables of a GPU are as stored."""
    rows, faults = records.read(RESULTS / "gpu" / "speed.csv"), []
    shown = table_rows(page, "gpu")
    for i, (command, *cells) in enumerate(shown):
        card, cpu = rows[2 * i:2 * i + 2]
        rate = [float(row["transitions/s"]) for row in (card, cpu)]
        left_out = set(card["command"].split()[1:]) - set(command.strip("`").split())
        good = [(card["device"], cpu["device"]) == ("cuda", "cpu"), card["command"] == cpu["command"],
                cells[:4] == [row[name] for name in ("transitions/s", "updates/s") for row in (card, cpu)],
                shows(cells[4], rate[0] / rate[1], digits=2), left_out == {"--checkpoint-frequency", "0"}]
        faults += ["speed"] * (not all(good))
    graphs = records.read(RESULTS / "gpu" / "graphs.csv")
    names = "script", "eager ms", "graph ms", "times", "error"
    same = table_rows(page, "gpu", 1) == [[row[name] for name in names] for row in graphs]
    return faults + ["rows"] * (2 * len(shown) != len(rows)) + ["graphs"] * (not same)


def all_faults(page: str, front: str) -> list[str]:
    """Every table of both pages that is not as stored."""
    found = {suite: suite_faults(page, suite) for suite in STORED if STORED[suite]}
    found |= {"board": board_faults(page), "published": published_faults(page),
              "results": front_faults(front), "speed": speed_faults(page, front),
              "overestimation": overestimation_faults(page), "gpu": gpu_faults(page)}
    return [name for name, faults in found.items() if faults]


def test_tables_are_the_stored_results():
    assert all_faults(PAGE, FRONT) == []


@pytest.mark.parametrize("name, checked", [
    ("pong-n-step", range(9)), ("pong", range(8)), ("cartpole", (1, 3, 4, 6, 7)), ("board", (1, 2, 3, 4, 5)),
    ("published", (0, 1, 3, 4, 5, *range(7, 14))), ("speed", range(11)), ("overestimation", (1, 2, 3, 4, 5)),
    ("gpu", (1, 2, 3, 4, 5))])
def test_a_wrong_cell_is_seen(name, checked):
    row = table_rows(PAGE, name)[0]
    for column in checked:
        cell = row[column]
        wrong = [*row[:column], re.sub(r"\d", lambda match: str((int(match[0]) + 2) % 10), cell) + "x",
                 *row[column + 1:]]
        changed = PAGE.replace(" | ".join(row), " | ".join(wrong))
        assert changed != PAGE and all_faults(changed, FRONT) == [name], column


def test_a_wrong_cell_of_the_front_page_is_seen():
    for name, checked in ("results", (2, 3, 4, 5, 6)), ("speed", range(6)):
        row = table_rows(FRONT, name)[0]
        for column in checked:
            wrong = [*row[:column], row[column].replace("4", "3", 1) if "4" in row[column] else
                     re.sub(r"\d", "7", row[column]) + "7", *row[column + 1:]]
            changed = FRONT.replace(" | ".join(row), " | ".join(wrong))
            assert changed != FRONT and all_faults(PAGE, changed) == [name], (name, column)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("benchmark/models/*.pt")), ids=lambda path: path.stem)
def test_a_model_plays_as_its_run_did(path, tmp_path):
    (row,) = [row for row in records.read(RESULTS / path.stem.split("-")[0].lower() / "runs.csv")
              if (row["script"], row["seed"]) == ("ppo", "1")]
    played = call("ppo", "--evaluate", path, cwd=tmp_path).out.splitlines()[-1]
    assert float(played.split()[2]) == pytest.approx(float(row["eval mean"]), rel=0.005), played


def test_page_names_commands_and_suites_that_exist():
    """What a command names is there, and so is its suite; all stored suites are named."""
    found = re.findall(r"`python (benchmark/\w+\.py)(?: --suite ([^`]*))?`", PAGE)
    assert all((ROOT / path).exists() for path, _ in found)
    named = {suite for _, suite in found if suite}
    there = {path.parent.name for path in RESULTS.glob("*/runs.csv")}
    assert there == named <= set(suites.SUITES)
    assert all((ROOT / "benchmark" / "figures" / f"{suite}.png").exists() for suite in there)


@pytest.mark.slow
def test_the_measurements_of_a_gpu_can_be_rehearsed(tmp_path):
    """The parts of gpu.py, on the CPU."""
    import gpu
    assert len(gpu.CHECKS) == 11 and {side.split()[0] for side in gpu.CHECKS} >= {"sac.py", "reinforce.py"}
    tiny = "--num-envs 2 --num-steps 16 --num-minibatches 2 --update-epochs 1 --checkpoint-frequency 0"
    row = gpu.check(f"ppo.py {tiny}", "cpu", 64, 300)
    assert [row[name] for name in ("train", "resume", "evaluate", "error")] == ["ok", "ok", "ok", ""]
    row = gpu.speed(f"ppo.py {tiny}", "cpu", 320, 20, 300)
    for name, count in ("transitions/s", 320), ("updates/s", 20):
        assert float(row[name]) == pytest.approx(count / float(row["seconds"]), rel=0.1, abs=0.06)
    assert gpu.speed(f"ppo.py {tiny}", "cpu", 320, 20, 1)["seconds"] == "nan"
    words = ["--out", tmp_path / "out", "--device", "cpu", "--minutes", "10", "--parts", "graphs", "learn",
             "--tiny", "--learn", f"ppo.py {tiny} --total-timesteps 64"]
    done = subprocess.run([sys.executable, ROOT / "benchmark" / "gpu.py", *map(str, words)], check=True,
                          capture_output=True, text=True)
    (row,) = records.read(tmp_path / "out" / "runs.csv")
    assert float(row["eval mean"]) > 0 and row["command"].startswith("python ppo.py")
    graphs = records.read(tmp_path / "out" / "graphs.csv")  # on the CPU the same function is called twice
    assert [(row["script"], float(row["error"])) for row in graphs] == [("dqn.py", 0), ("sac.py", 0)]
    last = done.stdout.split("\n\n")[-2:]  # a table of each part
    assert last[0].startswith("script  device") and last[1].split()[:2] == ["eval", "mean"], done.stdout
    assert [len(part.strip().splitlines()) for part in last] == [3, 2]
