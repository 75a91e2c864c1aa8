"""Measure the speed of our scripts against stable-baselines3, CleanRL, an older edition and dqn.py.

    python benchmark/speed.py               against stable-baselines3; the variants of dqn.py against dqn.py
    python benchmark/speed.py --old ../old  also against the same scripts in another folder
    python benchmark/speed.py --cleanrl ../cleanrl --cleanrl-python ../cleanrl/.venv/bin/python

All sides of a row have the same hyperparameters, network sizes, threads, time limits, and numbers of
transitions and gradient steps, on the CPU. In every round each side runs once, in a process of its own, one
after the other; every second round runs them in reverse order. A ratio is their seconds / our seconds in one
round. The table has the median of the ratios, the lowest and the highest. Imports do not count. What counts:

- our scripts, in all editions: train() without the evaluation at its end. This includes making environments
  and networks, TensorBoard events, and one checkpoint at the end.
- stable-baselines3: learn(), which writes no log. Model and environments are made before.
- CleanRL: its unchanged script from the first reset of the environments to the end, with TensorBoard events.
  Networks and environments are made before, and there is no checkpoint.

Each side has the environments of its own libraries: CleanRL's Gymnasium 0.29 has Hopper-v4 for our Hopper-v5,
and CleanRL prepares Atari frames in Python, where our scripts use ale-py's vector environment in C++. MB is
the peak memory of a whole process. benchmark/results/speed.csv has one line per row and opponent; a line that
is not measured again stays as it is.
"""
import argparse
import datetime
import importlib
import json
import os
import re
import resource
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from records import ROOT, commit_of, machine, read, versions, write

SB3, CLEANRL, OLD = "stable-baselines3", "CleanRL", "first edition"
SB3_IMPORTS = "import ale_py; from stable_baselines3 import *;" \
              " from stable_baselines3.common.vec_env import *;" \
              " from stable_baselines3.common.env_util import *"

# Flags that our scripts and CleanRL share. With the same --learning-starts CleanRL makes its first update one
# transition later than ours: one less makes the numbers of updates equal.
DQN = "--gamma 0.99 --learning-rate 2.5e-4 --buffer-size 10000 --batch-size 128 --train-frequency 10" \
      " --target-network-frequency 500 --total-timesteps 40000"
END = "--checkpoint-frequency 0"  # the only checkpoint is at the end
STARTS = f"--n-step 1 --learning-starts 10000 {END}"
EPSILON = "--exploration-fraction 0.5"  # noisy_dqn has none
SB3_DQN = "learning_rate=2.5e-4, buffer_size=10000, batch_size=128, train_freq=10, learning_starts=10000," \
          " target_update_interval=500, exploration_fraction=0.5, policy_kwargs={'net_arch': [120, 84]}"
PPO = "--gamma 0.99 --gae-lambda 0.95 --clip-coef 0.2 --no-clip-vloss --ent-coef 0 --learning-rate 3e-4" \
      " --no-anneal-lr --num-steps"
PPO_CARTPOLE = f"{PPO} 128 --num-envs 4 --num-minibatches 4 --update-epochs 4 --total-timesteps 102400"
PPO_HOPPER = f"{PPO} 2048 --num-envs 1 --num-minibatches 32 --update-epochs 10 --total-timesteps 20480"
SB3_PPO_HOPPER = "n_steps=2048, batch_size=64, n_epochs=10).learn(20480)"
PPO_PONG = f"{PPO} 128 --num-envs 8 --num-minibatches 4 --update-epochs 4 --total-timesteps 16384"
SAC = "--buffer-size 1000000 --batch-size 256 --total-timesteps 4000 --learning-starts"
DQN_PONG = "--gamma 0.99 --learning-rate 1e-4 --batch-size 32 --train-frequency 4" \
           " --target-network-frequency 100 --exploration-fraction 0.1"
SHORT_PONG = f"{DQN_PONG} --end-e 0.05 --buffer-size 10000 --total-timesteps 2000 --learning-starts"
SB3_PONG = "VecFrameStack(make_atari_env('ALE/Pong-v5', {}, env_kwargs={{'frameskip': 1," \
           " 'repeat_action_probability': 0}}), 4)"


class Row(NamedTuple):
    ours: str  # a script and its flags
    theirs: dict[str, str]  # opponent -> a script and its flags, or a model of stable-baselines3
    threads: int = 1


