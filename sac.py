# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "gymnasium[atari,classic-control,mujoco]==1.4.0", "ale-py==0.12.1", "mujoco==4.0.0",
#   "numpy==2.4.6", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1", "moviepy==2.2.1",
#   "opencv-python-headless==5.0.0.93"]
# ///
"""SAC: soft actor-critic, off-policy learning of a stochastic policy, rewarded for its entropy as well.

Paper: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905, 2018.
Adds: nothing, it is a root of its own; the plumbing that it shares with dqn.py is the same text.
Where: Algorithm 1 -> train; soft target in Eq. (5) -> soft_target; J_Q, Eq. (5) -> critic_loss;
    J_pi, Eqs. (7) and (9) -> policy_loss; J_alpha, Eq. (18) -> temperature_loss; a = f(noise; s), Eq. (8),
    and its density under tanh, Eq. (26) -> squash; minimum over both critics, unnumbered, Sec. 6.

    y       = r + gamma * (1 - terminated) * (min_i Q_i^-(s', a') - alpha * log pi(a'|s')),  a' ~ pi(.|s')
    J_Q     = sum over i of mean of 1/2 * (Q_i(s, a) - y)^2                                       (5)
    J_pi    = mean of alpha * log pi(a|s) - min_i Q_i(s, a),  a = tanh(mu + sigma * noise)        (9)
    J_alpha = mean of -alpha * (log pi(a|s) + target_entropy),  target_entropy = -dim(A)          (18)

Scale: policy, critics and replay know actions in [-1, 1] only; `scale` takes them to the bounds on the way to
    the environment. So log pi has no term of the bounds, and target_entropy means the same for all.
Departs: uniformly random actions until learning-starts; log sigma is clamped to [-20, 2]; a time limit is no
    end, its target bootstraps; Adam steps log alpha, from log 0.2. Defaults: Table 1's; budget: Pendulum's.
Run:
    python sac.py
    python sac.py --env-id InvertedPendulum-v5 --total-timesteps 30000
    python sac.py --env-id Hopper-v5 --total-timesteps 1000000 --learning-starts 10000
    python sac.py --env-id HalfCheetah-v5 --total-timesteps 1000000 --learning-starts 10000
"""
import copy
import math
import os
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import TransformObservation
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "Pendulum-v1"  # Gymnasium id: vector observations, Box actions with finite bounds
    seed: int = 1  # of networks, environments, exploration and replay
    total_timesteps: int = 20_000  # environment transitions, as are buffer-size and all frequencies
    learning_rate: float = 3e-4  # of Adam, for policy, critics and temperature
    num_envs: int = 1  # N, parallel environments
    gamma: float = 0.99  # discount per step
    buffer_size: int = 1_000_000  # capacity of the replay memory D
    batch_size: int = 256  # B, transitions in an update
    learning_starts: int = 1_000  # stored before the first update, by uniformly random actions
    train_frequency: int = 1  # transitions between updates
    tau: float = 0.005  # weight of the critics in an update of their targets
    autotune: bool = True  # learn the temperature, for a policy entropy of -dim(A)
    alpha: float = 0.2  # temperature: the fixed one, or with autotune the first
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cpu, the networks are small
    num_threads: int = 0  # torch's threads (0: one)
    eval_episodes: int = 10  # played with the mean action at the end
    checkpoint_frequency: int = 100_000  # between checkpoints, which cut episodes (0: only at the end)
    capture_video: bool = False  # film an evaluation episode at every checkpoint
    resume: str = ""  # checkpoint.pt to go on from; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate with its arguments, instead of training


# changed from dqn.py: one step, continuous actions
class Batch(NamedTuple):
    obs: torch.Tensor  # (B, O) f32
    action: torch.Tensor  # (B, A) f32 in [-1, 1]
    reward: torch.Tensor  # (B,) f32
    terminated: torch.Tensor  # (B,) f32, 1 where next_obs is terminal, 0 at a time limit
    next_obs: torch.Tensor  # (B, O)


