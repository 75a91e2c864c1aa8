# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.13", "gymnasium[atari,classic-control,mujoco]>=1.4", "ale-py>=0.12", "numpy>=2.4",
#                 "tyro>=1.0", "tensorboard>=2.21", "tqdm>=4.70", "moviepy>=2.2", "opencv-python-headless>=5"]
# ///
r"""NoisyNet-DQN: noise of learned size on the weights explores in place of epsilon-greedy.

Paper: Fortunato et al., "Noisy Networks for Exploration", ICLR 2018, arXiv:1706.10295.
Adds: to dqn.py noisy linear layers in place of epsilon, with new noise for every action and every update.

    layer(x) = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b                   Eq. (9)
    eps_w[j, i] = f(e_i) f(e_j), eps_b[j] = f(e_j), for input i and output j, with
                  f(x) = sgn(x) sqrt(|x|) and e ~ N(0, 1): factorised noise          Eqs. (10), (11)
    y    = r + gamma * (1 - terminated) * max_a Q(s', a, eps'; zeta^-)      zeta^- is the target network
    loss = mean of (y - Q(s, a, eps; zeta))^2, zeta = all mu and sigma               Eq. (14)

Where: Eq. (9) -> NoisyLinear.forward; Eqs. (10), (11) -> NoisyLinear.draw_noise; first mu and sigma (section
    3.2) -> NoisyLinear; layers with noise -> QNetwork; y, Eq. (14) -> td_loss; Algorithm 1 (appendix C.1) ->
    train: it draws a new eps for each action, and a new eps and eps' for each update, which all transitions
    of the batch share; evaluation without noise -> train, eval_policy; --eval-epsilon -> act
    As in dqn.py: n-step return -> ReplayBuffer.sample; stacks of four frames -> ReplayBuffer.stacked_obs;
    reward clipping, copy to zeta^- -> train
Departs:
    All departures of dqn.py except its schedule of epsilon.
    For vectors the first layer has no noise. In the paper all fully connected layers are noisy.
    Sigma starts at 4 / sqrt(p) by default. With the paper's 0.5 (--sigma-0 0.5) the agent explores CartPole
    too little. On Acrobot some seeds fail with 4; none fails with 0.5.
    The noisy policy fills the replay memory from the first step.
    Parallel environments share the noise of an action.
    Evaluation is without noise.
Run:
    python noisy_dqn.py
    python noisy_dqn.py --env-id ALE/Pong-v5 --total-timesteps 500000 --gamma 0.99 --batch-size 32 \
        --learning-rate 1e-4 --adam-eps 1.5e-4 --learning-starts 10000 --train-frequency 1 \
        --n-step 1 --target-network-frequency 1000 --eval-epsilon 0.001 --checkpoint-frequency 100000 \
        --sigma-0 0.5
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
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, RecordVideo
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "CartPole-v1"  # Gymnasium id: vector observations, or an Atari game such as ALE/Pong-v5
    seed: int = 1  # of all random numbers
    total_timesteps: int = 50_000  # transitions (in Atari games, of 4 frames each)
    learning_rate: float = 1e-3  # of Adam
    adam_eps: float = 1e-8  # with frames use 1.5e-4 (Hessel et al. 2018, Table 1), or many units die
    num_envs: int = 1  # N, parallel environments
    gamma: float = 0.999  # discount per step
    n_step: int = 3  # n, rewards summed before the bootstrap
    buffer_size: int = 100_000  # transitions that the replay memory D holds
    batch_size: int = 128  # B, transitions in an update
    learning_starts: int = 1_000  # transitions stored before updates begin
    train_frequency: int = 2  # transitions between updates
    target_network_frequency: int = 100  # transitions between copies to the target network
    # changed from dqn.py: noise instead of epsilon
    sigma_0: float = 4.0  # a layer of p inputs begins with sigma = sigma_0 / sqrt(p); the paper: 0.5
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for frames)
    repeat_action_probability: float = 0.0  # sticky actions of Atari games
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for frames if there is one, else cpu
    num_threads: int = 0  # threads of torch (0: one for vectors, for frames as many as torch has)
    eval_episodes: int = 10  # episodes of the final evaluation
    eval_epsilon: float = 0.0  # epsilon in evaluation; above 0 it breaks endless loops in deterministic games
    checkpoint_frequency: int = 10_000  # transitions between checkpoints, which cut episodes (0: first, last)
    capture_video: bool = False  # film an episode, up to 1 GB of frames, at checkpoints or with --evaluate
    resume: str = ""  # checkpoint.pt to go on from, in its folder; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate instead of training


class Batch(NamedTuple):
    obs: torch.Tensor  # (B, *O) f32, or u8 for frames; *O is the shape of an observation
    action: torch.Tensor  # (B,) i64
    reward: torch.Tensor  # (B,) f32, sum of gamma^i r_i over the k steps of the window
    discount: torch.Tensor  # (B,) f32, gamma^k, for the bootstrap
    terminated: torch.Tensor  # (B,) f32, 1 where next_obs is terminal, 0 at a time limit
    next_obs: torch.Tensor  # (B, *O), k steps later


class NoisyLinear(nn.Module):
    """(mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b, (B, p) -> (B, q). Fortunato et al. 2018, Eq. (9).

    The noise eps stays the same until draw_noise, also in eval(). It is not in state_dict, so each network
    keeps its own. It does not move with the layer: call draw_noise after .to(device).
    """

    def __init__(self, p: int, q: int, sigma_0: float = 0.5):
        super().__init__()
        bound, sigma = p**-0.5, sigma_0 * p**-0.5
        self.mu_w, self.mu_b = (nn.Parameter(torch.empty(s).uniform_(-bound, bound)) for s in ((q, p), (q,)))
        self.sigma_w, self.sigma_b = (nn.Parameter(torch.full_like(m, sigma)) for m in (self.mu_w, self.mu_b))
        self.draw_noise()

    def draw_noise(self, draw=torch.randn) -> None:
        """Draw eps_w (q, p) and eps_b (q,), Eqs. (10) and (11); with draw=torch.zeros there is no noise. They
        are new tensors, as backward may still need the old ones. CPU and GPU get the same numbers."""
        e = draw(sum(self.mu_w.shape)).to(self.mu_w)  # (q + p,)
        self.eps_b, eps_in = e.abs().sqrt().copysign(e).split(self.mu_w.shape)  # f(e): (q,), (p,)
        self.eps_w = torch.outer(self.eps_b, eps_in)  # (q, p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = torch.addcmul(self.mu_w, self.sigma_w, self.eps_w)  # mu_w + sigma_w * eps_w in one pass
        return F.linear(x, weight, torch.addcmul(self.mu_b, self.sigma_b, self.eps_b))


# changed from dqn.py: the linear layers of the head are noisy
class QNetwork(nn.Module):
    """Q(s, .) of all A actions, (B, *O) -> (B, A): the paper's network for frames, an MLP for vectors."""

    def __init__(self, obs_shape: tuple[int, ...], num_actions: int, sigma_0: float = 0.5):
        super().__init__()
        if len(obs_shape) == 3:
            width, hidden = 64 * 7 * 7, 512
            self.body = nn.Sequential(
                nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten())
        else:
            width, hidden = 120, 84
            self.body = nn.Sequential(nn.Linear(obs_shape[0], width), nn.ReLU())
        self.head = nn.Sequential(
            NoisyLinear(width, hidden, sigma_0), nn.ReLU(), NoisyLinear(hidden, num_actions, sigma_0))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        if obs.dtype == torch.uint8:  # channels_last makes convolutions faster
            obs = obs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return self.head(self.body(obs))

    def draw_noise(self, draw=torch.randn) -> None:
        """Draw new noise in both noisy layers, or none with draw=torch.zeros."""
        for layer in (self.head[0], self.head[2]):
            layer.draw_noise(draw)


class ReplayBuffer:
    """Replay memory D, a ring of slots: slot i holds a step of an environment, slot i + N its next step.

    Each observation is stored once; `final_obs` adds the last observation of each ended episode. Frame stacks
    (3-d, uint8) are stored as single frames: only the newest frame of each observation is kept.
    """

    def __init__(self, capacity: int, num_envs: int, obs_shape: tuple[int, ...], n_step: int, gamma: float):
        self.num_envs, self.n_step, self.gamma = num_envs, n_step, gamma
        self.stack = obs_shape[0] if len(obs_shape) == 3 else 1
        rows = math.ceil(capacity / num_envs) + n_step + self.stack - 1  # not all are drawn: see sample
        self.size, self.count = rows * num_envs, 0  # slots, and steps ever stored
        frame_shape, dtype = (obs_shape[1:], np.uint8) if self.stack > 1 else (obs_shape, np.float32)
        self.obs = np.zeros((self.size, *frame_shape), dtype)
        self.action = np.zeros(self.size, np.int64)
        self.reward = np.zeros(self.size, np.float32)
        self.terminated = np.zeros(self.size, bool)
        self.ended = np.ones(self.size, bool)  # terminated, truncated, or nothing stored yet
        self.final_obs = {}  # slot of an episode's last step -> the observation after it

    def add(self, obs, action, reward, terminated, truncated, next_obs) -> None:
        """Store a step of all environments, (N, ...) each. next_obs is from envs.step, never from reset."""
        first = self.count % self.size
        slots = slice(first, first + len(reward))
        for env in self.ended[slots].nonzero()[0]:  # these steps are overwritten
            self.final_obs.pop(first + env, None)
        self.obs[slots] = obs[:, -1] if self.stack > 1 else obs
        self.action[slots], self.reward[slots], self.terminated[slots] = action, reward, terminated
        self.ended[slots] = terminated | truncated
        for env in self.ended[slots].nonzero()[0].tolist():
            self.final_obs[first + env] = next_obs[env].copy()
        self.count += self.num_envs

    def sample(self, batch_size: int, device: str) -> Batch:
        """Draw transitions uniformly, with replacement. More than n steps of each env must be stored."""
        # Not drawn: the newest n steps (no next_obs yet) and, with frames, the oldest 3 (incomplete stacks).
        complete = self.count - self.n_step * self.num_envs
        drawable = min(complete, self.size - (self.n_step + self.stack - 1) * self.num_envs)
        start = (complete - 1 - torch.randint(drawable, (batch_size,)).numpy()) % self.size
        slot, running = start, np.ones(batch_size, bool)
        reward, discount = np.zeros(batch_size, np.float32), np.ones(batch_size, np.float32)
        for _ in range(self.n_step):  # a window stops at the last step of its episode
            reward += running * discount * self.reward[slot]
            discount[running] *= self.gamma
            running = running & ~self.ended[slot]
            slot = (slot + running * self.num_envs) % self.size
        next_obs, terminated = self.stacked_obs(slot), np.float32(~running & self.terminated[slot])
        for i in (~running).nonzero()[0]:
            next_obs[i] = self.final_obs[slot[i]]
        arrays = self.stacked_obs(start), self.action[start], reward, discount, terminated, next_obs
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))

    def stacked_obs(self, slot: np.ndarray) -> np.ndarray:
        """Observations (B, *O) of these slots."""
        if self.stack == 1:
            return self.obs[slot]
        slot = (slot[:, None] + self.num_envs * np.arange(1 - self.stack, 1)) % self.size  # (B, 4)
        stack, same = self.obs[slot], np.ones(len(slot), bool)  # (B, 4, 84, 84), (B,)
        for i in reversed(range(self.stack - 1)):  # frames of an earlier episode become zeros
            same &= ~self.ended[slot[:, i]]
            stack[~same, i] = 0
        return stack

    def state_dict(self) -> dict:
        """The filled slots, as tensors that share their memory, and final_obs as a list and a tensor."""
        arrays = {name: x[:self.count] for name, x in vars(self).items() if isinstance(x, np.ndarray)}
        arrays["final_obs"] = np.array(list(self.final_obs.values()))
        other = {"count": self.count, "shape": [self.size, self.num_envs], "final_slot": list(self.final_obs)}
        return other | {name: torch.from_numpy(x) for name, x in arrays.items()}

    def load_state_dict(self, state: dict) -> None:
        if state["shape"] != [self.size, self.num_envs]:
            raise ValueError("--buffer-size, --num-envs and --n-step cannot change when a run is resumed")
        self.count = state["count"]
        self.final_obs = dict(zip(state["final_slot"], state["final_obs"].numpy().copy(), strict=True))
        for name in ("obs", "action", "reward", "terminated", "ended"):
            getattr(self, name)[:self.count] = state[name].numpy()
        self.ended[self.count:] = True  # nothing is stored there


