"""What counts in transitions counts alike with one environment and with many: epsilon, beta, learning rate,
warm-up, updates, copies to the target network, checkpoints. And what the learner sees of rewards."""
import itertools
import math

import numpy as np
import pytest
import torch
from common import EPISODIC, POLICY, REPLAY, VALUE, all_of, checkpoint, events, load, train

dqn, per_dqn, ppo, sac = (load(script) for script in ("dqn", "per_dqn", "ppo", "sac"))
MANY = [1, 4, 8]


def replay(script, num_envs):
    env = {"env_id": "Pendulum-v1"} if script == "sac" else {}
    return {**env, "num_envs": num_envs, "batch_size": 8, "buffer_size": 800, "eval_episodes": 1,
            "checkpoint_frequency": 0}


def watch_steps(monkeypatch, module):
    """The list of checkpoints' and log_episodes' steps: every vector step is in the second."""
    checkpoints, steps = [], []
    checkpoint_, log = module.Run.checkpoint, module.Run.log_episodes
    monkeypatch.setattr(module.Run, "checkpoint",
                        lambda self, step, *rest: checkpoints.append(step) or checkpoint_(self, step, *rest))
    monkeypatch.setattr(module.Run, "log_episodes",
                        lambda self, step, *rest: steps.append(step) or log(self, step, *rest))
    return checkpoints, steps


def up(number, num_envs):
    """The first vector step at or after this transition."""
    return math.ceil(number / num_envs) * num_envs


def test_due():
    """Multiples that the vector step to `step` reached; together all, for any number of environments."""
    for num_envs, every, start in itertools.product((1, 3, 8), (1, 4, 10), (0, 7, 50)):
        steps = range(num_envs, 100 * num_envs, num_envs)
        counts = [dqn.due(step - start, num_envs, every) for step in steps]
        passed = [sum(multiple + start <= step for multiple in range(every, 1000, every)) for step in steps]
        assert list(itertools.accumulate(counts)) == passed
    assert dqn.due(100, 1, 0) == 0 and dqn.due(8, 8, 2) == 4


@pytest.mark.parametrize("script", all_of(REPLAY))
def test_updates_and_copies(script, tmp_path, monkeypatch):
    """800 transitions, an update for every fourth after the 200th: 150, each in the vector step that reaches
    its transition; so are the copies to the target network of a value file."""
    module, name = load(script), "critic_loss" if script == "sac" else "td_loss"
    original, seen = getattr(module, name), []
    _, steps = watch_steps(monkeypatch, module)

    def watched(*args):
        target = args[2] if script != "sac" else torch.nn.Linear(1, 1)
        seen.append((steps[-1], tuple(next(target.parameters()).flatten()[:3].tolist())))
        return original(*args)

    monkeypatch.setattr(module, name, watched)
    for num_envs in MANY:
        seen.clear()
        steps.clear()
        fields = replay(script, num_envs)
        fields |= {"target_network_frequency": 100} if script != "sac" else {}
        fields |= {"total_timesteps": 800, "learning_starts": 200, "train_frequency": 4}
        folder = train(module, tmp_path, **fields)
        assert [step for step, _ in seen] == [up(200 + 4 * i, num_envs) for i in range(1, 151)]
        state = checkpoint(folder / "checkpoint.pt")
        assert state["step"] == state["buffer"]["count"] == 800
        assert steps == list(range(num_envs, 801, num_envs))
        if script != "sac":
            copies = [sum(up(100 * i, num_envs) < step for i in range(3, 9)) for step, _ in seen]
            groups = [target for target, _ in itertools.groupby(target for _, target in seen)]
            assert len(groups) == 6 == len(set(groups))
            assert [groups.index(target) for _, target in seen] == copies