class Policy(nn.Module):
    """Mean and log standard deviation of u, whose tanh is the action: (B, O) -> (B, A), (B, A)."""

    def __init__(self, obs_size: int, action_size: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.head = nn.Linear(256, 2 * action_size)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.head(self.body(obs)).chunk(2, dim=1)
        return mean, log_std.clamp(-20, 2)


class TwinLinear(nn.Module):
    """Two nn.Linear side by side in one matrix product: (2, B, I) -> (2, B, J)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        bound = inputs ** -0.5  # as nn.Linear's
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Critic(nn.Module):
    """Q_1 and Q_2, which share no weight: (B, O), (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int):
        super().__init__()
        self.body = nn.Sequential(TwinLinear(obs_size + action_size, 256), nn.ReLU(),
                                  TwinLinear(256, 256), nn.ReLU())
        self.head = TwinLinear(256, 1)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = self.body(torch.cat([obs, action], dim=1).expand(2, -1, -1))
        # self.head(x).squeeze(2), without a slow matrix product of one column
        return (x * self.head.weight.mT).sum(dim=2) + self.head.bias.squeeze(2)


# changed from dqn.py: vectors only, one step, continuous actions
class ReplayBuffer:
    """Replay memory D, a ring of vector steps: [row, e] is a step of environment e, [row + 1, e] the next.

    Every observation is stored once. Where an episode ended, the next row begins another, and `final` has the
    observation that it ended with. A reset in between is an end as well: store it as truncated.
    """

    def __init__(self, size: int, num_envs: int, obs_size: int, action_size: int):
        self.rows = math.ceil(size / num_envs) + 1  # drawable rows; the newest, which has no next one
        self.obs = np.zeros((self.rows, num_envs, obs_size), np.float32)
        self.action = np.zeros((self.rows, num_envs, action_size), np.float32)
        self.reward = np.zeros((self.rows, num_envs), np.float32)
        self.terminated = np.zeros((self.rows, num_envs), bool)
        self.ended = np.ones((self.rows, num_envs), bool)  # terminated, truncated, or not written yet
        self.final = {}  # (row, env) of an episode's last step -> the observation it led to
        self.count = 0  # rows ever written

    def add(self, obs, action, reward, terminated, truncated, next_obs) -> None:
        """Store a step of all N environments, (N, ...) each; next_obs is the true one where episodes end."""
        row = self.count % self.rows
        for env in self.ended[row].nonzero()[0]:
            self.final.pop((row, env), None)
        self.obs[row], self.action[row], self.reward[row] = obs, action, reward
        self.terminated[row], self.ended[row] = terminated, terminated | truncated
        for env in self.ended[row].nonzero()[0]:
            self.final[row, env] = next_obs[env].copy()
        self.count += 1

    def sample(self, rng: np.random.Generator, batch_size: int, device: str) -> Batch:
        """Transitions drawn uniformly, with replacement; two rows or more must have been written."""
        drawable = min(self.count, self.rows) - 1
        row = (self.count - 2 - rng.integers(drawable, size=batch_size)) % self.rows
        env = rng.integers(self.reward.shape[1], size=batch_size)
        next_obs = self.obs[(row + 1) % self.rows, env]
        for i in self.ended[row, env].nonzero()[0]:
            next_obs[i] = self.final[row[i], env[i]]
        arrays = (self.obs[row, env], self.action[row, env], self.reward[row, env],
                  self.terminated[row, env].astype(np.float32), next_obs)
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))

    def state_dict(self) -> dict:
        """Count, the written rows as tensors that share their memory, and `final` as two tensors."""
        arrays = {name: row[:self.count] for name, row in vars(self).items() if isinstance(row, np.ndarray)}
        arrays |= {"at": np.array(list(self.final), np.int64), "final": np.array(list(self.final.values()))}
        return {"count": self.count} | {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]
        self.final = dict(zip(map(tuple, state["at"].tolist()), state["final"].numpy().copy(), strict=True))
        for name, tensor in state.items():
            if name not in ("count", "at", "final"):
                getattr(self, name)[:self.count] = tensor.numpy()


