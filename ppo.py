# /// script
# requires-python = ">=3.11"
# dependencies = ["torch>=2.13", "gymnasium[atari,classic-control,mujoco]>=1.4", "ale-py>=0.12", "numpy>=2.4",
#                 "tyro>=1.0", "tensorboard>=2.21", "tqdm>=4.70", "moviepy>=2.2", "opencv-python-headless>=5"]
# ///
r"""PPO: several epochs of minibatch updates on each rollout, with a clipped probability ratio.

Paper: Schulman et al., "Proximal Policy Optimization Algorithms", arXiv:1707.06347, 2017.
Adds: to a2c.py the reuse of a rollout (epochs, minibatches, the clipped ratio) and GAE(lambda).

    ratio   = pi(a | s; theta) / pi(a | s; theta_old)
    loss    = mean of [-min(ratio A, clip(ratio, 1 - eps, 1 + eps) A) + vf_coef (V - R)^2 / 2 - ent_coef H]
    A_t     = delta_t + (gamma lam) delta_{t+1} + ..., to the end of the episode or rollout;  R = A + V_old
    delta_t = r_t + gamma (1 - terminated) V(s_{t+1}) - V(s_t)
    --num-steps 8 --num-envs 2 --num-minibatches 4 --update-epochs 2 makes 8 updates (transition = 2 t + env):
        env 0:  0  2  4  6  8 10 12 14      epoch 1, shuffled:    3 12  9  0 | 14  7  1 10 | ... 4 updates
        env 1:  1  3  5  7  9 11 13 15      epoch 2, reshuffled:  8  2 15 11 |  5 13  6  4 | ... 4 updates

Where: Algorithm 1 -> train; L^CLIP, Eq. (7), L^{CLIP+VF+S}, Eq. (9), --clip-vloss -> ppo_loss; Eqs. (11),
    (12), V^targ -> gae; bootstrap at time limits and rollout ends -> next_values; theta_old, --anneal-lr,
    --target-kl, --max-grad-norm, --norm-reward -> train; --norm-adv -> normalise; processes -> share, start,
    gather; --norm-obs -> RunningNorm; draws (Gumbel trick) -> Categorical; one vector of weights -> flatten
Departs:
    Advantages are normalised in each minibatch; observations and rewards can be. Adam's eps is 1e-5.
    The gradient's norm is clipped. The value loss has a factor of 1/2, and can be clipped like the ratio.
    The learning rate falls to 0; on Atari the paper lets eps fall, too. --target-kl can end the epochs early.
    Time limits and checkpoints truncate episodes. The target still bootstraps there.
    Actions of a Box are drawn, clipped to [-1, 1] and scaled to the bounds. log pi is that of the raw draw.
    Frames get the network of Mnih et al. 2015. Weights are orthogonal at first. Defaults are for CartPole.
Run:
    python ppo.py
    torchrun --nproc-per-node 2 ppo.py  # two processes share the environments; the first logs its episodes
    python ppo.py --env-id InvertedPendulum-v5 --total-timesteps 300000 --gamma 0.99 --gae-lambda 0.95 \
        --norm-obs --norm-reward
    python ppo.py --env-id ALE/Pong-v5 --total-timesteps 4000000 --num-steps 128 --num-minibatches 4 \
        --update-epochs 3 --gamma 0.99 --gae-lambda 0.95 --clip-coef 0.1 --ent-coef 0.01 \
        --learning-rate 2.5e-4 --checkpoint-frequency 100000
"""
import atexit
import math
import os
import random
import sys
import time
import zipfile
from dataclasses import asdict, dataclass, fields, replace
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
from torch import distributed, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm


