"""The suites of learning curves: which scripts on which environment, with which flags and seeds."""
import ast
from typing import NamedTuple

from records import ROOT

VALUE = "dqn", "double_dqn", "dueling_dqn", "noisy_dqn", "per_dqn"
POLICY = "reinforce", "vpg", "a2c", "ppo"
ATARI = "--learning-rate 1e-4 --batch-size 32 --gamma 0.99 --train-frequency 1 --learning-starts 10000" \
        " --target-network-frequency 1000 --eval-epsilon 0.001 --checkpoint-frequency 100000 --n-step"
PONG = f"--total-timesteps 500000 {ATARI} 1"
GREEDY = f"{PONG} --end-e 0.02"  # noisy_dqn has no epsilon
NSTEP = f"--total-timesteps 200000 {ATARI} 4 --end-e 0.02 --exploration-fraction 0.4"
NOISY = "--sigma-0 0.5"
NOISY_NSTEP = f"--total-timesteps 200000 {ATARI} 4 {NOISY}"
EPS = "--adam-eps 1.5e-4"
ACROBOT = {"noisy_dqn": NOISY, "reinforce": "--learning-rate 1e-2", "vpg": "--learning-rate 1e-2"}
PENDULUM = {  # of many settings tried none makes REINFORCE or A2C learn it, nor VPG on every seed
    "reinforce": "--total-timesteps 200000 --gamma 0.9",
    "vpg": "--total-timesteps 600000 --num-envs 4 --episodes-per-env 1 --gamma 0.95 --ent-coef 0"
           " --value-learning-rate 3e-3",
    "a2c": "--total-timesteps 200000 --num-steps 16 --gamma 0.9 --norm-reward --ent-coef 0"
           " --learning-rate 2e-3",
    "ppo": "--total-timesteps 200000 --num-envs 4 --num-steps 1024 --num-minibatches 32 --gamma 0.98"
           " --gae-lambda 0.95 --norm-reward"}
SAC_300K = "--total-timesteps 300000 --learning-starts 10000 --checkpoint-frequency 100000"
SAC_1M = SAC_300K.replace("300000", "1000000")
PPO_MUJOCO = "--total-timesteps 1000000 --num-envs 1 --num-steps 2048 --gamma 0.99 --gae-lambda 0.95" \
             " --num-minibatches 32 --learning-rate 3e-4 --norm-obs --norm-reward" \
             " --checkpoint-frequency 100000"
PPO_PONG = "--total-timesteps 4000000 --num-envs 8 --num-steps 128 --num-minibatches 4 --update-epochs 3" \
           " --gamma 0.99 --gae-lambda 0.95 --clip-coef 0.1 --ent-coef 0.01 --learning-rate 2.5e-4" \
           " --checkpoint-frequency 100000"  # the paper's for Atari, but for clip (constant) and vf-coef
A2C_PONG = "--total-timesteps 4000000 --num-envs 16 --learning-rate 3e-3 --rmsprop-eps 3e-3" \
           " --checkpoint-frequency 100000"  # torch adds eps after the root, where 1e-5 is too small
SGD, ADAM = "--optimizer sgd --learning-rate 1e-3", "--optimizer adam"

