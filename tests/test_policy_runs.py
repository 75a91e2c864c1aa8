"""reinforce.py, vpg.py, a2c.py and ppo.py at work: what a batch holds, what its gradient is, what each script
reduces to, and in which order things happen."""
import itertools
import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from common import EPISODIC, POLICY, as_it_was, call, checkpoint, events, load, run_folder, train
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv

reinforce, vpg, a2c, ppo = (load(script) for script in ("reinforce", "vpg", "a2c", "ppo"))
ROLLOUT = [script for script in POLICY if script not in EPISODIC]
SHORT = {"eval_episodes": 1, "checkpoint_frequency": 0}
same = torch.testing.assert_close


def watch(monkeypatch, module, name, before):
    """Calls of module.name go to before(arguments, by position and by name) first."""
    original = getattr(module, name)

    def watched(*args, **kwargs):
        before(*args, **kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, watched)


@pytest.fixture(autouse=True)
def bounded(monkeypatch):
    """A batch that never ends fails, and does not hang: no test here needs 20,000 vector steps."""
    acts = itertools.count()
    for module in reinforce, vpg:
        watch(monkeypatch, module, "act", lambda *_, **__: next(acts) < 20_000 or pytest.fail("no end"))


def keep_made(monkeypatch, module, name):
    """The list of instances of module.name that will be made."""
    kind, made = getattr(module, name), []

    def make(*args):
        made.append(kind(*args))
        return made[-1]

    monkeypatch.setattr(module, name, make)
    return made


# ---- whole episodes

