# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.13", "gymnasium[mujoco,classic-control]>=1.4", "numpy>=2.4", "tyro>=1.0",
#                 "tensorboard>=2.21", "tqdm>=4.70", "moviepy>=2.2"]
# ///
r"""SAC: an off-policy actor-critic that maximises the reward plus alpha times the entropy of the policy.

Paper: Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", arXiv:1812.05905, 2018.
Adds: nothing. It is a root of its own, with the plumbing of dqn.py.

    y       = r + gamma * (1 - terminated) * (min_i Q_i(s', a'; theta^-) - alpha * log pi(a' | s')), a' ~ pi
    J_Q     = sum over i = 1, 2 of the mean of (Q_i(s, a; theta) - y)^2 / 2                             (5)
    J_pi    = mean of alpha * log pi(a | s) - min_i Q_i(s, a; theta),  a = tanh(mu + sigma * noise)     (9)
    J_alpha = mean of -alpha * (log pi(a | s) + target_entropy),  target_entropy = -dim(A)              (18)
    theta^- = tau * theta + (1 - tau) * theta^-                          theta^- is the target critic

Where: Algorithm 1, with the gradients (6) and (10) by backward -> train; J_Q -> critic_loss; y, with V of
    Eq. (3) -> soft_target; J_pi, Eqs. (7), (9) -> policy_loss; J_alpha -> temperature_loss; target entropy
    -> train; mu, sigma -> Policy; noise -> Policy.sample; a, Eq. (8), and log pi under tanh, Eq. (26) ->
    squash; minimum of two critics (Sec. 6, unnumbered) -> soft_target, policy_loss; the two critics ->
    Critic; Polyak averaging -> polyak_update; replay memory (pool) D -> ReplayBuffer; random warm-up, critic
    frozen while the policy learns -> train; scaling to the bounds -> to_env; evaluation by tanh(mu) -> act
Departs:
    Before learning-starts the actions are uniformly random, and nothing is learned.
    The log of sigma is clamped to [-20, 2].
    Adam steps log alpha, which starts at log 0.2.
    Time limits and checkpoints truncate episodes. The target still bootstraps there.
    Terminal states have value 0. The paper's equations have no terminal states.
    Actions are scaled to the environment's bounds. Networks, replay memory and log pi see them in [-1, 1].
    The budget is for Pendulum. The other defaults are those of the paper's Table 1, where it has them.
Run:
    python sac.py
    python sac.py --env-id Hopper-v5 --total-timesteps 1000000 --learning-starts 10000 \
        --checkpoint-frequency 100000
"""
import copy
import math
import os
import random
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
import tyro
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import RecordVideo
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "Pendulum-v1"  # Gymnasium id: vector observations, and actions in a Box with finite bounds
    seed: int = 1  # of all random numbers
    total_timesteps: int = 20_000  # transitions of all environments
    learning_rate: float = 3e-4  # of Adam, for policy, critic and temperature
    num_envs: int = 1  # N, parallel environments
    gamma: float = 0.99  # discount per step
    buffer_size: int = 1_000_000  # capacity of the replay memory D
    batch_size: int = 256  # B, transitions in an update
    learning_starts: int = 1_000  # transitions stored, by random actions, before updates begin
    train_frequency: int = 1  # transitions between updates
    tau: float = 0.005  # weight of the critic in an update of the target critic
    autotune: bool = True  # learn the temperature alpha, so that the policy's entropy comes to -dim(A)
    alpha: float = 0.2  # the temperature; with autotune, its initial value
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cpu, as the networks are small
    num_threads: int = 0  # threads of torch (0: one)
    eval_episodes: int = 10  # episodes of the final evaluation, with tanh(mu) as the action
    checkpoint_frequency: int = 10_000  # transitions between checkpoints, which cut episodes (0: first, last)
    capture_video: bool = False  # film an episode, up to 1 GB of frames, at checkpoints or with --evaluate
    resume: str = ""  # checkpoint.pt to go on from, in its folder; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate instead of training


# changed from dqn.py: continuous actions, one step
class Batch(NamedTuple):
    obs: torch.Tensor  # (B, O) f32
    action: torch.Tensor  # (B, A) f32 in [-1, 1]
    reward: torch.Tensor  # (B,) f32
    terminated: torch.Tensor  # (B,) f32, 1 where next_obs is terminal, 0 at a time limit
    next_obs: torch.Tensor  # (B, O) f32