ROWS = {
    "dqn": Row(f"dqn.py {DQN} {STARTS} {EPSILON}", {
        SB3: f"DQN('MlpPolicy', make_vec_env('CartPole-v1', 1), {SB3_DQN}).learn(40000)",
        CLEANRL: f"cleanrl/dqn.py {DQN} --learning-starts 9999 {EPSILON}"}),
    "dqn-8-envs": Row(f"dqn.py {DQN} {STARTS} {EPSILON} --num-envs 8", {  # 8 updates every 80 transitions
        SB3: f"DQN('MlpPolicy', make_vec_env('CartPole-v1', 8), {SB3_DQN}, gradient_steps=8).learn(40000)"}),
    "a2c": Row(f"a2c.py --num-envs 8 --num-steps 5 --ent-coef 0 --total-timesteps 100000 {END}", {
        SB3: "A2C('MlpPolicy', make_vec_env('CartPole-v1', 8), n_steps=5).learn(100000)"}),
    "ppo": Row(f"ppo.py {PPO_CARTPOLE} {END}", {
        SB3: "PPO('MlpPolicy', make_vec_env('CartPole-v1', 4), n_steps=128, batch_size=128, n_epochs=4)"
             ".learn(102400)",
        CLEANRL: f"cleanrl/ppo.py {PPO_CARTPOLE}"}),
    "ppo-hopper": Row(f"ppo.py --env-id Hopper-v5 {PPO_HOPPER} {END}", {
        SB3: f"PPO('MlpPolicy', make_vec_env('Hopper-v5', 1), {SB3_PPO_HOPPER}"}),
    "ppo-hopper-norm": Row(f"ppo.py --env-id Hopper-v5 {PPO_HOPPER} --norm-obs --norm-reward {END}", {
        SB3: f"PPO('MlpPolicy', VecNormalize(make_vec_env('Hopper-v5', 1)), {SB3_PPO_HOPPER}",
        CLEANRL: f"cleanrl/ppo_continuous_action.py --env-id Hopper-v4 {PPO_HOPPER}"}),
    "sac-hopper": Row(f"sac.py --env-id Hopper-v5 {SAC} 1000 --num-threads 2 {END}", {
        SB3: "SAC('MlpPolicy', make_vec_env('Hopper-v5', 1), learning_starts=1000).learn(4000)",
        CLEANRL: f"cleanrl/sac_continuous_action.py --env-id Hopper-v4 {SAC} 999 --policy-frequency 1"
                 " --q-lr 3e-4 --policy-lr 3e-4"}, 2),
    "dqn-pong": Row(f"dqn.py --env-id ALE/Pong-v5 --n-step 1 {SHORT_PONG} 500 {END}", {
        SB3: f"DQN('CnnPolicy', {SB3_PONG.format(1)}, learning_rate=1e-4, buffer_size=10000,"
             " learning_starts=500, batch_size=32, train_freq=4, target_update_interval=100).learn(2000)",
        CLEANRL: f"cleanrl/dqn_atari.py --env-id PongNoFrameskip-v4 {SHORT_PONG} 499"}, 2),
    "ppo-pong": Row(f"ppo.py --env-id ALE/Pong-v5 {PPO_PONG} {END}", {
        SB3: f"PPO('CnnPolicy', {SB3_PONG.format(8)}, n_steps=128, batch_size=256, n_epochs=4).learn(16384)",
        CLEANRL: f"cleanrl/ppo_atari.py --env-id PongNoFrameskip-v4 {PPO_PONG}"}, 2),
    "replay-pong": Row(  # random actions, and no update but one at the end: for the memory
        f"dqn.py --env-id ALE/Pong-v5 --n-step 1 {DQN_PONG} --buffer-size 100000 --end-e 1"
        f" --learning-starts 99996 --total-timesteps 100000 {END}", {
            SB3: f"DQN('CnnPolicy', {SB3_PONG.format(1)}, buffer_size=100000, learning_starts=99996)"
                 ".learn(100000)"}, 2),
}
for name in ("double_dqn", "dueling_dqn", "per_dqn"):
    ROWS[name] = Row(f"{name}.py {DQN} {STARTS} {EPSILON}", {"dqn.py": f"dqn.py {DQN} {STARTS} {EPSILON}"})
for suffix, envs in {"": "", "-8-envs": " --num-envs 8"}.items():
    ROWS[f"noisy_dqn{suffix}"] = Row(f"noisy_dqn.py {DQN} {STARTS}{envs}",
                                     {"dqn.py": f"dqn.py {DQN} {STARTS} {EPSILON}{envs}"})


def transitions(side: str) -> int:
    return int(re.search(r"(?:--total-timesteps |\.learn\()(\d+)", side)[1])


def typed(side: str) -> str:
    """What a user would type to run a side, untimed."""
    return f"python {side}" if ".py" in side else f'python -c "{SB3_IMPORTS}; {side}"'


def seconds_of(folder: str, side: str) -> float:
    """Run a side of a row in this process, and time what counts."""
    import torch._dynamo  # noqa: F401  (takes seconds; else the first optimizer imports it)
    begins, names = [], {}
    if ".py" not in side:
        exec(SB3_IMPORTS, names)
        model, steps = side.removesuffix(")").rsplit(".learn(", 1)
        model = eval(model, names)
        begins.append(time.perf_counter())
        model.learn(int(steps))
        return time.perf_counter() - begins[0]
    name, *flags = side.split()
    sys.path.insert(0, folder)
    if name.startswith("cleanrl/"):
        from gymnasium.vector import SyncVectorEnv
        reset = SyncVectorEnv.reset
        SyncVectorEnv.reset = lambda *args, **kw: begins.append(time.perf_counter()) or reset(*args, **kw)
        sys.argv = [name, *flags]
        runpy.run_path(str(Path(folder, name)), run_name="__main__")
        return time.perf_counter() - begins[0]
    import tyro
    script = importlib.import_module(name.removesuffix(".py"))
    script.evaluate = lambda *_: 0.0
    args = tyro.cli(script.Args, args=flags)
    begins.append(time.perf_counter())
    script.train(args)
    return time.perf_counter() - begins[0]


