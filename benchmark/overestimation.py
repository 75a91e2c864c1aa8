"""What DQN and Double DQN think a state is worth, and what it turns out to be worth.

    python benchmark/overestimation.py
    python benchmark/overestimation.py --env-id CartPole-v1 --flags total_timesteps=40000 --name over-cartpole

Trains both scripts, by their own train(), with the same seeds and settings. Every --every transitions the
greedy policy plays an episode in each of 10 environments without time limit. For the states it visits, the
estimate is the mean of max_a Q(s, a) and the realised value the mean of the discounted return from there on:
states from which fewer than 500 steps were played and no end was reached are left out, the rest of what is
cut off weighs gamma^500, which is 0.7 % for .99. A positive gap is overestimation. Prints a row per script
and seed, the mean over the second half of training, and writes all measurements to
benchmark/results/<--name>.csv.

The default environment is that of the paper's theorem on estimation errors: in each state all actions are
worth the same, here 0, and only noise tells them apart.
"""
import argparse
import contextlib
import importlib
import io
import sys
import tempfile

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from records import ROOT, commit_of, machine, versions, write

SCRIPTS = "dqn", "double_dqn"
HORIZON, STEPS = 500, 1500  # steps that a return must have, and the longest episode


class EqualActions(gym.Env):
    """10 actions, 10 steps, each with a reward drawn from N(0, 1): every action is worth 0."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (4,), np.float32), gym.spaces.Discrete(10)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self):
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)

    def step(self, action):
        self.t += 1
        return self.observe(), self.np_random.normal(), self.t == 10, False, {}


gym.register("EqualActions-v0", EqualActions)


def values(q_net: torch.nn.Module, env_id: str, seed: int, gamma: float, num_envs: int = 10) -> tuple:
    """Mean estimate and mean realised value of the states that the greedy policy visits."""
    def make_env():
        return gym.make(env_id, max_episode_steps=STEPS, disable_env_checker=True)

    envs = SyncVectorEnv([make_env] * num_envs)  # a step after an end counts for nothing
    obs, _ = envs.reset(seed=2**30 + seed)
    going, rows = np.ones(num_envs, bool), []
    while going.any():
        with torch.no_grad():
            best, action = q_net(torch.from_numpy(np.float32(obs))).max(dim=1)
        obs, reward, terminated, truncated, _ = envs.step(action.numpy())
        rows.append((best.numpy(), reward, going, terminated))
        going = going & ~(terminated | truncated)
    envs.close()
    estimate, reward, played, terminated = (np.array(column) for column in zip(*rows, strict=True))  # (T, N)
    ret, left, ends = np.zeros_like(reward), np.zeros_like(reward), np.zeros_like(played)
    after, steps, end = np.zeros(num_envs), np.zeros(num_envs), np.zeros(num_envs, bool)
    for t in reversed(range(len(rows))):
        after = np.where(played[t], reward[t] + gamma * after * ~terminated[t], 0)
        steps, end = (steps + 1) * played[t], (end | terminated[t]) & played[t]
        ret[t], left[t], ends[t] = after, steps, end
    counted = played & (ends | (left >= HORIZON))
    return float(estimate[counted].mean()), float(ret[counted].mean())


def episodes(seed: int, step: int) -> int:
    """A seed below 2^30 for the episodes of a measurement: others each time, and for each seed of a run."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0] % 2**30)


def measure(script: str, seed: int, every: int, fields: dict) -> list[dict]:
    """The values during a run of the script, and the mean return of its own evaluation at the end."""
    module, rows = importlib.import_module(script), []
    args = module.Args(seed=seed, **fields)

    class Watched(module.Run):
        """Sees the network after each update."""

        def log_losses(self, step, **losses):
            super().log_losses(step, **losses)
            if step // every > (rows[-1]["step"] if rows else 0) // every:
                q_net, begin = self.parts["q_net"], episodes(seed, step)
                estimate, realised = values(q_net, args.env_id, begin, args.gamma)
                rows.append({"script": script, "environment": args.env_id, "seed": seed, "step": step,
                             "estimate": f"{estimate:.4f}", "realised": f"{realised:.4f}"})

    module.Run, own = Watched, module.Run
    with (tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder),
          contextlib.redirect_stdout(io.StringIO())):
        mean = module.train(args)
    module.Run = own
    return [row | {"eval": f"{mean:.2f}"} for row in rows]


def gap(rows: list[dict], part: float = 0.5) -> tuple[float, float]:
    """Mean estimate and realised value over the last `part` of the measurements."""
    late = rows[int(len(rows) * (1 - part)):]
    return tuple(float(np.mean([float(row[name]) for row in late])) for name in ("estimate", "realised"))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--env-id", default="EqualActions-v0")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--every", type=int, default=2000)
    parser.add_argument("--flags", nargs="*", default=["total_timesteps=20000", "gamma=0.99", "n_step=1"],
                        help="field=number, of both")
    parser.add_argument("--name", default="overestimation", help="of the table")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    fields = {name: float(value) if "." in value or "e" in value else int(value)
              for name, value in (flag.split("=") for flag in options.flags)} | {"env_id": options.env_id}
    about = {"versions": versions("torch", "gymnasium", "numpy"), "machine": machine(gpu=False)}
    command = " ".join(["python benchmark/overestimation.py", *sys.argv[1:]])
    print(command)
    rows, gaps = [], {script: [] for script in SCRIPTS}
    for seed in options.seeds:
        for script in SCRIPTS:
            new = measure(script, seed, options.every, fields)
            estimate, realised = gap(new)
            gaps[script].append(estimate - realised)
            print(f"{script:10} seed {seed}: estimate {estimate:7.2f}  realised {realised:7.2f}"
                  f"  gap {estimate - realised:+7.2f}  eval {new[-1]['eval']}", flush=True)
            rows += [row | {"commit": commit_of(f"{script}.py"), "command": command, **about} for row in new]
            write(ROOT / "benchmark" / "results" / f"{options.name}.csv", rows)
    for script, found in gaps.items():
        error = np.std(found, ddof=1) / len(found)**0.5 if len(found) > 1 else np.nan
        print(f"{script:10} mean gap {np.mean(found):+.2f}, standard error {error:.2f}")
    closer = sum(abs(double) < abs(single) for single, double in zip(*gaps.values(), strict=True))
    print(f"closer to the realised value: double_dqn in {closer} of {len(options.seeds)} seeds")


if __name__ == "__main__":
    main()