def td_loss(batch: Batch, q_net: nn.Module, target_net: nn.Module) -> torch.Tensor:
    """Mean over (B,) of (y - Q(s, a))^2, (). Mnih et al. 2015, Algorithm 1."""
    with torch.no_grad():
        next_q = target_net(batch.next_obs).amax(dim=1)  # (B,)
        y = batch.reward + batch.discount * (1 - batch.terminated) * next_q  # (B,)
    q = q_net(batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)  # (B,)
    return F.mse_loss(q, y)


@torch.inference_mode()
def act(q_net: nn.Module, obs: np.ndarray, epsilon: float, num_actions: int, device: str) -> np.ndarray:
    """Epsilon-greedy: a random action with probability epsilon, else argmax_a Q(s, a). (N, *O) -> (N,)"""
    explore = torch.rand(len(obs)).numpy() < epsilon  # (N,)
    action = torch.randint(num_actions, (len(obs),)).numpy() if explore.any() else 0  # (N,)
    if not explore.all():
        greedy = q_net(torch.from_numpy(obs).to(device)).argmax(dim=1).cpu().numpy()  # (N,)
        action = np.where(explore, action, greedy)  # (N,)
    return action


def train(args: Args, state: dict | None = None) -> float:
    """Train, resume or evaluate, as `args` say. Return the evaluation's mean. `state` is the checkpoint, if
    loaded already; resuming empties it. Changes torch's threads, flush_denormal and all global seeds."""
    state = state or load(args)
    envs, device = set_up(args)
    check(args, envs)
    obs_shape, num_actions = envs.single_observation_space.shape, int(envs.single_action_space.n)
    # changed from dqn.py: noise, but none in evaluation
    q_net = QNetwork(obs_shape, num_actions, args.sigma_0).to(device)

    def eval_policy(obs: np.ndarray) -> np.ndarray:
        q_net.draw_noise(torch.zeros)
        return act(q_net, obs, args.eval_epsilon, num_actions, device)

    if args.evaluate:
        q_net.load_state_dict(state["q_net"])
        envs.close()
        return evaluate(args, eval_policy)
    target_net = copy.deepcopy(q_net)
    optimizer = torch.optim.Adam(q_net.parameters(), fused=True)
    buffer = ReplayBuffer(args.buffer_size, args.num_envs, obs_shape, args.n_step, args.gamma)
    parts = {"q_net": q_net, "target_net": target_net, "optimizer": optimizer, "buffer": buffer}
    run = Run(args, state, parts)
    optimizer.param_groups[0].update(lr=args.learning_rate, eps=args.adam_eps)  # not the checkpoint's
    clip_reward = {"on": True, "off": False, "auto": len(obs_shape) == 3}[args.clip_reward]
    # changed from dqn.py: no epsilon
    step = run.first_step
    obs = run.checkpoint(step, envs, eval_policy)  # of new episodes
    while step < args.total_timesteps:
        # act
        # changed from dqn.py: new noise instead of epsilon
        q_net.draw_noise()
        with torch.inference_mode():
            action = q_net(torch.from_numpy(obs).to(device)).argmax(dim=1).cpu().numpy()  # (N,)

        # step
        next_obs, reward, terminated, truncated, _ = envs.step(action)
        step += args.num_envs
        ended = terminated | truncated
        run.log_episodes(step, reward, ended)

        # store
        saving = step >= args.total_timesteps or due(step, args.num_envs, args.checkpoint_frequency) > 0
        reward = np.sign(reward) if clip_reward else reward
        buffer.add(obs, action, reward, terminated, truncated | saving, next_obs)  # a checkpoint cuts, too
        obs = envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_obs

        # learn
        for _ in range(due(step - args.learning_starts, args.num_envs, args.train_frequency)):
            # changed from dqn.py: new noise in both networks
            q_net.draw_noise()
            target_net.draw_noise()
            loss = td_loss(buffer.sample(args.batch_size, device), q_net, target_net)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            # changed from dqn.py: no epsilon
            run.log_losses(step, td_loss=loss)

        # sync the target network
        if due(step, args.num_envs, args.target_network_frequency):
            target_net.load_state_dict(q_net.state_dict())

        # save
        if saving:
            obs = run.checkpoint(step, envs, eval_policy)
    envs.close()
    return run.finish(step, {"q_net": q_net}, eval_policy)


