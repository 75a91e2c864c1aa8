# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "gymnasium[atari,classic-control,mujoco]==1.4.0", "ale-py==0.12.1", "mujoco==4.0.0",
#   "numpy==2.4.6", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1", "moviepy==2.2.1",
#   "opencv-python-headless==5.0.0.93"]
# ///
r"""Noisy DQN: learned noise on the weights explores, in place of epsilon.

Paper: Fortunato et al., "Noisy Networks for Exploration", arXiv:1706.10295, ICLR 2018.
Adds: to dqn.py noisy linear layers, whose noise is drawn anew for every action and update; epsilon goes.
Where: Eqs. (9)-(11), section 3.2 -> NoisyLinear; loss, Eq. (14) -> td_loss, after new noise in both networks

    layer(x) = (mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b                   Eq. (9)
    factorised, input i, output j: eps_w[j, i] = f(e_i) f(e_j), eps_b[j] = f(e_j)    Eqs. (10), (11)
        f(x) = sgn(x) sqrt(|x|), e ~ N(0, 1); independent (the paper's A3C): all eps_w, eps_b ~ N(0, 1)
    y    = r + gamma * (1 - terminated) * max_a Q(s', a, eps'; zeta^-),      zeta^-: of the target network
    loss = mean of (y - Q(s, a, eps; zeta))^2, zeta: all mu and sigma; eps, eps' drawn independently

Departs: as dqn.py does, but for epsilon; the MLP's first layer has no noise; the noisy policy fills the
    memory from the start; one draw for the actions of all environments; evaluation is without noise.
Run:
    python noisy_dqn.py
    python noisy_dqn.py --env-id ALE/Pong-v5 --total-timesteps 500000 --learning-rate 1e-4 --batch-size 32 \
        --gamma 0.99 --train-frequency 1 --learning-starts 10000 --target-network-frequency 1000 \
        --adam-eps 1.5e-4
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
from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation
from gymnasium.wrappers.vector import TransformObservation
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "CartPole-v1"  # Gymnasium id: vector observations, or an Atari game such as ALE/Pong-v5
    seed: int = 1  # of networks, environments, exploration and replay
    total_timesteps: int = 50_000  # transitions (Atari: of 4 frames), as are buffer-size and all frequencies
    learning_rate: float = 1e-3  # of Adam
    adam_eps: float = 1e-8  # for frames 1.5e-4 (Hessel et al. 2018, Table 1), or many units die
    num_envs: int = 1  # N, parallel environments
    gamma: float = 0.999  # discount per step
    n_step: int = 1  # n, rewards summed before the bootstrap
    buffer_size: int = 100_000  # capacity of the replay memory D
    batch_size: int = 128  # B, transitions in an update
    learning_starts: int = 1_000  # stored before the first update
    train_frequency: int = 2  # transitions between updates
    target_network_frequency: int = 100  # transitions between copies to the target network
    # changed from dqn.py: noise instead of epsilon
    noise: Literal["factorised", "independent"] = "factorised"  # noise per input and output, or per weight
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for pixels)
    repeat_action_probability: float = 0.0  # Atari's sticky actions
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for pixels if there, else cpu
    num_threads: int = 0  # torch's threads (0: one for vectors, torch's default for pixels)
    eval_episodes: int = 10  # played greedily at the end
    checkpoint_frequency: int = 100_000  # between checkpoints, which cut episodes (0: only at the end)
    capture_video: bool = False  # film an evaluation episode at every checkpoint
    resume: str = ""  # checkpoint.pt to go on from; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate with its arguments, instead of training


class Batch(NamedTuple):
    obs: torch.Tensor  # (B, *O) f32, u8 for pixels; *O is the shape of an observation
    action: torch.Tensor  # (B,) i64
    reward: torch.Tensor  # (B,) f32, sum of gamma^i r_i over the k steps of the window
    discount: torch.Tensor  # (B,) f32, gamma^k
    terminated: torch.Tensor  # (B,) f32, 1 where next_obs is terminal, 0 at a time limit
    next_obs: torch.Tensor  # (B, *O), k steps on


class NoisyLinear(nn.Module):
    """(mu_w + sigma_w * eps_w) x + mu_b + sigma_b * eps_b, (B, p) -> (B, q). Fortunato et al. 2018, Eq. (9).

    The noise is no buffer: only draw_noise changes it. addcmul: sum and product in one pass. Init: Sec. 3.2.
    """

    def __init__(self, p: int, q: int, noise: str):
        super().__init__()
        self.noise = noise
        bound, sigma = ((3 / p) ** 0.5, 0.017) if noise == "independent" else (p**-0.5, 0.5 * p**-0.5)
        self.mu_w, self.mu_b = (nn.Parameter(torch.empty(s).uniform_(-bound, bound)) for s in ((q, p), (q,)))
        self.sigma_w, self.sigma_b = (nn.Parameter(torch.full_like(m, sigma)) for m in (self.mu_w, self.mu_b))
        self.draw_noise()

    def draw_noise(self, draw=torch.randn) -> None:
        """New tensors, not new numbers in the old ones: a backward pass may need those. Drawn on the CPU,
        whose generator is in the checkpoint; with draw=torch.zeros there is no noise."""
        if self.noise == "independent":
            self.eps_w, self.eps_b = (draw(mu.shape).to(mu.device) for mu in (self.mu_w, self.mu_b))
        else:  # f(x) = sgn(x) sqrt(|x|), Eqs. (10) and (11)
            e = draw(sum(self.mu_w.shape)).to(self.mu_w.device)  # (q + p,)
            self.eps_b, eps_in = e.abs().sqrt().copysign(e).split(self.mu_w.shape)  # (q,), (p,)
            self.eps_w = torch.outer(self.eps_b, eps_in)  # (q, p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.mu_w.addcmul(self.sigma_w, self.eps_w), self.mu_b + self.sigma_b * self.eps_b)


# changed from dqn.py: the fully connected layers behind the body are noisy
class QNetwork(nn.Module):
    """Q(s, .) of all A actions, (B, *O) -> (B, A): the paper's network for pixels, an MLP for vectors."""

    def __init__(self, obs_shape: tuple[int, ...], num_actions: int, noise: str):
        super().__init__()
        if len(obs_shape) == 3:
            self.body, width, hidden = nn.Sequential(
                nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
                nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()), 64 * 7 * 7, 512
        else:
            self.body, width, hidden = nn.Sequential(nn.Linear(obs_shape[0], 120), nn.ReLU()), 120, 84
        self.head = nn.Sequential(
            NoisyLinear(width, hidden, noise), nn.ReLU(), NoisyLinear(hidden, num_actions, noise))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        if obs.dtype == torch.uint8:  # channels_last: faster convolutions
            obs = obs.contiguous(memory_format=torch.channels_last).float().div_(255)
        return self.head(self.body(obs))

    def draw_noise(self, draw=torch.randn) -> "QNetwork":
        """New noise in every noisy layer; with draw=torch.zeros none, for evaluation."""
        for layer in (self.head[0], self.head[2]):
            layer.draw_noise(draw)
        return self