# suite: (label, script, environment, flags, how many seeds). Flags None: those under Run in the script's
# docstring for this environment; if there are none, its defaults.
SUITES = {
    "cartpole": [(name, name, "CartPole-v1", None, 10) for name in VALUE + POLICY],
    "acrobot": [(name, name, "Acrobot-v1", ACROBOT.get(name), 10) for name in VALUE + POLICY],
    "pendulum": [(name, name, "Pendulum-v1", PENDULUM.get(name), 5) for name in (*POLICY, "sac")],
    "inverted-pendulum": [(name, name, "InvertedPendulum-v5", None, 5) for name in (*POLICY, "sac")],
    **{suite: [("ppo", "ppo", env, PPO_MUJOCO, 3), ("sac 1M", "sac", env, SAC_1M, 3),
               *[("sac", "sac", env, SAC_300K, 3)] * (suite == "hopper")]
       for suite, env in (("hopper", "Hopper-v5"), ("halfcheetah", "HalfCheetah-v5"),
                          ("walker2d", "Walker2d-v5"))},
    "pong": [("dqn", "dqn", "ALE/Pong-v5", f"{GREEDY} {EPS}", 1),
             ("dqn n-step 4", "dqn", "ALE/Pong-v5", f"{GREEDY} --n-step 4 {EPS}", 1),
             *[(name, name, "ALE/Pong-v5", f"{f'{PONG} {NOISY}' if name == 'noisy_dqn' else GREEDY} {EPS}", 1)
               for name in VALUE[1:]]],
    "pong-n-step": [("dqn n-step 4", "dqn", "ALE/Pong-v5", f"{NSTEP} {EPS}", 3),
                    ("dqn n-step 4, eps 1e-8", "dqn", "ALE/Pong-v5", NSTEP, 2),
                    *[(f"{name} n-step 4", name, "ALE/Pong-v5",
                       f"{NOISY_NSTEP if name == 'noisy_dqn' else NSTEP} {EPS}", 3) for name in VALUE[1:]]],
    "pong-eps": [("dqn, eps 1e-8", "dqn", "ALE/Pong-v5", GREEDY, 1),
                 ("dqn n-step 4, eps 1e-8", "dqn", "ALE/Pong-v5", f"{GREEDY} --n-step 4", 1)],
    "pong-policy": [("a2c", "a2c", "ALE/Pong-v5", A2C_PONG, 3), ("ppo", "ppo", "ALE/Pong-v5", PPO_PONG, 3)],
    "reduction": [(f"{reduction}, {name}", "reinforce", "CartPole-v1", f"--reduction {reduction} {flags}", 10)
                  for name, flags in (("SGD", SGD), ("Adam", ADAM)) for reduction in ("sum", "mean")],
    "a2c-steps": [(f"num-steps {n}", "a2c", "CartPole-v1", f"--num-steps {n}", 10) for n in (1, 10)],
    "ppo-envs": [(f"num-envs {n}", "ppo", "CartPole-v1", f"--num-envs {n}", 10) for n in (1, 2, 4, 8)],
}


SPREAD = "acrobot", "pendulum"  # their returns depend so much on the start that ten episodes say little


class Run(NamedTuple):
    suite: str
    label: str
    script: str
    environment: str
    seed: str
    command: str  # as one would type it

    def key(self) -> dict:
        """The cells that tell its rows from those of the suite's other runs."""
        return {name: getattr(self, name) for name in ("label", "script", "environment", "seed")}


def run_line(script: str, env: str) -> str:
    """Flags of the first command under Run in the script's docstring that names this environment."""
    text = ast.get_docstring(ast.parse((ROOT / f"{script}.py").read_text())).partition("\nRun:")[2]
    lines = [line.split() for line in text.replace("\\\n", " ").splitlines() if env in line.split()]
    return " ".join(lines[0][2:]).replace(f"--env-id {env}", "") if lines else ""


def runs_of(suite: str, only=None, seeds=None, total_timesteps=None) -> list[Run]:
    """Runs of the suite, the first seed of every script first; scripts that are not there are left out."""
    found = []
    for label, script, env, flags, count in SUITES[suite]:
        if only and script not in only or not (ROOT / f"{script}.py").exists():
            continue
        flags = run_line(script, env) if flags is None else flags
        flags += " --eval-episodes 100" if suite in SPREAD else ""
        flags += f" --total-timesteps {total_timesteps}" if total_timesteps else ""
        for seed in map(str, seeds or range(1, count + 1)):
            words = f"python {script}.py --env-id {env} --seed {seed} {flags}".split()
            found.append(Run(suite, label, script, env, seed, " ".join(words)))
    return sorted(found, key=lambda run: int(run.seed))