def check(args: Args, envs: VectorEnv) -> None:
    """Refuse what would go wrong silently or late."""
    space, obs_shape = envs.single_action_space, envs.single_observation_space.shape
    if not isinstance(space, Discrete) or space.start != 0:
        sys.exit(f"--env-id {args.env_id} has actions {space}; this script takes Discrete with start=0")
    first, last = (args.n_step + 1) * args.num_envs, args.total_timesteps - args.train_frequency
    if not first <= args.learning_starts <= last:
        sys.exit("--learning-starts must be (n-step + 1) * num-envs to total-timesteps - train-frequency")
    if len(obs_shape) == 3 and envs.reset(seed=args.seed)[0][:, :-1].any():
        sys.exit(f"--env-id {args.env_id}: frames before an episode must be zeros (padding_type='zero')")
    size = args.buffer_size * (14 + (84 * 84 if len(obs_shape) == 3 else 4 * obs_shape[0]))  # bytes
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


def make_envs(args: Args, num_envs: int, film: Path | None = None) -> VectorEnv:
    """Environments side by side, or one that is filmed. Atari: stacks of 4 frames of 84x84, raw rewards."""
    name, wrappers, options = args.env_id.removeprefix("ale_py:"), [], {}
    if "NoFrameskip" in name:
        sys.exit(f"--env-id {name}: Atari games have names such as ALE/Pong-v5")
    if name.startswith("ALE/"):
        name, options = f"ale_py:{name}", {"repeat_action_probability": args.repeat_action_probability}
        if not film:
            return gym.make_vec(name, num_envs, autoreset_mode=AutoresetMode.NEXT_STEP, reward_clipping=False,
                                use_fire_reset=False, **options)
        # the same frames from single games, as the vector environment cannot be filmed
        wrappers = [AtariPreprocessing, partial(FrameStackObservation, stack_size=4, padding_type="zero")]
        options["frameskip"] = 1
    if film:
        wrappers.append(partial(RecordVideo, video_folder=str(film)))
        options["render_mode"] = "rgb_array"
    return gym.make_vec(name, num_envs, "sync", {"autoreset_mode": AutoresetMode.NEXT_STEP},
                        [*wrappers, NoInfo], disable_env_checker=True, **options)


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
