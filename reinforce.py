# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.13", "gymnasium[atari,classic-control,mujoco]>=1.4", "ale-py>=0.12", "numpy>=2.4",
#                 "tyro>=1.0", "tensorboard>=2.21", "tqdm>=4.70", "moviepy>=2.2", "opencv-python-headless>=5"]
# ///
"""REINFORCE: the score-function policy gradient, estimated from whole episodes.

Paper: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    Machine Learning 8:229-256, 1992. Rewards-to-go: Sutton et al., "Policy Gradient Methods for Reinforcement
    Learning with Function Approximation", NIPS 12, 1057-1063, 2000, section 1.
Adds: nothing. It is the first of a chain: reinforce.py -> vpg.py -> a2c.py -> ppo.py.

    G_t  = sum of gamma^(k - t) r_k over k >= t, to the end of the episode
    loss = -(mean over episodes) sum over t of G_t log pi(a_t | s_t; theta)
    --reduction mean: the mean over t instead of the sum. It divides an episode's gradient by its length, so
        the steps of short episodes weigh more. Adam cancels constant factors, not this one; SGD cancels none.

Where: Sutton's return R_t, here G_t (rewards-to-go) -> discounted_returns; Williams's Eq. (11), with G_t for
    the whole reward -> reinforce_loss; whole episodes, the same number from each environment -> collect;
    --reduction, mean over episodes -> train; Gumbel trick -> Categorical.sample
Departs:
    Williams weighs an action by all rewards of its episode. Here only its own and later ones count.
    Rewards are discounted. The factor gamma^t of the discounted objective is left out, as in most programs.
    There is no baseline. Atari games are learned from the sign of the reward (--clip-reward).
    A batch of episodes makes one step of Adam. The paper's gradient ascent is --optimizer sgd.
    An environment that has finished its episodes plays on until the others have. These extra transitions are
    not learned from, and --total-timesteps does not count them.
    A time limit ends the sum like a terminal state: the rewards that would follow count as 0.
    Networks are MLPs of 64 and 64 tanh units, or that of Mnih et al. 2015. Weights are orthogonal at first.
    Actions of a Box are drawn, clipped to [-1, 1] and scaled to the bounds. log pi is that of the raw draw.
Run:
    python reinforce.py
    python reinforce.py --env-id InvertedPendulum-v5 --total-timesteps 1000000
"""
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
import tyro
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, RecordVideo
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "CartPole-v1"  # Gymnasium id: vector observations, or an Atari game such as ALE/Pong-v5
    seed: int = 1  # of all random numbers
    total_timesteps: int = 500_000  # transitions of all environments (in Atari games, of 4 frames each)
    learning_rate: float = 1.5e-3  # of the policy's optimizer
    num_envs: int = 8  # N, parallel environments
    episodes_per_env: int = 4  # whole episodes of each environment in a batch; an endless one stalls the run
    gamma: float = 0.99  # discount per step
    reduction: Literal["sum", "mean"] = "sum"  # over the steps of an episode
    optimizer: Literal["adam", "sgd"] = "adam"  # of the policy
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for frames)
    repeat_action_probability: float = 0.0  # sticky actions of Atari games
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for frames if there is one, else cpu
    num_threads: int = 0  # threads of torch (0: one for vectors, for frames as many as torch has)
    eval_episodes: int = 10  # episodes of the final evaluation, with the mode of pi as the action
    checkpoint_frequency: int = 10_000  # transitions between checkpoints, after a batch (0: first, last)
    capture_video: bool = False  # film an episode, up to 1 GB of frames, at checkpoints or with --evaluate
    resume: str = ""  # checkpoint.pt to go on from, in its folder; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate instead of training


class Episode(NamedTuple):
    obs: torch.Tensor  # (T, *O) f32, or u8 for frames; *O is the shape of an observation
    action: torch.Tensor  # (T,) i64, (T, K) i64 for MultiDiscrete, (T, A) f32 for Box, as drawn
    reward: torch.Tensor  # (T,) f32
    end: int  # number of transitions in the batch when the episode ended


class Categorical(NamedTuple):
    """pi(. | s) over A discrete actions, or over K independent ones of up to A values each."""

    logp: torch.Tensor  # (B, A) or (B, K, A), normalised; (T, N, A) must be flattened first

    def sample(self) -> torch.Tensor:
        """(B,) or (B, K), by the Gumbel trick: for E ~ Exp(1), argmax of logp - log E is a draw from pi."""
        noise = torch.empty(self.logp.shape).exponential_().to(self.logp.device)
        return (self.logp - noise.log()).argmax(-1)

    def mode(self) -> torch.Tensor:
        return self.logp.argmax(-1)  # (B,) or (B, K)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        logp = self.logp.gather(-1, action.unsqueeze(-1)).squeeze(-1)  # (B,) or (B, K)
        return logp.sum(1) if logp.dim() == 2 else logp  # (B,)


