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
from common import EPISODIC, POLICY, call, checkpoint, events, load, run_folder, train
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
        return obs, info

    def pack(self):
        return np.float32([self.seed, self.episode, self.t])

    def reward(self, action):
        assert action == (self.seed + self.episode + self.t) % 2
        return 100 * self.episode + 10 * self.t + action


def parity(obs):
    """A policy that takes the action that Uneven expects."""
    return SimpleNamespace(sample=lambda: (obs.sum(1) % 2).long())


@pytest.mark.parametrize("module", [reinforce, vpg])
@pytest.mark.parametrize("num_envs, each", [(1, 1), (1, 3), (3, 1), (4, 3)])
def test_collect(module, num_envs, each):
    """As many whole episodes of each environment, its first ones, whoever is done first; ordered by their
    ends, which are counted in transitions of the batch. Against one environment after another."""
    for seed in range(0, 100, 10):
        want = []
        for i in range(num_envs):
            env, rows = Uneven(), []
            obs, _ = env.reset(seed=seed + i)
            time = 0
            for _ in range(each):
                ended = False
                while not ended:
                    action = int(obs.sum()) % 2
                    next_obs, reward, terminated, truncated, _ = env.step(action)
                    ended, time = terminated or truncated, time + 1
                    rows.append((obs.tolist(), action, reward))
                    obs = next_obs
                want.append((time, i, rows))
                rows, (obs, _) = [], env.reset()
        lengths = [max(time for time, env, _ in want if env == i) for i in range(num_envs)]
        # the transitions of vector steps before it, and in its own those of the environments up to its own
        ends = [sum(min(time - 1, length) for length in lengths)
                + sum(lengths[j] >= time for j in range(i + 1)) for time, i, _ in want]
        want = sorted(zip(ends, (rows for _, _, rows in want), strict=True), key=lambda pair: pair[0])
        envs = SyncVectorEnv([Uneven] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)
        episodes = module.collect(envs, parity, seed, each, "cpu")
        assert len(episodes) == num_envs * each and episodes[-1].end == sum(lengths)
        for episode, (end, rows) in zip(episodes, want, strict=True):
            found = zip(*(part.tolist() for part in episode[:3]), strict=True)
            assert (episode.end, [tuple(row) for row in found]) == (end, rows)
            assert [part.dtype for part in episode[:3]] == [torch.float32, torch.int64, torch.float32]


@pytest.mark.parametrize("script", EPISODIC)
def test_batches_of_a_run(script, tmp_path, monkeypatch):
    """Each begins with a reset of its own seed; its transitions, and no others, are counted and logged."""
    module, batches, seeds = load(script), [], []
    original = module.collect

    def collect(envs, policy, seed, *rest):
        seeds.append(seed)
        batches.append(original(envs, policy, seed, *rest))
        return batches[-1]

    monkeypatch.setattr(module, "collect", collect)
    folder = train(module, tmp_path, total_timesteps=400, num_envs=3, episodes_per_env=2, learning_rate=1e-3,
                   **SHORT)
    tags, step, ends = events(folder), 0, []
    assert len(batches) > 1
    for seed, batch in zip(seeds, batches, strict=True):
        assert len(batch) == 6 and seed == module.reset_seed(1, step)
        ends += [step + episode.end for episode in batch]
        assert batch[-1].end == sum(len(episode.reward) for episode in batch)
        step += batch[-1].end
    assert step == checkpoint(folder / "checkpoint.pt")["step"] >= 400 and len(set(ends)) == len(ends)
    lengths = [len(episode.reward) for batch in batches for episode in batch]
    for tag in "charts/episodic_return", "charts/episodic_length":
        assert tags[tag] == list(zip(ends, map(float, lengths), strict=True))


# ---- what a run learns from

class Noise(probes.Probe):
    """Random observations, rewards that depend on the action, episodes of 6 steps up to a terminal state."""

    observation_space, action_space, length = Box(-np.inf, np.inf, (3,), np.float32), Discrete(3), 6

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