def squash(mean, log_std, noise) -> tuple[torch.Tensor, torch.Tensor]:
    """Action (B, A) in [-1, 1] and its log pi (B,) from standard normal noise (B, A). Eqs. (8) and (26).
    log(1 - tanh(u)^2) has a form here that holds, with its gradient, where tanh(u) rounds to 1."""
    u = mean + log_std.exp() * noise  # (B, A)
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)  # (B, A), log N(u; mean, std)
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # (B, A), log of da/du
    return torch.tanh(u), (log_normal - log_slope).sum(dim=-1)


def soft_target(reward, terminated, next_q, next_logp, alpha, gamma) -> torch.Tensor:
    """y (B,), the target in Eq. (5); next_q (2, B) of the target critics, next_logp (B,) of the policy."""
    next_value = next_q.min(dim=0).values - alpha * next_logp  # (B,), Eq. (3)
    return reward + gamma * (1 - terminated) * next_value


def critic_loss(q: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """J_Q () of both critics, Eq. (5): q (2, B), y (B,)."""
    return 0.5 * (q - y.detach()).square().mean(dim=1).sum()


def policy_loss(logp: torch.Tensor, q: torch.Tensor, alpha) -> torch.Tensor:
    """J_pi (), Eq. (9): logp (B,) and q (2, B) of reparameterised actions, which carry the gradient."""
    return (alpha * logp - q.min(dim=0).values).mean()


def temperature_loss(log_alpha: torch.Tensor, logp: torch.Tensor, target_entropy: float) -> torch.Tensor:
    """J(alpha) (), Eq. (18): an entropy -log pi above its target makes alpha fall."""
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()


@torch.no_grad()
def average(target_net: nn.Module, net: nn.Module, tau: float) -> None:
    """theta^- <- tau * theta + (1 - tau) * theta^-, in place. Algorithm 1."""
    torch._foreach_lerp_(list(target_net.parameters()), list(net.parameters()), tau)


def sample_action(policy: nn.Module, obs: torch.Tensor, rng) -> tuple[torch.Tensor, torch.Tensor]:
    """Action (B, A) in [-1, 1] drawn from pi(.|s), differentiable, and its log pi (B,)."""
    mean, log_std = policy(obs)
    noise = rng.standard_normal(tuple(mean.shape), np.float32)
    return squash(mean, log_std, torch.from_numpy(noise).to(obs.device))


# changed from dqn.py: the mean action
@torch.inference_mode()
def greedy(policy: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """tanh(mu(s)): (N, O) -> (N, A)."""
    return torch.tanh(policy(torch.from_numpy(obs).to(device))[0]).cpu().numpy()


# changed from dqn.py: the policy itself explores, after a uniform warm-up
@torch.inference_mode()
def act(policy: nn.Module, obs: np.ndarray, device: str, rng, action_size: int, warm_up: bool) -> np.ndarray:
    """In each environment an action drawn from pi(.|s), or in the warm-up any: (N, O) -> (N, A)."""
    if warm_up:
        return rng.uniform(-1, 1, (len(obs), action_size)).astype(np.float32)
    return sample_action(policy, torch.from_numpy(obs).to(device), rng)[0].cpu().numpy()


def scale(action: np.ndarray, space: gym.spaces.Box) -> np.ndarray:
    """From [-1, 1] to the bounds of each dimension: (N, A) -> (N, *the space's shape)."""
    action = action.reshape(-1, *space.shape)
    scaled = (1 - action) / 2 * space.low + (1 + action) / 2 * space.high
    return np.clip(scaled, space.low, space.high).astype(space.dtype)  # rounding may leave the bounds


def fail(message: str) -> NoReturn:
    """End with one sentence on standard error and exit status 2."""
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(2)


# changed from dqn.py: vectors only
def make_envs(env_id: str, num_envs: int, render_mode=None):
    """Vector environment; where an episode ends, reset_ended begins the next. Vectors become float32."""
    def make_env():
        return gym.make(env_id, disable_env_checker=True, **shown)

    shown = {"render_mode": render_mode} if render_mode else {}  # not every environment takes it
    try:
        envs = SyncVectorEnv([make_env] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        if render_mode:  # what cannot be filmed shows here, before training
            import moviepy  # noqa: F401
            with warnings.catch_warnings(action="ignore"):  # glfw's, without a display
                envs.reset(seed=0)
                height, width, channels = envs.render()[0].shape  # without these it is no frame
        space = envs.single_observation_space
        if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
            space = gym.spaces.Box(-np.inf, np.inf, space.shape)
            envs = TransformObservation(envs, np.float32, single_observation_space=space)
        return envs
    except Exception as error:
        fail(f"--env-id {env_id} cannot be {'filmed' if render_mode else 'made'}: {error} (extras: pip"
             " install 'gymnasium[classic-control,mujoco]' moviepy; MuJoCo without a display:"
             " MUJOCO_GL=egl or osmesa, and its library; Atari games, like ALE/Pong-v5: dqn.py, ppo.py)")


def reset_ended(envs, obs: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Observations to act on (N, *O): `obs`, but the first of a new episode where one ended. Without this
    reset the next step would ignore its action and be stored as a transition between two episodes."""
    return envs.reset(options={"reset_mask": ended})[0] if ended.any() else obs


def reset_seed(seed: int, step: int) -> int:
    """Environment seed from transition `step` on, below 2^30; evaluation seeds are 2^30 and up."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0] % 2**30)


# changed from dqn.py: vectors only
def evaluate(args, policy, film: Path | None = None) -> None:
    """Play an episode in each of --eval-episodes fresh environments under policy(obs) -> action and print the
    mean return, as the last line of standard output; or film a single one, up to 10,000 frames."""
    render_mode = "rgb_array" if film else None
    num_envs = 1 if film else args.eval_episodes
    envs = make_envs(args.env_id, num_envs, render_mode)
    obs, _ = envs.reset(seed=2**30 + args.seed)
    returns, running, frames = np.zeros(num_envs), np.ones(num_envs, bool), []
    while running.any() and len(frames) < 10_000:
        if film:
            frames += envs.render()
        obs, reward, terminated, truncated, _ = envs.step(policy(obs))
        returns += reward * running
        running &= ~(terminated | truncated)
    envs.close()
    if film:
        from gymnasium.utils.save_video import save_video  # needs moviepy
        save_video(frames, str(film.parent), fps=envs.metadata.get("render_fps", 30), name_prefix=film.name)
    else:
        print(f"eval: mean {returns.mean():.2f} std {returns.std():.2f} over {len(returns)} episodes")


def due(step: int, taken: int, every: int) -> int:
    """How many multiples of `every` (0: none) lie in the last `taken` transitions, up to `step`."""
    return max(step, 0) // every - max(step - taken, 0) // every if every else 0


class Run:
    """What a run shows on its way and leaves in its folder: TensorBoard events, checkpoints and films."""

    def __init__(self, args, state: dict):
        name = f"{args.env_id}__{Path(__file__).stem}__{args.seed}__{time.time():.0f}".replace("/", "-")
        self.folder = Path(args.resume).parent if state else Path("runs", name.replace(":", "-"))
        while not state and self.folder.exists():
            self.folder = self.folder.with_name(self.folder.name + "_")
        self.args, self.stop, self.began, self.first_step = args, 0, time.time(), state.get("step", 0)
        self.sums = np.zeros((2, args.num_envs))  # return and length so far of each environment's episode
        self.finished, self.recent = [], state.get("recent", [])

        def on_signal(number, _):  # stop after the step, rollout or batch at hand; at a second one at once
            self.stop = number
            signal.signal(number, signal.SIG_DFL)

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, on_signal)
        try:
            self.writer = SummaryWriter(self.folder, purge_step=self.first_step + 1 if state else None)
        except OSError as error:
            fail(f"{self.folder} cannot be written: {error.strerror}")
        print(f"run folder: {self.folder}", flush=True)
        self.bar = tqdm(total=args.total_timesteps, initial=self.first_step, unit="step", disable=None)

    def track(self, step: int, reward: np.ndarray, ended: np.ndarray) -> None:
        """Count a vector step; an episode that ends in it is logged at the transition that ended it."""
        self.sums[0] += reward
        self.sums[1] += 1
        for i in ended.nonzero()[0]:
            self.finished.append((step - len(ended) + int(i) + 1, *self.sums[:, i].tolist()))
            self.sums[:, i] = 0

    def log(self, step: int, scalars: dict, weights: dict) -> None:
        """Write and show what is new; end with exit status 1 if a return, scalar or weight is not finite."""
        for at, episode_return, episode_length in self.finished:
            self.writer.add_scalar("charts/episodic_return", episode_return, at)
            self.writer.add_scalar("charts/episodic_length", episode_length, at)
            self.recent.append(episode_return)
        returns = [*self.sums[0], *self.recent]
        self.finished, self.recent = [], self.recent[-100:]
        for name, value in {"charts/episodic_return": returns, **scalars, **weights}.items():
            if not torch.as_tensor(value).isfinite().all():
                sys.exit(f"{name} is not finite at step {step}: stopped; the last checkpoint is as it was")
        speed = (step - self.first_step) / max(time.time() - self.began, 1e-9)
        for name, value in {**scalars, "charts/SPS": speed}.items():
            self.writer.add_scalar(name, float(value), step)
        text = f"return {np.mean(self.recent or np.nan):.1f}"
        self.bar.set_postfix_str(text)
        self.bar.update(step - self.bar.n)
        if self.bar.disable:
            print(f"step {step}/{self.args.total_timesteps}, {text}, {speed:.0f} steps/s", flush=True)

    def save(self, step: int, state: dict, policy) -> None:
        """Write the checkpoint and, if asked to, film an episode; running episodes end here, unlogged."""
        self.writer.flush()
        self.sums[:] = 0
        state |= {"args": asdict(self.args), "step": step, "recent": self.recent}
        save_checkpoint(self.folder / "checkpoint.pt", {**state, "torch": torch.get_rng_state()})
        if self.args.capture_video and not self.stop:
            evaluate(self.args, policy, self.folder / "videos" / f"step-{step}")

    def finish(self, model: dict, policy) -> None:
        """Write model.pt and evaluate; or, after a signal, say how to go on."""
        self.bar.close()
        self.writer.close()
        if self.stop:
            path = self.folder / "checkpoint.pt"
            print(f"stopped; to go on: python {sys.argv[0]} --resume {path}", file=sys.stderr)
            sys.exit(128 + self.stop)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        save_checkpoint(self.folder / "model.pt", {"args": asdict(self.args), **model})
        evaluate(self.args, policy)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write the state whole: a crash leaves the old file or the new one."""
    with open(path.with_suffix(".tmp"), "wb") as file:
        torch.save({"script": Path(__file__).stem, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path.with_suffix(".tmp"), path)


def load_checkpoint(path: str) -> dict:
    """What save_checkpoint of this script wrote. No code is run; Windows would lock a file that is mapped."""
    try:
        state = torch.load(path, map_location="cpu", mmap=os.name != "nt", weights_only=True)
        script = state["script"]
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}")
    except Exception as error:
        fail(f"{path} is no checkpoint of {Path(__file__).name}, or a damaged one ({type(error).__name__})")
    if script != Path(__file__).stem:
        fail(f"{path} was written by {script}.py: use that script")
    return state


def parse_args(cls) -> tuple:
    """Arguments, and the state that --resume or --evaluate names, or {}; its arguments are the defaults."""
    args = tyro.cli(cls, description=__doc__.replace("\n", "\n "))  # tyro joins what is not indented
    path = args.resume or args.evaluate
    state = load_checkpoint(path) if path else {}
    try:
        default = cls(**state["args"] | {"resume": "", "evaluate": ""}) if state else args
    except (KeyError, TypeError) as error:
        fail(f"{path} is from another version of {Path(__file__).name}: {error}")
    return tyro.cli(cls, default=default) if state else args, state


def check(args: Args, state: dict) -> tuple:
    """The environments and the device, once all that cannot work is refused, before anything is written."""
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')}"
        low = 0 if name in ("seed", "num_threads", "checkpoint_frequency") else 1
        high = 1024 if name == "num_threads" else 10**9
        if type(value) is int and not low <= value <= high:
            fail(f"{flag} must be from {low} to {high}, not {value}")
        if name == "alpha" and not 0 < value < math.inf:
            fail(f"{flag} must be above 0 and finite, not {value}")
        if type(value) is float and name != "alpha" and not 0 <= value <= 1:
            fail(f"{flag} must be from 0 to 1, not {value}")
        fixed = state and name in ("env_id", "num_envs", "buffer_size")
        if fixed and value != state["args"][name]:
            fail(f"{flag} is {state['args'][name]} in the checkpoint and cannot change")
    if args.resume and (args.evaluate or "step" not in state):
        fail("--resume takes a checkpoint.pt, --evaluate that or a model.pt; only one of them can be given")
    if args.buffer_size < max(args.batch_size, args.num_envs):
        fail(f"--buffer-size {args.buffer_size} must be at least --batch-size and --num-envs")
    if not 2 * args.num_envs <= args.learning_starts <= args.total_timesteps:
        fail(f"--learning-starts {args.learning_starts} must be at least 2 * num-envs, and at most"
             f" --total-timesteps, which is {args.total_timesteps}")
    if args.capture_video:
        make_envs(args.env_id, 1, "rgb_array").close()
    envs = make_envs(args.env_id, args.num_envs)
    obs_space, space = envs.single_observation_space, envs.single_action_space
    if not (isinstance(obs_space, gym.spaces.Box) and len(obs_space.shape) == 1):
        fail(f"--env-id {args.env_id} has observations {obs_space}, not vectors")
    if not isinstance(space, gym.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        fail(f"--env-id {args.env_id} has actions {space}, not real numbers in a Box; dqn.py and its variants"
             " and ppo.py take Discrete ones, ppo.py MultiDiscrete ones")
    if not (np.isfinite(space.low) & np.isfinite(space.high)).all():
        fail(f"--env-id {args.env_id} has actions {space}: their bounds must be finite")
    size = args.buffer_size * (6 + 4 * obs_space.shape[0] + 4 * math.prod(space.shape))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    if size > memory and not args.evaluate:
        fail(f"--buffer-size {args.buffer_size} takes {size / 1e9:.1f} GB; memory: {memory / 1e9:.1f} GB")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = "cpu" if args.device == "auto" else args.device
    if not there[device]:
        fail(f"--device {device} is not on this machine: take auto or cpu")
    return envs, device


def train(args: Args, state: dict | None = None) -> None:
    """Haarnoja et al. 2018, Algorithm 1; with a checkpoint's state, the rest of its run or its evaluation."""
    state = state or {}
    envs, device = check(args, state)
    obs_size, space = envs.single_observation_space.shape[0], envs.single_action_space
    action_size = math.prod(space.shape)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # the moments of dead units would become subnormal, slow on a CPU
    torch.set_num_threads(args.num_threads or 1)
    rng = np.random.default_rng(args.seed)
    policy, critic = Policy(obs_size, action_size).to(device), Critic(obs_size, action_size).to(device)
    target_critic = copy.deepcopy(critic)
    log_alpha = nn.Parameter(torch.tensor(math.log(args.alpha), device=device))
    nets = nn.ModuleDict({"policy": policy, "critic": critic, "target_critic": target_critic,
                          "temperature": nn.ParameterList([log_alpha])})

    def mean_action(obs: np.ndarray) -> np.ndarray:
        return scale(greedy(policy, obs, device), space)

    if args.evaluate:
        policy.load_state_dict(state["policy"])
        if args.capture_video:
            evaluate(args, mean_action, Path(args.evaluate).parent / "videos" / "evaluation")
        return evaluate(args, mean_action)
    optimizers = {
        f"{name}_optimizer": torch.optim.Adam(nets[name].parameters(), lr=args.learning_rate, fused=True)
        for name in ("policy", "critic", "temperature")}
    policy_optimizer, critic_optimizer, temperature_optimizer = optimizers.values()
    buffer = ReplayBuffer(args.buffer_size, args.num_envs, obs_size, action_size)
    parts = {**nets, **optimizers, "buffer": buffer}
    if state:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = args.learning_rate
        if not args.autotune:
            log_alpha.data.fill_(math.log(args.alpha))
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch"])
    run = Run(args, state)
    step, save, losses = run.first_step, True, {}
    while step < args.total_timesteps:
        if save:  # at the start, on resuming and after a checkpoint, so that a resumed run is the same
            obs, _ = envs.reset(seed=reset_seed(args.seed, step))

        # act
        action = act(policy, obs, device, rng, action_size, warm_up=step < args.learning_starts)

        # step
        next_obs, reward, terminated, truncated, _ = envs.step(scale(action, space))
        step += args.num_envs
        ended = terminated | truncated
        run.track(step, reward, ended)
        save = run.stop or step >= args.total_timesteps or due(step, args.num_envs, args.checkpoint_frequency)

        # store
        buffer.add(obs, action, reward, terminated, truncated | bool(save), next_obs)  # a save cuts episodes
        obs = reset_ended(envs, next_obs, ended)

        # learn
        for _ in range(due(step - args.learning_starts, args.num_envs, args.train_frequency)):
            batch, alpha = buffer.sample(rng, args.batch_size, device), log_alpha.detach().exp()
            with torch.no_grad():
                next_action, next_logp = sample_action(policy, batch.next_obs, rng)
                next_q = target_critic(batch.next_obs, next_action)
                y = soft_target(batch.reward, batch.terminated, next_q, next_logp, alpha, args.gamma)
            q_loss = critic_loss(critic(batch.obs, batch.action), y)
            critic_optimizer.zero_grad()
            q_loss.backward()
            critic_optimizer.step()
            critic.requires_grad_(False)  # J_pi needs the gradient of Q to the action alone
            new_action, logp = sample_action(policy, batch.obs, rng)
            pi_loss = policy_loss(logp, critic(batch.obs, new_action), alpha)
            policy_optimizer.zero_grad()
            pi_loss.backward()
            policy_optimizer.step()
            critic.requires_grad_(True)
            if args.autotune:
                temperature_optimizer.zero_grad()
                temperature_loss(log_alpha, logp, -action_size).backward()
                temperature_optimizer.step()
            losses = {"losses/critic_loss": q_loss.detach(), "losses/policy_loss": pi_loss.detach(),
                      "losses/entropy": -logp.detach(), "losses/alpha": alpha}

            # sync
            average(target_critic, critic, args.tau)

        # log
        if save or due(step, args.num_envs, 1000):
            run.log(step, {name: value.mean() for name, value in losses.items()}, nets.state_dict())
            losses = {}

        # save
        if save:
            tensors = {name: part.state_dict() for name, part in parts.items()}
            run.save(step, {**tensors, "rng": rng.bit_generator.state}, mean_action)
            if run.stop:
                break
    envs.close()
    run.finish({"policy": policy.state_dict(), "critic": critic.state_dict()}, mean_action)


if __name__ == "__main__":
    train(*parse_args(Args))
