"""The benchmark's suites name flags that exist, its results survive a crash, and its arithmetic is right."""
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from statistics import fmean

import pytest
from common import ROOT, checkpoint, load

sys.path.insert(0, str(ROOT / "benchmark"))
import learning  # noqa: E402
import records  # noqa: E402
import speed  # noqa: E402
import suites  # noqa: E402

THERE = {path.stem for path in ROOT.glob("*.py")}


def fields_of(words: list[str]) -> set[str]:
    return {word[2:].removeprefix("no-").replace("-", "_") for word in words if word.startswith("--")}


@pytest.mark.parametrize("suite", suites.SUITES)
def test_suite_names_flags_that_exist(suite, tmp_path, monkeypatch):
    """... with values that the script takes, and no two of its runs are alike."""
    runs = suites.runs_of(suite)
    assert {run.script for run in runs} == {curve[1] for curve in suites.SUITES[suite]} & THERE
    for run in runs:
        python, script, *words = run.command.split()
        assert (python, script) == ("python", f"{run.script}.py")
        assert fields_of(words) <= set(vars(load(run.script).Args())), run.command
        if run.seed == "1":
            module = load(run.script)
            monkeypatch.chdir(tmp_path)  # MuJoCo may write a log
            monkeypatch.setattr(sys, "argv", [script, *words])
            module.check(*module.parse_args(module.Args))[0].close()
    assert len({run.command for run in runs}) == len({(run.label, run.seed) for run in runs}) == len(runs)


def test_rows_of_speed_name_flags_that_exist_and_equal_budgets():
    for name, row in speed.ROWS.items():
        assert speed.transitions(row.ours) == speed.transitions(row.theirs), name
        for side in (row.ours, row.theirs):
            script, *words = side.split()
            if script.removesuffix(".py") in THERE:
                assert fields_of(words) <= set(vars(load(script.removesuffix(".py")).Args())), side


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
    assert learning.binned(episodes, 100, 10) == [(10, 3.0), (20, 5.0), (40, 7.0), (100, 2.0)]


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


def test_run_is_killed_and_resumed(tmp_path, monkeypatch):
    """From its checkpoint, to the curve and the evaluation of a run never stopped; without one, from 0."""
    (run,) = [run for run in suites.runs_of("cartpole", ["dqn"], [1], 2000)]
    run = run._replace(command=f"{run.command} --checkpoint-frequency 1000")
    found = []
    for folder, kill in (tmp_path / "whole", False), (tmp_path / "halves", True):
        active = {}
        if kill:
            def popen(*words, active=active, folder=folder, begin=subprocess.Popen, **names):
                process = begin(*words, **names)
                wait_for(lambda: list(folder.glob("runs/*/checkpoint.pt")))
                process.kill()
                return process
            with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="exit status -9"):
                patch.setattr(subprocess, "Popen", popen)
                learning.perform(run, folder, 1, active)
            assert 0 < checkpoint(next(folder.glob("runs/*/checkpoint.pt")))["step"] < 2000
        learning.perform(run, folder, 1, active)
        assert len(list(folder.glob("runs/*"))) == 1 and len(list(folder.glob("*.log"))) == 1 + kill
        learning.harvest(run, folder, tmp_path / f"{folder.name}-results", "abc")
        table = tmp_path / f"{folder.name}-results" / "cartpole"
        found.append((learning.evaluation(folder), (table / "curves.csv").read_text()))
        assert not list(folder.glob("runs/*/checkpoint.pt"))
    assert found[0] == found[1]


# ---- figures and tables