class Normal(NamedTuple):
    """pi(. | s) over A independent continuous actions."""

    mean: torch.Tensor  # (B, A)
    log_std: torch.Tensor  # (A,), does not depend on the state

    @torch.no_grad()
    def sample(self) -> torch.Tensor:
        return self.mean + self.log_std.exp() * torch.randn(self.mean.shape).to(self.mean.device)  # (B, A)

    def mode(self) -> torch.Tensor:
        return self.mean  # (B, A)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        z = (action - self.mean).view_as(self.mean) / self.log_std.exp()  # (B, A); view_as refuses (B, B)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)  # (B,)


def orthogonal(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """Give the layer orthogonal weights and zero biases."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Body(nn.Module):
    """All layers of a network but the last, (B, *O) -> (B, width)."""

    def __init__(self, obs_shape: tuple[int, ...]):
        super().__init__()
        if len(obs_shape) == 3:
            self.width, self.layers = 512, nn.Sequential(
                orthogonal(nn.Conv2d(4, 32, 8, stride=4)), nn.ReLU(),
                orthogonal(nn.Conv2d(32, 64, 4, stride=2)), nn.ReLU(),
                orthogonal(nn.Conv2d(64, 64, 3)), nn.ReLU(), nn.Flatten(),
                orthogonal(nn.Linear(64 * 7 * 7, 512)), nn.ReLU())
        else:
            self.width, self.layers = 64, nn.Sequential(
                orthogonal(nn.Linear(obs_shape[0], 64)), nn.Tanh(), orthogonal(nn.Linear(64, 64)), nn.Tanh())

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        if obs.dtype == torch.uint8:  # channels_last makes convolutions faster
            obs = obs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return self.layers(obs)


class Policy(nn.Module):
    """pi(. | s; theta), (B, *O) -> Categorical or Normal."""

    def __init__(self, obs_shape: tuple[int, ...], space: gym.Space):
        super().__init__()
        self.body, self.space = Body(obs_shape), space
        if isinstance(space, Box):
            outputs, self.log_std = space.shape[0], nn.Parameter(torch.zeros(space.shape))
        elif isinstance(space, Discrete):
            outputs = int(space.n)
        else:  # MultiDiscrete: each of the K actions has as many logits as the largest, some of them absent
            sizes = torch.tensor(space.nvec.tolist())  # (K,)
            self.register_buffer("absent", torch.arange(int(sizes.max())) >= sizes.unsqueeze(1))  # (K, A)
            outputs = self.absent.numel()
        self.head = orthogonal(nn.Linear(self.body.width, outputs), gain=0.01)

    def forward(self, obs: torch.Tensor) -> Categorical | Normal:
        out = self.head(self.body(obs))
        if isinstance(self.space, Box):
            return Normal(out, self.log_std)
        if isinstance(self.space, MultiDiscrete):
            out = out.view(-1, *self.absent.shape).masked_fill(self.absent, -1e9)  # with -inf, entropy is nan
        return Categorical(out.log_softmax(-1))


def discounted_returns(reward: torch.Tensor, gamma: float) -> torch.Tensor:
    """Rewards-to-go G_t of a whole episode, (T,) -> (T,). Sutton et al. 2000, section 1."""
    ret, ahead = reward.tolist(), 0.0  # (T,), Python's numbers are faster here than T tensor operations
    for t in reversed(range(len(ret))):
        ret[t] = ahead = ret[t] + gamma * ahead  # ()
    return reward.float().new_tensor(ret)  # (T,)


def reinforce_loss(logp: torch.Tensor, ret: torch.Tensor) -> torch.Tensor:
    """Loss () of an episode or a part of it, from (T,) each. Williams 1992, Eq. (11), with G_t as `ret`."""
    return -(logp * ret.detach()).sum()  # ()


# changed from dqn.py: a stochastic policy explores by itself
@torch.inference_mode()
def act(policy: nn.Module, obs: np.ndarray, device: str, greedy: bool = False) -> np.ndarray:
    """A draw from the policy, or its mode if `greedy`: (N, *O) -> (N,), (N, K) or (N, A)."""
    dist = policy(torch.from_numpy(obs).to(device))
    return (dist.mode() if greedy else dist.sample()).cpu().numpy()


def to_env(action: np.ndarray, space: gym.Space) -> np.ndarray:
    """Actions of a Box, scaled from [-1, 1] to its bounds and clipped there. Others stay as they are."""
    if not isinstance(space, Box):
        return action
    scaled = (1 - action) / 2 * space.low + (1 + action) / 2 * space.high
    return np.clip(scaled, space.low, space.high).astype(space.dtype)


def collect(envs: VectorEnv, policy: nn.Module, episodes_per_env: int, device: str) -> list[Episode]:
    """Play `episodes_per_env` new episodes in each environment; return them in the order in which they end.

    An environment that has finished its episodes plays on, uncounted, until the others have. A batch of the
    episodes that end first, from any environment, would favour short ones.
    """
    obs, _ = envs.reset()
    left, steps, episodes, count = np.full(envs.num_envs, episodes_per_env), [[] for _ in obs], [], 0
    while left.any():
        action = act(policy, obs, device)
        next_obs, reward, terminated, truncated, _ = envs.step(to_env(action, envs.single_action_space))
        ended = terminated | truncated
        for env in left.nonzero()[0]:
            count += 1
            steps[env].append((obs[env].copy(), action[env], np.float32(reward[env])))
            if ended[env]:
                columns = (torch.from_numpy(np.array(x)).to(device) for x in zip(*steps[env], strict=True))
                episodes.append(Episode(*columns, count))
                steps[env], left[env] = [], left[env] - 1
        # No reset after the last episode: the next batch resets all, and a second reset skips a start state.
        obs = envs.reset(options={"reset_mask": ended})[0] if ended.any() and left.any() else next_obs
    return episodes


def train(args: Args, state: dict | None = None) -> float:
    """Train, resume or evaluate, as `args` say. Return the evaluation's mean. `state` is the checkpoint, if
    loaded already; resuming empties it. Changes torch's threads, flush_denormal and all global seeds."""
    state = state or load(args)
    envs, device = set_up(args)
    check(args, envs)
    obs_shape, space = envs.single_observation_space.shape, envs.single_action_space
    policy = Policy(obs_shape, space).to(device)

    def eval_policy(obs: np.ndarray) -> np.ndarray:
        return to_env(act(policy, obs, device, greedy=True), space)

    if args.evaluate:
        policy.load_state_dict(state["policy"])
        envs.close()
        return evaluate(args, eval_policy)
    optimizer_class = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[args.optimizer]
    optimizer = optimizer_class(policy.parameters(), lr=args.learning_rate, fused=True)
    run = Run(args, state, {"policy": policy, args.optimizer: optimizer})  # named, as their states differ
    optimizer.param_groups[0]["lr"] = args.learning_rate  # not the checkpoint's
    clip_reward = {"on": True, "off": False, "auto": len(obs_shape) == 3}[args.clip_reward]
    step = run.first_step
    run.checkpoint(step, envs, eval_policy)
    while step < args.total_timesteps:
        # act, step, store
        episodes = collect(envs, policy, args.episodes_per_env, device)
        run.episodes += [(step + e.end, e.reward.sum().item(), len(e.reward)) for e in episodes]
        taken = episodes[-1].end  # number of transitions in the batch
        step += taken
        run.bar.update(taken)

        # learn
        policy_loss = 0.0
        optimizer.zero_grad()
        for episode in episodes:
            ret = discounted_returns(episode.reward.sign() if clip_reward else episode.reward, args.gamma)
            weight = 1 / len(episodes) / (len(ret) if args.reduction == "mean" else 1)  # a mean over episodes
            # in parts, so that the gradient's memory does not grow with the length of an episode
            parts = (x.split(512) for x in (episode.obs, episode.action, ret))
            for obs, action, ret_p in zip(*parts, strict=True):
                loss = weight * reinforce_loss(policy(obs).log_prob(action), ret_p)
                loss.backward()
                policy_loss += loss.detach()
        optimizer.step()
        run.log_losses(step, policy_loss=policy_loss)

        # save
        if step >= args.total_timesteps or due(step, taken, args.checkpoint_frequency):
            run.checkpoint(step, envs, eval_policy)
    envs.close()
    return run.finish(step, {"policy": policy}, eval_policy)


def check(args: Args, envs: VectorEnv) -> None:
    """Refuse what would go wrong silently or late."""
    space = envs.single_action_space
    box = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == "f" and space.is_bounded()
    whole = isinstance(space, Discrete | MultiDiscrete) and len(space.shape) < 2 and not np.any(space.start)
    if not box and not whole:
        sys.exit(f"--env-id {args.env_id} has actions {space}; this script takes Discrete or MultiDiscrete"
                 " with start=0, or a bounded 1-d Box of floats")


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
