# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "gymnasium[atari,classic-control,mujoco]==1.4.0", "ale-py==0.12.1", "mujoco==4.0.0",
#   "numpy==2.4.6", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1", "moviepy==2.2.1",
#   "opencv-python-headless==5.0.0.93"]
# ///
"""REINFORCE: the score-function policy gradient, from whole episodes.

Paper: Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement learning",
    Machine Learning 8:229-256, 1992; rewards-to-go: Sutton et al., "Policy Gradient Methods for Reinforcement
    Learning with Function Approximation", NIPS 12, 1057-1063, 2000, section 1.
Adds: nothing, it is the parent of vpg, which is the parent of a2c, and that of ppo.
Where: Sutton's return R_t, here G_t -> discounted_returns; gradient, Williams's Eq. (11) with G_t for the
    total reward -> reinforce_loss; the same number of whole episodes from each environment -> collect

    G_t  = sum of gamma^(k - t) r_k over k >= t, to the end of the episode
    loss = -(mean over episodes) sum over t of G_t log pi(a_t | s_t; theta)
    --reduction mean: the mean over t, 1/T of the sum, so in a batch each time step of a short episode
        weighs more. Adam hides a constant factor and part of a changing one; SGD hides neither

Departs: where Williams weighs an action by all rewards of its episode, only those from it on count here, and
    discounted; no gamma^t before a term, as usual in practice; no baseline, b = 0; one optimizer step for a
    batch of episodes; a time limit ends the sum like a terminal state, so the steps before it look worse than
    they are (better, where rewards are negative); Adam for plain gradient ascent; MLPs of 64 and 64 tanh
    units, for pixels Mnih et al. 2015's network; orthogonal init; Box actions clipped; our defaults.
Run:
    python reinforce.py
    python reinforce.py --optimizer sgd --learning-rate 1e-3
    python reinforce.py --env-id InvertedPendulum-v5 --total-timesteps 1000000
"""
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
import tyro
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from gymnasium.wrappers.vector import TransformObservation
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "CartPole-v1"  # Gymnasium id: vector observations, or an Atari game such as ALE/Pong-v5
    seed: int = 1  # of networks, environments and actions
    total_timesteps: int = 500_000  # environment transitions, as is --checkpoint-frequency
    learning_rate: float = 1e-2  # of the policy
    num_envs: int = 8  # N, parallel environments
    episodes_per_env: int = 4  # whole episodes from each environment in a batch
    gamma: float = 0.99  # discount per step
    reduction: Literal["sum", "mean"] = "sum"  # over the steps of an episode
    optimizer: Literal["adam", "sgd"] = "adam"  # of the policy
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for pixels)
    repeat_action_probability: float = 0.0  # Atari's sticky actions
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for pixels if there, else cpu
    num_threads: int = 0  # torch's threads (0: one for vectors, torch's default for pixels)
    eval_episodes: int = 10  # played greedily at the end
    checkpoint_frequency: int = 100_000  # between checkpoints, which reset environments (0: only at the end)
    capture_video: bool = False  # film an evaluation episode at every checkpoint
    resume: str = ""  # checkpoint.pt to go on from; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate with its arguments, instead of training


class Episode(NamedTuple):
    obs: torch.Tensor  # (T, *O) f32, u8 for pixels
    action: torch.Tensor  # (T,) i64, (T, K) i64 for MultiDiscrete, (T, A) f32 for Box
    reward: torch.Tensor  # (T,) f32
    end: int  # transitions of the batch up to and with the last one of this episode


class Categorical(NamedTuple):
    """pi(. | s) over A discrete actions, or over K independent ones of up to A values each."""

    logits: torch.Tensor  # (B, A) or (B, K, A)

    def sample(self) -> torch.Tensor:
        """(B,) or (B, K). Minus the log of an exponential draw is Gumbel noise, and logits with such noise
        are largest at a draw from their softmax: many times faster than torch.distributions."""
        noise = torch.empty(self.logits.shape).exponential_().to(self.logits.device)  # drawn on the CPU
        return (self.logits - noise.log()).argmax(-1)

    def mode(self) -> torch.Tensor:
        return self.logits.argmax(-1)  # (B,) or (B, K)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """(B,), summed over the K."""
        logp = self.logits.log_softmax(-1).gather(-1, action.unsqueeze(-1)).squeeze(-1)  # (B,) or (B, K)
        return logp.sum(1) if logp.dim() == 2 else logp

    def entropy(self) -> torch.Tensor:
        """(B,), summed over the K."""
        logp = self.logits.log_softmax(-1)  # (B, A) or (B, K, A)
        return -(logp.exp() * logp).flatten(1).sum(1)