class ReplayBuffer:
    """Replay memory D, a ring of vector steps: [row, e] is a step of environment e, [row + 1, e] the next.

    Every observation is stored once; of a 3-d one, taken for uint8 frames, with zeros before an episode's
    first, only the newest is kept. Where an episode ended, the next row begins another; `final` has its last.
    """

    def __init__(self, size: int, num_envs: int, obs_shape: tuple[int, ...], n_step: int, gamma: float):
        self.n_step, self.gamma = n_step, gamma
        self.stack = obs_shape[0] if len(obs_shape) == 3 else 1
        # drawable rows; the newest n, whose windows are open; the oldest, whose stacks have lost frames
        self.rows = math.ceil(size / num_envs) + n_step + self.stack - 1
        frame_shape, dtype = (obs_shape[1:], np.uint8) if self.stack > 1 else (obs_shape, np.float32)
        self.frame = np.zeros((self.rows, num_envs, *frame_shape), dtype)
        self.action = np.zeros((self.rows, num_envs), np.int64)
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
        self.frame[row] = obs[:, -1] if self.stack > 1 else obs
        self.action[row], self.reward[row], self.terminated[row] = action, reward, terminated
        self.ended[row] = terminated | truncated
        for env in self.ended[row].nonzero()[0]:
            self.final[row, env] = next_obs[env].copy()
        self.count += 1

    def sample(self, rng: np.random.Generator, batch_size: int, device: str) -> Batch:
        """Transitions drawn uniformly, with replacement; n + 1 rows or more must have been written."""
        drawable = min(self.count, self.rows - self.stack + 1) - self.n_step
        start = (self.count - 1 - self.n_step - rng.integers(drawable, size=batch_size)) % self.rows
        env = rng.integers(self.action.shape[1], size=batch_size)
        row, going = start, np.ones(batch_size, bool)
        reward, discount = np.zeros(batch_size, np.float32), np.ones(batch_size, np.float32)
        for _ in range(self.n_step):
            reward += going * discount * self.reward[row, env]
            discount[going] *= self.gamma
            going = going & ~self.ended[row, env]
            row = (row + going) % self.rows  # a window stays at the last step of its episode
        next_obs, terminated = self.obs(row, env), ~going & self.terminated[row, env]  # going: row is s_k's
        for i in (~going).nonzero()[0]:
            next_obs[i] = self.final[row[i], env[i]]
        arrays = (self.obs(start, env), self.action[start, env], reward, discount,
                  terminated.astype(np.float32), next_obs)
        return Batch(*(torch.from_numpy(array).to(device) for array in arrays))

    def obs(self, row: np.ndarray, env: np.ndarray) -> np.ndarray:
        """Observations (B, *O) of these entries; frames from before the episode are zeros, as in ALE."""
        if self.stack == 1:
            return self.frame[row, env]
        row = (row[:, None] - np.arange(self.stack)[::-1]) % self.rows  # (B, 4), oldest first
        stack = self.frame[row, env[:, None]]  # (B, 4, 84, 84)
        cut = self.ended[row[:, :-1], env[:, None]]  # (B, 3), the next frame is of another episode
        stack[:, :-1][np.logical_or.accumulate(cut[:, ::-1], axis=1)[:, ::-1]] = 0  # before the last cut
        return stack

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