@dataclass
class Args:
    env_id: str = "CartPole-v1"  # Gymnasium id: vector observations, or an Atari game such as ALE/Pong-v5
    seed: int = 1  # of all random numbers
    # changed from a2c.py: reuse of a rollout, GAE(lambda), other defaults
    total_timesteps: int = 100_000  # transitions of all environments (in Atari games, of 4 frames each)
    learning_rate: float = 1e-3  # of Adam
    anneal_lr: bool = True  # the learning rate falls linearly to 0
    adam_eps: float = 1e-5  # of Adam
    num_envs: int = 8  # N, parallel environments
    num_steps: int = 32  # T, steps of each environment in a rollout
    gamma: float = 0.98  # discount per step
    num_minibatches: int = 2  # minibatches in an epoch, one update each, of M = N T / num-minibatches steps
    update_epochs: int = 10  # K, passes over a rollout
    gae_lambda: float = 0.8  # lam, decay of the sum of TD errors
    clip_coef: float = 0.2  # eps: no gain from a ratio above 1 + eps if A > 0, below 1 - eps if A < 0
    clip_vloss: bool = False  # clip the change of V to +-eps in the value loss, too
    norm_adv: bool = True  # normalise the advantages of a minibatch
    target_kl: float = 0.0  # stop after an epoch whose last minibatch's KL is above this (0: never)
    ent_coef: float = 0.0  # weight of the entropy; 0 as in the paper on MuJoCo
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # a longer gradient is scaled down to this norm (0: never)
    norm_obs: bool = False  # normalise observations by their running mean and deviation, clip to +-10
    norm_reward: bool = False  # divide rewards by the running deviation of their discounted sum, clip to +-10
    clip_reward: Literal["auto", "on", "off"] = "auto"  # learn from the reward's sign (auto: on for frames)
    repeat_action_probability: float = 0.0  # sticky actions of Atari games
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda for frames if there is one, else cpu
    num_threads: int = 0  # threads of torch (0: one for vectors, for frames as many as torch has)
    eval_episodes: int = 10  # episodes of the final evaluation, with the mode of pi as the action
    checkpoint_frequency: int = 10_000  # transitions between checkpoints, which cut episodes (0: first, last)
    capture_video: bool = False  # film an episode, up to 1 GB of frames, at checkpoints or with --evaluate
    resume: str = ""  # checkpoint.pt to go on from, in its folder; its arguments become the defaults
    evaluate: str = ""  # checkpoint.pt or model.pt to evaluate instead of training


class Rollout(NamedTuple):
    obs: torch.Tensor  # (T, N, *O) f32, or u8 for frames; *O is the shape of an observation
    action: torch.Tensor  # (T, N) i64, (T, N, K) i64 for MultiDiscrete, (T, N, A) f32 for Box, as drawn
    reward: torch.Tensor  # (T, N) f32
    reward_sum: torch.Tensor  # (T, N) f32, discounted rewards of the episode so far, for --norm-reward
    terminated: torch.Tensor  # (T, N) f32, 1 where next_obs is terminal
    truncated: torch.Tensor  # (T, N) f32, 1 at a time limit
    next_obs: torch.Tensor  # (T, N, *O), the true one, also where an episode ended


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

    def entropy(self) -> torch.Tensor:
        return -(self.logp.exp() * self.logp).flatten(1).sum(1)  # (B,)


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

    def entropy(self) -> torch.Tensor:
        entropy = self.log_std + 0.5 * math.log(2 * math.pi * math.e)  # (A,)
        return entropy.sum(-1).expand(self.mean.shape[:-1])  # (B,)


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
        return self.dist(self.body(obs))

    def dist(self, features: torch.Tensor) -> Categorical | Normal:
        out = self.head(features)
        if isinstance(self.space, Box):
            return Normal(out, self.log_std)
        if isinstance(self.space, MultiDiscrete):
            out = out.view(-1, *self.absent.shape).masked_fill(self.absent, -1e9)  # with -inf, entropy is nan
        return Categorical(out.log_softmax(-1))


class Critic(nn.Module):
    """V(s; phi), (B, *O) -> (B,)."""

    def __init__(self, obs_shape: tuple[int, ...]):
        super().__init__()
        self.body = Body(obs_shape)
        self.head = orthogonal(nn.Linear(self.body.width, 1), gain=1.0)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(obs)).squeeze(-1)


class RunningNorm(nn.Module):
    """x minus the mean, divided by the deviation, of all that `update` has seen; clipped to [-10, 10]."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("count", torch.tensor(1e-4))

    def update(self, x: torch.Tensor) -> None:
        """Include the rows of x (B, *shape), by the parallel form of Welford's algorithm."""
        delta, total = x.mean(0) - self.mean, self.count + len(x)
        square = self.var * self.count + x.var(0, correction=0) * len(x)
        self.var = (square + delta**2 * self.count * len(x) / total) / total
        self.mean, self.count = self.mean + delta * len(x) / total, total

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.mean) / (self.var + 1e-8).sqrt()).clamp(-10, 10)


