"""Learning curves: python benchmark/learning.py --suite cartpole --jobs 2

Every run is a process of its own, with one thread for vector observations. Runs that are in benchmark/results
are skipped, so the same command goes on where it was stopped, even by kill -9. A half run is resumed from its
checkpoint; without one, or if its command or its script has changed, it begins again. Runs that outlived the
command that started them are waited for. A suite leaves two files in benchmark/results/<suite>/:

    runs.csv    a row per run: mean of the final evaluation, wall time, commit, command, versions, machine
    curves.csv  up to 100 rows per run, for the hundredths of its transitions: the last of them, how many
                training episodes ended in them, and their mean return
"""
import argparse
import contextlib
import fcntl
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from records import ROOT, commit_of, machine, read, versions, write
from suites import SUITES, Run, runs_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm


def binned(episodes, total: int, bins: int = 100) -> list[tuple[int, float, int]]:
    """(last transition, mean return, episodes) of each bin in which episodes ended; the last one takes any
    beyond."""
    found = {}
    for step, episode_return in episodes:
        found.setdefault(min(math.ceil(step * bins / total), bins), []).append(episode_return)
    return [(round(i * total / bins), sum(part) / len(part), len(part)) for i, part in sorted(found.items())]


def is_stored(run: Run, results: Path) -> bool:
    rows = read(results / run.suite / "runs.csv")
    return any(run.key().items() | {("command", run.command)} <= row.items() for row in rows)


def store(run: Run, path: Path, new: list[dict]) -> None:
    """Put these rows in the place of the run's older ones; a crash leaves the old file or the new one."""
    rows = [row for row in read(path) if not run.key().items() <= row.items()]
    rows += [run.key() | row for row in new]
    order = [label for label, *_ in SUITES[run.suite]]
    rows.sort(key=lambda row: (order.index(row["label"]), int(row["seed"]), int(row.get("step", 0))))
    write(path, rows)


@contextlib.contextmanager
def locked(path: Path):
    """Wait until no other thread or process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def evaluation(folder: Path) -> str:
    """The mean return that a run printed at its end, or nothing."""
    text = "".join(path.read_text() for path in sorted(folder.glob("*.log")))
    return (re.findall(r"^eval: mean (\S+) std", text, re.M) or [""])[-1]


def perform(run: Run, folder: Path, threads: int, active: dict) -> None:
    """Bring the run in this folder to its end: wait for a process that is at it, resume it, or start it."""
    with locked(folder.with_suffix(".lock")) as lock:  # its process holds the lock, too, and may outlive us
        if evaluation(folder):
            return
        checkpoint = next(folder.glob("runs/*/checkpoint.pt"), None)
        if not checkpoint:
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        words = ["--resume", str(checkpoint)] if checkpoint else run.command.split()[2:]
        log = folder / f"{time.time():.2f}.log"
        with open(log, "w") as file:
            process = subprocess.Popen([sys.executable, ROOT / f"{run.script}.py", *words], cwd=folder,
                                       env=os.environ | {"OMP_NUM_THREADS": str(threads)}, stdout=file,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       pass_fds=[lock.fileno()], start_new_session=True)
        active[process] = run.label, log
        status = process.wait()
        del active[process]
        if status or not evaluation(folder):
            raise RuntimeError(f"exit status {status}, see {log}")


def harvest(run: Run, folder: Path, results: Path, commit: str) -> str:
    """Store what a finished run left, and delete its checkpoint, which may be large: a line about it."""
    seconds = sum(log.stat().st_mtime - float(log.stem) for log in folder.glob("*.log"))
    (model,) = folder.glob("runs/*/model.pt")
    total = torch.load(model, mmap=True, weights_only=True)["args"]["total_timesteps"]
    events = EventAccumulator(str(model.parent), size_guidance={"scalars": 0}).Reload()
    tag = "charts/episodic_return"
    episodes = events.Scalars(tag) if tag in events.Tags()["scalars"] else []
    curve = binned(((event.step, event.value) for event in episodes), total)
    row = {"eval mean": evaluation(folder), "wall seconds": f"{seconds:.1f}", "commit": commit,
           "command": run.command, "versions": versions("torch", "gymnasium", "numpy", "ale-py", "mujoco"),
           "machine": machine(gpu=run.environment.startswith("ALE/"))}
    with locked(folder.parent / "results.lock"):  # the curve first: a row in runs.csv says that all is there
        points = [{"step": str(step), "return": f"{value:.6g}", "episodes": str(count)}
                  for step, value, count in curve]
        store(run, results / run.suite / "curves.csv", points)
        store(run, results / run.suite / "runs.csv", [row])
    model.with_name("checkpoint.pt").unlink(missing_ok=True)
    return f"eval mean {row['eval mean']}, {seconds:.0f} s"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--suite", nargs="+", choices=[*SUITES, "bugs"], default=list(SUITES),
                        help="default: all but bugs, which is bugs/curves.py")
    parser.add_argument("--only", nargs="+", help="scripts, such as: dqn ppo")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: as many as the suite says, from 1")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--total-timesteps", type=int, help="another budget, to try things out")
    parser.add_argument("--commit", help="of the scripts, where git cannot say")
    parser.add_argument("--results", type=Path, help="default: benchmark/results, or with another budget"
                        " runs/tried")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark", help="where runs go on")
    options = parser.parse_args()
    if "bugs" in options.suite:
        subprocess.check_call([sys.executable, ROOT / "bugs" / "curves.py"])
        options.suite.remove("bugs")
    kept = "runs/tried" if options.total_timesteps else "benchmark/results"
    options.results = options.results or ROOT / kept
    todo = [run for suite in options.suite
            for run in runs_of(suite, options.only, options.seeds, options.total_timesteps)]
    there, todo = len(todo), [run for run in todo if not is_stored(run, options.results)]
    print(f"{there} runs, {there - len(todo)} of them in {options.results}")
    active, failed, begun = {}, 0, {}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = ThreadPoolExecutor(options.jobs)
    for run in todo:
        commit = options.commit or commit_of(f"{run.script}.py")
        recipe = run.command.encode() + (ROOT / f"{run.script}.py").read_bytes()
        name = re.sub(r"\W+", "-", f"{run.label}__{run.seed}__{commit}__{zlib.crc32(recipe):x}")
        folder = options.runs.resolve() / run.suite / name
        threads = max(1, os.cpu_count() // options.jobs) if run.environment.startswith("ALE/") else 1
        begun[pool.submit(perform, run, folder, threads, active)] = run, folder, commit
    try:
        with tqdm(total=len(begun), unit="run", disable=None) as bar:
            while begun:
                for future in wait(begun, timeout=2, return_when=FIRST_COMPLETED).done:
                    run, *where = begun.pop(future)
                    try:
                        future.result()
                        line = harvest(run, where[0], options.results, where[1])
                    except (RuntimeError, OSError, ValueError) as error:
                        failed, line = failed + 1, f"failed: {error}"
                    bar.write(f"{run.suite}: {run.label}, seed {run.seed}: {line}")
                    bar.update()
                steps = [(label, re.findall(r" (\d+)/\d+ \[", log.read_text()))
                         for label, log in list(active.values())]
                bar.set_postfix_str(", ".join(f"{label}: {found[-1]}" for label, found in steps if found))
    except KeyboardInterrupt:  # killed, not stopped: a checkpoint here would make it a different run
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(active):
            process.kill()
        print("stopped; the same command goes on", file=sys.stderr, flush=True)
        os._exit(130)
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