class Normal(NamedTuple):
    """pi(. | s) over A independent continuous actions."""

    mean: torch.Tensor  # (B, A)
    log_std: torch.Tensor  # (A,), does not depend on the state

    def sample(self) -> torch.Tensor:
        """(B, A)."""
        return self.mean + self.log_std.exp() * torch.randn(self.mean.shape).to(self.mean.device)

    def mode(self) -> torch.Tensor:
        return self.mean  # (B, A)

    def log_prob(self, action: torch.Tensor) -> torch.Tensor:
        """(B,), summed over the A."""
        z = (action - self.mean) / self.log_std.exp()  # (B, A)
        return (-0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> torch.Tensor:
        """(B,), summed over the A."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(self.mean.shape[:-1])


def orthogonal(layer: nn.Module, gain: float = 2**0.5) -> nn.Module:
    """The layer with orthogonal weights and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class Body(nn.Module):
    """Features of observations, (B, *O) -> (B, width): all layers of a network but the last."""

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
        if obs.dtype == torch.uint8:  # channels_last: faster convolutions
            obs = obs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return self.layers(obs)


class Policy(nn.Module):
    """pi(. | s; theta), (B, *O) -> Categorical or Normal."""

    def __init__(self, obs_shape: tuple[int, ...], action_space: gym.Space):
        super().__init__()
        self.body = Body(obs_shape)
        self.box, self.multi = isinstance(action_space, Box), isinstance(action_space, MultiDiscrete)
        if self.box:
            self.log_std = nn.Parameter(torch.zeros(action_space.shape))
            outputs = action_space.shape[0]
        elif self.multi:  # the same number of logits for each of the K; the absent are never chosen
            sizes = torch.tensor(action_space.nvec.tolist())  # (K,)
            self.register_buffer("absent", torch.arange(int(sizes.max())) >= sizes.unsqueeze(1))  # (K, A)
            outputs = self.absent.numel()
        else:
            outputs = int(action_space.n)
        self.head = orthogonal(nn.Linear(self.body.width, outputs), gain=0.01)

    def forward(self, obs: torch.Tensor) -> Categorical | Normal:
        return self.dist(self.body(obs))

    def dist(self, features: torch.Tensor) -> Categorical | Normal:
        out = self.head(features)
        if self.box:
            return Normal(out, self.log_std)
        if self.multi:
            out = out.view(-1, *self.absent.shape).masked_fill(self.absent, -1e9)  # -inf would make H nan
        return Categorical(out)


def discounted_returns(reward: torch.Tensor, gamma: float) -> torch.Tensor:
    """G_t, the discounted rewards-to-go of one whole episode, (T,) -> (T,). Sutton et al. 2000, section 1."""
    ret, ahead = reward.tolist(), 0.0  # (T,), in Python's numbers: faster than T operations on tensors
    for t in reversed(range(len(ret))):
        ret[t] = ahead = ret[t] + gamma * ahead  # ()
    return reward.float().new_tensor(ret)  # (T,)


def reinforce_loss(logp: torch.Tensor, ret: torch.Tensor, reduction: str) -> torch.Tensor:
    """Loss () of one episode, whose gradient is minus REINFORCE's. Williams 1992, Eq. (11), with G_t (T,)."""
    loss = -logp * ret  # (T,)
    return loss.sum() if reduction == "sum" else loss.mean()


# changed from dqn.py: the mode of a policy
@torch.inference_mode()
def greedy(policy: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """Most probable action, or the mean: (N, *O) -> (N,), (N, K) or (N, A)."""
    return policy(torch.from_numpy(obs).to(device)).mode().cpu().numpy()


# changed from dqn.py: a stochastic policy explores by itself
@torch.inference_mode()
def act(policy: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """A draw from the policy: (N, *O) -> (N,), (N, K) or (N, A)."""
    return policy(torch.from_numpy(obs).to(device)).sample().cpu().numpy()


def to_env(action: np.ndarray, space: gym.Space) -> np.ndarray:
    """The action as the environment takes it: within its bounds, or counted from its start; of its dtype."""
    action = np.clip(action, space.low, space.high) if isinstance(space, Box) else space.start + action
    return action.astype(space.dtype)


def collect(envs, policy: nn.Module, seed: int, episodes_per_env: int, device: str) -> list[Episode]:
    """The first whole episodes of each environment after a reset, in the order of their ends. It waits for
    every one of them to end.

    An environment that is done with its own is stepped on, uncounted, until all are: to take the first
    episodes that end, wherever they do, would favour short ones.
    """
    obs, _ = envs.reset(seed=seed)
    left, steps, episodes, count = np.full(envs.num_envs, episodes_per_env), [[] for _ in obs], [], 0
    while left.any():
        action = act(policy, obs, device)
        next_obs, reward, terminated, truncated, _ = envs.step(to_env(action, envs.single_action_space))
        ended = terminated | truncated
        for env in left.nonzero()[0]:
            count += 1
            steps[env].append((obs[env], action[env], np.float32(reward[env])))  # action as drawn, unclipped
            if ended[env]:
                columns = (torch.from_numpy(np.array(x)).to(device) for x in zip(*steps[env], strict=True))
                episodes.append(Episode(*columns, count))
                steps[env], left[env] = [], left[env] - 1
        obs = reset_ended(envs, next_obs, ended)
    return episodes


def fail(message: str) -> NoReturn:
    """End with one sentence on standard error and exit status 2."""
    print(" ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def make_envs(env_id: str, num_envs: int, repeat_action_probability: float = 0.0, render_mode=None):
    """Vector environment; where an episode ends, reset_ended begins the next. Vectors become float32. Atari:
    raw rewards, stacks of 4 frames of 84x84, each for 4 of the emulator's, and no FIRE pressed at resets."""
    def make_env():
        if not atari:
            return gym.make(env_id, disable_env_checker=True, **shown)
        env = gym.make(f"ale_py:{env_id}", frameskip=1, **shown, **sticky)
        return FrameStackObservation(AtariPreprocessing(env), 4, padding_type="zero")

    atari, sticky = env_id.startswith("ALE/"), {"repeat_action_probability": repeat_action_probability}
    shown = {"render_mode": render_mode} if render_mode else {}  # not every environment takes it
    try:
        if atari and not render_mode:
            raw = {"reward_clipping": False, "use_fire_reset": False, **sticky}
            return gym.make_vec(f"ale_py:{env_id}", num_envs, autoreset_mode=AutoresetMode.NEXT_STEP, **raw)
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
        fail(f"--env-id {env_id} cannot be {'filmed' if render_mode else 'made'}: {error} (Atari games are"
             " named like ALE/Pong-v5; extras: pip install 'gymnasium[atari,classic-control,mujoco]' moviepy"
             " opencv-python-headless; MuJoCo without a display: MUJOCO_GL=egl or osmesa, and its library)")


def reset_ended(envs, obs: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """Observations to act on (N, *O): `obs`, but the first of a new episode where one ended. Without this
    reset the next step would ignore its action and be stored as a transition between two episodes."""
    return envs.reset(options={"reset_mask": ended})[0] if ended.any() else obs


def reset_seed(seed: int, step: int) -> int:
    """Environment seed from transition `step` on, below 2^30; evaluation seeds are 2^30 and up."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0] % 2**30)


def evaluate(args, policy, film: Path | None = None) -> None:
    """Play an episode in each of --eval-episodes fresh environments under policy(obs) -> action and print the
    mean return, as the last line of standard output; or film a single one, up to 10,000 frames."""
    render_mode = "rgb_array" if film else None
    num_envs = 1 if film else args.eval_episodes
    envs = make_envs(args.env_id, num_envs, args.repeat_action_probability, render_mode)
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
        if type(value) is float and not 0 <= value <= 1:
            fail(f"{flag} must be from 0 to 1, not {value}")
        if state and name in ("env_id", "num_envs", "optimizer") and value != state["args"][name]:
            fail(f"{flag} is {state['args'][name]} in the checkpoint and cannot change")
    if args.resume and (args.evaluate or "step" not in state):
        fail("--resume takes a checkpoint.pt, --evaluate that or a model.pt; only one of them can be given")
    if args.capture_video:
        make_envs(args.env_id, 1, args.repeat_action_probability, "rgb_array").close()
    envs = make_envs(args.env_id, args.num_envs, args.repeat_action_probability)
    space, obs_space = envs.single_action_space, envs.single_observation_space
    shape = obs_space.shape
    box = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == "f" and space.is_bounded()
    if not (box or isinstance(space, Discrete) or isinstance(space, MultiDiscrete) and len(space.shape) == 1):
        fail(f"--env-id {args.env_id} has actions {space}, not Discrete, MultiDiscrete or vectors of bounded"
             " floats")
    pixels = shape == (4, 84, 84) and obs_space.dtype == np.uint8
    if not pixels and not (isinstance(obs_space, Box) and len(shape) == 1):
        fail(f"--env-id {args.env_id} has observations {obs_space}, not vectors or uint8 (4, 84, 84) frames")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = ("cuda" if pixels and there["cuda"] else "cpu") if args.device == "auto" else args.device
    if not there[device]:
        fail(f"--device {device} is not on this machine: take auto or cpu")
    return envs, device


def train(args: Args, state: dict | None = None) -> None:
    """REINFORCE in batches of episodes; with a checkpoint's state, the rest of its run or its evaluation."""
    state = state or {}
    envs, device = check(args, state)
    obs_shape, action_space = envs.single_observation_space.shape, envs.single_action_space
    pixels = len(obs_shape) == 3
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # the moments of dead units would become subnormal, slow on a CPU
    torch.set_num_threads(args.num_threads or (torch.get_num_threads() if pixels else 1))
    policy = Policy(obs_shape, action_space).to(device)

    def best(obs: np.ndarray) -> np.ndarray:
        return to_env(greedy(policy, obs, device), action_space)

    if args.evaluate:
        policy.load_state_dict(state["policy"])
        if args.capture_video:
            evaluate(args, best, Path(args.evaluate).parent / "videos" / "evaluation")
        return evaluate(args, best)
    optimizer_class = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[args.optimizer]
    optimizer = optimizer_class(policy.parameters(), lr=args.learning_rate, fused=True)
    parts = {"policy": policy, "optimizer": optimizer}
    if state:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimizer.param_groups[0]["lr"] = args.learning_rate
        torch.set_rng_state(state["torch"])
    run = Run(args, state)
    step = run.first_step
    clip_reward = args.clip_reward == "on" or pixels and args.clip_reward == "auto"
    while step < args.total_timesteps:
        # act, step, store
        episodes = collect(envs, policy, reset_seed(args.seed, step), args.episodes_per_env, device)
        run.finished += [(step + e.end, sum(e.reward.tolist()), len(e.reward)) for e in episodes]
        taken = episodes[-1].end  # of the whole batch: this episode ended last
        step += taken

        # learn
        losses = {"losses/policy_loss": 0.0}
        optimizer.zero_grad()
        for episode in episodes:
            reward = episode.reward.sign() if clip_reward else episode.reward
            ret = discounted_returns(reward, args.gamma)
            logp = policy(episode.obs).log_prob(episode.action)
            loss = reinforce_loss(logp, ret, args.reduction) / len(episodes)
            loss.backward()
            losses["losses/policy_loss"] += loss.detach()
        optimizer.step()

        # log
        save = run.stop or step >= args.total_timesteps or due(step, taken, args.checkpoint_frequency)
        if save or due(step, taken, 1000):
            run.log(step, losses, policy.state_dict())

        # save
        if save:
            run.save(step, {name: part.state_dict() for name, part in parts.items()}, best)
            if run.stop:
                break
    envs.close()
    run.finish({"policy": policy.state_dict()}, best)


if __name__ == "__main__":
    train(*parse_args(Args))