class ActorCritic(nn.Module):
    """Policy and critic, (B, *O) -> pi(. | s) and V(s) (B,). For frames they share the body."""

    def __init__(self, obs_shape: tuple[int, ...], space: gym.Space, norm_obs: bool):
        super().__init__()
        self.policy, self.critic = Policy(obs_shape, space), Critic(obs_shape)
        if len(obs_shape) == 3:
            self.critic.body = self.policy.body
        if norm_obs:  # in front of both bodies
            self.norm = RunningNorm(obs_shape)
            for net in self.policy, self.critic:
                net.body = nn.Sequential(self.norm, net.body)

    def forward(self, obs: torch.Tensor) -> tuple[Categorical | Normal, torch.Tensor]:
        if self.critic.body is not self.policy.body:
            return self.policy(obs), self.critic(obs)
        features = self.policy.body(obs)
        return self.policy.dist(features), self.critic.head(features).squeeze(-1)


@torch.no_grad()
def gae(reward: torch.Tensor, value: torch.Tensor, next_value: torch.Tensor, terminated: torch.Tensor,
        truncated: torch.Tensor, gamma: float, lam: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns (T, N) of a rollout. next_value is V of the true next observations.

    V of a terminal state is 0. At a time limit and at the rollout's end V stands for the rest.
    Schulman et al. 2016 (arXiv:1506.02438), Eq. (16). With lam = 1 it is Mnih et al. 2016, Algorithm S3.
    Schulman et al. 2017 print T-t+1 as the last exponent of Eq. (11); it should be T-t-1.
    """
    delta = reward + gamma * (1 - terminated) * next_value - value  # (T, N)
    decay = gamma * lam * (1 - terminated) * (1 - truncated)  # (T, N)
    adv, ahead = torch.empty_like(delta), torch.zeros_like(delta[0])  # (T, N), (N,)
    for t in reversed(range(len(delta))):
        adv[t] = ahead = delta[t] + decay[t] * ahead  # (N,)
    return adv, adv + value


@torch.no_grad()
def next_values(critic: nn.Module, batch: Rollout, value: torch.Tensor) -> torch.Tensor:
    """V of the true next observations (T, N): the next row of `value`, or the critic's where an episode ended
    and in the rollout's last row. Elsewhere obs[t + 1] must be next_obs[t]."""
    cut = batch.terminated + batch.truncated > 0  # (T, N)
    cut[-1] = True  # (N,)
    next_value = value.roll(-1, dims=0)  # (T, N)
    next_value[cut] = critic(batch.next_obs[cut])  # (number of ends,)
    return next_value


def normalise(adv: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    """adv (B,) minus the mean, divided by the deviation, of `whole`: the minibatch in all processes."""
    return (adv - whole.mean()) / (whole.std() + 1e-8)  # (B,)


def ppo_loss(logp: torch.Tensor, old_logp: torch.Tensor, adv: torch.Tensor, value: torch.Tensor,
             old_value: torch.Tensor, ret: torch.Tensor, entropy: torch.Tensor, clip_coef: float,
             vf_coef: float, ent_coef: float, clip_vloss: bool) -> tuple[torch.Tensor, dict]:
    """Loss () and its parts, from tensors of shape (B,) each. Schulman et al. 2017, Eqs. (7) and (9)."""
    adv, ret, old_logp, old_value = (x.detach() for x in (adv, ret, old_logp, old_value))  # (B,) each
    log_ratio = (logp - old_logp).clamp(max=40)  # (B,), no gradient above 40: its norm overflows from e^44 on
    ratio = log_ratio.exp()  # (B,)
    clipped = ratio.clamp(1 - clip_coef, 1 + clip_coef)  # (B,)
    policy_loss = -torch.min(ratio * adv, clipped * adv).mean()  # ()
    error = (value - ret).square()  # (B,)
    if clip_vloss:
        clipped_value = old_value + (value - old_value).clamp(-clip_coef, clip_coef)  # (B,)
        error = torch.max(error, (clipped_value - ret).square())  # (B,)
    value_loss = 0.5 * error.mean()  # ()
    bonus = ent_coef * entropy.mean() if ent_coef else 0.0  # (), 0.0 spares a backward pass through H
    loss = policy_loss + vf_coef * value_loss - bonus  # ()
    approx_kl = (ratio - 1 - log_ratio).detach().mean()  # (), estimates KL(theta_old || theta)
    clipfrac = (ratio != clipped).float().mean()  # ()
    return loss, {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(),
                  "entropy": entropy.detach().mean(), "approx_kl": approx_kl, "clipfrac": clipfrac}


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


def flatten(net: nn.Module) -> torch.Tensor:
    """Put all parameters of `net` into one vector (P,) and their gradients into its grad, as views: one fast
    operation then clips, averages or steps them all. Clear the gradients by flat.grad.zero_(): zero_grad() or
    a later .to() would break the views, and the net would learn nothing."""
    flat = nn.utils.parameters_to_vector(net.parameters()).detach()  # (P,)
    flat.grad, end = torch.zeros_like(flat), 0
    for param in net.parameters():
        start, end = end, end + param.numel()
        param.data, param.grad = (x[start:end].view_as(param) for x in (flat, flat.grad))
    return flat


def gather(x: torch.Tensor, world: int) -> torch.Tensor:
    """The rows of x (B, ...) in all `world` processes, (world * B, ...)."""
    if world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world)]  # (B, ...) each
    distributed.all_gather(parts, x)
    return torch.cat(parts)