class Uneven(probes.Probe):
    """Episodes of 1 to 9 steps, every other cut by a limit. Observation: seed, number of the episode, step in
    it; their sum says which action is taken, and decides the reward with it."""

    observation_space, action_space = Box(-np.inf, np.inf, (3,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed, self.episode = seed, -1
        self.episode += 1
        obs, info = super().reset(seed=seed)
        self.length, self.terminal = int(self.np_random.integers(1, 10)), self.episode % 2 == 0
        return self.pack(), info

    def pack(self):
        return np.float32([self.seed, self.episode, self.t])

    def reward(self, action):
        assert action == (self.seed + self.episode + self.t) % 2
        return 100 * self.episode + 10 * self.t + action


def parity(obs):
    """A policy that takes the action that Uneven expects."""
    return SimpleNamespace(sample=lambda: (obs.sum(1) % 2).long())


@pytest.mark.parametrize("num_envs, each", [(1, 1), (1, 3), (3, 1), (4, 3)])
def test_collect(num_envs, each):
    """As many whole episodes of each environment, its first ones, whoever is done first; ordered by their
    ends, which are counted in transitions of the batch. Against one environment after another."""
    for seed in range(0, 100, 10):
        want = []
        for i in range(num_envs):
            env, time = Uneven(), 0
            env.reset(seed=seed + i)
            for _ in range(each):
                obs, _ = env.reset()
                rows, ended = [], False
                while not ended:
                    action = int(obs.sum()) % 2
                    next_obs, reward, terminated, truncated, _ = env.step(action)
                    ended, time = terminated or truncated, time + 1
                    rows.append((obs.tolist(), action, reward))
                    obs = next_obs
                want.append((time, i, rows))
        lengths = [max(time for time, env, _ in want if env == i) for i in range(num_envs)]
        # the transitions of vector steps before it, and in its own those of the environments up to its own
        ends = [sum(min(time - 1, length) for length in lengths)
                + sum(lengths[j] >= time for j in range(i + 1)) for time, i, _ in want]
        want = sorted(zip(ends, (rows for _, _, rows in want), strict=True), key=lambda pair: pair[0])
        envs = SyncVectorEnv([Uneven] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        envs.reset(seed=seed)
        episodes = reinforce.collect(envs, parity, each, "cpu")
        assert len(episodes) == num_envs * each and episodes[-1].end == sum(lengths)
        for episode, (end, rows) in zip(episodes, want, strict=True):
            found = zip(*(part.tolist() for part in episode[:3]), strict=True)
            assert (episode.end, [tuple(row) for row in found]) == (end, rows)
            assert [part.dtype for part in episode[:3]] == [torch.float32, torch.int64, torch.float32]


class Counting(gym.Env):
    """Episodes of one step; observations are the number of resets."""

    observation_space, action_space, count = Box(0, 100, (1,)), Discrete(2), 0

    def reset(self, *, seed=None, options=None):
        self.count += 1
        return np.float32([self.count]), {}

    def step(self, action):
        return np.float32([self.count]), 1.0, True, False, {}


@pytest.mark.parametrize("script", EPISODIC)
def test_no_start_state_is_skipped(script):
    """Between batches, too: environments may take turns, such as in who begins a game."""
    envs = SyncVectorEnv([Counting] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)
    batches = [load(script).collect(envs, parity, each, "cpu") for each in (1, 3, 1, 1)]
    assert [episode.obs.item() for batch in batches for episode in batch][::2] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("script", EPISODIC)
def test_batches_of_a_run(script, tmp_path, monkeypatch):
    """Of each environment as many episodes as told; their transitions, and no others, are counted, and each
    episode is logged at its own."""
    module, batches = load(script), []
    original = module.collect

    def collect(*args):
        batches.append(original(*args))
        return batches[-1]

    monkeypatch.setattr(module, "collect", collect)
    folder = train(module, tmp_path, total_timesteps=400, num_envs=3, episodes_per_env=2, learning_rate=1e-3,
                   **SHORT)
    tags, step, ends = events(folder), 0, []
    assert len(batches) > 1
    for batch in batches:
        assert len(batch) == 6
        ends += [step + episode.end for episode in batch]
        assert batch[-1].end == sum(len(episode.reward) for episode in batch)
        step += batch[-1].end
    assert step == checkpoint(folder / "checkpoint.pt")["step"] >= 400 and len(set(ends)) == len(ends)
    assert len({tuple(episode.obs[0].tolist()) for batch in batches for episode in batch}) == len(ends)
    lengths = [len(episode.reward) for batch in batches for episode in batch]
    for tag in "charts/episodic_return", "charts/episodic_length":
        assert tags[tag] == list(zip(ends, map(float, lengths), strict=True))


# ---- what a run learns from

class Noise(probes.Probe):
    """Random observations, rewards that depend on the action, episodes of 6 steps up to a terminal state."""

    observation_space, action_space, length = Box(-np.inf, np.inf, (3,), np.float32), Discrete(3), 6
    again = False  # whether all episodes are as the first after a seed

    def reset(self, *, seed=None, options=None):
        self.seed = self.seed if seed is None else seed
        return super().reset(seed=self.seed if self.again else seed)

    def first(self):
        return self.np_random.normal(size=3).astype(np.float32)

    def next(self):
        return self.first()

    def pack(self):
        return self.obs

    def reward(self, action):
        return self.obs[0] + np.sum(action)


class NoiseLimit(Noise):
    """The end is a time limit."""

    terminal = False


class NoiseLong(Noise):
    length = 1100


class NoiseWheels(Noise):
    action_space = MultiDiscrete([2, 3])


class NoiseBox(Noise):
    action_space = Box(-1, 1, (2,), np.float32)

    def reward(self, action):
        return super().reward(action / 4)


KINDS = [Noise, NoiseLimit, NoiseWheels, NoiseBox]
for kind in [*KINDS, NoiseLong]:
    gym.register(f"Policy{kind.__name__}-v0", entry_point=kind)


def env_id(kind):
    return f"Policy{kind.__name__}-v0"


def gradients(monkeypatch, *optimizers):
    """The list of (name of the optimizer, gradients) at each of its steps from now on."""
    seen = []

    def watched(name, step):
        def watch_step(self, *args, **kwargs):
            found = [part.grad.clone() for group in self.param_groups for part in group["params"]]
            seen.append((name, found))
            return step(self, *args, **kwargs)
        return watch_step

    for name in optimizers:
        kind = getattr(torch.optim, name)
        monkeypatch.setattr(kind, "step", watched(name, kind.step))
    return seen


@pytest.mark.parametrize("kind, reduction, optimizer", [
    (Noise, "sum", "adam"), (NoiseLimit, "mean", "sgd"), (NoiseWheels, "mean", "adam"),
    (NoiseBox, "sum", "sgd")])
def test_vpg_without_baseline_and_entropy_is_reinforce(kind, reduction, optimizer, tmp_path):
    """Several batches with the same weights at their end."""
    fields = {"env_id": env_id(kind), "total_timesteps": 100, "num_envs": 2, "episodes_per_env": 2,
              "reduction": reduction, "optimizer": optimizer, "learning_rate": 1e-2, "gamma": 0.9, **SHORT}
    ours = train(vpg, tmp_path, baseline="none", ent_coef=0.0, **fields)
    theirs = train(reinforce, tmp_path, **fields)
    ours, theirs = (checkpoint(folder / "checkpoint.pt") for folder in (ours, theirs))
    assert ours["step"] == theirs["step"] >= 100
    for name, weight in ours["policy"].items():
        same(weight, theirs["policy"][name])
    torch.manual_seed(1)
    first = reinforce.Policy((3,), kind.action_space)
    assert not torch.allclose(first.head.weight, ours["policy"]["head.weight"], rtol=1e-3)


@pytest.mark.parametrize("kind", [Noise, NoiseWheels, NoiseBox])
def test_a2c_on_one_episode_is_vpg(kind, tmp_path, monkeypatch):
    """Exactly one terminated episode: a2c's mean is vpg's sum over its length, 6. What vpg fits V with after
    the step is what a2c adds to its own, times vf_coef."""
    monkeypatch.setattr(Noise, "again", True)  # vpg begins a batch with a reset of its own
    fields = {"env_id": env_id(kind), "total_timesteps": 6, "num_envs": 1, "ent_coef": 0.3, "gamma": 0.9,
              **SHORT}
    seen = gradients(monkeypatch, "SGD", "Adam", "RMSprop")
    train(vpg, tmp_path, episodes_per_env=1, value_epochs=1, optimizer="sgd", **fields)
    train(a2c, tmp_path, num_steps=6, max_grad_norm=0, vf_coef=0.5, **fields)
    (first, policy), (second, critic), (third, both) = seen
    assert (first, second, third) == ("SGD", "Adam", "RMSprop") and len(both) == 1  # of all parameters
    theirs = [part.flatten() / 6 for part in policy] + [0.5 * part.flatten() for part in critic]
    assert all(part.abs().max() > 0 for part in theirs)
    same(both[0], torch.cat(theirs), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_ppo_with_one_update_is_a2c(kind, tmp_path, monkeypatch):
    """One epoch, one minibatch, lambda 1, neither advantages normalised nor values clipped; rollouts that end
    in the midst of episodes."""
    fields = {"env_id": env_id(kind), "num_envs": 3, "num_steps": 16, "total_timesteps": 48, "ent_coef": 0.1,
              "vf_coef": 0.7, "max_grad_norm": 0, "gamma": 0.9, **SHORT}
    seen = gradients(monkeypatch, "Adam", "RMSprop")
    train(a2c, tmp_path, **fields)
    train(ppo, tmp_path, update_epochs=1, num_minibatches=1, gae_lambda=1.0, norm_adv=False, clip_vloss=False,
          **fields)
    (first, theirs), (second, ours) = seen
    assert (first, second) == ("RMSprop", "Adam") and all(part.abs().max() > 0 for part in ours)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("script", EPISODIC)
@pytest.mark.parametrize("kind, reduction", [(Noise, "sum"), (NoiseWheels, "mean"), (NoiseBox, "sum"),
                                             (NoiseLong, "mean")])
def test_gradient_of_a_batch(script, kind, reduction, tmp_path, monkeypatch):
    """It is that of the plain sum over each episode, with the discounted rewards to its end less V and with
    the entropy; for the mean, over the length of the episode. A long episode goes through the networks in
    parts of at most 512 steps, of which this shows nothing."""
    module, batches, sizes = load(script), [], []
    original, forward = module.collect, module.Policy.forward
    monkeypatch.setattr(module, "collect", lambda *args: batches.append(original(*args)) or batches[-1])
    monkeypatch.setattr(module.Policy, "forward",
                        lambda self, obs: sizes.append(len(obs)) or forward(self, obs))
    seen = gradients(monkeypatch, "SGD")
    long = kind is NoiseLong
    more = {"ent_coef": 0.3, "value_epochs": 1} if script == "vpg" else {}
    train(module, tmp_path, env_id=env_id(kind), total_timesteps=1, num_envs=1 if long else 3,
          episodes_per_env=2, optimizer="sgd", reduction=reduction, gamma=0.8, **more, **SHORT)
    assert max(sizes) == (512 if long else 6)
    ((_, found),), (batch,) = seen, batches
    assert len(batch) == (2 if long else 6)
    torch.manual_seed(1)
    policy = module.Policy((3,), kind.action_space)
    critic = vpg.Critic((3,)) if script == "vpg" else None
    loss = 0.0
    for episode in batch:
        ahead, ret = 0.0, []
        for reward in reversed(episode.reward.tolist()):
            ahead = reward + 0.8 * ahead
            ret.insert(0, ahead)
        dist, adv = policy(episode.obs), torch.tensor(ret)
        term = dist.log_prob(episode.action) * (adv - critic(episode.obs).detach() if critic else adv)
        term = term + 0.3 * dist.entropy() if critic else term
        loss = loss - (term.mean() if reduction == "mean" else term.sum()) / len(batch)
    loss.backward()
    for part, grad in zip(policy.parameters(), found, strict=True):
        same(part.grad, grad, atol=1e-5, rtol=1e-4)
        assert grad.abs().max() > 0


@pytest.mark.parametrize("script, baseline", [("reinforce", None), ("vpg", "value"), ("vpg", "mean"),
                                              ("vpg", "none")])
def test_baseline_and_the_order_of_steps(script, baseline, tmp_path, monkeypatch):
    """First the policy's step, with V as it was or the mean of the batches before; then V is fitted."""
    module, calls = load(script), []
    seen, returns = gradients(monkeypatch, "SGD", "Adam"), module.discounted_returns
    loss = "vpg_loss" if baseline else "reinforce_loss"

    def note(name):
        def before(*args):
            calls.append((name, *(part.detach().clone() for part in args if isinstance(part, torch.Tensor))))
            seen.append((name, None))
        watch(monkeypatch, module, name, before)

    for name in {loss, "value_loss", "discounted_returns"} & set(vars(module)):
        note(name)
    more = {"baseline": baseline, "value_epochs": 3} if baseline else {}
    train(module, tmp_path, env_id="PolicyNoise-v0", total_timesteps=72, num_envs=2, episodes_per_env=2,
          optimizer="sgd", gamma=0.9, **more, **SHORT)
    fit = ["value_loss", "Adam"] * 3 if baseline == "value" else []
    assert [name for name, _ in seen] == (["discounted_returns", loss] * 4 + ["SGD"] + fit) * 3
    past, size = [], len(calls) // 3
    for batch in calls[:size], calls[size:2 * size], calls[2 * size:]:
        ret = torch.cat([returns(call[1], 0.9) for call in batch if call[0] == "discounted_returns"])
        losses = [call[1:] for call in batch if call[0] == loss]
        fits = [call[1:] for call in batch if call[0] == "value_loss"]
        assert torch.equal(torch.cat([call[1] for call in losses]), ret)
        if baseline:
            found = torch.cat([call[2].expand(6) for call in losses])
            want = fits[0][0] if fits else np.mean(past or [0.0]) if baseline == "mean" else 0.0
            same(found, torch.zeros(24) + want, atol=1e-5, rtol=1e-5)
        assert all(torch.equal(target, ret) for _, target in fits)
        assert not fits or not torch.equal(fits[0][0], fits[1][0])
        past += ret.tolist()


def test_without_baseline_a_resumed_mean_is_none(tmp_path, monkeypatch):
    """A checkpoint of --baseline mean holds a mean that --baseline none must not subtract."""
    fields = {"env_id": "PolicyNoise-v0", "num_envs": 1, "episodes_per_env": 2, **SHORT}
    path = train(vpg, tmp_path, baseline="mean", total_timesteps=24, **fields) / "checkpoint.pt"
    assert checkpoint(path)["past"]["mean"] != 0
    seen = []
    watch(monkeypatch, vpg, "vpg_loss", lambda *args: seen.append(args[2].item()))
    with as_it_was(tmp_path):
        vpg.train(vpg.Args(baseline="none", total_timesteps=48, resume=str(path), **fields))
    assert seen and not any(seen)


def test_fitting_v_to_frames_goes_in_parts(tmp_path, monkeypatch):
    """44 episodes of 12 steps, 528 rows: parts of 512 and 16, whose gradients add up to that of the mean, and
    not to those of the next pass."""
    seen, parts, whole = gradients(monkeypatch, "Adam"), [], []
    value_loss, forward = vpg.value_loss, vpg.Critic.forward

    def watched_loss(value, ret):
        parts.append((value.detach().clone(), ret))
        return value_loss(value, ret)

    def watched_forward(self, obs):
        if torch.is_grad_enabled():
            whole.append((self, obs))
        return forward(self, obs)

    monkeypatch.setattr(vpg, "value_loss", watched_loss)
    monkeypatch.setattr(vpg.Critic, "forward", watched_forward)
    train(vpg, tmp_path, env_id="probes:Frames-v0", total_timesteps=528, num_envs=4, episodes_per_env=11,
          value_epochs=2, value_learning_rate=0.0, **SHORT)
    assert [len(ret) for _, ret in parts] == [512, 16] * 2 and [name for name, _ in seen] == ["Adam"] * 3
    critic, ret = whole[0][0], torch.cat([ret for _, ret in parts[:2]])
    critic.zero_grad()
    value_loss(forward(critic, torch.cat([obs for _, obs in whole[:2]])), ret).backward()
    for first, second, part in zip(seen[1][1], seen[2][1], critic.parameters(), strict=True):
        same(first, part.grad, atol=1e-5, rtol=1e-4)
        same(second, part.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("script", POLICY)
def test_gradients_are_of_what_was_drawn(script, tmp_path, monkeypatch):
    """A torque beyond [-1, 1] is clipped and scaled for the environment alone: its density is that of the
    draw."""
    module, drawn, stored, taken = load(script), [], [], []
    act, to_env = module.act, module.to_env
    monkeypatch.setattr(module, "act", lambda *args, **more: drawn.append(act(*args, **more)) or drawn[-1])
    monkeypatch.setattr(module, "to_env", lambda *args: taken.append(to_env(*args)) or taken[-1])
    watch(monkeypatch, module, "Episode" if script in EPISODIC else "Rollout",
          lambda *parts: stored.append(parts[1].reshape(-1, 2)))
    form = {"episodes_per_env": 1} if script in EPISODIC else {"num_steps": 8}
    form |= {"num_minibatches": 1} if script == "ppo" else {}
    train(module, tmp_path, env_id="probes:Asymmetric-v0", total_timesteps=8, num_envs=1, **form, **SHORT)
    number = len(torch.cat(stored))
    drawn, taken = np.concatenate(drawn)[:number], np.concatenate(taken)[:number]
    assert number >= 8 and np.array_equal(torch.cat(stored).numpy(), drawn) and np.abs(drawn).max() > 1
    assert taken == pytest.approx(drawn.clip(-1, 1) * [0.75, 3.5] + [-0.25, 6.5], abs=1e-5)


# ---- rollouts

@pytest.mark.parametrize("script", ROLLOUT)
def test_what_gae_is_given(script, tmp_path, monkeypatch):
    """(T, N) each: V of what was seen and of what came next, also at the end of the rollout, with the weights
    that acted; terminal states and time limits apart."""
    module, rollouts, calls = load(script), [], []
    nets = keep_made(monkeypatch, module, "ActorCritic")
    original, gae = module.Rollout, module.gae

    def rollout(*parts):
        rollouts.append(original(*parts))
        return rollouts[-1]

    def watched_gae(reward, value, next_value, terminated, truncated, gamma, lam):
        batch = rollouts[-1]
        for states, values in (batch.obs, value), (batch.next_obs, next_value):
            want = nets[-1].critic(states.flatten(0, 1)).view(5, num_envs)
            same(values, want.detach(), atol=1e-5, rtol=1e-5)
        assert all(map(torch.equal, (reward, terminated, truncated), (batch.reward, batch.terminated,
                                                                       batch.truncated)))
        assert not any(part.requires_grad for part in (value, next_value)) and reward.shape == (5, num_envs)
        calls.append((gamma, lam))
        return gae(reward, value, next_value, terminated, truncated, gamma, lam)

    monkeypatch.setattr(module, "Rollout", rollout)
    monkeypatch.setattr(module, "gae", watched_gae)
    form = {"num_minibatches": 1, "gae_lambda": 0.6} if script == "ppo" else {}
    for num_envs, (env, length, terminal) in itertools.product((1, 3), (
            ("probes:Probe7", 2, True), ("PolicyNoise", 6, True), ("PolicyNoiseLimit", 6, False))):
        rollouts.clear()
        calls.clear()
        train(module, tmp_path, env_id=f"{env}-v0", total_timesteps=15 * num_envs, num_envs=num_envs,
              num_steps=5, gamma=0.7, learning_rate=0.1, **form, **SHORT)
        assert calls == [(0.7, 0.6 if script == "ppo" else 1.0)] * 3
        ends, limits = (torch.cat([getattr(batch, name) for batch in rollouts])
                        for name in ("terminated", "truncated"))
        at_end = torch.tensor([[float(t % length == length - 1)] * num_envs for t in range(15)])
        assert torch.equal(ends if terminal else limits, at_end) and (limits if terminal else ends).max() == 0


@pytest.mark.parametrize("script, fields", [
    ("a2c", {"rmsprop_alpha": 0.9, "rmsprop_eps": 1e-3}), ("ppo", {"adam_eps": 1e-3})])
def test_constants_of_the_optimizer(script, fields, tmp_path):
    """The defaults, and what is typed; there is no momentum."""
    defaults = {"a2c": {"alpha": 0.99, "eps": 1e-5, "momentum": 0, "weight_decay": 0},
                "ppo": {"betas": (0.9, 0.999), "eps": 1e-5, "weight_decay": 0}}[script]
    for given in {}, fields:
        folder = train(load(script), tmp_path, total_timesteps=50, **given, **SHORT)
        (group,) = checkpoint(folder / "checkpoint.pt")["optimizer"]["param_groups"]
        want = defaults | {name.partition("_")[2]: value for name, value in given.items()}
        assert {name: group[name] for name in want} == want


@pytest.mark.parametrize("script", ROLLOUT)
def test_the_gradient_is_scaled_down(script, tmp_path, monkeypatch):
    """To a norm of .5 over policy and critic, where it is larger; 0 leaves it as it is."""
    seen = gradients(monkeypatch, "RMSprop", "Adam")
    norms = []
    for limit in 0.5, 0:
        train(load(script), tmp_path, env_id="PolicyNoise-v0", total_timesteps=160, num_envs=2, num_steps=16,
              max_grad_norm=limit, **SHORT)
        norms.append([math.sqrt(sum(part.square().sum() for part in grads)) for _, grads in seen])
        seen.clear()
    assert max(norms[0]) == pytest.approx(0.5, abs=1e-4) and max(norms[1]) > 1


def watch_ppo(monkeypatch):
    """What ppo_loss is given and returns: a list that grows as ppo trains."""
    calls, original = [], ppo.ppo_loss

    def watched(*args):
        loss, info = original(*args)
        names = "logp", "old_logp", "adv", "value", "old_value", "ret", "entropy"
        calls.append({name: part.detach().clone() for name, part in zip(names, args, strict=False)})
        calls[-1] |= {name: part.item() for name, part in info.items()} | {"rest": args[7:]}
        return loss, info

    monkeypatch.setattr(ppo, "ppo_loss", watched)
    return calls


@pytest.mark.parametrize("env", ["CartPole-v1", "PolicyNoiseWheels-v0", "Pendulum-v1", "probes:Frames-v0"])
def test_ppo_and_its_old_policy(env, tmp_path, monkeypatch):
    """In the first minibatch of the first epoch the ratio is 1; afterwards it is not. What is compared with
    was computed before the first update: in every epoch the same numbers, each once, in another order."""
    calls = watch_ppo(monkeypatch)
    norm = {"norm_obs": True, "norm_reward": True} if env == "Pendulum-v1" else {}
    train(ppo, tmp_path, env_id=env, total_timesteps=96, num_envs=2, num_steps=16, update_epochs=3,
          num_minibatches=4, learning_rate=1e-2, clip_coef=0.1, vf_coef=0.4, ent_coef=0.02, **norm, **SHORT)
    assert len(calls) == 3 * 3 * 4
    for i, now in enumerate(calls):
        ratio = (now["logp"] - now["old_logp"]).exp()
        assert len(ratio) == 8 and now["rest"] == (0.1, 0.4, 0.02, False)
        assert now["adv"].mean().item() == pytest.approx(0, abs=1e-5)
        assert now["adv"].std().item() == pytest.approx(1, abs=1e-4)
        if i % 12 == 0:
            assert (ratio - 1).abs().max() < 1e-5 and now["clipfrac"] == 0 and abs(now["approx_kl"]) < 1e-6
            same(now["value"], now["old_value"], atol=1e-5, rtol=1e-5)
        else:
            assert (ratio - 1).abs().max() > 1e-5 and now["approx_kl"] > 0
            assert not torch.allclose(now["value"], now["old_value"], atol=1e-5, rtol=1e-5)
    for at in range(0, 36, 12):
        epochs = [torch.cat([torch.stack([call[name] for name in ("old_logp", "old_value", "ret")], 1)
                             for call in calls[start:start + 4]]) for start in range(at, at + 12, 4)]
        rows = [[tuple(row) for row in epoch.tolist()] for epoch in epochs]
        assert sorted(rows[0]) == sorted(rows[1]) == sorted(rows[2]) and len(rows[0]) == 32
        assert rows[0] != rows[1] != rows[2] and len(set(rows[0])) > 20


def test_ppo_without_normalised_advantages(tmp_path, monkeypatch):
    calls = watch_ppo(monkeypatch)
    train(ppo, tmp_path, env_id="PolicyNoise-v0", total_timesteps=64, num_envs=2, num_steps=16,
          norm_adv=False, clip_vloss=True, num_minibatches=32, update_epochs=2, **SHORT)
    assert len(calls) == 2 * 2 * 32 and all(call["rest"][-1] is True for call in calls)
    for now in calls:
        same(now["adv"], now["ret"] - now["old_value"], atol=1e-5, rtol=1e-5)


def test_ppo_target_kl(tmp_path, monkeypatch):
    """No further epoch once the KL divergence is above it; 0: never mind."""
    calls = watch_ppo(monkeypatch)
    for target_kl, epochs in (0.0, 4), (1e-7, 1), (1e9, 4):
        calls.clear()
        train(ppo, tmp_path, total_timesteps=64, num_envs=2, num_steps=16, num_minibatches=2, update_epochs=4,
              target_kl=target_kl, learning_rate=0.01, **SHORT)
        assert len(calls) == 2 * 2 * epochs


# ---- statistics of observations and rewards

@pytest.mark.parametrize("script", ROLLOUT)
def test_statistics_of_rewards(script, tmp_path, monkeypatch):
    """Rewards are divided by the deviation of their discounted sums, which begin anew with each episode and
    after each checkpoint; what is logged is raw."""
    module, updates, rewards = load(script), [], []
    original, gae = module.RunningNorm.update, module.gae

    def update(self, x):
        updates.append(x.tolist())
        original(self, x)

    monkeypatch.setattr(module.RunningNorm, "update", update)
    monkeypatch.setattr(module, "gae", lambda *args, **more: rewards.append(args[0]) or gae(*args, **more))
    folder = train(module, tmp_path, env_id="probes:Limit-v0", total_timesteps=48, num_envs=2, num_steps=8,
                   norm_reward=True, gamma=0.5, eval_episodes=1, checkpoint_frequency=32)
    sums = [3, 4.5, 5.25, 5.625, 5.8125]
    steps = [*range(5), *range(5), *range(5), 0, *range(5), *range(3)]  # of 16 to the checkpoint, and of 8
    want = [[sums[t] for t in steps[at:at + 8] for _ in range(2)] for at in (0, 8, 16)]
    assert updates == want
    state = checkpoint(folder / "checkpoint.pt")["reward_norm"]
    assert state["count"].item() == pytest.approx(48, abs=1e-3) and state["var"].dtype == torch.float32
    assert state["var"].item() == pytest.approx(np.var(sum(want, [])), rel=1e-3)
    for i, found in enumerate(rewards):  # with the statistics up to its own rollout
        same(found, torch.full((8, 2), 3 / np.std(sum(want[:i + 1], []))).float(), atol=1e-3, rtol=1e-3)
    assert [value for _, value in events(folder)["charts/episodic_return"]] == [15.0] * 8


@pytest.mark.parametrize("script", ROLLOUT)
def test_statistics_of_observations(script, tmp_path, monkeypatch):
    """Of each observation that was acted on, once a rollout, after its updates: what acts and what learns
    from it see the same numbers. Probe 7's last observation of an episode ends in 2; no policy acts on it."""
    module, order, made = load(script), [], []
    original, act, kind = module.RunningNorm.update, module.act, module.ActorCritic

    def make(*args):
        made.append(kind(*args))
        return made[-1]

    def update(self, x):
        if self is made[0].norm:
            order.append(("update", x.flatten().tolist()))
        original(self, x)

    def watched_act(policy, obs, *rest, **more):
        order.append(("act", made[0].norm.mean.item()))
        return act(policy, obs, *rest, **more)

    monkeypatch.setattr(module, "ActorCritic", make)
    monkeypatch.setattr(module.RunningNorm, "update", update)
    monkeypatch.setattr(module, "act", watched_act)
    steps = gradients(monkeypatch, "RMSprop", "Adam")
    watch(monkeypatch, module, "gae", lambda *_, **__: order.append(("gae", made[0].norm.mean.item())))
    folder = train(module, tmp_path, env_id="probes:Probe7-v0", total_timesteps=64, num_envs=1, num_steps=16,
                   norm_obs=True, **SHORT)
    number, seen = len(steps) // 4, []
    assert number == (20 if script == "ppo" else 1)
    before = 0.0  # the mean that the rollout is acted with
    for i in range(4):
        part, order = order[:18], order[18:]
        assert [name for name, _ in part] == ["act"] * 16 + ["gae", "update"]
        assert {value for _, value in part[:17]} == {before}
        seen += part[17][1]
        assert part[17][1] == [float(10 * (t // 2) + t % 2) for t in range(16 * i, 16 * i + 16)]
        before = order[0][1]
        assert before == pytest.approx(np.mean(seen), rel=1e-4)
    assert {name for name, _ in order} == {"act"} and {value for _, value in order} == {before}  # evaluation
    for name in "model.pt", "checkpoint.pt":
        state = checkpoint(folder / name)["net"]
        assert state["norm.mean"].item() == pytest.approx(np.mean(seen), rel=1e-4)
        assert state["norm.var"].item() == pytest.approx(np.var(seen), rel=1e-4)
        assert state["norm.count"].item() == pytest.approx(64, abs=1e-3)


@pytest.mark.parametrize("script", ROLLOUT)
def test_evaluation_has_the_statistics_of_training(script, tmp_path):
    """A model.pt evaluates alike; with other statistics it would not."""
    flags = "--env-id Pendulum-v1 --num-envs 2 --num-steps 16 --total-timesteps 640 --norm-obs".split()
    out = call(script, *flags, "--eval-episodes", "2", cwd=tmp_path).out.splitlines()[-1]
    path = run_folder(tmp_path) / "model.pt"
    state = checkpoint(path)
    assert call(script, "--evaluate", path, cwd=tmp_path).out.splitlines()[-1] == out
    assert checkpoint(path)["net"]["norm.count"] == state["net"]["norm.count"]
    state["net"]["norm.mean"] += 0.5
    torch.save(state, tmp_path / "other.pt")
    assert call(script, "--evaluate", tmp_path / "other.pt", cwd=tmp_path).out.splitlines()[-1] != out
