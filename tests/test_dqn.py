"""dqn.py: its equations against numbers worked out by hand, its buffer against lists of episodes."""
import copy
import functools
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import checkpoint, load, train
from torch import nn

dqn = load("dqn")
CPU = "cpu"


def batch(**fields):
    """Two transitions from state 0 by action 0 with reward 1, gamma .9; next is state 1; the second ends."""
    given = {"obs": torch.zeros(2, 1), "action": torch.tensor([0, 0]), "reward": torch.ones(2),
             "discount": torch.full((2,), 0.9), "terminated": torch.tensor([0.0, 1.0]),
             "next_obs": torch.ones(2, 1)}
    return dqn.Batch(**{**given, **fields})


class Table(nn.Module):
    """Q of the two states 0 and 1."""

    def __init__(self, *rows):
        super().__init__()
        self.table = nn.Parameter(torch.tensor(rows))

    def forward(self, obs):
        return self.table[obs[:, 0].long()]


# ---- the loss

def test_td_loss_by_hand():
    """y = 1 + .9 * max [10, 5] = 10, and 1 at a terminal state; Q = 2: errors 8 and -1, loss (64 + 1) / 2."""
    q_net, target_net = Table([2.0, 7.0], [1.0, 3.0]), Table([0.0, 0.0], [10.0, 5.0])
    loss, td_error = dqn.td_loss(batch(), q_net, target_net)
    assert td_error.tolist() == [8.0, -1.0] and not td_error.requires_grad
    assert loss.shape == () and loss.item() == 32.5
    loss.backward()
    assert q_net.table.grad.tolist() == [[-7.0, 0.0], [0.0, 0.0]]  # -(2 * 8 - 2 * 1) / 2: not half, no clip
    assert target_net.table.grad is None


def test_no_gradient_into_the_target_of_one_network():
    """One table as both networks: only Q(s, a) has a gradient."""
    q_net = Table([2.0, 7.0], [1.0, 3.0])
    dqn.td_loss(batch(), q_net, q_net)[0].backward()  # y = 3.7 and 1
    assert q_net.table.grad.flatten().tolist() == pytest.approx([-(1.7 - 1.0), 0, 0, 0])


@pytest.mark.parametrize("error, gradient", [(0.5, -1.0), (3.0, -6.0)])
def test_the_error_is_squared(error, gradient):
    q_net = Table([0.0], [0.0])
    one = batch(reward=torch.full((2,), error), terminated=torch.ones(2))
    dqn.td_loss(one, q_net, q_net)[0].backward()
    assert q_net.table.grad[0, 0].item() == gradient


def test_td_loss_against_plain_python():
    torch.manual_seed(0)
    q_net, target_net, size = dqn.QNetwork((3,), 4), dqn.QNetwork((3,), 4), 7
    many = dqn.Batch(torch.randn(size, 3), torch.randint(4, (size,)), torch.randn(size), torch.rand(size),
                     torch.randint(2, (size,)).float(), torch.randn(size, 3))
    loss, td_error = dqn.td_loss(many, q_net, target_net)
    assert td_error.shape == (size,)
    for i in range(size):
        y = many.reward[i].item()
        if not many.terminated[i]:
            y += many.discount[i].item() * max(target_net(many.next_obs[i:i + 1])[0].tolist())
        q = q_net(many.obs[i:i + 1])[0, many.action[i]].item()
        assert td_error[i].item() == pytest.approx(y - q, abs=1e-6)
    assert loss.item() == pytest.approx(td_error.square().mean().item())