def share(args: Args) -> tuple[int, int, VectorEnv, str]:
    """Divide the environments among torchrun's processes. Return this process's rank, the number of processes
    and this one's environments and device. All processes have the same seed until run.checkpoint."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and args.num_envs % world:
        sys.exit(f"--num-envs must be a multiple of {world}, the number of processes, not {args.num_envs}")
    envs, device = set_up(replace(args, num_envs=args.num_envs // world) if world > 1 else args)
    check(args, envs)
    device = f"cuda:{os.environ['LOCAL_RANK']}" if world > 1 and device == "cuda" else device
    return rank, world, envs, device


def start(args: Args, state: dict, parts: dict, rank: int) -> "Run":
    """Join the process group and return this process's Run. Only the first process writes files, and its
    run.finish returns the mean; the others return nan. Their seeds are above 10**9, the largest --seed."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not distributed.is_initialized():
        distributed.init_process_group()  # after the optimizer: its imports would keep the group at exit
        atexit.register(distributed.destroy_process_group)
    if rank == 0:
        return Run(args, state, parts)
    run = Run.__new__(Run)  # without __init__, which makes a folder
    run.args = replace(args, seed=args.seed + rank * (10**9 + 1), capture_video=False)
    run.parts, run.first_step = parts, state.get("step", 0)
    run.save = run.log_episodes = run.log_losses = run.finish = lambda *args, **losses: math.nan
    for name in parts.keys() & state.keys():
        parts[name].load_state_dict(state[name])
    return run