def test_epsilon(tmp_path, monkeypatch):
    """From start-e to end-e over half of the transitions, learning-starts included."""
    act, seen = dqn.act, []
    monkeypatch.setattr(dqn, "act", lambda q_net, obs, epsilon, *rest, **named: (
        seen.append(epsilon) or act(q_net, obs, epsilon, *rest, **named)))
    for num_envs in MANY:
        seen.clear()
        train(dqn, tmp_path, total_timesteps=400, learning_starts=60, start_e=0.9, end_e=0.1,
              exploration_fraction=0.5, eval_epsilon=0.3, **replay("dqn", num_envs))
        training, evaluation = seen[:400 // num_envs], seen[400 // num_envs:]
        want = [max(0.9 - 0.8 * step / 200, 0.1) for step in range(0, 400, num_envs)]
        assert training == pytest.approx(want) and set(evaluation) == {0.3}


def test_beta(tmp_path, monkeypatch):
    """From per-beta to 1 at the last transition."""
    kind, seen = per_dqn.ReplayBuffer, []
    sample = kind.sample
    monkeypatch.setattr(kind, "sample", lambda *args: seen.append((args[0].count, args[3])) or sample(*args))
    for num_envs in MANY:
        seen.clear()
        train(per_dqn, tmp_path, total_timesteps=400, learning_starts=80, train_frequency=2, per_beta=0.5,
              **replay("per_dqn", num_envs))
        assert len(seen) == 160 and seen[-1] == (400, 1)
        assert [beta for _, beta in seen] == pytest.approx([0.5 + 0.5 * step / 400 for step, _ in seen])


@pytest.mark.parametrize("num_envs", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_warm_up(num_envs, tmp_path, monkeypatch):
    """sac's first 1,000 actions are uniform in [-1, 1], each dimension and environment on its own; no later
    one is, and none of them is from the policy."""
    act, seen = sac.act, []

    def watched(policy, obs, *rest, **more):
        seen.append(more.get("greedy", False))
        return np.full_like(act(policy, obs, *rest, **more), 0.125)

    monkeypatch.setattr(sac, "act", watched)
    fields = replay("sac", num_envs) | {"env_id": "probes:Torques-v0", "buffer_size": 1200}
    folder = train(sac, tmp_path, total_timesteps=1040, learning_starts=1000, train_frequency=40, **fields)
    assert seen[:40 // num_envs] == [False] * (40 // num_envs) and set(seen[40 // num_envs:]) == {True}
    action = checkpoint(folder / "checkpoint.pt")["buffer"]["action"].numpy()
    assert action.shape == (1040, 2) and (action[1000:] == 0.125).all() and not (action[:1000] == 0.125).any()
    assert np.abs(action).max() <= 1
    counts = np.histogram2d(*action[:1000].T, bins=4, range=[[-1, 1]] * 2)[0]
    assert np.abs(counts / 1000 - 1 / 16).max() < 4 * (1 / 16 / 1000) ** 0.5
    assert abs(np.corrcoef(action[:999, 0], action[1:1000, 0])[0, 1]) < 0.13


@pytest.mark.parametrize("anneal_lr", [True, False])
@pytest.mark.parametrize("script", ["a2c", "ppo"])
def test_learning_rate(script, anneal_lr, tmp_path, monkeypatch):
    """It falls linearly from the first rollout to what would be 0 after the last. Whatever makes a rollout of
    32 transitions, ppo's minibatches have 16."""
    module, optimizer = load(script), {"a2c": torch.optim.RMSprop, "ppo": torch.optim.Adam}[script]
    seen, step = [], optimizer.step
    loss, sizes = getattr(module, f"{script}_loss"), []

    def watched_step(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(optimizer, "step", watched_step)
    monkeypatch.setattr(module, f"{script}_loss", lambda *args: sizes.append(len(args[0])) or loss(*args))
    parts = {"num_minibatches": 2, "update_epochs": 2} if script == "ppo" else {}
    updates, size = (4, 16) if script == "ppo" else (1, 32)
    for num_envs in MANY:
        seen.clear()
        sizes.clear()
        folder = train(module, tmp_path, total_timesteps=320, num_envs=num_envs, num_steps=32 // num_envs,
                       anneal_lr=anneal_lr, learning_rate=0.01, eval_episodes=1, **parts)
        want = [0.01 * (1 - i / 10 if anneal_lr else 1) for i in range(10) for _ in range(updates)]
        assert seen == pytest.approx(want) and sizes == [size] * 10 * updates
        assert checkpoint(folder / "checkpoint.pt")["step"] == 320


@pytest.mark.parametrize("script", ["dqn", "sac", "a2c", "ppo", "reinforce"])
def test_checkpoints(script, tmp_path, monkeypatch):
    """One before the first step, one after each step or rollout that reaches a multiple of 150, one at the
    end; none but the first and the last with 0."""
    module = load(script)
    checkpoints, _ = watch_steps(monkeypatch, module)
    for num_envs, every in (1, 150), (8, 150), (4, 0):
        checkpoints.clear()
        fields = {"num_envs": num_envs, "checkpoint_frequency": every, "eval_episodes": 1}
        at_once = num_envs  # transitions between two places where a checkpoint may be
        if script in REPLAY:
            fields = replay(script, num_envs) | {"learning_starts": 790, "checkpoint_frequency": every}
        elif script in EPISODIC:  # episodes of 5 steps, 4 in a batch
            fields |= {"env_id": "probes:Limit-v0", "episodes_per_env": 8 // num_envs}
            at_once = 40
        else:
            fields |= {"num_steps": 40 // num_envs}
            fields |= {"num_minibatches": 1, "update_epochs": 1} if script == "ppo" else {}
            at_once = 40
        train(module, tmp_path, total_timesteps=800, **fields)
        assert checkpoints == [0, *(up(step, at_once) for step in range(150, 800, 150) if every), 800]


def test_gradients_count_once(tmp_path, monkeypatch):
    """What an optimizer has stepped by is gone before more is added."""
    backward, stale = torch.Tensor.backward, {}

    def watched(step):
        def watched_step(self, *args, **kwargs):
            stale.update({id(part): part for group in self.param_groups for part in group["params"]})
            return step(self, *args, **kwargs)
        return watched_step

    def watched_backward(self, *args, **kwargs):
        before = {key: None if part.grad is None else part.grad.clone() for key, part in stale.items()}
        backward(self, *args, **kwargs)
        for key, grad in before.items():
            if grad is None or not torch.equal(grad, stale[key].grad):  # it has more now
                assert grad is None or not grad.any()
                del stale[key]

    monkeypatch.setattr(torch.Tensor, "backward", watched_backward)
    for kind in torch.optim.Adam, torch.optim.RMSprop:
        monkeypatch.setattr(kind, "step", watched(kind.step))
    small = {"eval_episodes": 1, "total_timesteps": 300}
    for script in "dqn", "sac", "reinforce", "vpg", "a2c", "ppo":
        stale.clear()
        fields = replay(script, 1) | {"learning_starts": 250} if script in REPLAY else {}
        fields |= {"episodes_per_env": 1, "total_timesteps": 1000} if script in EPISODIC else {}
        train(load(script), tmp_path, **small | fields)
        assert stale  # by the last step


# ---- rewards

@pytest.mark.parametrize("script", [*all_of(VALUE), "reinforce", *all_of(POLICY[1:])])
def test_learner_sees_clipped_rewards(script, tmp_path, monkeypatch):
    """Their sign, with frames if not told otherwise. What is logged is what the game says: 5 times 3 of
    Limit, multiples of 3 of the frames."""
    module, rewards = load(script), []
    if script in VALUE:
        form = {"learning_starts": 20, "batch_size": 8, "buffer_size": 50, "train_frequency": 10}
        add = module.ReplayBuffer.add
        monkeypatch.setattr(module.ReplayBuffer, "add",
                            lambda *args: rewards.extend(args[3].tolist()) or add(*args))
    else:
        name = "discounted_returns" if script in EPISODIC else "gae"
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **more: rewards.extend(args[0].flatten().tolist())
                            or original(*args, **more))
        form = {"episodes_per_env": 1} if script in EPISODIC else {"num_steps": 16}
        form |= {"num_minibatches": 1, "update_epochs": 1} if script == "ppo" else {}
        form |= {"value_epochs": 1} if script == "vpg" else {}
    vectors, frames = "probes:Limit-v0", "odd:Stacks-v0"
    for env, clip_reward, want in [(vectors, "auto", {3}), (vectors, "on", {1}), (vectors, "off", {3}),
                                   (frames, "auto", {-1, 1}), (frames, "off", {-3, 3})]:
        rewards.clear()
        folder = train(module, tmp_path, env_id=env, total_timesteps=30, num_envs=2, clip_reward=clip_reward,
                       eval_episodes=1, checkpoint_frequency=0, **form)
        assert set(rewards) == want and len(rewards) >= 30
        returns = [value for _, value in events(folder)["charts/episodic_return"]]
        assert returns and all(value == 15 if env == vectors else value % 3 == 0 for value in returns)