class NoiseWheels(Noise):
    action_space = MultiDiscrete([2, 3])


class NoiseBox(Noise):
    action_space = Box(-1, 1, (2,), np.float32)

    def reward(self, action):
        return super().reward(action / 4)


KINDS = [Noise, NoiseLimit, NoiseWheels, NoiseBox]
for kind in KINDS:
    gym.register(f"Policy{kind.__name__}-v0", entry_point=kind)


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


def without_draws(kind):
    """The class, making instances of which leaves torch's generator as it was."""
    class Quiet(kind):
        def __init__(self, *args):
            state = torch.get_rng_state()
            super().__init__(*args)
            torch.set_rng_state(state)
    return Quiet


@pytest.mark.parametrize("env", KINDS)
@pytest.mark.parametrize("reduction, optimizer", [("sum", "adam"), ("mean", "sgd")])
def test_vpg_without_baseline_and_entropy_is_reinforce(env, reduction, optimizer, tmp_path, monkeypatch):
    """Several batches with the same weights at their end."""
    monkeypatch.setattr(vpg, "Critic", without_draws(vpg.Critic))
    fields = {"env_id": f"Policy{env.__name__}-v0", "total_timesteps": 100, "num_envs": 2,
              "episodes_per_env": 2, "reduction": reduction, "optimizer": optimizer, "learning_rate": 1e-2,
              "gamma": 0.9, **SHORT}
    ours = train(vpg, tmp_path, baseline="none", ent_coef=0.0, **fields)
    theirs = train(reinforce, tmp_path, **fields)
    ours, theirs = (checkpoint(folder / "checkpoint.pt") for folder in (ours, theirs))
    assert ours["step"] == theirs["step"] >= 100
    for name, weight in ours["policy"].items():
        same(weight, theirs["policy"][name])
    torch.manual_seed(1)
    first = reinforce.Policy((3,), env.action_space)
    assert not torch.allclose(first.head.weight, ours["policy"]["head.weight"], rtol=1e-3)