def train(args: Args, state: dict | None = None) -> float:
    """Train, resume or evaluate, as `args` say. Return the evaluation's mean. `state` is the checkpoint, if
    loaded already; resuming empties it. Changes torch's threads, flush_denormal and all global seeds."""
    state = state or load(args)
    rank, world, envs, device = share(args)
    obs_shape, space = envs.single_observation_space.shape, envs.single_action_space
    net = ActorCritic(obs_shape, space, args.norm_obs).to(device)

    def eval_policy(obs: np.ndarray) -> np.ndarray:
        return to_env(act(net.policy, obs, device, greedy=True), space)

    if args.evaluate:
        net.load_state_dict(state["net"])
        envs.close()
        return evaluate(args, eval_policy) if rank == 0 else math.nan
    params = flatten(net)
    # changed from a2c.py: Adam, as in the paper
    optimizer = torch.optim.Adam([params], fused=True)
    reward_norm = RunningNorm(()).to(device)
    run = start(args, state, {"net": net, "optimizer": optimizer, "reward_norm": reward_norm}, rank)
    clip_reward = {"on": True, "off": False, "auto": len(obs_shape) == 3}[args.clip_reward]
    step, taken = run.first_step, args.num_steps * args.num_envs  # taken: transitions of a rollout
    obs, reward_sum = run.checkpoint(step, envs, eval_policy), np.zeros(envs.num_envs)
    while step < args.total_timesteps:
        lr = args.learning_rate * (1 - step / args.total_timesteps if args.anneal_lr else 1)
        # changed from a2c.py: Adam's eps
        optimizer.param_groups[0].update(lr=lr, eps=args.adam_eps)  # not the checkpoint's
        rows = []
        for _ in range(args.num_steps):
            # act, step, store
            action = act(net.policy, obs, device)
            next_obs, reward, terminated, truncated, _ = envs.step(to_env(action, space))
            step += args.num_envs
            ended = terminated | truncated
            run.log_episodes(step, reward, ended)
            reward = np.sign(reward) if clip_reward else reward
            reward_sum = reward + args.gamma * reward_sum  # (N,), of the episode so far
            rows.append((obs, action, *np.float32((reward, reward_sum, terminated, truncated)), next_obs))
            reward_sum *= ~ended
            obs = envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_obs
        batch = Rollout(*(torch.from_numpy(np.stack(x)).to(device) for x in zip(*rows, strict=True)))

        # learn
        if args.norm_reward:
            reward_norm.update(gather(batch.reward_sum.flatten(), world))
            batch = batch._replace(reward=(batch.reward / (reward_norm.var + 1e-8).sqrt()).clamp(-10, 10))
        # changed from a2c.py: epochs of minibatches, against the old policy
        with torch.no_grad():
            dist, value = net(batch.obs.flatten(0, 1))  # of theta_old; value (B,), B = T * N
            old_logp, old_value = dist.log_prob(batch.action.flatten(0, 1)), value.view_as(batch.reward)
        adv, ret = gae(batch.reward, old_value, next_values(net.critic, batch, old_value), batch.terminated,
                       batch.truncated, args.gamma, args.gae_lambda)
        data = [*(x.flatten(0, 1) for x in (batch.obs, batch.action, adv, ret, old_value)), old_logp]
        for _ in range(args.update_epochs):
            order = torch.randperm(taken // world).to(device)
            shuffled = (x[order].chunk(args.num_minibatches) for x in data)
            for obs_m, action_m, adv_m, ret_m, old_value_m, old_logp_m in zip(*shuffled, strict=True):
                adv_m = normalise(adv_m, gather(adv_m, world)) if args.norm_adv else adv_m
                dist, value = net(obs_m)
                loss, info = ppo_loss(dist.log_prob(action_m), old_logp_m, adv_m, value, old_value_m, ret_m,
                                      dist.entropy(), args.clip_coef, args.vf_coef, args.ent_coef,
                                      args.clip_vloss)
                params.grad.zero_()
                loss.backward()
                if world > 1:  # the mean over the processes
                    distributed.all_reduce(params.grad.div_(world))
                if args.max_grad_norm:
                    params.grad *= (args.max_grad_norm / params.grad.norm()).clamp(max=1)
                optimizer.step()
            if args.target_kl and gather(info["approx_kl"].view(1), world).mean() > args.target_kl:
                break
        if args.norm_obs:  # after the update, which sees observations as the policy that acted did
            net.norm.update(gather(batch.obs.flatten(0, 1), world))
        run.log_losses(step, learning_rate=lr, **info)

        # save
        if step >= args.total_timesteps or due(step, taken, args.checkpoint_frequency):
            obs, reward_sum = run.checkpoint(step, envs, eval_policy), np.zeros(envs.num_envs)
    envs.close()
    return run.finish(step, {"net": net}, eval_policy)


def check(args: Args, envs: VectorEnv) -> None:
    """Refuse what would go wrong silently or late."""
    space, frames = envs.single_action_space, len(envs.single_observation_space.shape) == 3
    box = isinstance(space, Box) and len(space.shape) == 1 and space.dtype.kind == "f" and space.is_bounded()
    whole = isinstance(space, Discrete | MultiDiscrete) and len(space.shape) < 2 and not np.any(space.start)
    if not box and not whole:
        sys.exit(f"--env-id {args.env_id} has actions {space}; this script takes Discrete or MultiDiscrete"
                 " with start=0, or a bounded 1-d Box of floats")
    if frames and args.norm_obs:
        sys.exit("--norm-obs is for vectors; the network scales frames itself")
    # changed from a2c.py: minibatches
    size, rest = divmod(envs.num_envs * args.num_steps, args.num_minibatches)
    if rest or size < 1 + args.norm_adv:
        sys.exit("--num-minibatches must divide num-envs * num-steps (of each process) into equal parts,"
                 " of at least two transitions with --norm-adv")


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
