# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "torch==2.13.0", "gymnasium[atari,classic-control,mujoco]==1.4.0", "ale-py==0.12.1", "mujoco==4.0.0",
#   "numpy==2.4.6", "tyro==1.0.17", "tensorboard==2.21.0", "tqdm==4.70.1", "moviepy==2.2.1",
#   "opencv-python-headless==5.0.0.93"]
# ///
r"""PPO: the data of a rollout is used several times, under a clipped probability ratio.

Paper: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, 2017.
Adds: to a2c.py the reuse of a rollout: several epochs of minibatches, a ratio that is clipped, GAE(lambda).
Where: Algorithm 1 -> train; L^CLIP, Eq. (7), and L^{CLIP+VF+S}, Eq. (9) -> ppo_loss; Eqs. (11), (12) -> gae

    ratio   = pi(a | s; theta) / pi(a | s; theta_old)
    loss    = mean of [-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) + vf_coef (V - R)^2 / 2 - ent_coef H]
    A_t     = sum of (gamma lam)^l delta_{t+l}, to the end of the episode or rollout;  R = A + V_old
    delta_t = r_t + gamma (1 - terminated) V(s_{t+1}) - V(s_t)
    --num-steps 8 --num-envs 2 --num-minibatches 4 --update-epochs 2: transition = 2 t + env; 8 updates
        env 0:  0  2  4  6  8 10 12 14      epoch 1, shuffled:    3 12  9  0 | 14  7  1 10 | ... 4 updates
        env 1:  1  3  5  7  9 11 13 15      epoch 2, reshuffled:  8  2 15 11 |  5 13  6  4 | ... 4 updates

Departs: advantages are normalised in each minibatch (--norm-adv), the value loss has 1/2 and can be clipped
    (--clip-vloss), the gradient's norm is clipped, Adam's eps is 1e-5; the learning rate falls to 0, the clip
    range stays (--anneal-lr; in the paper both fall, on Atari only); --target-kl; a time limit bootstraps;
    --norm-obs, --norm-reward; Box actions clipped; Mnih et al. 2015's CNN; orthogonal init; our defaults.
Run:
    python ppo.py
    python ppo.py --env-id InvertedPendulum-v5 --total-timesteps 300000 --gamma 0.99 --gae-lambda 0.95 \
        --norm-obs --norm-reward
    python ppo.py --env-id Hopper-v5 --total-timesteps 1000000 --num-envs 1 --num-steps 2048 --gamma 0.99 \
        --num-minibatches 32 --gae-lambda 0.95 --learning-rate 3e-4 --norm-obs --norm-reward
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
    # changed from a2c.py: reuse of a rollout, GAE(lambda); other defaults for CartPole
    total_timesteps: int = 100_000  # environment transitions, as is --checkpoint-frequency
    learning_rate: float = 1e-3  # of Adam
    num_envs: int = 8  # N, parallel environments
    num_steps: int = 32  # T, steps of each environment in a rollout (1: learning at every step)
    gamma: float = 0.98  # discount per step
    num_minibatches: int = 2  # parts of a shuffled rollout, an update each
    update_epochs: int = 10  # passes over a rollout
    gae_lambda: float = 0.8  # lam, decay of the sum of TD errors
    clip_coef: float = 0.2  # eps: below 1 - eps or above 1 + eps a ratio gains nothing more
    clip_vloss: bool = False  # keep V within eps of what it was, too
    norm_adv: bool = True  # advantages of a minibatch: mean 0, deviation 1
    target_kl: float = 0.0  # no further epoch once the last minibatch's KL is above it (0: no limit)
    anneal_lr: bool = True  # the learning rate falls linearly to 0
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # a longer gradient is scaled down to this norm (0: gradients become zero)
    norm_obs: bool = False  # scale observations by their running mean and deviation
    norm_reward: bool = False  # scale rewards by the running deviation of their discounted sum
    # changed from a2c.py: no entropy bonus, as in the paper's MuJoCo runs
    ent_coef: float = 0.0  # weight of the entropy
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for pixels)
    repeat_action_probability: float = 0.0  # Atari's sticky actions
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for pixels if there, else cpu
    num_threads: int = 0  # torch's threads (0: one for vectors, torch's default for pixels)
    eval_episodes: int = 10  # played greedily at the end
    checkpoint_frequency: int = 100_000  # between checkpoints, which reset environments (0: only at the end)
    capture_video: bool = False  # film an evaluation episode at every checkpoint
    resume: str = ""  # checkpoint.pt to go on from; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate with its arguments, instead of training


class Rollout(NamedTuple):
    obs: torch.Tensor  # (T, N, *O) f32, u8 for pixels
    action: torch.Tensor  # (T, N) i64, (T, N, K) i64 for MultiDiscrete, (T, N, A) f32 for Box
    reward: torch.Tensor  # (T, N) f32
    terminated: torch.Tensor  # (T, N) f32, 1 where next_obs is terminal
    truncated: torch.Tensor  # (T, N) f32, 1 at a time limit
    next_obs: torch.Tensor  # (T, N, *O), the true one, also where an episode ended


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


class Critic(nn.Module):
    """V(s; phi), (B, *O) -> (B,)."""

    def __init__(self, obs_shape: tuple[int, ...]):
        super().__init__()
        self.body = Body(obs_shape)
        self.head = orthogonal(nn.Linear(self.body.width, 1), gain=1.0)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(obs)).squeeze(-1)


class ActorCritic(nn.Module):
    """Policy and V, (B, *O) -> pi(. | s) and (B,); for pixels they share all layers but the last."""

    def __init__(self, obs_shape: tuple[int, ...], action_space: gym.Space):
        super().__init__()
        self.policy, self.critic = Policy(obs_shape, action_space), Critic(obs_shape)
        if len(obs_shape) == 3:
            self.critic.body = self.policy.body

    def forward(self, obs: torch.Tensor) -> tuple[Categorical | Normal, torch.Tensor]:
        if self.critic.body is not self.policy.body:
            return self.policy(obs), self.critic(obs)
        features = self.policy.body(obs)
        return self.policy.dist(features), self.critic.head(features).squeeze(-1)


class RunningNorm:
    """Running mean and variance over the first axis, in float64; does nothing unless `on`."""

    def __init__(self, shape: tuple[int, ...], on: bool):
        self.on, self.mean, self.var, self.count = on, np.zeros(shape), np.ones(shape), 1e-4

    def update(self, x: np.ndarray) -> None:
        """Take the rows of x (N, *shape) into account, by the parallel form of Welford's algorithm."""
        if not self.on:
            return
        delta, total = x.mean(0, dtype=np.float64) - self.mean, self.count + len(x)
        square = self.var * self.count + x.var(0, dtype=np.float64) * len(x)
        self.var = (square + delta**2 * self.count * len(x) / total) / total
        self.mean, self.count = self.mean + delta * len(x) / total, total

    def scale(self, x: np.ndarray, center: bool = True) -> np.ndarray:
        """(x - mean) / deviation, or x / deviation, clipped to [-10, 10], float32."""
        if not self.on:
            return x
        x = (x - self.mean if center else x) / np.sqrt(self.var + 1e-8)
        return np.clip(x, -10, 10).astype(np.float32)

    def state_dict(self) -> dict:
        return {"mean": torch.tensor(self.mean), "var": torch.tensor(self.var), "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        self.mean, self.var, self.count = np.array(state["mean"]), np.array(state["var"]), state["count"]


@torch.no_grad()
def gae(reward: torch.Tensor, value: torch.Tensor, next_value: torch.Tensor, terminated: torch.Tensor,
        truncated: torch.Tensor, gamma: float, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and value targets (T, N) of a rollout; next_value is V of the true next observations.

    A terminated step does not bootstrap, a truncated one does; both end the sum, and so does the rollout.
    terminated and truncated are 0.0 or 1.0.
    Schulman et al. 2016 (arXiv:1506.02438), Eq. (16); lam = 1 is Mnih et al. 2016, Algorithm S3.
    Schulman et al. 2017, Eq. (11), is the same, but for its last exponent, T-t+1 in print, which is T-t-1.
    """
    delta = reward + gamma * (1 - terminated) * next_value - value  # (T, N)
    decay = gamma * lam * (1 - terminated) * (1 - truncated)  # (T, N)
    adv, ahead = torch.empty_like(delta), torch.zeros_like(delta[0])  # (T, N), (N,)
    for t in reversed(range(len(delta))):
        adv[t] = ahead = delta[t] + decay[t] * ahead  # (N,)
    return adv, adv + value


@torch.no_grad()
def next_values(critic: nn.Module, batch: Rollout, value: torch.Tensor) -> torch.Tensor:
    """V of the true next observations (T, N): the next row of `value`, unless the episode or rollout ends."""
    cut = batch.terminated + batch.truncated > 0  # (T, N)
    cut[-1] = True  # (N,)
    next_value = value.roll(-1, dims=0)  # (T, N)
    next_value[cut] = critic(batch.next_obs[cut])  # (number of ends,)
    return next_value


@torch.no_grad()
def evaluate_actions(net: nn.Module, obs: torch.Tensor, action: torch.Tensor, size: int) -> tuple:
    """log pi(a | s) and V(s), (B, *O) and (B, ...) -> (B,) each, `size` at a time: all frames of a rollout at
    once take longer, and more memory."""
    parts = [(*net(o), a) for o, a in zip(obs.split(size), action.split(size), strict=True)]
    logp = torch.cat([dist.log_prob(a) for dist, _, a in parts])  # (B,)
    return logp, torch.cat([value for _, value, _ in parts])  # (B,)


def normalize(adv: torch.Tensor) -> torch.Tensor:
    """Advantages of a minibatch (B,), B > 1, with mean 0 and deviation 1."""
    return (adv - adv.mean()) / (adv.std() + 1e-8)


def ppo_loss(logp: torch.Tensor, old_logp: torch.Tensor, adv: torch.Tensor, value: torch.Tensor,
             old_value: torch.Tensor, ret: torch.Tensor, entropy: torch.Tensor, clip_coef: float,
             vf_coef: float, ent_coef: float, clip_vloss: bool) -> tuple[torch.Tensor, dict]:
    """Loss () and its parts, of (B,) each; adv, ret, old_* constant. Schulman et al. 2017, Eqs. (7), (9)."""
    log_ratio = logp - old_logp  # (B,)
    ratio = log_ratio.exp()  # (B,)
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)  # (B,)
    pg_loss = -torch.min(ratio * adv, clipped * adv).mean()  # ()
    error = (value - ret).square()  # (B,)
    if clip_vloss:
        clipped_value = old_value + (value - old_value).clamp(-clip_coef, clip_coef)  # (B,)
        error = torch.max(error, (clipped_value - ret).square())  # (B,)
    value_loss = 0.5 * error.mean()  # ()
    bonus = ent_coef * entropy.mean() if ent_coef else 0.0  # (); 0.0 spares a backward pass through H
    loss = pg_loss + vf_coef * value_loss - bonus  # ()
    with torch.no_grad():
        approx_kl = (ratio - 1 - log_ratio).mean()  # (), negative by rounding alone
        clipfrac = (ratio != clipped).float().mean()  # ()
    info = {"policy_loss": pg_loss.detach(), "value_loss": value_loss.detach(),  # () each
            "entropy": entropy.mean().detach(), "approx_kl": approx_kl, "clipfrac": clipfrac}  # () each
    return loss, info


@torch.inference_mode()
def greedy(policy: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """Most probable action, or the mean: (N, *O) -> (N,), (N, K) or (N, A)."""
    return policy(torch.from_numpy(obs).to(device)).mode().cpu().numpy()


@torch.inference_mode()
def act(policy: nn.Module, obs: np.ndarray, device: str) -> np.ndarray:
    """A draw from the policy: (N, *O) -> (N,), (N, K) or (N, A)."""
    return policy(torch.from_numpy(obs).to(device)).sample().cpu().numpy()


def to_env(action: np.ndarray, space: gym.Space) -> np.ndarray:
    """The action as the environment takes it: within its bounds, or counted from its start; of its dtype."""
    action = np.clip(action, space.low, space.high) if isinstance(space, Box) else space.start + action
    return action.astype(space.dtype)


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
        # changed from a2c.py: --target-kl
        high = 10**9 if name in ("max_grad_norm", "vf_coef", "target_kl") else 1
        if type(value) is float and not 0 <= value <= high:
            fail(f"{flag} must be from 0 to {high}, not {value}")
        fixed = state and name in ("env_id", "num_envs", "norm_obs", "norm_reward")
        if fixed and value != state["args"][name]:
            fail(f"{flag} is {state['args'][name]} in the checkpoint and cannot change")
    if args.resume and (args.evaluate or "step" not in state):
        fail("--resume takes a checkpoint.pt, --evaluate that or a model.pt; only one of them can be given")
    # changed from a2c.py: minibatches
    size, rest = divmod(args.num_envs * args.num_steps, args.num_minibatches)
    if rest or size < 1 + args.norm_adv:
        fail(f"--num-minibatches {args.num_minibatches} must divide --num-envs times --num-steps, which is"
             f" {args.num_envs * args.num_steps}, into parts of two or more (of one with --no-norm-adv)")
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
    if pixels and args.norm_obs:
        fail(f"--norm-obs is for vectors, and --env-id {args.env_id} has pixels, which the network scales")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = ("cuda" if pixels and there["cuda"] else "cpu") if args.device == "auto" else args.device
    if not there[device]:
        fail(f"--device {device} is not on this machine: take auto or cpu")
    return envs, device


def train(args: Args, state: dict | None = None) -> None:
    # changed from a2c.py: name
    """Schulman et al. 2017, Algorithm 1; with a checkpoint's state, the rest of its run or its evaluation."""
    state = state or {}
    envs, device = check(args, state)
    obs_shape, action_space = envs.single_observation_space.shape, envs.single_action_space
    pixels = len(obs_shape) == 3
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)  # the moments of dead units would become subnormal, slow on a CPU
    torch.set_num_threads(args.num_threads or (torch.get_num_threads() if pixels else 1))
    net = ActorCritic(obs_shape, action_space).to(device)
    obs_norm, reward_norm = RunningNorm(obs_shape, args.norm_obs), RunningNorm((), args.norm_reward)

    def best(obs: np.ndarray) -> np.ndarray:
        return to_env(greedy(net.policy, obs_norm.scale(obs), device), action_space)

    if args.evaluate:
        net.load_state_dict(state["net"])
        obs_norm.load_state_dict(state["obs_norm"])
        if args.capture_video:
            evaluate(args, best, Path(args.evaluate).parent / "videos" / "evaluation")
        return evaluate(args, best)
    params = list(net.parameters())
    # changed from a2c.py: Adam, as in the paper
    optimizer = torch.optim.Adam(params, lr=args.learning_rate, eps=1e-5, fused=True)
    parts = {"net": net, "obs_norm": obs_norm, "reward_norm": reward_norm, "optimizer": optimizer}
    if state:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        optimizer.param_groups[0]["lr"] = args.learning_rate
        torch.set_rng_state(state["torch"])
    run = Run(args, state)
    step, save, taken = run.first_step, True, args.num_steps * args.num_envs  # taken: by a whole rollout
    clip_reward = args.clip_reward == "on" or pixels and args.clip_reward == "auto"
    while step < args.total_timesteps:
        if save:  # at the start, on resuming and after a checkpoint, so that a resumed run is the same
            obs, _ = envs.reset(seed=reset_seed(args.seed, step))
            obs, reward_sum = obs_norm.scale(obs), np.zeros(args.num_envs)
        rows = []
        for _ in range(args.num_steps):
            # act
            action = act(net.policy, obs, device)

            # step
            next_obs, reward, terminated, truncated, _ = envs.step(to_env(action, action_space))
            step += args.num_envs
            ended = terminated | truncated
            run.track(step, reward, ended)
            new_obs = reset_ended(envs, next_obs, ended)  # to act on; next_obs is what this step led to
            reward = np.sign(reward) if clip_reward else reward
            reward_sum = reward + args.gamma * reward_sum  # sum of gamma^(t - k) r_k, k <= t
            obs_norm.update(new_obs)
            reward_norm.update(reward_sum)
            next_obs, new_obs = obs_norm.scale(next_obs), obs_norm.scale(new_obs)
            reward, reward_sum = reward_norm.scale(reward, center=False), reward_sum * ~ended

            # store, the action as drawn: log_prob takes it unclipped
            rows.append((obs, action, *np.float32((reward, terminated, truncated)), next_obs))
            obs = new_obs

        # learn
        batch = Rollout(*(torch.from_numpy(np.stack(x)).to(device) for x in zip(*rows, strict=True)))
        # changed from a2c.py: epochs of minibatches, against the old policy
        obs_b, action_b = batch.obs.flatten(0, 1), batch.action.flatten(0, 1)  # (B, ...), B = T * N
        size = taken // args.num_minibatches  # of a minibatch
        old_logp, value = evaluate_actions(net, obs_b, action_b, size)  # before the first update; (B,) each
        old_value = value.view_as(batch.reward)  # (T, N)
        adv, ret = gae(batch.reward, old_value, next_values(net.critic, batch, old_value),
                       batch.terminated, batch.truncated, args.gamma, args.gae_lambda)
        data = obs_b, action_b, old_logp, adv.flatten(), old_value.flatten(), ret.flatten()  # (B, ...) each
        if args.anneal_lr:
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (step - taken) / args.total_timesteps)
        for _ in range(args.update_epochs):
            order = torch.randperm(len(obs_b)).to(device)
            shuffled = [part[order].split(size) for part in data]
            for obs_m, action_m, old_logp_m, adv_m, old_value_m, ret_m in zip(*shuffled, strict=True):
                dist, value = net(obs_m)
                adv_m = normalize(adv_m) if args.norm_adv else adv_m
                loss, info = ppo_loss(
                    dist.log_prob(action_m), old_logp_m, adv_m, value, old_value_m, ret_m, dist.entropy(),
                    args.clip_coef, args.vf_coef, args.ent_coef, args.clip_vloss)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(params, args.max_grad_norm)
                optimizer.step()
            if args.target_kl and info["approx_kl"] > args.target_kl:
                break

        # log
        save = run.stop or step >= args.total_timesteps or due(step, taken, args.checkpoint_frequency)
        if save or due(step, taken, 1000):
            run.log(step, {f"losses/{name}": value for name, value in info.items()}, net.state_dict())

        # save
        if save:
            run.save(step, {name: part.state_dict() for name, part in parts.items()}, best)
            if run.stop:
                break
    envs.close()
    run.finish({"net": net.state_dict(), "obs_norm": obs_norm.state_dict()}, best)


if __name__ == "__main__":
    train(*parse_args(Args))