@pytest.mark.parametrize("env", [Noise, NoiseWheels, NoiseBox])
def test_a2c_on_one_episode_is_vpg(env, tmp_path, monkeypatch):
    """Exactly one terminated episode: a2c's mean is vpg's sum over its length, 6. What vpg fits V with after
    the step is what a2c adds to its own, times vf_coef."""
    fields = {"env_id": f"Policy{env.__name__}-v0", "total_timesteps": 6, "num_envs": 1, "ent_coef": 0.3,
              "gamma": 0.9, **SHORT}
    seen = gradients(monkeypatch, "SGD", "Adam", "RMSprop")
    train(vpg, tmp_path, episodes_per_env=1, value_epochs=1, optimizer="sgd", **fields)
    train(a2c, tmp_path, num_steps=6, max_grad_norm=1e9, vf_coef=0.5, **fields)
    (first, policy), (second, critic), (third, both) = seen
    assert (first, second, third) == ("SGD", "Adam", "RMSprop") and len(both) == len(policy) + len(critic)
    assert all(part.abs().max() > 0 for part in both)
    theirs = [part / 6 for part in policy] + [0.5 * part for part in critic]
    same(both, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("env", KINDS)
def test_ppo_with_one_update_is_a2c(env, tmp_path, monkeypatch):
    """One epoch, one minibatch, lambda 1, neither advantages normalised nor values clipped; rollouts that end
    in the midst of episodes."""
    fields = {"env_id": f"Policy{env.__name__}-v0", "num_envs": 3, "num_steps": 16, "total_timesteps": 48,
              "ent_coef": 0.1, "vf_coef": 0.7, "max_grad_norm": 1e9, "gamma": 0.9, **SHORT}
    seen = gradients(monkeypatch, "Adam", "RMSprop")
    train(a2c, tmp_path, **fields)
    train(ppo, tmp_path, update_epochs=1, num_minibatches=1, gae_lambda=1.0, norm_adv=False, clip_vloss=False,
          **fields)
    (first, theirs), (second, ours) = seen
    assert (first, second) == ("RMSprop", "Adam") and all(part.abs().max() > 0 for part in ours)
    for a, b in zip(ours, theirs, strict=True):
        same(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("env", KINDS + [None])
def test_reinforce_step_by_step(env, reduction, tmp_path, monkeypatch):
    """The gradient of a batch is that of a backward on each single step, with the discounted rewards from it
    to the end; for the mean, over the length of its episode."""
    batches, original = [], reinforce.collect
    monkeypatch.setattr(reinforce, "collect", lambda *args: batches.append(original(*args)) or batches[-1])
    seen = gradients(monkeypatch, "SGD")
    train(reinforce, tmp_path, env_id=f"Policy{env.__name__}-v0" if env else "CartPole-v1", total_timesteps=1,
          num_envs=3, episodes_per_env=2, optimizer="sgd", reduction=reduction, gamma=0.8, **SHORT)
    ((_, theirs),) = seen
    (batch,) = batches
    torch.manual_seed(1)
    policy = reinforce.Policy((3,) if env else (4,), env.action_space if env else Discrete(2))
    assert len(batch) == 6
    for episode in batch:
        for t in range(len(episode.reward)):
            ret = sum(0.8 ** (k - t) * episode.reward[k].item() for k in range(t, len(episode.reward)))
            logp = policy(episode.obs[t:t + 1]).log_prob(episode.action[t:t + 1])
            (-ret * logp.sum() / len(batch) / (len(episode.reward) if reduction == "mean" else 1)).backward()
    for ours, part in zip(policy.parameters(), theirs, strict=True):
        same(ours.grad, part, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("script, baseline", [("reinforce", None), ("vpg", "value"), ("vpg", "mean"),
                                              ("vpg", "none")])
def test_baseline_and_the_order_of_steps(script, baseline, tmp_path, monkeypatch):
    """First the policy's step, with V as it was or the mean of the batches before; then V is fitted."""
    module, calls = load(script), []
    seen, returns = gradients(monkeypatch, "SGD", "Adam"), module.discounted_returns
    loss = "vpg_loss" if baseline else "reinforce_loss"

    def note(name):
        def before(*args):
            tensors = [part.detach().clone() for part in args[:2] if isinstance(part, torch.Tensor)]
            calls.append((name, *tensors))
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
        adv = torch.cat([call[2] for call in batch if call[0] == loss])
        fits = [call[1:] for call in batch if call[0] == "value_loss"]
        value = {"value": lambda fits=fits: fits[0][0], "mean": lambda past=past: np.mean(past or [0.0])}
        same(adv, ret - value.get(baseline, lambda: 0.0)(), atol=1e-5, rtol=1e-5)
        assert all(torch.equal(target, ret) for _, target in fits)
        assert not fits or not torch.equal(fits[0][0], fits[1][0])
        past += ret.tolist()


def test_fitting_v_to_frames_goes_in_parts(tmp_path, monkeypatch):
    """44 episodes of 12 steps, 528 rows: parts of 512 and 16, whose gradients add up to that of the mean."""
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
          value_epochs=1, value_learning_rate=0.0, **SHORT)
    assert [len(ret) for _, ret in parts] == [512, 16] and [name for name, _ in seen] == ["Adam", "Adam"]
    critic, ret = whole[0][0], torch.cat([ret for _, ret in parts])
    critic.zero_grad()
    value_loss(forward(critic, torch.cat([obs for _, obs in whole])), ret).backward()
    for found, part in zip(seen[1][1], critic.parameters(), strict=True):
        same(found, part.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("script", POLICY)
@pytest.mark.parametrize("env, clip, seen", [
    ("probes:Limit", "auto", {3}), ("probes:Limit", "on", {1}), ("probes:Limit", "off", {3}),
    ("probes:Frames", "auto", {-1, 1}), ("probes:Frames", "off", {-3, 3})])
def test_learner_sees_clipped_rewards(script, env, clip, seen, tmp_path, monkeypatch):
    """Their sign, with pixels if not told otherwise. What is logged is what the game says."""
    module, rewards = load(script), []
    name = "discounted_returns" if script in EPISODIC else "gae"
    watch(monkeypatch, module, name, lambda reward, *_, **__: rewards.extend(reward.flatten().tolist()))
    form = {"episodes_per_env": 1} if script in EPISODIC else {"num_steps": 16}
    form |= {"num_minibatches": 1, "update_epochs": 1} if script == "ppo" else {}
    form |= {"value_epochs": 1} if script == "vpg" else {}
    folder = train(module, tmp_path, env_id=f"{env}-v0", total_timesteps=20, num_envs=2, clip_reward=clip,
                   **form, **SHORT)
    assert set(rewards) == seen and len(rewards) >= 20
    returns = {value for _, value in events(folder)["charts/episodic_return"]}
    assert returns == {15} if env == "probes:Limit" else all(value % 3 == 0 for value in returns)


@pytest.mark.parametrize("script", POLICY)
def test_gradients_are_of_what_was_drawn(script, tmp_path, monkeypatch):
    """A torque beyond its bounds is clipped for the environment alone: its density is that of the draw."""
    module, drawn, stored, taken = load(script), [], [], []
    act, to_env = module.act, module.to_env
    monkeypatch.setattr(module, "act", lambda *args: drawn.append(act(*args)) or drawn[-1])
    monkeypatch.setattr(module, "to_env", lambda *args: taken.append(to_env(*args)) or taken[-1])
    watch(monkeypatch, module, "Episode" if script in EPISODIC else "Rollout",
          lambda *parts: stored.append(parts[1].reshape(-1, 2)))
    form = {"episodes_per_env": 1} if script in EPISODIC else {"num_steps": 8}
    form |= {"num_minibatches": 1} if script == "ppo" else {}
    train(module, tmp_path, env_id="PolicyNoiseBox-v0", total_timesteps=8, num_envs=1, **form, **SHORT)
    drawn, taken = np.concatenate(drawn), np.concatenate(taken)[:len(drawn)]
    assert np.array_equal(torch.cat(stored).numpy(), drawn) and np.abs(drawn).max() > 1
    assert np.array_equal(taken, drawn.clip(-1, 1))


@pytest.mark.parametrize("script", POLICY)
def test_acting_builds_no_graph(script, tmp_path, monkeypatch):
    module, acting, outputs = load(script), [], []
    forward, act = module.Policy.dist, module.act

    def watched_act(*args):
        acting.append(1)
        action = act(*args)
        acting.pop()
        return action

    def watched_forward(self, features):
        dist = forward(self, features)
        outputs.append((bool(acting), dist.logits.requires_grad))
        return dist

    monkeypatch.setattr(module, "act", watched_act)
    monkeypatch.setattr(module.Policy, "dist", watched_forward)
    train(module, tmp_path, total_timesteps=100, **SHORT)
    assert {(True, False), (False, True)} <= set(outputs) and (True, True) not in outputs


# ---- rollouts

@pytest.mark.parametrize("script", ROLLOUT)
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("env, length, terminal", [("probes:Probe7", 2, True), ("PolicyNoise", 6, True),
                                                   ("PolicyNoiseLimit", 6, False)])
def test_what_gae_is_given(script, num_envs, env, length, terminal, tmp_path, monkeypatch):
    """(T, N) each: V of what was seen and of what came next, also at the end of the rollout, with the weights
    that acted; terminal states and time limits apart."""
    module, rollouts, calls = load(script), [], []
    nets = keep_made(monkeypatch, module, "ActorCritic")
    watch(monkeypatch, module, "Rollout", lambda *parts: rollouts.append(parts))

    def before(reward, value, next_value, terminated, truncated, gamma, lam):
        obs, _, rewards, ends, limits, next_obs = rollouts[-1]
        for states, values in (obs, value), (next_obs, next_value):
            want = nets[0].critic(states.flatten(0, 1)).view(5, num_envs)
            same(values, want.detach(), atol=1e-5, rtol=1e-5)
        assert all(map(torch.equal, (reward, terminated, truncated), (rewards, ends, limits)))
        assert not any(part.requires_grad for part in (value, next_value)) and reward.shape == (5, num_envs)
        calls.append((gamma, lam))

    watch(monkeypatch, module, "gae", lambda *args, lam=None: before(*args, *[lam] * (lam is not None)))
    form = {"num_minibatches": 1, "gae_lambda": 0.6} if script == "ppo" else {}
    train(module, tmp_path, env_id=f"{env}-v0", total_timesteps=15 * num_envs, num_envs=num_envs, num_steps=5,
          gamma=0.7, learning_rate=0.1, **form, **SHORT)
    assert calls == [(0.7, 0.6 if script == "ppo" else 1.0)] * 3
    ends, limits = (torch.cat([rollout[i] for rollout in rollouts]) for i in (3, 4))
    at_end = torch.tensor([t % length == length - 1 for t in range(15)]).float()[:, None].expand(15, num_envs)
    assert torch.equal(ends if terminal else limits, at_end) and (limits if terminal else ends).max() == 0


@pytest.mark.parametrize("script, constants", [("a2c", {"alpha": 0.99, "eps": 1e-5, "momentum": 0}),
                                               ("ppo", {"betas": (0.9, 0.999), "eps": 1e-5})])
def test_constants_of_the_optimizer(script, constants, tmp_path):
    folder = train(load(script), tmp_path, total_timesteps=100, **SHORT)
    (group,) = checkpoint(folder / "checkpoint.pt")["optimizer"]["param_groups"]
    assert {name: group[name] for name in constants} == constants


@pytest.mark.parametrize("script", ROLLOUT)
def test_the_gradient_is_scaled_down(script, tmp_path, monkeypatch):
    """To a norm of .5 over policy and critic, where it is larger."""
    seen = gradients(monkeypatch, "RMSprop", "Adam")
    norms = []
    for limit in 0.5, 1e9:
        train(load(script), tmp_path, env_id="PolicyNoise-v0", total_timesteps=160, num_envs=2, num_steps=16,
              max_grad_norm=limit, **SHORT)
        norms.append([math.sqrt(sum(part.square().sum() for part in grads)) for _, grads in seen])
        seen.clear()
    assert max(norms[0]) == pytest.approx(0.5, abs=1e-4) and max(norms[1]) > 1


def watch_ppo(monkeypatch):
    """What ppo_loss is given and returns, with the step's learning rate: a list that grows as ppo trains."""
    calls, original, step = [], ppo.ppo_loss, torch.optim.Adam.step

    def watched(*args):
        loss, info = original(*args)
        names = "logp", "old_logp", "adv", "value", "old_value", "ret", "entropy"
        calls.append({name: part.detach().clone() for name, part in zip(names, args, strict=False)})
        calls[-1] |= {name: part.item() for name, part in info.items()} | {"rest": args[7:]}
        return loss, info

    def watched_step(self, *args, **kwargs):
        calls[-1]["lr"] = self.param_groups[0]["lr"]
        return step(self, *args, **kwargs)

    monkeypatch.setattr(ppo, "ppo_loss", watched)
    monkeypatch.setattr(torch.optim.Adam, "step", watched_step)
    return calls


@pytest.mark.parametrize("env", ["CartPole", "PolicyNoiseWheels", "Pendulum", "probes:Frames"])
def test_ppo_and_its_old_policy(env, tmp_path, monkeypatch):
    """In the first minibatch of the first epoch the ratio is 1; afterwards it is not. What is compared with
    was computed before the first update: in every epoch the same numbers, each once, in another order."""
    calls = watch_ppo(monkeypatch)
    version = {"CartPole": 1, "Pendulum": 1}.get(env, 0)
    train(ppo, tmp_path, env_id=f"{env}-v{version}", total_timesteps=96, num_envs=2, num_steps=16,
          update_epochs=3, num_minibatches=4, learning_rate=1e-2, clip_coef=0.1, vf_coef=0.4, ent_coef=0.02,
          **SHORT)
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


@pytest.mark.parametrize("anneal_lr", [True, False])
def test_ppo_learning_rate(anneal_lr, tmp_path, monkeypatch):
    """It falls linearly from the first rollout to what would be 0 after the last."""
    calls = watch_ppo(monkeypatch)
    train(ppo, tmp_path, total_timesteps=320, num_envs=2, num_steps=16, num_minibatches=2, update_epochs=2,
          anneal_lr=anneal_lr, learning_rate=0.01, **SHORT)
    want = [0.01 * (1 - i / 10 if anneal_lr else 1) for i in range(10) for _ in range(4)]
    assert [call["lr"] for call in calls] == pytest.approx(want)


@pytest.mark.parametrize("target_kl, epochs", [(0.0, 4), (1e-7, 1), (1e9, 4)])
def test_ppo_target_kl(target_kl, epochs, tmp_path, monkeypatch):
    """No further epoch once the KL divergence is above it; 0: never mind."""
    calls = watch_ppo(monkeypatch)
    train(ppo, tmp_path, total_timesteps=64, num_envs=2, num_steps=16, num_minibatches=2, update_epochs=4,
          target_kl=target_kl, learning_rate=0.01, **SHORT)
    assert len(calls) == 2 * 2 * epochs


def test_one_network_for_pixels():
    """Policy and critic have all layers but their last in common, and one pass; with vectors, none."""
    for module, shape in itertools.product((a2c, ppo), ((4, 84, 84), (3,))):
        net, passes = module.ActorCritic(shape, Discrete(2)), []
        for body in {net.policy.body, net.critic.body}:
            body.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        obs = torch.randint(256, (2, *shape), dtype=torch.uint8) if len(shape) == 3 else torch.randn(2, 3)
        dist, value = net(obs)
        assert len(passes) == (1 if len(shape) == 3 else 2) and value.shape == (2,)
        same(dist.logits, net.policy(obs).logits)
        same(value, net.critic(obs))
        assert (net.policy.body is net.critic.body) == (len(shape) == 3)
    policy, critic = vpg.Policy((4, 84, 84), Discrete(2)), vpg.Critic((4, 84, 84))
    assert not {id(part) for part in policy.parameters()} & {id(part) for part in critic.parameters()}


# ---- statistics of observations and rewards

@pytest.mark.parametrize("script", ROLLOUT)
def test_statistics_of_a_run(script, tmp_path, monkeypatch):
    """Of each observation that is acted on, once: where an episode ended, of the next one's first, not of its
    last; and of none in evaluation. Rewards are divided by the deviation of their discounted sums, which
    begin anew with each episode and after each checkpoint; what is logged is raw."""
    module, updates, rollouts = load(script), [], []
    original = module.RunningNorm.update

    def update(self, x):
        updates.append((self, x.copy()))
        original(self, x)

    monkeypatch.setattr(module.RunningNorm, "update", update)
    norms = keep_made(monkeypatch, module, "RunningNorm")
    watch(monkeypatch, module, "Rollout", lambda *parts: rollouts.append(parts))
    folder = train(module, tmp_path, env_id="probes:Limit-v0", total_timesteps=48, num_envs=2, num_steps=8,
                   norm_obs=True, norm_reward=True, gamma=0.5, eval_episodes=1, checkpoint_frequency=32)
    obs_norm, reward_norm = norms
    (obs_shape, obs_on), (sum_shape, sum_on) = ((norm.mean.shape, norm.on) for norm in norms)
    assert (obs_shape, obs_on, sum_shape, sum_on) == ((1,), True, (), True)
    seen = {norm: [x.tolist() for each, x in updates if each is norm] for norm in norms}
    sums = [3, 4.5, 5.25, 5.625, 5.8125]
    steps = [*range(5), *range(5), *range(5), 0, *range(5), *range(3)]  # of 16 to the checkpoint, and of 8
    assert seen[reward_norm] == [[sums[t]] * 2 for t in steps]
    assert len(seen[obs_norm]) == 24 and obs_norm.count == pytest.approx(48, abs=1e-3)
    state = checkpoint(folder / "checkpoint.pt")
    assert state["obs_norm"]["count"] == obs_norm.count and state["reward_norm"]["count"] == reward_norm.count
    assert state["obs_norm"]["mean"].dtype == torch.float64 == state["reward_norm"]["var"].dtype
    assert [value for _, value in events(folder)["charts/episodic_return"]] == [15.0] * 8
    reward = torch.cat([rollout[2] for rollout in rollouts]).flatten()
    deviation = np.std(np.repeat([sums[t] for t in steps], 2))
    assert reward[-1].item() == pytest.approx(3 / deviation, rel=1e-3) and len(reward.unique()) > 10


@pytest.mark.parametrize("script", ROLLOUT)
def test_observations_of_the_statistics(script, tmp_path, monkeypatch):
    """Probe 7, whose last observation of an episode of two steps ends in 2, which no policy acts on."""
    module, seen, rollouts = load(script), [], []
    original = module.RunningNorm.update

    def update(self, x):
        seen.extend(x.flatten().tolist() if x.ndim == 2 else [])
        original(self, x)

    monkeypatch.setattr(module.RunningNorm, "update", update)
    watch(monkeypatch, module, "Rollout", lambda *parts: rollouts.append(parts))
    folder = train(module, tmp_path, env_id="probes:Probe7-v0", total_timesteps=64, num_envs=1, num_steps=16,
                   norm_obs=True, **SHORT)
    assert seen == [float(10 * (i // 2) + i % 2) for i in range(1, 65)]
    state = checkpoint(folder / "model.pt")["obs_norm"]
    np.testing.assert_allclose(state["mean"].item(), np.mean(seen), rtol=1e-4)
    np.testing.assert_allclose(state["var"].item(), np.var(seen), rtol=1e-4)
    obs, next_obs = (torch.cat([rollout[i] for rollout in rollouts]) for i in (0, 5))
    assert obs.dtype == next_obs.dtype == torch.float32 and max(obs.abs().max(), next_obs.abs().max()) <= 10
    # the policy acted on what is stored: within an episode what a step returned, scaled as of then
    assert torch.equal(obs[1::2], next_obs[::2]) and (obs[2::2] != next_obs[1:-1:2]).all()


@pytest.mark.parametrize("script", ROLLOUT)
def test_evaluation_has_the_statistics_of_training(script, tmp_path):
    """A model.pt evaluates alike; with other statistics it would not."""
    flags = "--env-id Pendulum-v1 --num-envs 2 --num-steps 16 --total-timesteps 640 --norm-obs".split()
    out = call(script, *flags, "--eval-episodes", "2", cwd=tmp_path).out.splitlines()[-1]
    path = run_folder(tmp_path) / "model.pt"
    state = checkpoint(path)
    assert call(script, "--evaluate", path, cwd=tmp_path).out.splitlines() == [out]
    assert checkpoint(path)["obs_norm"]["count"] == state["obs_norm"]["count"] == pytest.approx(640, abs=1e-3)
    state["obs_norm"]["mean"] += 0.5
    torch.save(state, tmp_path / "other.pt")
    assert call(script, "--evaluate", tmp_path / "other.pt", cwd=tmp_path).out.splitlines() != [out]
