"""Do the scripts run on a GPU, how fast, and where does the time go?  python benchmark/gpu.py --out results

In this order, within --minutes in all, and with what was found so far in the files of --out:

    checks   every script, a short run on the device, resumed once and evaluated once     checks.csv
    speed    transitions and updates a second, on the device and, at the same time, on
             half of this machine's cores                                                 speed.csv
    profile  the operations that take most time, in dqn.py on Pong and sac.py on Hopper   profile-*.txt
    graphs   graphs.py: what CUDA graphs would gain dqn.py and sac.py                     graphs.csv
    learn    as many runs of --learn at a time as --jobs says, for what time is left      runs.csv

Every row is printed as it is found, and all of them in tables at the end. `--device cpu --tiny` rehearses it
without a GPU.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from records import ROOT, commit_of, machine, versions, write

PONG = "--env-id ALE/Pong-v5 --checkpoint-frequency 0"
ONE = f"{PONG} --num-envs 1 --episodes-per-env 1"  # reinforce and vpg play whole episodes
FEW = f"{PONG} --learning-starts 500"
HOPPER = "--env-id Hopper-v5 --checkpoint-frequency 0"
CHECKS = [*(f"{name}.py {FEW}" for name in ("dqn", "double_dqn", "dueling_dqn", "noisy_dqn", "per_dqn")),
          f"reinforce.py {ONE}", f"vpg.py {ONE}", f"a2c.py {PONG}",
          f"ppo.py {PONG} --num-steps 128 --num-minibatches 4 --update-epochs 4",
          f"sac.py {HOPPER} --learning-starts 500", f"ppo.py {HOPPER} --norm-obs --norm-reward"]
DQN = f"{PONG} --batch-size 32 --learning-starts 200 --target-network-frequency 1000 --train-frequency"
PPO = f"{PONG} --num-steps 128 --num-minibatches 4 --update-epochs 4 --num-envs"
SPEED = {  # side: transitions, those before the first update, those for each update
    f"dqn.py {DQN} 1": (2400, 200, 1), f"dqn.py {DQN} 4": (4800, 200, 4),
    f"per_dqn.py {DQN} 1": (2400, 200, 1), f"per_dqn.py {DQN} 4": (4800, 200, 4),
    f"ppo.py {PPO} 8": (8192, 0, 64), f"ppo.py {PPO} 32": (32768, 0, 256),
    f"sac.py {HOPPER} --learning-starts 200": (2400, 200, 1)}
RECIPE = "--env-id ALE/Pong-v5 --n-step 4 --learning-rate 1e-4 --adam-eps 1.5e-4 --batch-size 32" \
         " --gamma 0.99 --learning-starts 10000 --target-network-frequency 1000 --train-frequency 2" \
         " --eval-epsilon 0.001 --total-timesteps 200000 --checkpoint-frequency 100000"
GREEDY = "--end-e 0.02 --exploration-fraction 0.4"  # noisy_dqn has no epsilon
LEARN = [f"{name}.py {RECIPE} {GREEDY if name != 'noisy_dqn' else '--sigma-0 0.5'} --seed {seed}"
         for seed in (1, 2, 3) for name in ("dqn", "double_dqn", "dueling_dqn", "noisy_dqn", "per_dqn")]
ONE_SIDE = """
import dataclasses, json, sys, time
import torch, torch._dynamo  # takes seconds; else the first optimizer imports it
import tyro
name, *flags = sys.argv[1:]
script = __import__(name.removesuffix(".py"))
script.evaluate = lambda *_: 0.0
args = tyro.cli(script.Args, args=flags)
for steps in max(250, args.total_timesteps // 8), args.total_timesteps:  # the first to warm up
    began = time.perf_counter()
    script.train(dataclasses.replace(args, total_timesteps=steps))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
print(json.dumps(time.perf_counter() - began))
"""
PROFILE = """
import sys
import torch, torch._dynamo, tyro
from torch.profiler import ProfilerActivity, profile
path, name, *flags = sys.argv[1:]
script = __import__(name.removesuffix(".py"))
script.evaluate = lambda *_: 0.0
kinds = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
args = tyro.cli(script.Args, args=flags)
with profile(activities=kinds) as found:
    script.train(args)
sort = "self_device_time_total" if "cuda" in flags else "self_cpu_time_total"
open(path, "w").write("".join(found.key_averages().table(sort_by=key, row_limit=25)
                              for key in dict.fromkeys((sort, "self_cpu_time_total"))))
"""


def call(words: list, threads: int, limit: float, cwd: Path | None = None) -> tuple[int, str]:
    """Exit status and output of a script or of a program in a process of its own; 124 beyond the limit."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as own:
        try:
            done = subprocess.run([sys.executable, *map(str, words)], cwd=cwd or own, text=True,
                                  timeout=max(limit, 1), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths})
        except subprocess.TimeoutExpired as late:
            return 124, (late.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout


def check(side: str, device: str, steps: int, limit: float) -> dict:
    """Train, resume and evaluate: what became of each, and the end of the first output that has an error."""
    name, *flags = side.split()
    row = {"script": name, "command": f"python {side} --device {device}", "error": ""}
    with tempfile.TemporaryDirectory() as folder:
        end = time.time() + limit
        common = ["--eval-episodes", 1, "--device", device]
        for step, words in (("train", [*flags, "--total-timesteps", steps, *common]),
                            ("resume", ["--resume", "FILE", "--total-timesteps", 2 * steps, *common]),
                            ("evaluate", ["--evaluate", "FILE", *common])):
            file = next(Path(folder).glob("runs/*/checkpoint.pt"), "")
            status, output = call([ROOT / name, *(file if word == "FILE" else word for word in words)], 2,
                                  end - time.time(), Path(folder))
            row[step] = "ok" if not status and "eval: mean" in output else f"status {status}"
            if row[step] != "ok" and not row["error"]:
                row["error"] = re.sub(r"\s+", " ", output)[-600:]
    return row


def speed(side: str, device: str, steps: int, updates: int, limit: float) -> dict:
    """Of train() without the evaluation at its end, after a shorter one to warm up; nan if it failed or
    took too long."""
    name, *flags = side.split()
    words = ["-c", ONE_SIDE, name, *flags, "--total-timesteps", steps, "--device", device]
    status, output = call(words, max(1, (os.cpu_count() or 2) // 2) if device == "cpu" else 2, limit)
    seconds = json.loads(output.splitlines()[-1]) if not status else float("nan")
    return {"command": f"python {side} --total-timesteps {steps}", "device": device,
            "seconds": f"{seconds:.2f}", "transitions/s": f"{steps / seconds:.1f}",
            "updates/s": f"{updates / seconds:.1f}",
            "machine": machine(), "versions": versions("torch", "gymnasium", "ale-py")}


def learn(side: str, device: str, end: float) -> dict | None:
    """A run, stopped at `end`: a row whose mean of the evaluation is then empty. None if there is no time."""
    name, *flags = side.split()
    began = time.time()
    if end - began < 30:
        return None
    _, output = call([ROOT / name, *flags, "--device", device], 1, end - began)
    return {"command": f"python {side} --device {device}", "wall seconds": f"{time.time() - began:.0f}",
            "eval mean": (re.findall(r"^eval: mean (\S+)", output, re.M) or [""])[-1],
            "bar": (re.findall(r"\d+/\d+ \[[^\r\n]*", output) or [""])[-1],
            "machine": machine(), "versions": versions("torch", "gymnasium", "ale-py")}


def table(rows: list[dict], *columns: str) -> str:
    """Rows of text, a column as wide as its widest entry."""
    lines = [columns, *([str(row[name]) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu", "mps"])
    parser.add_argument("--minutes", type=float, default=9.5, help="all parts together")
    parser.add_argument("--parts", nargs="+", default=["checks", "speed", "profile", "graphs", "learn"])
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--learn", nargs="+", default=LEARN, help="a script and its flags, each")
    parser.add_argument("--commit", help="of the scripts, where git cannot say")
    parser.add_argument("--tiny", action="store_true", help="an eighth of the transitions")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    commit = {"commit": options.commit or commit_of("*.py")}
    end, device, share = time.time() + 60 * options.minutes, options.device, 8 if options.tiny else 1
    print(machine(), versions("torch"), flush=True)
    pool, tables = ThreadPoolExecutor(options.jobs), []

    def both(side: str):
        """Its rows on the device and on the CPU, which are timed at the same time."""
        steps, starts, per = SPEED[side]
        steps, limit = steps // share, min(90, end - time.time())
        return ThreadPoolExecutor(2).map(
            lambda where: speed(side, where, steps, (steps - starts) // per, limit),
            dict.fromkeys((device, "cpu")))

    def profile(side: str) -> str:
        name, *flags = side.split()
        path = (options.out / f"profile-{name.removesuffix('.py')}.txt").resolve()
        words = ["-c", PROFILE, path, name, *flags, "--total-timesteps", 500, "--device", device]
        status, output = call(words, 2, min(90, end - time.time()))
        return f"profile of {name}: {f'status {status}: {output[-600:]}' if status else 'ok'}"

    def found(name: str, rows: list[dict], *columns: str):
        """Store and print each row as it comes, and keep all of them for the end."""
        kept = []
        for row in filter(None, rows):
            kept.append(row | commit)
            write(options.out / f"{name}.csv", kept)
            print(*(row[column] for column in columns), flush=True)
        tables.append(table(kept, *columns))

    if "checks" in options.parts:
        steps, limit = 600 if options.tiny else 2000, 0.3 * (end - time.time())
        found("checks", pool.map(lambda side: check(side, device, steps, limit), CHECKS),
              "script", "train", "resume", "evaluate", "error")
    if "speed" in options.parts:
        found("speed", (row for side in SPEED for row in both(side)),
              "device", "transitions/s", "updates/s", "command")
    if "profile" in options.parts:
        print(*pool.map(profile, (f"dqn.py {DQN} 1", list(SPEED)[-1])), sep="\n", flush=True)
    if "graphs" in options.parts:
        words = [ROOT / "benchmark/graphs.py", "--device", device, "--updates", 2000 // share**2]
        status, output = call(words, 2, min(180, end - time.time()))
        print(output if status else "", end="", flush=True)
        found("graphs", [json.loads(line) | {"machine": machine(), "versions": versions("torch")}
                         for line in output.splitlines() if line.startswith("{")],
              "script", "device", "eager ms", "graph ms", "times", "error")
    if "learn" in options.parts:
        found("runs", pool.map(lambda side: learn(side, device, end), options.learn),
              "eval mean", "wall seconds", "bar", "command")
    print(*(f"\n{part}" for part in tables), sep="\n")


if __name__ == "__main__":
    main()