def test_plot(tmp_path):
    """From stored results alone: figures, the README's tables, and the statistics behind them."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("scipy")
    import numpy as np
    import plot
    values = np.array([[100.0], [0.0], [4.0], [2.0], [3.0], [5.0], [1.0], [-9.0]])
    assert plot.iqm(values) == 2.5  # of 1, 2, 3 and 4
    low, high = plot.interval(values)
    assert -9 <= low < 2.5 < high <= 100
    rows = [{"seed": seed, "step": step, "return": value} for seed, step, value in
            (("1", "10", "1"), ("1", "30", "3"), ("2", "20", "5"), ("2", "40", "6"))]
    steps, returns = plot.aligned(rows)
    assert steps.tolist() == [20, 30, 40] and returns.tolist() == [[1, 3, 3], [5, 5, 6]]
    assert plot.above((steps, returns), 1) == ["30 / 20", "30 / 20"]
    assert plot.above((steps, np.array([[1, 2, 0], [0, 2, 1]])), 0) == ["20 / 30", "never / 30"]
    assert plot.above((steps, returns), 5) == ["never / 40", "never / 40"]
    curve = np.array([80, 90, 91, 100]), np.array([[9, 8, 1, 2], [0, 7, 3, 4]])
    assert plot.last_tenth(curve) == "1.0 to 4.0"
    places = plot.spread([0.5, 0.5, 0.52, 1.2], 0.1)
    assert max(places) <= 1.0 + 1e-6 and min(np.diff(places)) > 0.09

    results, readme = tmp_path / "results", tmp_path / "README.md"
    readme.write_text("before\n<!-- cartpole -->\nold\n<!-- /cartpole -->\nafter\n")
    for label in ("dqn", "ppo"):
        for seed in "12345" if label == "dqn" else "213":
            run = make_run(label, seed)
            mean = "500.00" if label == "dqn" else f"50{seed}.00"
            row = {"eval mean": mean, "wall seconds": "2", "commit": "abc", "command": run.command,
                   "versions": "torch 2", "machine": "a machine"}
            learning.store(run, results / "cartpole" / "runs.csv", [row])
            points = [{"step": str(step), "return": str(step * int(seed))} for step in (10, 20)]
            learning.store(run, results / "cartpole" / "curves.csv", points)
    (results / "speed.csv").unlink(missing_ok=True)
    command = [sys.executable, ROOT / "benchmark" / "plot.py", "--results", results, "--figures",
               tmp_path / "figures", "--readme", readme]
    subprocess.run(command, check=True)
    text = readme.read_text()
    assert (tmp_path / "figures" / "cartpole.png").stat().st_size > 5000
    assert text.startswith("before\n<!-- cartpole -->\n") and text.endswith("<!-- /cartpole -->\nafter\n")
    assert "| dqn | 5 | 20 | 500.0 | 500.0 to 500.0 | 500.0 | 20.0 to 100.0 |" in text and "old" not in text
    assert "| ppo | 3 | 20 | 502.0 | 501.0 / 502.0 / 503.0 | 501.0 | 20.0 to 60.0 |" in text
    subprocess.run(command, check=True)
    assert readme.read_text() == text
    command[-1] = tmp_path / "tables.md"
    subprocess.run(command, check=True)
    assert command[-1].read_text() == text[len("before\n"):-len("after\n")]
    command[-1] = results / "tables.md"  # as in the README: links are from where the tables are
    subprocess.run(command, check=True)
    links = re.findall(r"\]\((.+?)\)", command[-1].read_text())
    assert len(links) == 2 and all((results / path).is_file() for path in links)


def test_stored_results_are_small_and_whole():
    """Every run of a table has its curve and every curve its run; all of it is below 3 MB."""
    folder = ROOT / "benchmark" / "results"
    for suite in suites.SUITES:
        runs, curves = (records.read(folder / suite / name) for name in ("runs.csv", "curves.csv"))
        key = ("label", "script", "environment", "seed")
        assert {tuple(row[name] for name in key) for row in curves} == {
            tuple(row[name] for name in key) for row in runs}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 3e6


def table_rows(readme: str, name: str) -> list[list[str]]:
    """Cells of the table between the marks of that name, without head and rule."""
    part = readme.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]
    return [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")][2:]


def stored_rows(suite: str) -> list[list]:
    """The suite's table from the stored results, by other code than plot.py's: label, seeds, evaluation,
    lowest, last tenth; for Pong the crossing points, too."""
    folder, rows = ROOT / "benchmark" / "results" / suite, []
    runs, points = (records.read(folder / name) for name in ("runs.csv", "curves.csv"))
    for label in dict.fromkeys(run["label"] for run in runs):
        means = sorted(float(run["eval mean"]) for run in runs if run["label"] == label)
        middle = means[len(means) // 4:len(means) - len(means) // 4]
        curves = {run["seed"]: [] for run in sorted(runs, key=lambda run: int(run["seed"]))
                  if run["label"] == label}
        for point in points:
            if point["label"] == label:
                curves[point["seed"]].append((int(point["step"]), float(point["return"])))
        last = max(step for curve in curves.values() for step, _ in curve)
        tenth = [value for curve in curves.values() for step, value in curve if step > 0.9 * last]
        rows.append([label, str(len(means)), fmean(middle), f"{means[0]:.1f}",
                     f"{min(tenth):.1f} to {max(tenth):.1f}"])
        if suite.startswith("pong"):
            over = [[step for step, value in curve if value > 0] for curve in curves.values()]
            under = [[0, *(step for step, value in curve if value <= 0)] for curve in curves.values()]
            stays = [[step for step in high if step > low[-1]] for high, low in zip(over, under, strict=True)]
            high = [[step for step, value in curve if value > 15] for curve in curves.values()]
            rows[-1] += [" / ".join(f"{steps[0]:,}" if steps else "never" for steps in seeds)
                         for seeds in (over, stays, high)]
    return rows


def result_faults(readme: str) -> list:
    """Which of the README's tables of results and of speed are not as stored; an evaluation may be rounded
    either way, as a mean of x.x5 depends on the order of its sum."""
    faults = []
    for suite in suites.SUITES:
        stored, rows = stored_rows(suite), table_rows(readme, suite)
        if ([row[:2] + row[3:] for row in stored] != [row[:2] + row[5:] for row in rows] or
                any(abs(float(row[3]) - old[2]) > 0.0501 for row, old in zip(rows, stored, strict=True))):
            faults.append(suite)
    names = "row,ours,against,theirs,ratio,lowest,highest,rounds,threads,our MB,their MB".split(",")
    stored = records.read(ROOT / "benchmark" / "results" / "speed.csv")
    speed_rows = [[row[name] for name in names] for row in stored]
    shown_speed = [[*row[:5], *row[5].split(" to "), *row[6:]] for row in table_rows(readme, "speed")]
    return faults if shown_speed == speed_rows else [*faults, "speed"]


def test_readme_tables_are_the_stored_results():
    readme = (ROOT / "README.md").read_text()
    assert result_faults(readme) == []
    for name, checked in (("pong", (0, 1, 3, 5, 6, 7, 8, 9)), ("speed", range(10))):
        row = table_rows(readme, name)[0]
        for column in checked:  # a cell that is not the stored one is seen
            wrong = [*row[:column], row[column].replace("1", "2") + "0", *row[column + 1:]]
            changed = readme.replace(" | ".join(row), " | ".join(wrong))
            assert changed != readme and result_faults(changed) == [name]
        assert result_faults(readme.replace(f"| {' | '.join(row)} |\n", "")) == [name]


def test_readme_names_commands_and_suites_that_exist():
    """What a command names is there, and so is its suite; all stored suites are named."""
    found = re.findall(r"`python (benchmark/\w+\.py)(?: --suite ([^`]*))?`", (ROOT / "README.md").read_text())
    assert all((ROOT / path).exists() for path, _ in found)
    named = {suite for _, suite in found if suite}
    stored = {path.parent.name for path in (ROOT / "benchmark" / "results").glob("*/runs.csv")}
    assert stored == named <= set(suites.SUITES)
