"""Speed against stable-baselines3, and of dqn's children against dqn: python benchmark/speed.py --rounds 5

Both sides of a row have the same settings, threads, and numbers of transitions and gradient steps. In every
round each side of each row runs once, in a process of its own, one after the other; which side goes first
alternates. Timed is all of train() but the evaluation at its end, against all of learn(): our times include
what the others do not, making environments and networks, TensorBoard events and a checkpoint. Imports are in
neither. A row's ratio is the median over the rounds of their seconds by ours. Memory is the peak of a whole
process. Everything is on the CPU. Rows of benchmark/results/speed.csv that are not measured stay as they are.
"""
import argparse
import contextlib
import datetime
import importlib
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from records import ROOT, commit_of, machine, read, versions, write

DQN = "--gamma 0.99 --learning-rate 2.5e-4 --buffer-size 10000 --batch-size 128 --train-frequency 10" \
      " --learning-starts 10000 --target-network-frequency 500 --total-timesteps 40000"
EPSILON = "--exploration-fraction 0.5"  # noisy_dqn has none
SB3_DQN = "learning_rate=2.5e-4, buffer_size=10000, batch_size=128, train_freq=10, learning_starts=10000," \
          " target_update_interval=500, exploration_fraction=0.5, policy_kwargs={'net_arch': [120, 84]}"
PPO = "--gamma 0.99 --gae-lambda 0.95 --no-clip-vloss --ent-coef 0 --learning-rate 3e-4 --no-anneal-lr"
PONG = "--env-id ALE/Pong-v5 --gamma 0.99 --learning-rate 1e-4 --batch-size 32 --train-frequency 4" \
       " --exploration-fraction 0.1"
SB3_PONG = "VecFrameStack(make_atari_env('ALE/Pong-v5', {}, env_kwargs={{'frameskip': 1," \
           " 'repeat_action_probability': 0}}), 4)"
SB3_IMPORTS = "import ale_py; from stable_baselines3 import *;" \
              " from stable_baselines3.common.vec_env import *;" \
              " from stable_baselines3.common.env_util import *"


class Row(NamedTuple):
    ours: str  # a script and its flags
    theirs: str  # the same, or a model of stable-baselines3
    threads: int = 1


ROWS = {
    "dqn": Row(f"dqn.py {DQN} {EPSILON}",
               f"DQN('MlpPolicy', make_vec_env('CartPole-v1', 1), {SB3_DQN}).learn(40000)"),
    "dqn-8-envs": Row(  # 8 updates every 10 steps of the 8 environments
        f"dqn.py {DQN} {EPSILON} --num-envs 8",
        f"DQN('MlpPolicy', make_vec_env('CartPole-v1', 8), {SB3_DQN}, gradient_steps=8).learn(40000)"),
    "a2c": Row("a2c.py --num-envs 8 --num-steps 5 --ent-coef 0 --total-timesteps 100000",
               "A2C('MlpPolicy', make_vec_env('CartPole-v1', 8), n_steps=5).learn(100000)"),
    "ppo": Row(f"ppo.py {PPO} --num-envs 4 --num-steps 128 --num-minibatches 4 --update-epochs 4"
               " --total-timesteps 102400",
               "PPO('MlpPolicy', make_vec_env('CartPole-v1', 4), n_steps=128, batch_size=128,"
               " n_epochs=4).learn(102400)"),
    "ppo-hopper": Row(f"ppo.py --env-id Hopper-v5 {PPO} --num-envs 1 --num-steps 2048 --num-minibatches 32"
                      " --update-epochs 10 --total-timesteps 20480",
                      "PPO('MlpPolicy', make_vec_env('Hopper-v5', 1), n_steps=2048, batch_size=64,"
                      " n_epochs=10).learn(20480)"),
    "sac-hopper": Row("sac.py --env-id Hopper-v5 --num-threads 2 --learning-starts 1000"
                      " --total-timesteps 4000",
                      "SAC('MlpPolicy', make_vec_env('Hopper-v5', 1), learning_starts=1000).learn(4000)", 2),
    "dqn-pong": Row(f"dqn.py {PONG} --buffer-size 10000 --learning-starts 500 --total-timesteps 2000",
                    f"DQN('CnnPolicy', {SB3_PONG.format(1)}, learning_rate=1e-4, buffer_size=10000,"
                    " learning_starts=500, batch_size=32, train_freq=4, target_update_interval=100)"
                    ".learn(2000)", 2),
    "ppo-pong": Row(f"ppo.py --env-id ALE/Pong-v5 {PPO} --num-envs 8 --num-steps 128 --num-minibatches 4"
                    " --update-epochs 4 --total-timesteps 16384",
                    f"PPO('CnnPolicy', {SB3_PONG.format(8)}, n_steps=128, batch_size=256, n_epochs=4)"
                    ".learn(16384)", 2),
    "replay-pong": Row(  # random actions, no update: for the memory
                       f"dqn.py {PONG} --end-e 1 --learning-starts 100000 --total-timesteps 100000",
                       f"DQN('CnnPolicy', {SB3_PONG.format(1)}, buffer_size=100000, learning_starts=100000)"
                       ".learn(100000)", 2),
} | {f"{name}-dqn": Row(f"{name}.py {DQN} {EPSILON}", f"dqn.py {DQN} {EPSILON}")
     for name in ("double_dqn", "dueling_dqn", "per_dqn")}