def measure(python: str, folder: str, side: str, threads: int) -> dict:
    """What `speed.py --one` prints in a process of its own, whose files are deleted afterwards."""
    command = [python, str(Path(__file__).resolve()), "--one", folder, side]
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    with tempfile.TemporaryDirectory() as runs:
        result = subprocess.run(command, env=env, cwd=runs, text=True, capture_output=True)
    if result.returncode:
        sys.exit(f"{side}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def sides_of(row: Row, options: argparse.Namespace) -> dict[str, tuple[str, str, str]]:
    """Ours and the chosen opponents -> the Python, the folder and the command of each."""
    sides = {"ours": row.ours, **row.theirs, OLD: row.ours}
    chosen = ["ours", *(options.against or sides)]
    folder = {OLD: options.old, CLEANRL: options.cleanrl}
    python = {CLEANRL: options.cleanrl_python}
    return {name: (python.get(name, sys.executable), folder.get(name, options.ours), side)
            for name, side in sides.items() if name in chosen and folder.get(name, options.ours)}


def summary(name: str, against: str, sides: dict, ours: list[dict], theirs: list[dict]) -> dict:
    """A line of speed.csv from all rounds so far."""
    (_, our_folder, our_side), (_, their_folder, their_side) = sides["ours"], sides[against]
    speed, memory = [], []
    for side, runs in ((our_side, ours), (their_side, theirs)):
        speed.append(f"{transitions(side) / statistics.median(run['seconds'] for run in runs):.1f}")
        memory.append(f"{statistics.median(run['megabytes'] for run in runs):.0f}")
    ratios = [there["seconds"] / here["seconds"] for here, there in zip(ours, theirs, strict=True)]
    used = [ours[0]["versions"], theirs[0]["versions"]]
    if their_folder != our_folder:
        used[1] = f"{against} {commit_of('.', their_folder)}: {used[1]}"
    return {
        "row": name, "ours": speed[0], "against": against, "theirs": speed[1],
        "ratio": f"{statistics.median(ratios):.2f}", "lowest": f"{min(ratios):.2f}",
        "highest": f"{max(ratios):.2f}", "rounds": len(ratios), "threads": ROWS[name].threads,
        "our MB": memory[0], "their MB": memory[1], "our command": typed(our_side),
        "their command": typed(their_side), "commit": commit_of(our_side.split()[0], our_folder),
        "machine": machine(gpu=False), "versions": "; ".join(dict.fromkeys(used)),
        "date": datetime.date.today().isoformat()}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rows", nargs="+", choices=ROWS, help="default: all")
    parser.add_argument("--against", nargs="+", choices=[SB3, CLEANRL, OLD, "dqn.py"], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    path = os.path.abspath
    parser.add_argument("--ours", type=path, default=str(ROOT), help="folder of our scripts")
    parser.add_argument("--old", type=path, help="folder of an older edition of them")
    parser.add_argument("--cleanrl", type=path, help="folder of a checkout of CleanRL")
    parser.add_argument("--cleanrl-python", type=path, help="a Python that has CleanRL's requirements")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmark" / "results" / "speed.csv")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "COMMAND"), help="measure one side, once")
    options = parser.parse_args()
    if options.one:
        seconds = seconds_of(*options.one)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in kB; on macOS in bytes
        used = versions("torch", "gymnasium", *[SB3] * (".py" not in options.one[1]))
        return print(json.dumps({"seconds": seconds, "megabytes": peak / 1000, "versions": used}))
    if bool(options.cleanrl) != bool(options.cleanrl_python):
        parser.error("--cleanrl and --cleanrl-python go together")
    found = {}  # (row, side) -> what was measured in each round
    for number in range(1, options.rounds + 1):
        for name in options.rows or ROWS:
            sides = sides_of(ROWS[name], options)
            if len(sides) == 1:
                continue  # no opponent
            for side in list(sides)[::1 if number % 2 else -1]:
                found.setdefault((name, side), []).append(measure(*sides[side], ROWS[name].threads))
            for against in list(sides)[1:]:
                row = summary(name, against, sides, found[name, "ours"], found[name, against])
                table = {(old["row"], old["against"]): old for old in read(options.out)}
                table[name, against] = row
                keys = [(name, side) for name in ROWS for side in (*ROWS[name].theirs, OLD)]
                write(options.out, [table[key] for key in keys if key in table])
                print(f"round {number}, {name}, {against}: {row['ours']} and {row['theirs']} transitions/s,"
                      f" ratio {row['ratio']} ({row['lowest']} to {row['highest']})", flush=True)


if __name__ == "__main__":
    main()