class Policy(nn.Module):
    """Mean and log standard deviation of u, whose tanh is the action: (B, O) -> (B, A), (B, A)."""

    def __init__(self, obs_size: int, action_size: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_size, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU())
        self.head = nn.Linear(256, 2 * action_size)

    def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.head(self.body(obs)).chunk(2, dim=-1)
        return mean, log_std.clamp(-20, 2)

    def sample(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw actions from pi(. | s), (B, A) in [-1, 1], and their log pi (B,). Both carry the gradient."""
        mean, log_std = self(obs)
        noise = torch.randn(mean.shape).to(mean.device)  # drawn on the CPU: the same on every device
        return squash(mean, log_std, noise)


class TwinLinear(nn.Module):
    """Two nn.Linear side by side, in one batched matrix product: (2, B, I) -> (2, B, J)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        bound = inputs**-0.5  # as in nn.Linear
        self.weight = nn.Parameter(torch.empty(2, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Critic(nn.Module):
    """Q_1 and Q_2, which share no weights: (B, O), (B, A) -> (2, B)."""

    def __init__(self, obs_size: int, action_size: int):
        super().__init__()
        self.body = nn.Sequential(
            TwinLinear(obs_size + action_size, 256), nn.ReLU(), TwinLinear(256, 256), nn.ReLU())
        self.head = TwinLinear(256, 1)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        x = self.body(torch.cat([obs, action], dim=1).expand(2, -1, -1))  # (2, B, 256)
        # This is self.head(x).squeeze(2), without a matrix product of one column, which is slow.
        return (x * self.head.weight.mT).sum(dim=2) + self.head.bias.squeeze(2)


# changed from dqn.py: whole transitions of vectors
class ReplayBuffer:
    """Replay memory D: a ring of the newest `capacity` transitions of all environments."""

    def __init__(self, capacity: int, obs_size: int, action_size: int):
        self.size, self.count = capacity, 0  # slots, and transitions ever stored
        shapes = (obs_size,), (action_size,), (), (), (obs_size,)
        arrays = (np.zeros((capacity, *shape), np.float32) for shape in shapes)  # take memory as they fill
        self.data = Batch(*map(torch.from_numpy, arrays))

    def add(self, obs, action, reward, terminated, next_obs) -> None:
        """Store a step of all environments, (N, ...) each. next_obs is from envs.step, never from reset."""
        slots = torch.arange(self.count, self.count + len(reward)) % self.size  # (N,)
        for ring, x in zip(self.data, (obs, action, reward, terminated, next_obs), strict=True):
            ring[slots] = torch.as_tensor(x, dtype=torch.float32)
        self.count += len(slots)

    def sample(self, batch_size: int, device: str) -> Batch:
        """Draw transitions uniformly, with replacement."""
        slots = torch.randint(min(self.count, self.size), (batch_size,))  # (B,)
        return Batch(*(ring[slots].to(device) for ring in self.data))

    def state_dict(self) -> dict:
        """The filled slots, cut in NumPy: of a slice made by torch, torch.save would write all slots."""
        return {"count": self.count, "size": self.size} | {
            name: torch.from_numpy(ring.numpy()[:self.count]) for name, ring in self.data._asdict().items()}

    def load_state_dict(self, state: dict) -> None:
        if state["size"] != self.size:
            raise ValueError("--buffer-size cannot change when a run is resumed")
        self.count = state["count"]
        for name, ring in self.data._asdict().items():
            ring[:self.count] = state[name]


def squash(mean: torch.Tensor, log_std: torch.Tensor,
           noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Action (B, A) in [-1, 1] and its log pi (B,), from standard normal noise (B, A). Eqs. (8) and (26).

    log pi = log N(u; mean, std) - log(1 - tanh(u)^2), summed over A, where
    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which is exact also where tanh(u) rounds to 1.
    """
    u = mean + log_std.exp() * noise  # (B, A)
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)  # (B, A)
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # (B, A)
    return torch.tanh(u), (log_normal - log_slope).sum(dim=-1)


def soft_target(reward: torch.Tensor, terminated: torch.Tensor, next_q: torch.Tensor,
                next_logp: torch.Tensor, alpha: torch.Tensor | float, gamma: float) -> torch.Tensor:
    """y (B,), Eq. (5), from next_q (2, B) of the target critic and (B,) reward, terminated, next_logp."""
    next_value = torch.minimum(*next_q) - alpha * next_logp  # (B,), Eq. (3)
    return reward + gamma * (1 - terminated) * next_value


def critic_loss(q: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """J_Q () of both critics, from q (2, B) and y (B,). Eq. (5)."""
    return 0.5 * (q - y.detach()).square().mean(dim=1).sum()


def policy_loss(logp: torch.Tensor, q: torch.Tensor, alpha: torch.Tensor | float) -> torch.Tensor:
    """J_pi (), from logp (B,) and q (2, B) of reparameterised actions, which carry the gradient. Eq. (9).
    alpha must carry none."""
    return (alpha * logp - torch.minimum(*q)).mean()


def temperature_loss(log_alpha: torch.Tensor, logp: torch.Tensor, target_entropy: float) -> torch.Tensor:
    """J_alpha (), from log_alpha () and logp (B,): an entropy above its target makes alpha fall. Eq. (18)."""
    return -(log_alpha.exp() * (logp.detach() + target_entropy)).mean()


@torch.no_grad()
def polyak_update(target_net: nn.Module, net: nn.Module, tau: float) -> None:
    """theta^- = tau * theta + (1 - tau) * theta^-, in place, without buffers (BatchNorm's). Algorithm 1."""
    for target_param, param in zip(target_net.parameters(), net.parameters(), strict=True):
        target_param.lerp_(param, tau)


# changed from dqn.py: the policy explores by itself
@torch.inference_mode()
def act(policy: Policy, obs: np.ndarray, device: str, greedy: bool = False) -> np.ndarray:
    """A draw from the policy, or tanh(mean) if `greedy`: (N, O) -> (N, A) in [-1, 1]."""
    obs = torch.from_numpy(obs).to(device)
    return (policy(obs)[0].tanh() if greedy else policy.sample(obs)[0]).cpu().numpy()


def to_env(action: np.ndarray, space: gym.Space) -> np.ndarray:
    """Actions scaled from [-1, 1] to the bounds and clipped there."""
    action = action.reshape(-1, *space.shape)
    scaled = (1 - action) / 2 * space.low + (1 + action) / 2 * space.high
    return np.clip(scaled, space.low, space.high).astype(space.dtype)


def train(args: Args, state: dict | None = None) -> float:
    """Train, resume or evaluate, as `args` say. Return the evaluation's mean. `state` is the checkpoint, if
    loaded already; resuming empties it. Changes torch's threads, flush_denormal and all global seeds."""
    state = state or load(args)
    envs, device = set_up(args)
    check(args, envs)
    space = envs.single_action_space
    obs_size, action_size = envs.single_observation_space.shape[0], math.prod(space.shape)  # O, A
    policy, critic = Policy(obs_size, action_size).to(device), Critic(obs_size, action_size).to(device)

    def eval_policy(obs: np.ndarray) -> np.ndarray:
        return to_env(act(policy, obs, device, greedy=True), space)

    if args.evaluate:
        policy.load_state_dict(state["policy"])
        envs.close()
        return evaluate(args, eval_policy)
    target_critic = copy.deepcopy(critic)
    log_alpha = nn.Parameter(torch.tensor(args.alpha or 1.0, device=device).log())  # --alpha 0 has no log
    temperature = nn.ParameterDict({"log_alpha": log_alpha})
    policy_optimizer, critic_optimizer, temperature_optimizer = optimizers = [
        torch.optim.Adam(net.parameters(), fused=True) for net in (policy, critic, temperature)]
    buffer = ReplayBuffer(args.buffer_size, obs_size, action_size)
    parts = {"policy": policy, "critic": critic, "target_critic": target_critic, "temperature": temperature,
             "policy_optimizer": policy_optimizer, "critic_optimizer": critic_optimizer,
             "temperature_optimizer": temperature_optimizer, "buffer": buffer}
    run = Run(args, state, parts)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = args.learning_rate  # not the checkpoint's
    step, obs = run.first_step, run.checkpoint(run.first_step, envs, eval_policy)  # obs of new episodes
    while step < args.total_timesteps:
        # act
        if step < args.learning_starts:
            action = 2 * torch.rand(args.num_envs, action_size).numpy() - 1  # (N, A), uniform in [-1, 1]
        else:
            action = act(policy, obs, device)

        # step
        next_obs, reward, terminated, truncated, _ = envs.step(to_env(action, space))
        step += args.num_envs
        ended = terminated | truncated
        run.log_episodes(step, reward, ended)

        # store
        buffer.add(obs, action, reward, terminated, next_obs)
        obs = envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_obs

        # learn
        for _ in range(due(step - args.learning_starts, args.num_envs, args.train_frequency)):
            batch = buffer.sample(args.batch_size, device)
            alpha = log_alpha.detach().exp() if args.autotune else args.alpha
            with torch.no_grad():
                next_action, next_logp = policy.sample(batch.next_obs)
                next_q = target_critic(batch.next_obs, next_action)
                y = soft_target(batch.reward, batch.terminated, next_q, next_logp, alpha, args.gamma)
            q_loss = critic_loss(critic(batch.obs, batch.action), y)
            critic_optimizer.zero_grad()
            q_loss.backward()
            critic_optimizer.step()
            new_action, logp = policy.sample(batch.obs)
            pi_loss = policy_loss(logp, critic(batch.obs, new_action), alpha)
            policy_optimizer.zero_grad()
            pi_loss.backward(inputs=list(policy.parameters()))  # no gradient for the critic: it is frozen
            policy_optimizer.step()
            if args.autotune:
                temperature_optimizer.zero_grad()
                temperature_loss(log_alpha, logp, target_entropy=-action_size).backward()
                temperature_optimizer.step()
            run.log_losses(step, critic_loss=q_loss, policy_loss=pi_loss, entropy=-logp.mean(), alpha=alpha)

            # sync the target critic
            polyak_update(target_critic, critic, args.tau)

        # save
        if step >= args.total_timesteps or due(step, args.num_envs, args.checkpoint_frequency):
            obs = run.checkpoint(step, envs, eval_policy)
    envs.close()
    return run.finish(step, {"policy": policy}, eval_policy)


def check(args: Args, envs: VectorEnv) -> None:
    """Refuse what would go wrong silently or late."""
    space, obs_shape = envs.single_action_space, envs.single_observation_space.shape
    if len(obs_shape) != 1:
        sys.exit(f"--env-id {args.env_id} has frames as observations; this script takes vectors")
    if not isinstance(space, Box) or space.dtype.kind != "f" or not space.is_bounded():
        sys.exit(f"--env-id {args.env_id} has actions {space}; this script takes a bounded Box of floats")
    latest = args.total_timesteps - args.train_frequency
    if not args.num_envs <= args.learning_starts <= latest or args.num_envs > args.buffer_size:
        sys.exit("--learning-starts must be from num-envs to total-timesteps - train-frequency,"
                 " and --buffer-size at least num-envs")
    if args.autotune and not args.alpha:
        sys.exit("--alpha must be above 0, unless --no-autotune keeps it at 0")
    size = args.buffer_size * 4 * (2 * obs_shape[0] + math.prod(space.shape) + 2)  # bytes
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if (limit := Path("/sys/fs/cgroup/memory.max")).exists():  # of a container
        memory = min(memory, float(limit.read_text().replace("max", "inf")))
    if size > memory and not args.evaluate:
        sys.exit(f"--buffer-size takes {size / 1e9:.1f} GB, and the memory has {memory / 1e9:.1f} GB")


# The rest is the same in all ten scripts: environments, evaluation, films, logs, checkpoints, arguments.


class NoInfo(gym.Wrapper):
    """Drop `info`: Gymnasium can fail to merge infos. Declare vectors as float32, so VectorEnv casts them."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        if isinstance(env.observation_space, Box) and len(env.observation_space.shape) == 1:
            self.observation_space = Box(-np.inf, np.inf, env.observation_space.shape)

    def reset(self, **kwargs):
        return self.env.reset(**kwargs)[0], {}

    def step(self, action):
        return *self.env.step(action)[:4], {}


# changed from dqn.py: vectors only
def make_envs(args: Args, num_envs: int, film: Path | None = None) -> VectorEnv:
    """Environments side by side, or one that is filmed."""
    wrappers = [partial(RecordVideo, video_folder=str(film)), NoInfo] if film else [NoInfo]
    options = {"render_mode": "rgb_array"} if film else {}
    return gym.make_vec(args.env_id, num_envs, "sync", {"autoreset_mode": AutoresetMode.NEXT_STEP}, wrappers,
                        disable_env_checker=True, **options)


def seed_all(seed: int) -> None:
    """Seed torch's generators, and the two global ones that environments may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def set_up(args: Args) -> tuple[VectorEnv, str]:
    """Refuse numbers out of range, open the environments and choose the device."""
    for field in fields(args):
        if field.type in (int, float):
            value, whole = getattr(args, field.name), field.type is int
            low = whole and field.name not in ("seed", "num_threads", "checkpoint_frequency")
            large = field.name in ("alpha", "ent_coef", "max_grad_norm", "sigma_0", "target_kl", "vf_coef")
            high = 10**9 if whole or large else 1
            if not low <= value <= high or value != field.type(value):
                sys.exit(f"--{field.name.replace('_', '-')} must be from {low:d} to {high}, not {value}")
            setattr(args, field.name, field.type(value))  # a plain number also for 0, 1e5 or NumPy's
    seed_all(args.seed)
    envs = make_envs(args, args.num_envs)
    space = envs.single_observation_space
    frames = space.shape == (4, 84, 84) and space.dtype == np.uint8
    if not frames and not (isinstance(space, Box) and len(space.shape) == 1):
        sys.exit(f"--env-id {args.env_id} has observations {space}, not vectors or uint8 (4, 84, 84) frames")
    torch.set_num_threads(args.num_threads or (torch.get_num_threads() if frames else 1))
    torch.set_flush_denormal(True)  # dead units leave subnormal numbers in Adam, which are slow on a CPU
    auto = "cuda" if frames and torch.cuda.is_available() else "cpu"
    return envs, auto if args.device == "auto" else args.device


def evaluate(args: Args, eval_policy, film: Path | None = None) -> float:
    """Play --eval-episodes episodes side by side, print and return their mean return. With `film`, film one
    episode into that folder instead, up to 10,000 frames and 1 GB: they stay in memory until the end."""
    if args.evaluate and args.capture_video and not film:
        evaluate(args, eval_policy, Path(args.evaluate).parent / "videos" / "evaluate")
    print(f"filming into {film}" if film else f"evaluating {args.eval_episodes} episodes", flush=True)
    seed_all(args.seed)
    envs = make_envs(args, 1 if film else args.eval_episodes, film)
    obs, _ = envs.reset(seed=2**30 + args.seed)  # training has the seeds below 2**30
    returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
    left = min(10_000, 10**9 // envs.render()[0].nbytes) if film else math.inf  # frames
    while running.any() and left > 0:
        obs, reward, terminated, truncated, _ = envs.step(eval_policy(obs))
        returns[running] += reward[running]
        running &= ~(terminated | truncated)
        left -= 1
    envs.close()
    if not film:
        print(f"eval: mean {returns.mean():.2f} std {returns.std():.2f} over {len(returns)} episodes")
    return float(returns.mean())


def due(step: int, taken: int, every: int) -> int:
    """How many multiples of `every` (0: none) are in the last `taken` transitions: due(8, 8, 2) == 4."""
    return max(step, 0) // every - max(step - taken, 0) // every if every else 0


class Run:
    """The folder of a run, with TensorBoard events, checkpoints and films, and the progress bar."""

    def __init__(self, args: Args, state: dict, parts: dict):
        """`parts` is what a checkpoint holds, and is loaded from `state` if there is one."""
        self.args, self.parts, self.first_step, self.began = args, parts, state.get("step", 0), time.time()
        if state and (lacking := parts.keys() - state.keys()):
            sys.exit(f"the file lacks {', '.join(sorted(lacking))}: --resume takes a checkpoint.pt with it")
        total = args.total_timesteps
        if state and total <= self.first_step and total != state["args"]["total_timesteps"]:
            sys.exit(f"--total-timesteps must be above {self.first_step}, where the checkpoint is")
        for name in parts if state else ():
            parts[name].load_state_dict(state.pop(name))  # pop: keep no second replay memory
        name = f"{args.env_id}__{Path(__file__).stem}__{args.seed}__{self.began:.6f}".replace("/", "-")
        self.folder = Path(args.resume).parent if args.resume else Path("runs", name.replace(":", "-"))
        self.folder.mkdir(parents=True, exist_ok=bool(args.resume))
        print(f"run folder: {self.folder}", flush=True)
        self.writer = SummaryWriter(self.folder, purge_step=self.first_step + 1)
        self.writer.add_text("args", "\n".join(f"    {name}: {value}" for name, value in vars(args).items()))
        self.bar = tqdm(total=total, initial=self.first_step, mininterval=0.1 if sys.stderr.isatty() else 60)
        self.episodes, self.recent = [], []  # to write together (a write wakes a thread); last 100 returns

    def log_episodes(self, step: int, reward: np.ndarray, ended: np.ndarray) -> None:
        """Add a step of all environments. Collect the episodes it ends, each under its own step number."""
        self.bar.update(step - self.bar.n)
        self.returns += reward
        self.lengths += 1
        for i in ended.nonzero()[0]:
            self.episodes.append((step - len(ended) + int(i) + 1, self.returns[i], self.lengths[i]))
            self.returns[i] = self.lengths[i] = 0

    def write_episodes(self) -> None:
        """Write the noted episodes to TensorBoard, all at once, and the mean of the last 100 to the bar."""
        for step, episode_return, length in self.episodes:
            self.writer.add_scalar("charts/episodic_return", episode_return, step)
            self.writer.add_scalar("charts/episodic_length", length, step)
            self.recent = [*self.recent[-99:], episode_return]
            self.bar.set_postfix_str(f"return {np.mean(self.recent):.1f}", refresh=False)
        self.episodes = []

    def log_losses(self, step: int, **losses) -> None:
        """Log the first losses after each multiple of 1,000 transitions."""
        if due(step, step - self.logged, 1000):
            self.logged = step
            self.write_episodes()
            losses["SPS"] = (step - self.first_step) / (time.time() - self.began)
            for name, value in losses.items():
                group = "charts" if name in ("epsilon", "learning_rate", "SPS") else "losses"
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def checkpoint(self, step: int, envs: VectorEnv, eval_policy) -> np.ndarray:
        """Save the run. Then begin new episodes, with all randomness seeded from (seed, step): a resumed run
        computes the same bits as one that goes on. Return the first observations."""
        self.save("checkpoint.pt", step, self.parts)
        if self.args.capture_video:
            evaluate(self.args, eval_policy, self.folder / "videos" / str(step))
        seed = int(np.random.SeedSequence((self.args.seed, step)).generate_state(1)[0] % 2**30)
        seed_all(seed)
        self.returns, self.lengths, self.logged = np.zeros(envs.num_envs), np.zeros(envs.num_envs), step
        return envs.reset(seed=seed)[0]

    def finish(self, step: int, nets: dict, eval_policy) -> float:
        """Save the networks alone as model.pt, to share; return the mean return of the evaluation."""
        self.bar.close()
        self.save("model.pt", step, nets)
        mean = evaluate(self.args, eval_policy)
        self.writer.add_scalar("eval/return", mean, step)
        self.writer.close()
        return mean

    def save(self, name: str, step: int, parts: dict) -> None:
        """Write a partial file and rename it, so a crash leaves the old file or the new one. Refuse NaN."""
        self.write_episodes()
        self.writer.flush()
        state = {name: part.state_dict() for name, part in parts.items()}
        values = [state]
        for value in values:  # the loop also visits the values of nested dictionaries
            values += value.values() if isinstance(value, dict) else ()
            if torch.is_tensor(value) and value.is_floating_point() and not value.isfinite().all():
                sys.exit(f"\nNaN or infinity at step {step}: stopped; the last checkpoint is unchanged")
        state |= {"script": Path(__file__).stem, "args": asdict(self.args) | {"resume": ""}, "step": step}
        path = self.folder / name
        try:
            with open(f"{path}.partial", "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{path}.partial", path)
        finally:
            Path(f"{path}.partial").unlink(missing_ok=True)


def load(args: Args) -> dict:
    """The file that --evaluate or --resume names, or {}. No code in it is run."""
    if not (path := args.evaluate or args.resume):
        return {}
    if not zipfile.is_zipfile(path) or zipfile.ZipFile(path).testzip():
        sys.exit(f"{path} is missing, damaged or no checkpoint: name a checkpoint.pt or model.pt")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("script") != Path(__file__).stem:
        sys.exit(f"{path} is no checkpoint of {Path(__file__).name}, but of {state.get('script')}")
    return state


if __name__ == "__main__":
    checkpoint = load(tyro.cli(Args, description=(__doc__ or "").replace("\n", "\n ")))  # or tyro joins lines
    train(tyro.cli(Args, default=Args(**checkpoint.get("args", {}))), checkpoint)