ROWS["noisy_dqn-dqn"] = Row(f"noisy_dqn.py {DQN}", f"dqn.py {DQN} {EPSILON}")
ROWS["noisy_dqn-8-envs"] = Row(f"noisy_dqn.py {DQN} --num-envs 8", f"dqn.py {DQN} {EPSILON} --num-envs 8")


def transitions(side: str) -> int:
    return int(re.search(r"(?:--total-timesteps |\.learn\()(\d+)", side)[1])


def typed(side: str) -> str:
    """What a user would type to run a side, untimed."""
    return f"python {side}" if ".py" in side else f'python -c "{SB3_IMPORTS}; {side}"'


def seconds_of_script(side: str) -> float:
    """Of train() in the script, with an evaluation that returns at once."""
    name, *flags = side.split()
    sys.path.insert(0, str(ROOT))
    script = importlib.import_module(name.removesuffix(".py"))
    script.evaluate = lambda *_: None
    sys.argv = [name, *flags]
    arguments = script.parse_args(script.Args)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        begin = time.perf_counter()
        script.train(*arguments)
        return time.perf_counter() - begin


def seconds_of_sb3(side: str, threads: int) -> float:
    """Of learn() of the model."""
    names = {}
    exec(SB3_IMPORTS, names)
    torch.set_num_threads(threads)
    model, steps = side.removesuffix(")").rsplit(".learn(", 1)
    model = eval(model, names)
    begin = time.perf_counter()
    model.learn(int(steps))
    return time.perf_counter() - begin


def measure(name: str, side: str) -> tuple[float, float]:
    """(seconds, megabytes) that a side of a row takes in a process of its own, on the CPU."""
    command = [sys.executable, __file__, "--one", name, side]
    env = os.environ | {"OMP_NUM_THREADS": str(ROWS[name].threads), "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=env, text=True, capture_output=True)
    if result.returncode:
        sys.exit(f"{name}, {side}: {result.stderr[-2000:]}")
    seconds, megabytes = result.stdout.split()[-2:]
    return float(seconds), float(megabytes)


def summary(name: str, found: dict[str, list[tuple[float, float]]]) -> dict:
    """A line of speed.csv from the (seconds, megabytes) of both sides in all rounds so far."""
    ours, theirs = ([seconds for seconds, _ in found[side]] for side in ("ours", "theirs"))
    ratios = [there / here for here, there in zip(ours, theirs, strict=True)]
    memory = {side: statistics.median(megabytes for _, megabytes in found[side]) for side in found}
    count = transitions(ROWS[name].ours)
    return {
        "row": name, "ours": f"{count / statistics.median(ours):.1f}",
        "against": "dqn.py" if ".py" in ROWS[name].theirs else "stable-baselines3",
        "theirs": f"{count / statistics.median(theirs):.1f}", "ratio": f"{statistics.median(ratios):.2f}",
        "lowest": f"{min(ratios):.2f}", "highest": f"{max(ratios):.2f}", "rounds": len(ratios),
        "threads": ROWS[name].threads,
        "our MB": f"{memory['ours']:.0f}", "their MB": f"{memory['theirs']:.0f}",
        "our command": typed(ROWS[name].ours), "their command": typed(ROWS[name].theirs),
        "commit": commit_of(ROWS[name].ours.partition(".")[0]), "machine": machine(gpu=False),
        "versions": versions("torch", "gymnasium", "stable-baselines3"),
        "date": datetime.date.today().isoformat()}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="default: all whose scripts are there")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmark" / "results" / "speed.csv")
    parser.add_argument("--one", nargs=2, metavar=("ROW", "SIDE"), help="measure ours or theirs, once")
    options = parser.parse_args()
    if options.one:
        name, side = options.one[0], getattr(ROWS[options.one[0]], options.one[1])
        import torch._dynamo  # noqa: F401  (for seconds; else the first optimizer imports it)
        seconds = seconds_of_script(side) if ".py" in side else seconds_of_sb3(side, ROWS[name].threads)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB; on macOS in bytes
        return print(seconds, peak / 1000)
    names = options.rows or [name for name, row in ROWS.items() if (ROOT / row.ours.split()[0]).exists()]
    for name in names:
        print(f"{name}\n    {typed(ROWS[name].ours)}\n    {typed(ROWS[name].theirs)}")
    found = {name: {"ours": [], "theirs": []} for name in names}
    for round_number in range(1, options.rounds + 1):
        for name in names:
            for side in ("ours", "theirs")[::1 if round_number % 2 else -1]:
                found[name][side].append(measure(name, side))
            row = summary(name, found[name])
            rows = {stored["row"]: stored for stored in read(options.out)} | {name: row}
            write(options.out, [rows[name] for name in ROWS if name in rows])
            print(f"round {round_number}, {name}: {row['ours']} and {row['theirs']} transitions/s, ratio"
                  f" {row['ratio']} ({row['lowest']} to {row['highest']})", flush=True)


if __name__ == "__main__":
    main()