def test_one_batch_can_be_learned():
    torch.manual_seed(0)
    q_net, target_net, rng = dqn.QNetwork((3,), 4), dqn.QNetwork((3,), 4), np.random.default_rng(0)
    obs = torch.from_numpy(rng.normal(size=(2, 16, 3)).astype(np.float32))
    one = dqn.Batch(obs[0], torch.arange(16) % 4, torch.ones(16), torch.full((16,), 0.9), torch.zeros(16),
                    obs[1])
    optimizer = torch.optim.Adam(q_net.parameters(), lr=1e-2)
    losses = []
    for _ in range(300):
        loss, _ = dqn.td_loss(one, q_net, target_net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.1 and losses[-1] < 1e-4


# ---- acting

def test_linear_schedule():
    values = [dqn.linear_schedule(1.0, 0.05, 250_000, step) for step in (0, 125_000, 250_000, 400_000)]
    assert values == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert dqn.linear_schedule(1.0, 0.05, 0, 1) == pytest.approx(0.05)


class Favours2(nn.Module):
    def forward(self, obs):
        return torch.eye(6)[2].expand(len(obs), 6)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_epsilon_greedy_frequencies(epsilon):
    """The greedy action with probability 1 - eps + eps / 6, any other with eps / 6."""
    rng, draws, obs = np.random.default_rng(0), 60_000, np.zeros((60, 1), np.float32)
    actions = [dqn.act(Favours2(), obs, CPU, rng, 6, epsilon) for _ in range(draws // 60)]
    assert all(action.shape == (60,) for action in actions)
    frequency = np.bincount(np.concatenate(actions), minlength=6) / draws
    expected = np.full(6, epsilon / 6) + (1 - epsilon) * np.eye(6)[2]
    assert np.abs(frequency - expected).max() <= 4 * np.sqrt(0.25 / draws) * (epsilon > 0)


def test_environments_explore_independently():
    """In one vector step some environments explore while others do not."""
    rng, obs = np.random.default_rng(0), np.zeros((100, 1), np.float32)
    assert 35 < (dqn.act(Favours2(), obs, CPU, rng, 6, 0.6) == 2).sum() < 65  # 50 on average


def test_greedy_is_the_argmax_without_a_graph():
    torch.manual_seed(0)
    q_net, obs = dqn.QNetwork((3,), 4), np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    action = dqn.greedy(q_net, obs, CPU)
    assert action.shape == (50,) and len(set(action)) > 1
    assert action.tolist() == q_net(torch.from_numpy(obs)).argmax(1).tolist()


def test_network_sees_frames_between_0_and_1():
    torch.manual_seed(0)
    q_net = dqn.QNetwork((4, 84, 84), 6)
    obs = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8)
    assert q_net(obs).shape == (2, 6)
    assert torch.allclose(q_net(obs), q_net.head(q_net.body(obs / 255)), atol=1e-5)
    assert sum(part.numel() for part in q_net.parameters()) == 1_687_206  # the paper's, with 6 actions


# ---- the replay buffer

class Oracle:
    """Lists of the steps of each environment. The newest n are not drawn, as windows may be open there; the
    size / N before them are."""

    def __init__(self, size, num_envs, n_step, gamma):
        self.size, self.n_step, self.gamma = math.ceil(size / num_envs), n_step, gamma
        self.envs = [[] for _ in range(num_envs)]

    def add(self, *arrays):
        for steps, *step in zip(self.envs, *arrays, strict=True):
            steps.append([part.copy() for part in step])

    def drawable(self):
        """{action: (obs, action, reward, discount, terminated, next_obs)}; no two actions are equal here."""
        found = {}
        for steps in self.envs:
            stop = len(steps) - self.n_step
            for start in range(max(stop - self.size, 0), stop):
                found[int(steps[start][1])] = self.transition(steps[start:start + self.n_step])
        return found

    def transition(self, steps):
        total = 0.0
        for k, (_, _, reward, terminated, truncated, _) in enumerate(steps):
            total += self.gamma**k * reward
            if terminated or truncated:
                break
        (obs, action, *_), next_obs = steps[0], steps[k][-1]
        return obs, int(action), total, self.gamma ** (k + 1), bool(terminated), next_obs


class Game:
    """Steps of num_envs environments with observations and actions that occur once: numbers, or stacks of
    frames that show one. Episodes end at random; `ends` is how often."""

    def __init__(self, num_envs, stack, seed, ends=0.2):
        self.num_envs, self.stack, self.ends = num_envs, stack, ends
        self.rng, self.number = np.random.default_rng(seed), 0
        self.shape = (stack, 2, 2) if stack > 1 else (3,)
        self.obs = np.stack([self.first() for _ in range(num_envs)])

    def frame(self):
        self.number += 1
        if self.stack > 1:
            return np.array([self.number >> 8 * i & 255 for i in range(4)], np.uint8).reshape(2, 2)
        return np.full(self.shape, self.number, np.float32)

    def first(self):
        if self.stack == 1:
            return self.frame()
        return np.stack([np.zeros((2, 2), np.uint8)] * (self.stack - 1) + [self.frame()])

    def step(self):
        """Arguments of ReplayBuffer.add."""
        rng, obs = self.rng, self.obs
        action, reward = self.number + np.arange(self.num_envs), rng.normal(size=self.num_envs)
        terminated = rng.random(self.num_envs) < self.ends / 2
        truncated = rng.random(self.num_envs) < self.ends / 2
        frames = [self.frame() for _ in range(self.num_envs)]
        if self.stack > 1:
            next_obs = np.concatenate([obs[:, 1:], np.stack(frames)[:, None]], axis=1)
        else:
            next_obs = np.stack(frames)
        self.obs = next_obs.copy()
        for i in np.flatnonzero(terminated | truncated):
            self.obs[i] = self.first()
        return obs.copy(), action, reward, terminated, truncated, next_obs


def compare(buffer, oracle, rng):
    """Every draw is what the oracle says, and all that can be drawn is."""
    expected = oracle.drawable()
    draws = buffer.sample(rng, max(60, 15 * len(expected)), CPU)
    seen = set()
    draws = zip(*(part.numpy() for part in draws), strict=True)
    for obs, action, reward, discount, terminated, next_obs in draws:
        want = expected[action]  # a KeyError: this one cannot be drawn
        assert np.array_equal(obs, want[0]) and np.array_equal(next_obs, want[5]) and terminated == want[4]
        assert reward == pytest.approx(want[2], abs=1e-4) and discount == pytest.approx(want[3], rel=1e-4)
        seen.add(int(action))
    assert seen == set(expected)


def make_buffer(size, num_envs, shape, n_step, gamma=0.9):
    return dqn.ReplayBuffer(size, num_envs, shape, n_step, gamma), Oracle(size, num_envs, n_step, gamma)


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_step", [1, 2, 3, 4, 5])
def test_buffer_against_lists_of_episodes(n_step, num_envs, stack):
    """Small, so that it wraps around many times; looked at while it fills and after every so many steps."""
    for seed, size, ends in (0, 24, 0.2), (1, 7, 0.5), (2, 30, 0.02):
        game = Game(num_envs, stack, seed, ends)
        buffer, oracle = make_buffer(size, num_envs, game.shape, n_step)
        rng = np.random.default_rng(seed)
        for step in range(1, 161):
            transition = game.step()
            oracle.add(*transition)
            buffer.add(*transition)
            for array in transition:  # environments may reuse their arrays
                array[...] = 77
            if step > n_step and (step < 12 or step % 13 == 0):
                compare(buffer, oracle, rng)


def test_batch_shapes_and_types():
    game = Game(2, 4, 0)
    buffer, _ = make_buffer(40, 2, game.shape, 2)
    for _ in range(15):
        buffer.add(*game.step())
    sampled = buffer.sample(np.random.default_rng(0), 5, CPU)
    kinds = [(tuple(part.shape), part.dtype) for part in sampled]
    stack, number = ((5, 4, 2, 2), torch.uint8), ((5,), torch.float32)
    assert kinds == [stack, ((5,), torch.int64), number, number, number, stack]


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_n_step_windows_by_hand(end):
    """gamma .9, rewards 1 2 3 4, n = 3, the bootstrap value is 10: all four windows of the episode."""
    buffer, _ = make_buffer(20, 1, (1,), 3)
    for t in range(7):  # 4 and later are of the next episode, so that the windows are closed
        at_end, obs = np.array([t == 3]), np.array([[float(t)]])
        buffer.add(obs, np.array([0]), np.array([t + 1.0]), at_end & (end == "terminated"),
                   at_end & (end == "truncated"), obs + 1)
    drawn = buffer.sample(np.random.default_rng(0), 200, CPU)
    q_net, target_net = Table(*[[0.0]] * 8), Table(*[[10.0]] * 8)
    _, y = dqn.td_loss(drawn, q_net, target_net)  # Q is 0, so the error is the target
    obs = drawn.obs[:, 0].long().tolist()
    returns, targets = (dict(zip(obs, values.tolist(), strict=True)) for values in (drawn.reward, y))
    assert returns == pytest.approx({0: 5.23, 1: 7.94, 2: 6.6, 3: 4.0})
    tail = [7.94, 6.6, 4.0] if end == "terminated" else [15.23, 14.70, 13.0]
    assert targets == pytest.approx({0: 12.52, **dict(zip([1, 2, 3], tail, strict=True))})


@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("ends", [0, 0.3])
@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_exactly_buffer_size_can_be_drawn(num_envs, ends, stack):
    game = Game(num_envs, stack, 0, ends)
    buffer, _ = make_buffer(10, num_envs, game.shape, 3)
    for _ in range(100):
        buffer.add(*game.step())
    drawn = buffer.sample(np.random.default_rng(0), 500, CPU)
    assert len(drawn.action.unique()) == 10


def test_the_oldest_are_overwritten_first():
    """Capacity 4, 6 steps with closed windows: 3, 4, 5, 6 are left."""
    game = Game(1, 1, 0, ends=0)
    buffer, _ = make_buffer(4, 1, game.shape, 1)
    for _ in range(7):
        buffer.add(*game.step())
    assert buffer.sample(np.random.default_rng(0), 200, CPU).obs[:, 0].unique().tolist() == [3, 4, 5, 6]


def test_draws_are_uniform():
    """Chi-square over all that can be drawn. With 53 degrees of freedom, 100 has a probability of 1e-4."""
    game = Game(2, 1, 0)
    buffer, oracle = make_buffer(80, 2, game.shape, 3)
    for _ in range(30):
        transition = game.step()
        buffer.add(*transition)
        oracle.add(*transition)
    drawn = buffer.sample(np.random.default_rng(0), 50_000, CPU)
    counts = Counter(drawn.obs[:, 0].tolist())
    assert len(counts) == len(oracle.drawable()) == 54
    mean = 50_000 / len(counts)
    assert sum((count - mean) ** 2 / mean for count in counts.values()) < 100


def test_draws_are_independent_of_each_other():
    """With replacement: a batch larger than what is there, and pairs that occur."""
    game = Game(1, 1, 0, ends=0)
    buffer, _ = make_buffer(10, 1, game.shape, 1)
    for _ in range(3):
        buffer.add(*game.step())
    pairs = {tuple(buffer.sample(rng, 2, CPU).obs[:, 0].tolist()) for rng in [np.random.default_rng(0)] * 100}
    assert pairs == {(1, 1), (1, 2), (2, 1), (2, 2)}


@pytest.mark.parametrize("steps", [5, 107])
def test_a_restored_buffer_goes_on_alike(steps):
    """Filled in part or wrapped around: only written rows are in the state, and everything after is equal."""
    game = Game(2, 4, 0)
    buffer, oracle = make_buffer(30, 2, game.shape, 2)
    other, _ = make_buffer(30, 2, game.shape, 2)
    for step in range(steps + 50):
        if step == steps:
            state = copy.deepcopy(buffer.state_dict())  # which shares memory
            assert len(state["frame"]) == min(steps, len(buffer.frame))
            other.load_state_dict(state)
        transition = game.step()
        oracle.add(*transition)
        for each in [buffer, other] if step >= steps else [buffer]:
            each.add(*transition)
        if step >= steps:
            a, b = (each.sample(np.random.default_rng(0), 99, CPU) for each in (buffer, other))
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
            compare(other, oracle, np.random.default_rng(0))


def test_memory_of_frames():
    """100,000 transitions of Pong in 0.75 GB: each frame once."""
    for num_envs in 1, 8:
        buffer = dqn.ReplayBuffer(100_000, num_envs, (4, 84, 84), 4, 0.99)
        arrays = [part for part in vars(buffer).values() if isinstance(part, np.ndarray)]
        assert 0.7e9 < sum(array.nbytes for array in arrays) <= 0.75e9


def test_memory_is_bounded():
    """As many bytes after 30 rounds of the ring as after 3, but for how many episodes happen to be in it."""
    game, size = Game(2, 4, 0), {}
    buffer, _ = make_buffer(100, 2, game.shape, 2)
    for step in range(1, 30 * 55 + 1):
        buffer.add(*game.step())
        if step in (3 * 55, 30 * 55):
            size[step] = sum(part.numpy().nbytes for part in buffer.state_dict().values()
                             if isinstance(part, torch.Tensor))
    assert size[30 * 55] < 1.3 * size[3 * 55]


@pytest.mark.parametrize("game, num_envs, steps", [("Pong", 2, 1200), ("Breakout", 3, 700)])
def test_stacks_of_the_real_game(game, num_envs, steps):
    """What is drawn is bit for bit what the game returned: over the game's own ends (a lost life of Breakout
    is none) and over cuts with a reset, as at a checkpoint."""
    envs = dqn.make_envs(f"ALE/{game}-v5", num_envs)
    buffer, oracle = make_buffer(50 * num_envs, num_envs, (4, 84, 84), 3)
    rng, own_ends = np.random.default_rng(0), 0
    obs, _ = envs.reset(seed=1)
    for step in range(1, steps + 1):
        assert obs.shape == (num_envs, 4, 84, 84) and obs.dtype == np.uint8
        next_obs, reward, terminated, truncated, _ = envs.step(rng.choice([1, 2, 3], size=num_envs))
        ended, number = terminated | truncated, step * num_envs + np.arange(num_envs)
        cut = step % 37 == 0 and step < 200
        transition = obs.copy(), number, reward, terminated, truncated | cut, next_obs
        buffer.add(*transition)
        oracle.add(*transition)
        obs = envs.reset(seed=step)[0] if cut else dqn.reset_ended(envs, next_obs, ended)
        own_ends += ended.sum()
        if step in (40, 150) or ended.any():
            compare(buffer, oracle, rng)
    envs.close()
    assert own_ends >= num_envs


# ---- environments

def play(envs, actions, seed=3):
    """Observations, rewards and ends of the first environment."""
    steps = [(envs.reset(seed=seed)[0][0], 0, 0, 0)]
    for action in actions:
        obs, reward, terminated, truncated, _ = envs.step(np.array([action]))
        steps.append((obs[0].copy(), reward[0], terminated[0], truncated[0]))
        if terminated[0] or truncated[0]:
            break
    envs.close()
    return steps


@pytest.mark.parametrize("game", ["Pong", "Breakout"])
def test_film_shows_the_frames_of_training(game, monkeypatch):
    """The vector environment and the one that can be filmed, over an episode. They draw other numbers of
    no-ops, so without them here; Breakout waits for FIRE, in both alike."""
    monkeypatch.setattr(dqn, "AtariPreprocessing", functools.partial(dqn.AtariPreprocessing, noop_max=0))
    monkeypatch.setattr(dqn.gym, "make_vec", functools.partial(dqn.gym.make_vec, noop_max=0))
    actions = np.random.default_rng(0).integers(4, size=1000).tolist()
    actions[:8] = [0, 0, 2, 3, 0, 2, 0, 1]
    vector = play(dqn.make_envs(f"ALE/{game}-v5", 1), actions)
    film = play(dqn.make_envs(f"ALE/{game}-v5", 1, render_mode="rgb_array"), actions)
    assert len(vector) == len(film) > 100 and vector[-1][2]  # to the end of the episode
    for (obs, *rest), (filmed, *filmed_rest) in zip(vector, film, strict=True):
        assert rest == filmed_rest and np.array_equal(obs, filmed)
    assert vector[0][0][:3].max() == 0 < vector[0][0][3].max()  # before the first frame: zeros


@pytest.mark.parametrize("probability", [0.0, 0.25])
def test_sticky_actions_are_a_flag(probability, monkeypatch):
    """Without them the same actions give the same frames in all environments (that draw no no-ops)."""
    monkeypatch.setattr(dqn.gym, "make_vec", functools.partial(dqn.gym.make_vec, noop_max=0))
    envs = dqn.make_envs("ALE/Pong-v5", 4, probability)
    envs.reset(seed=0)
    for action in np.random.default_rng(0).integers(6, size=40):
        obs = envs.step(np.full(4, action))[0]
    envs.close()
    assert (len({stack.tobytes() for stack in obs}) == 1) == (probability == 0)


def test_float64_becomes_float32():
    envs = dqn.make_envs("probes:Float64-v0", 2)
    obs, _ = envs.reset(seed=0)
    next_obs, _, ended, _, _ = envs.step(np.zeros(2, int))
    assert ended.all() and dqn.reset_ended(envs, next_obs, ended).dtype == np.float32
    assert obs.dtype == next_obs.dtype == envs.single_observation_space.dtype == np.float32
    envs.close()


def test_rewards_of_the_game_are_raw():
    envs = dqn.make_envs("ALE/MsPacman-v5", 2)
    envs.reset(seed=0)
    assert 10 in [reward for _ in range(120) for reward in envs.step(np.ones(2, int))[1]]
    envs.close()


def test_ends_are_true_ones():
    envs = dqn.make_envs("probes:Probe7-v0", 2)  # observations 0, 1, 2 | 10, 11, 12 | ...
    obs, _ = envs.reset(seed=0)
    seen = []
    for _ in range(4):
        next_obs, _, terminated, truncated, _ = envs.step(np.zeros(2, int))
        seen.append((obs[0, 0], next_obs[0, 0], terminated[0]))
        obs = dqn.reset_ended(envs, next_obs, terminated | truncated)
    envs.close()
    assert seen == [(0, 1, False), (1, 2, True), (10, 11, False), (11, 12, True)]


def test_reset_ended_resets_only_ended_environments():
    """One environment is a step ahead of the other; what an ended one returned stays as it was."""
    envs = dqn.make_envs("probes:Apart-v0", 2)  # observations 0, 1, 2 | 10, 11, 12 | ... and 1, 2 | 10, ...
    envs.reset(seed=0)
    obs, _, ended, _, _ = envs.step(np.zeros(2, int))
    assert obs.tolist() == [[1], [2]] and ended.tolist() == [False, True]
    new_obs = dqn.reset_ended(envs, obs, ended)
    assert new_obs.tolist() == [[1], [10]] and obs.tolist() == [[1], [2]]
    obs, _, ended, _, _ = envs.step(np.zeros(2, int))
    assert obs.tolist() == [[2], [11]] and ended.tolist() == [True, False]
    assert dqn.reset_ended(envs, obs, np.zeros(2, bool)) is obs
    envs.close()


def test_seeds_of_training_and_evaluation_are_apart():
    seeds = [dqn.reset_seed(seed, step) for seed in range(30) for step in (0, 1000, 2000)]
    assert len(set(seeds)) == 90 and all(0 <= seed < 2**30 for seed in seeds)


def test_evaluation_counts_one_episode_of_each_environment(capsys, monkeypatch):
    """Episodes of 1, 2, 3 steps with a reward of 1 a step: what follows an end is not counted."""
    class Envs:
        t = 0

        def reset(self, seed):
            assert seed >= 2**30
            return np.zeros((3, 1)), {}

        def step(self, action):
            self.t += 1
            ends = np.array([True, self.t % 2 == 0, self.t % 3 == 0])
            return np.zeros((3, 1)), np.ones(3), ends, np.zeros(3, bool), {}

        def close(self):
            pass

    monkeypatch.setattr(dqn, "make_envs", lambda *_: Envs())
    args = SimpleNamespace(env_id="", eval_episodes=3, repeat_action_probability=0.0, seed=5)
    dqn.evaluate(args, lambda obs: obs)
    assert capsys.readouterr().out == "eval: mean 2.00 std 0.82 over 3 episodes\n"


# ---- training

def test_due():
    """Multiples that the vector step to `step` reached; together all, for any number of environments."""
    for num_envs in 1, 3, 8:
        steps = range(num_envs, 100 * num_envs, num_envs)
        for every in 1, 4, 10:
            for start in 0, 7, 50:
                counts = [dqn.due(step - start, num_envs, every) for step in steps]
                assert sum(counts) == (steps[-1] - start) // every
                assert all((count > 0) == ((step - start) // every > max(step - num_envs - start, 0) // every)
                           for count, step in zip(counts, steps, strict=True) if step > start)
    assert dqn.due(100, 1, 0) == 0


@pytest.mark.parametrize("num_envs", [1, 8])
def test_counts_do_not_depend_on_the_number_of_environments(num_envs, tmp_path, monkeypatch):
    """800 transitions, updates from 200 on, one in 4: 150, and 8 copies to the target network."""
    count, td_loss, add = Counter(), dqn.td_loss, dqn.ReplayBuffer.add
    syncs = []

    def counted_td_loss(batch, q_net, target_net):
        count["updates"] += 1
        syncs.append(target_net.state_dict()["head.2.bias"].tolist())
        return td_loss(batch, q_net, target_net)

    def counted_add(self, obs, *rest):
        count["transitions"] += len(obs)
        return add(self, obs, *rest)

    monkeypatch.setattr(dqn, "td_loss", counted_td_loss)
    monkeypatch.setattr(dqn.ReplayBuffer, "add", counted_add)
    folder = train(dqn, tmp_path, total_timesteps=800, num_envs=num_envs, learning_starts=200,
                   train_frequency=4, target_network_frequency=100, batch_size=8, buffer_size=800,
                   eval_episodes=1)
    assert count == {"updates": 150, "transitions": 800}
    assert checkpoint(folder / "checkpoint.pt")["step"] == 800
    assert len(set(map(tuple, syncs))) == 6  # one until 300, then a new one each 100 up to 700


def test_target_network_is_a_copy_made_on_time(tmp_path, monkeypatch):
    """Bit-equal to the online network right after a sync, unchanged between syncs."""
    td_loss, seen = dqn.td_loss, []

    def watched(batch, q_net, target_net):
        seen.append([nn.utils.parameters_to_vector(net.parameters()).detach() for net in (q_net, target_net)])
        return td_loss(batch, q_net, target_net)

    monkeypatch.setattr(dqn, "td_loss", watched)
    train(dqn, tmp_path, total_timesteps=140, learning_starts=20, train_frequency=1,
          target_network_frequency=30, batch_size=8, buffer_size=100, eval_episodes=1)
    assert len(seen) == 120  # the update of transition 21 is the first
    assert torch.equal(*seen[0])  # Algorithm 1: they begin alike
    for i in range(1, len(seen)):
        q_net, target_net = seen[i]
        assert not torch.equal(q_net, seen[i - 1][0])
        if (i + 20) % 30 == 0:  # transition i + 20 ended with a sync
            assert torch.equal(target_net, q_net)
        else:
            assert torch.equal(target_net, seen[i - 1][1])


def test_exploration_falls_as_told(tmp_path, monkeypatch):
    """epsilon of each step: from start-e to end-e over half of the steps, warm-up included."""
    act, seen = dqn.act, []
    monkeypatch.setattr(dqn, "act", lambda *args: seen.append(args[-1]) or act(*args))
    train(dqn, tmp_path, total_timesteps=200, learning_starts=60, start_e=0.9, end_e=0.1,
          exploration_fraction=0.5, batch_size=8, buffer_size=100, eval_episodes=1)
    assert seen == pytest.approx([max(0.9 - 0.8 * step / 100, 0.1) for step in range(200)])


def test_a_checkpoint_cuts_windows_but_terminates_nothing(tmp_path):
    """Saves after 101 and 202 steps, in episodes of 10: the step before is marked as truncated."""
    folder = train(dqn, tmp_path, env_id="probes:Probe6-v0", total_timesteps=203, learning_starts=60,
                   n_step=3, checkpoint_frequency=101, batch_size=8, buffer_size=300, eval_episodes=1)
    buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
    lengths = np.diff(np.flatnonzero(buffer["ended"]), prepend=-1)
    assert lengths.tolist() == 2 * ([10] * 10 + [1]) + [1] and not buffer["terminated"].any()