def td_loss(batch: Batch, q_net: nn.Module, target_net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss () and detached TD errors (B,). Mnih et al. 2015, Algorithm 1."""
    with torch.no_grad():
        next_q = target_net(batch.next_obs).amax(dim=1)  # (B,)
        y = batch.reward + batch.discount * (1 - batch.terminated) * next_q  # (B,)
    q = q_net(batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)  # (B,)
    td_error = y - q.detach()  # (B,)
    return F.mse_loss(q, y), td_error


@torch.inference_mode()
def greedy(q_net: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """argmax_a Q(s, a): (N, *O) -> (N,)."""
    return q_net(torch.from_numpy(obs).to(device)).argmax(dim=1).cpu().numpy()


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
        fixed = state and name in ("env_id", "num_envs", "n_step", "buffer_size", "clip_reward")
        if fixed and value != state["args"][name]:
            fail(f"{flag} is {state['args'][name]} in the checkpoint and cannot change")
    if args.resume and (args.evaluate or "step" not in state):
        fail("--resume takes a checkpoint.pt, --evaluate that or a model.pt; only one of them can be given")
    if args.buffer_size < max(args.batch_size, args.num_envs):
        fail(f"--buffer-size {args.buffer_size} must be at least --batch-size and --num-envs")
    if not (args.n_step + 1) * args.num_envs <= args.learning_starts <= args.total_timesteps:
        fail(f"--learning-starts {args.learning_starts} must be at least (n-step + 1) * num-envs, and at most"
             f" --total-timesteps, which is {args.total_timesteps}")
    if args.capture_video:
        make_envs(args.env_id, 1, args.repeat_action_probability, "rgb_array").close()
    envs = make_envs(args.env_id, args.num_envs, args.repeat_action_probability)
    obs_space, shape = envs.single_observation_space, envs.single_observation_space.shape
    if not isinstance(envs.single_action_space, gym.spaces.Discrete):
        fail(f"--env-id {args.env_id} has actions {envs.single_action_space}, not Discrete ones")
    pixels = shape == (4, 84, 84) and obs_space.dtype == np.uint8
    if not pixels and not (isinstance(obs_space, gym.spaces.Box) and len(shape) == 1):
        fail(f"--env-id {args.env_id} has observations {obs_space}, not vectors or uint8 (4, 84, 84) frames")
    size = args.buffer_size * (14 + (84 * 84 if pixels else 4 * shape[0]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else size
    if size > memory and not args.evaluate:
        fail(f"--buffer-size {args.buffer_size} takes {size / 1e9:.1f} GB; memory: {memory / 1e9:.1f} GB")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = ("cuda" if pixels and there["cuda"] else "cpu") if args.device == "auto" else args.device
    if not there[device]:
        fail(f"--device {device} is not on this machine: take auto or cpu")
    return envs, device


def train(args: Args, state: dict | None = None) -> None:
    """Mnih et al. 2015, Algorithm 1; with a checkpoint's state, the rest of its run or its evaluation."""
    state = state or {}
    envs, device = check(args, state)
    obs_shape, space = envs.single_observation_space.shape, envs.single_action_space
    pixels, num_actions = len(obs_shape) == 3, int(space.n)
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # the moments of dead units would become subnormal, slow on a CPU
    torch.set_num_threads(args.num_threads or (torch.get_num_threads() if pixels else 1))
    rng = np.random.default_rng(args.seed)
    # changed from dqn.py: the form of the noise
    q_net = QNetwork(obs_shape, num_actions, args.noise).to(device)
    target_net = copy.deepcopy(q_net)

    def policy(obs: np.ndarray) -> np.ndarray:
        # changed from dqn.py: no noise in evaluation
        return (space.start + greedy(q_net.draw_noise(torch.zeros), obs, device)).astype(space.dtype)

    if args.evaluate:
        q_net.load_state_dict(state["q_net"])
        if args.capture_video:
            evaluate(args, policy, Path(args.evaluate).parent / "videos" / "evaluation")
        return evaluate(args, policy)
    optimizer = torch.optim.Adam(q_net.parameters(), lr=args.learning_rate, eps=args.adam_eps, fused=True)
    buffer = ReplayBuffer(args.buffer_size, args.num_envs, obs_shape, args.n_step, args.gamma)
    parts = {"q_net": q_net, "target_net": target_net, "optimizer": optimizer, "buffer": buffer}
    if state:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimizer.param_groups[0].update(lr=args.learning_rate, eps=args.adam_eps)
        rng.bit_generator.state = state["rng"]
        torch.set_rng_state(state["torch"])
    run = Run(args, state)
    step, save, losses = run.first_step, True, {}
    clip_reward = args.clip_reward == "on" or pixels and args.clip_reward == "auto"
    while step < args.total_timesteps:
        if save:  # at the start, on resuming and after a checkpoint, so that a resumed run is the same
            obs, _ = envs.reset(seed=reset_seed(args.seed, step))

        # act
        # changed from dqn.py: new noise for every action
        action = greedy(q_net.draw_noise(), obs, device)

        # step
        next_obs, reward, terminated, truncated, _ = envs.step((space.start + action).astype(space.dtype))
        step += args.num_envs
        ended = terminated | truncated
        run.track(step, reward, ended)
        save = run.stop or step >= args.total_timesteps or due(step, args.num_envs, args.checkpoint_frequency)

        # store
        reward = np.sign(reward) if clip_reward else reward
        buffer.add(obs, action, reward, terminated, truncated | bool(save), next_obs)  # a save cuts episodes
        obs = reset_ended(envs, next_obs, ended)

        # learn
        for _ in range(due(step - args.learning_starts, args.num_envs, args.train_frequency)):
            batch = buffer.sample(rng, args.batch_size, device)
            # changed from dqn.py: new noise in both networks
            loss, td_error = td_loss(batch, q_net.draw_noise(), target_net.draw_noise())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses = {"losses/td_loss": loss.detach(), "losses/td_error": td_error}

        # sync
        if due(step, args.num_envs, args.target_network_frequency):
            target_net.load_state_dict(q_net.state_dict())

        # log
        if save or due(step, args.num_envs, 1000):
            scalars = {name: value.abs().mean() for name, value in losses.items()}
            run.log(step, scalars, q_net.state_dict())
            losses = {}

        # save
        if save:
            tensors = {name: part.state_dict() for name, part in parts.items()}
            run.save(step, {**tensors, "rng": rng.bit_generator.state}, policy)
            if run.stop:
                break
    envs.close()
    run.finish({"q_net": q_net.state_dict()}, policy)


if __name__ == "__main__":
    train(*parse_args(Args))
