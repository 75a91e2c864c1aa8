"""The replay memories of dqn.py, per_dqn.py and sac.py against lists of steps in plain Python: what can be
drawn and how often, n-step windows, stacks of frames, wrap-around, resuming, memory; and PER's sum tree."""
import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from common import load

dqn, per_dqn, sac = load("dqn"), load("per_dqn"), load("sac")
CPU, GAMMA = "cpu", 0.9
# script, n, frames in a stack
KINDS = [("dqn", 1, 1), ("dqn", 3, 1), ("dqn", 1, 4), ("dqn", 5, 4), ("per_dqn", 4, 1), ("per_dqn", 1, 4),
         ("per_dqn", 3, 4), ("sac", 0, 1)]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Oracle:
    """Lists of the steps of each environment. The newest n are not drawn, as windows may be open there; the
    capacity / N before them are. n = 0 is sac.py's, whose memory has one step and its next observation."""

    def __init__(self, capacity, num_envs, n_step):
        self.capacity, self.n_step = math.ceil(capacity / num_envs), n_step
        self.envs = [[] for _ in range(num_envs)]

    def add(self, *arrays):
        for steps, *step in zip(self.envs, *arrays, strict=True):
            steps.append([part.copy() for part in step])

    def drawable(self):
        """{action: (obs, reward, discount, terminated, next_obs)}; no two actions are equal here."""
        found = {}
        for steps in self.envs:
            stop = len(steps) - self.n_step
            for start in range(max(stop - self.capacity, 0), stop):
                found[int(steps[start][1])] = self.transition(steps[start:start + max(self.n_step, 1)])
        return found

    def transition(self, steps):
        total = 0.0
        for k, (_, _, reward, terminated, truncated, next_obs) in enumerate(steps):  # noqa: B007
            total += GAMMA**k * reward
            if terminated or truncated:
                break
        return steps[0][0], total, GAMMA ** (k + 1), bool(terminated), next_obs


class Game:
    """Steps of num_envs environments with observations and actions that occur once: numbers, or stacks of
    frames that show one. Episodes end at random; `ends` is how often."""

    def __init__(self, num_envs, stack=1, seed=0, ends=0.2):
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
        """Arguments of ReplayBuffer.add, with one number as the action of an environment."""
        rng, obs = self.rng, self.obs
        action, reward = self.number + np.arange(self.num_envs), rng.normal(size=self.num_envs)
        terminated, truncated = rng.random((2, self.num_envs)) < self.ends / 2
        frames = np.stack([self.frame() for _ in range(self.num_envs)])
        next_obs = np.concatenate([obs[:, 1:], frames[:, None]], axis=1) if self.stack > 1 else frames
        self.obs = next_obs.copy()
        for i in np.flatnonzero(terminated | truncated):
            self.obs[i] = self.first()
        return obs.copy(), action, reward, terminated, truncated, next_obs


def empty(script, capacity, num_envs, shape=(3,), n_step=1):
    if script == "sac":
        return sac.ReplayBuffer(capacity, shape[0], 2)
    return load(script).ReplayBuffer(capacity, num_envs, shape, n_step, GAMMA)


def add(buffer, obs, action, reward, terminated, truncated, next_obs):
    """An action of sac is two numbers, here n and -n, and where an episode was cut does not matter."""
    if isinstance(buffer, sac.ReplayBuffer):
        buffer.add(obs, np.stack([action, -action], 1).astype(np.float32), reward, terminated, next_obs)
    else:
        buffer.add(obs, action, reward, terminated, truncated, next_obs)


def filled(script, steps, capacity, num_envs, n_step=1, **game):
    """A buffer after so many steps, and the game that goes on."""
    game = Game(num_envs, **game)
    buffer = empty(script, capacity, num_envs, game.shape, n_step)
    for _ in range(steps):
        add(buffer, *game.step())
    return buffer, game


def sample(buffer, size):
    """The batch; from per_dqn's with beta 0.4, which only the weights show."""
    return buffer.sample(size, CPU, *[0.4] * isinstance(buffer, per_dqn.ReplayBuffer))


def actions(buffer, size):
    drawn = sample(buffer, size).action
    return (drawn[:, 0] if drawn.dim() == 2 else drawn).int().tolist()


def compare(buffer, oracle):
    """Every draw is what the oracle says, and all that can be drawn is."""
    expected, seen = oracle.drawable(), set()
    batch = sample(buffer, max(60, 15 * len(expected)))._asdict()
    if isinstance(buffer, sac.ReplayBuffer):
        assert torch.equal(batch["action"][:, 0], -batch["action"][:, 1])
        batch |= {"action": batch["action"][:, 0], "discount": torch.full_like(batch["reward"], GAMMA)}
    names = "obs", "action", "reward", "discount", "terminated", "next_obs"
    for obs, action, reward, discount, terminated, next_obs in zip(*(batch[name].numpy() for name in names),
                                                                   strict=True):
        want = expected[int(action)]  # a KeyError: this one cannot be drawn
        assert np.array_equal(obs, want[0]) and np.array_equal(next_obs, want[4]) and terminated == want[3]
        assert abs(reward - want[1]) < 1e-4 and abs(discount - want[2]) < 1e-5
        seen.add(int(action))
    assert seen == set(expected)


# ---- what is drawn

@pytest.mark.parametrize("script, n_step, stack", KINDS)
def test_buffer_against_lists_of_steps(script, n_step, stack):
    """Small, so that it wraps around many times; looked at while it fills and after every so many steps."""
    for num_envs in 1, 3:
        for seed, capacity, ends in (0, 24, 0.2), (1, 9 if script == "sac" else 7, 0.5), (2, 30, 0.02):
            game, oracle = Game(num_envs, stack, seed, ends), Oracle(capacity, num_envs, n_step)
            buffer = empty(script, capacity, num_envs, game.shape, n_step)
            for step in range(1, 151):
                transition = game.step()
                oracle.add(*transition)
                add(buffer, *transition)
                for array in transition:  # environments may reuse their arrays
                    array[...] = 77
                if step > n_step and (step < 12 or step % 13 == 0):
                    compare(buffer, oracle)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_n_step_windows_by_hand(end):
    """gamma .9, rewards 1 2 3 4, n = 3, the bootstrap value is 10: all four windows of the episode."""
    buffer = empty("dqn", 20, 1, (1,), 3)
    for t in range(7):  # 4 and later are of the next episode, so that the windows are closed
        at_end, obs = np.array([t == 3]), np.array([[float(t)]])
        buffer.add(obs, np.array([0]), np.array([t + 1.0]), at_end & (end == "terminated"),
                   at_end & (end == "truncated"), obs + 1)
    batch = buffer.sample(200, CPU)
    y = batch.reward + batch.discount * (1 - batch.terminated) * 10
    columns = (part.flatten().tolist() for part in (batch.obs, batch.reward, y, batch.next_obs))
    found = {int(obs): rest for obs, *rest in zip(*columns, strict=True)}
    tail = [7.94, 6.6, 4.0] if end == "terminated" else [15.23, 14.70, 13.0]
    assert sorted(found) == [0, 1, 2, 3] and [found[t][2] for t in range(4)] == [3, 4, 4, 4]
    assert [found[t][0] for t in range(4)] == pytest.approx([5.23, 7.94, 6.6, 4.0])
    assert [found[t][1] for t in range(4)] == pytest.approx([12.52, *tail])


@pytest.mark.parametrize("script, n_step, stack", [
    ("dqn", 3, 1), ("dqn", 3, 4), ("per_dqn", 3, 4), ("sac", 0, 1)])
def test_exactly_capacity_can_be_drawn(script, n_step, stack):
    """Once it is full; where N does not divide it, the next number that N divides, but for sac."""
    for ends in 0, 0.3:
        for num_envs, number in (1, 10), (2, 10), (3, 12), (5, 10), (10, 10):
            buffer, game = filled(script, 100, 10, num_envs, n_step, stack=stack, ends=ends)
            for _ in range(3):
                assert len(set(actions(buffer, 600))) == (10 if script == "sac" else number)
                add(buffer, *game.step())


def test_the_oldest_are_overwritten_first():
    """Capacity 4, 6 steps with closed windows: 3, 4, 5, 6 are left."""
    for script, steps in ("dqn", 7), ("per_dqn", 7), ("sac", 6):
        buffer, _ = filled(script, steps, 4, 1, ends=0)
        assert sample(buffer, 200).obs[:, 0].unique().tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("script, n_step", [("dqn", 3), ("sac", 0)])
def test_draws_are_uniform(script, n_step):
    """Chi-square over all that can be drawn, in part filled and wrapped around. With 57 degrees of freedom,
    105 has a probability of 1e-4."""
    for steps, capacity, number in (30, 80, 60 - 2 * n_step), (90, 58, 58):
        buffer, _ = filled(script, steps, capacity, 2, n_step)
        counts, mean = Counter(actions(buffer, 50_000)), 50_000 / number
        assert len(counts) == number and sum((count - mean) ** 2 / mean for count in counts.values()) < 105


@pytest.mark.parametrize("script", ["dqn", "sac"])
def test_draws_are_independent_of_each_other(script):
    """With replacement; all pairs occur alike, in a batch and from one batch to the next."""
    buffer, _ = filled(script, 2 if script == "sac" else 3, 10, 1, ends=0)
    batches = [tuple(sample(buffer, 2).obs[:, 0].tolist()) for _ in range(400)]
    pairs = {(1, 1), (1, 2), (2, 1), (2, 2)}
    for found in Counter(batches), Counter((a[0], b[0]) for a, b in zip(batches, batches[1:], strict=False)):
        assert set(found) == pairs and all(70 < count < 130 for count in found.values())


def test_draws_come_from_the_generator_of_torch():
    """From no other, so that its seed decides."""
    for script in "dqn", "per_dqn", "sac":
        (buffer, _), batches = filled(script, 30, 30, 1), []
        for seed, other in (0, 0), (0, 1), (1, 0):
            torch.manual_seed(seed)
            np.random.seed(other)
            batches.append(actions(buffer, 20))
        assert batches[0] == batches[1] != batches[2]


def test_batch_shapes_and_types():
    stack, number, action = ((5, 4, 2, 2), torch.uint8), ((5,), torch.float32), ((5,), torch.int64)
    state, torques = ((5, 3), torch.float32), ((5, 2), torch.float32)
    for script, frames, want in [("dqn", 4, [stack, action, number, number, number, stack]),
                                 ("dqn", 1, [state, action, number, number, number, state]),
                                 ("sac", 1, [state, torques, number, number, state])]:
        buffer, _ = filled(script, 15, 40, 2, stack=frames)
        assert [(tuple(part.shape), part.dtype) for part in sample(buffer, 5)] == want
    one, zeros = empty("dqn", 10, 1, (4,), 1), np.zeros(4, np.float32)
    with pytest.raises(TypeError):  # a step of one environment without the N in front
        one.add(zeros, 0, 1.0, False, True, zeros)


# ---- resuming, memory

@pytest.mark.parametrize("script, n_step, stack", [("dqn", 2, 1), ("dqn", 2, 4), ("sac", 0, 1)])
def test_a_restored_buffer_goes_on_alike(script, n_step, stack):
    """Filled in part or wrapped around: only filled slots are in the state, and everything after is equal."""
    for steps in 5, 107:
        buffer, game = filled(script, steps, 30, 2, n_step, stack=stack)
        state = buffer.state_dict()
        tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
        assert all(value.untyped_storage().nbytes() == value.nbytes for value in tensors)  # what is saved
        state = copy.deepcopy(state)  # which shares memory
        assert all(isinstance(value, int | list | torch.Tensor) for value in state.values())
        assert len(state["obs"]) == min(2 * steps, buffer.size)
        assert buffer.size == 30 + (0 if script == "sac" else 2 * (n_step + stack - 1))
        other, _ = filled(script, 40, 30, 2, n_step, stack=stack)  # was in use
        other.load_state_dict(state)
        for name in [name for name, value in state.items() if isinstance(value, torch.Tensor)]:
            state[name].zero_()  # what was loaded is a copy
        for step in range(60):
            batches = []
            for each in buffer, other:
                torch.manual_seed(step)
                batches.append(sample(each, 50))
            assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
            transition = game.step()
            for each in buffer, other:
                add(each, *transition)


def test_a_buffer_of_another_size_is_refused():
    """Another capacity, number of environments or n: the slots would mean something else."""
    others = [(32, 2, 1), (28, 4, 1), (30, 2, 3)]
    for script in "dqn", "per_dqn", "sac":
        state = filled(script, 9, 30, 2)[0].state_dict()
        for capacity, num_envs, n_step in others[:1] if script == "sac" else others:
            with pytest.raises(ValueError, match="--buffer-size"):
                empty(script, capacity, num_envs, (3,), n_step).load_state_dict(state)


def test_memory_of_frames():
    """100,000 transitions of Pong in 0.75 GB: each frame once."""
    for script, num_envs in ("dqn", 1), ("dqn", 8), ("per_dqn", 8):
        buffer = empty(script, 100_000, num_envs, (4, 84, 84), 4)
        arrays = [part for part in vars(buffer).values() if isinstance(part, np.ndarray)]
        assert 0.7e9 < sum(array.nbytes for array in arrays) <= 0.75e9


def test_final_observations_are_as_many_as_the_ends():
    """What was overwritten is gone, and what is there is of the slots where episodes ended."""
    for script in "dqn", "per_dqn":
        buffer, game = filled(script, 0, 100, 3, stack=4)
        for _ in range(20 * 40):
            add(buffer, *game.step())
            ended = np.flatnonzero(buffer.ended[:buffer.count])
            assert sorted(buffer.final_obs) == ended.tolist()
        assert 10 < len(ended) < 40


@pytest.mark.parametrize("game, num_envs, steps", [
    ("Pong", 2, 1200), pytest.param("Breakout", 3, 700, marks=pytest.mark.slow)])
def test_stacks_of_the_real_game(game, num_envs, steps):
    """What is drawn is bit for bit what the game returned: over the game's own ends (a lost life of Breakout
    is none) and over cuts with a reset, as at a checkpoint."""
    envs = dqn.make_envs(dqn.Args(env_id=f"ALE/{game}-v5"), num_envs)
    buffer = empty("dqn", 50 * num_envs, num_envs, (4, 84, 84), 3)
    oracle, rng, own_ends, since = Oracle(50 * num_envs, num_envs, 3), np.random.default_rng(0), 0, 0
    obs, _ = envs.reset(seed=1)
    for step in range(1, steps + 1):
        assert obs.shape == (num_envs, 4, 84, 84) and obs.dtype == np.uint8
        next_obs, reward, terminated, truncated, _ = envs.step(rng.choice([1, 2, 3], size=num_envs))
        ended, number = terminated | truncated, step * num_envs + np.arange(num_envs)
        cut = step % 37 == 0 and step < 200
        transition = obs.copy(), number, reward, terminated, truncated | cut, next_obs
        add(buffer, *transition)
        oracle.add(*transition)
        own_ends += ended.sum()
        if cut:
            obs, _ = envs.reset(seed=step)
        else:
            obs = envs.reset(options={"reset_mask": ended})[0] if ended.any() else next_obs
        since = 0 if ended.any() else since + 1  # the windows with the end are whole after 3 steps
        if step in (40, 150) or own_ends and since == 6:
            compare(buffer, oracle)
    envs.close()
    assert own_ends > 0


# ---- the sum tree of per_dqn.py

def put(tree, leaf, value):
    tree.node[(1 << tree.depth) + np.asarray(leaf)] = value
    tree.update(np.asarray(leaf))


def test_sum_tree_by_hand():
    tree = per_dqn.SumTree(4)
    put(tree, np.arange(4), [1.0, 2.0, 3.0, 4.0])
    assert tree.node[1:].tolist() == [10, 3, 7, 1, 2, 3, 4]
    assert tree.find(np.array([0, 0.999, 1, 2.999, 3, 5.999, 6, 9.999])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    put(tree, [0], [5.0])
    assert tree.node[1:].tolist() == [14, 7, 7, 5, 2, 3, 4]


SIZES = [1, 2, 3, 5, 8, 13, 100, 129]


def test_sum_tree_against_a_running_sum():
    """Whole numbers, whose sums are exact, some of them 0, set at random places, also twice at a time. What
    is found is where the running sum first exceeds the prefix."""
    rng = np.random.default_rng(0)
    for size, again in itertools.product(SIZES, range(30)):
        if not again:
            tree, values = per_dqn.SumTree(size), np.zeros(size)
        leaf = rng.integers(size, size=rng.integers(1, size + 1))
        values[leaf] = rng.integers(10, size=len(leaf)) * rng.integers(2, size=len(leaf))
        put(tree, leaf, values[leaf])
        total = values.sum()
        assert tree.node[1] == total
        if total > 0:
            sums, below = np.cumsum(values), np.nextafter(total, 0)
            prefix = np.concatenate([[0.0, below], sums[sums < total], rng.random(50) * below])
            want = [int(np.flatnonzero(sums > number)[0]) for number in prefix]
            assert tree.find(prefix).tolist() == want


def test_a_leaf_of_zero_is_never_found():
    """Nor one beyond the last, even where rounding takes the prefix to the end of a node, or of the root."""
    rng = np.random.default_rng(0)
    for size in SIZES * 30:
        tree, values = per_dqn.SumTree(size), 10 ** rng.uniform(-6, 3, size) * (rng.random(size) < 0.5)
        values[rng.integers(size)] = 0.1
        put(tree, np.arange(size), values)
        edges = np.append(np.cumsum(values), tree.node)
        near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)])
        prefix = np.append(rng.random(200) * tree.node[1], near[near <= tree.node[1]])
        found = tree.find(prefix)
        assert found.min() >= 0 and found.max() < size and values[found].min() > 0


def test_sum_tree_does_not_drift():
    """60,000 updates from 1e-6 to 1e3: each node is exactly the sum of its children, and the root is the
    plain sum; so it is when all leaves are small again, beside which old errors would be large."""
    rng, tree, values = np.random.default_rng(0), per_dqn.SumTree(4096), np.zeros(4096)
    for _ in range(600):
        leaf = rng.integers(4096, size=100)
        values[leaf] = 10 ** rng.uniform(-6, 3, 100)
        put(tree, leaf, values[leaf])
    for _ in range(2):
        assert np.array_equal(tree.node[4096:], values)
        assert np.array_equal(tree.node[1:4096], tree.node[2::2] + tree.node[3::2])
        assert tree.node[1] == pytest.approx(math.fsum(values), rel=1e-12, abs=0)
        for leaf in np.arange(4096).reshape(64, 64):
            values[leaf] = 10 ** rng.uniform(-6, -5, 64)
            put(tree, leaf, values[leaf])


# ---- draws and weights of per_dqn.py

def update(buffer, slot, errors, alpha=0.6, eps=1e-6):
    buffer.update_priorities(torch.as_tensor(slot), torch.as_tensor(errors), alpha, eps)


def with_errors(size, errors=None, alpha=0.6, eps=0.0):
    """A buffer in which `size` transitions can be drawn, slot i from observation i, with these TD errors."""
    buffer = empty("per_dqn", size, 1, (1,))
    for i in range(size + 1):
        count_on(buffer, i)
    if errors is not None:
        update(buffer, np.arange(size), errors, alpha, eps)
    return buffer


def count_on(buffer, i):
    no = np.array([False])
    buffer.add(np.array([[float(i)]]), np.array([i]), np.array([1.0]), no, no, np.array([[i + 1.0]]))


def probabilities(buffer):
    return buffer.p_alpha / buffer.p_alpha.sum()


# alpha: P(i), weights with beta .4, weights with beta 1
BY_HAND = {0.0: ([0.25] * 4, [1] * 4, [1] * 4),
           0.6: ([0.148230, 0.224674, 0.286555, 0.340542], [1, 0.846745, 0.768229, 0.716978],
                 [1, 0.659754, 0.517282, 0.435275]),
           1.0: ([0.1, 0.2, 0.3, 0.4], [1, 0.757858, 0.644394, 0.574349], [1, 0.5, 1 / 3, 0.25])}


def test_probabilities_and_weights_by_hand():
    """TD errors 1, 2, 3, 4; weights over the largest in the batch. 4 standard errors are 0.013."""
    for alpha, (p, w_4, w_1) in BY_HAND.items():
        for beta, weights in (0.4, w_4), (1.0, w_1), (0.0, [1] * 4):
            buffer = with_errors(4, [1.0, -2.0, 3.0, -4.0], alpha)
            drawn = buffer.sample(25_000, CPU, beta)
            assert probabilities(buffer)[:4] == pytest.approx(p, abs=1e-6)
            assert np.bincount(drawn.slot) / 25_000 == pytest.approx(p, abs=0.013)
            assert drawn.weight.shape == (25_000,) and drawn.weight.dtype == torch.float32
            assert drawn.weight.numpy() == pytest.approx(np.array(weights)[drawn.slot], abs=1e-6)
            assert drawn.obs[:, 0].tolist() == drawn.slot.tolist() == drawn.action.tolist()


def test_the_largest_weight_is_that_of_the_batch():
    """A batch without the smallest priority has a weight of 1 nevertheless."""
    drawn = with_errors(4, [1e-3, 2.0, 2.0, 4.0], 1.0).sample(4, CPU, 1.0)
    assert dict(zip(drawn.slot.tolist(), drawn.weight.tolist(), strict=True)) == {1: 1, 2: 1, 3: 0.5}


def test_one_is_drawn_from_each_equal_part():
    for _ in range(20):
        assert with_errors(8, [2.0] * 8).sample(8, CPU, 0.4).slot.tolist() == list(range(8))
    buffer = with_errors(4, [1.0, 2.0, 3.0, 4.0], 1.0)  # parts [0, 5) and [5, 10)
    pairs = [tuple(buffer.sample(2, CPU, 0.4).slot.tolist()) for _ in range(500)]
    assert set(pairs) == {(first, second) for first in (0, 1, 2) for second in (2, 3)}  # independently
    assert np.mean([first == 0 for first, _ in pairs]) == pytest.approx(0.2, abs=0.07)  # uniform in its part


def test_draws_against_p():
    """Chi-square of 1e5 draws (1e4 alone); 49 degrees of freedom exceed 100 with a probability of 1e-5."""
    for batch_size in 1, 100:
        errors = np.random.default_rng(0).exponential(size=50)
        buffer, draws = with_errors(50, errors, 0.6, 0.01), 100_000 if batch_size > 1 else 10_000
        slots = [buffer.sample(batch_size, CPU, 0.4).slot for _ in range(draws // batch_size)]
        expected = probabilities(buffer)[:50] * draws
        counts = np.bincount(np.concatenate(slots), minlength=50)
        assert len(counts) == 50 and expected.min() > 10 and expected.max() > 5 * expected.min()
        assert ((counts - expected) ** 2 / expected).sum() < 100


def test_weights_make_the_mean_uniform():
    """With beta 1 and the weights as they are before the division by the largest, 1 / (N P(i)), E_P[w g] is
    the plain mean of g. The largest is that of the smallest P."""
    rng = np.random.default_rng(0)
    buffer, g = with_errors(50, rng.exponential(size=50), 0.6, 0.01), rng.normal(size=50)
    drawn = buffer.sample(20_000, CPU, 1.0)
    p, w = probabilities(buffer)[:50], np.zeros(50)
    weight = drawn.weight.numpy() / (50 * p.min())
    w[drawn.slot] = weight
    assert set(drawn.slot.tolist()) == set(range(50))
    assert (p * w * g).sum() == pytest.approx(g.mean(), abs=1e-6)
    assert (weight * g[drawn.slot]).mean() == pytest.approx(g.mean(), abs=0.01)


def test_the_smallest_eps_is_enough():
    """Every transition can be drawn, and no weight is 0 / 0, where TD errors are 0."""
    for alpha, eps in (0.0, 1e-300), (0.6, 1e-300), (1.0, 1e-300), (1.0, 5e-324):
        for errors in [0.0, 0.0, 0.0], [0.0, 1.0, 1e3]:
            buffer = with_errors(3, errors, alpha, eps)
            for beta in 0.0, 0.4, 1.0:
                drawn = buffer.sample(64, CPU, beta)
                assert drawn.weight.isfinite().all() and drawn.weight.max() == 1 and drawn.slot.max() < 3


# ---- priorities

def test_priorities_by_hand():
    """(|TD error| + eps)^alpha; the highest so far for a new transition, from 1 on, and it never falls."""
    buffer = with_errors(5)
    assert buffer.p_alpha.tolist() == [1, 1, 1, 1, 1, 0]
    update(buffer, [0, 1], [-0.31, 0.0], 0.5, 0.25)
    count_on(buffer, 6)  # slot 0 begins again, so that its window is open; that of slot 5 is whole
    assert buffer.p_alpha == pytest.approx([0, 0.5, 1, 1, 1, 1])
    update(buffer, [1, 2], [2.0, -8.75], 0.5, 0.25)
    update(buffer, [2, 3], [0.75, 0.75], 0.5, 0.25)
    assert buffer.p_alpha == pytest.approx([0, 1.5, 1, 1, 1, 1])
    count_on(buffer, 7)
    assert buffer.p_alpha == pytest.approx([3, 0, 1, 1, 1, 1])
    buffer.sample(1, CPU, 0.4)
    assert buffer.tree.node[1] == pytest.approx(7)


def test_equal_slots_in_a_batch():
    """One transition may be drawn twice: it gets one priority, and the tree agrees."""
    buffer = with_errors(3)
    update(buffer, [1, 1, 0], [2.0, 2.0, 5.0], 1.0, 0.0)
    buffer.sample(1, CPU, 0.4)
    assert buffer.p_alpha[:3].tolist() == [5, 2, 1] and buffer.tree.node[1] == 8


@pytest.mark.parametrize("n_step, num_envs, stack", [(1, 1, 4), (3, 1, 1), (1, 3, 4), (4, 3, 1), (4, 3, 4)])
def test_only_complete_transitions_have_a_priority(n_step, num_envs, stack):
    """By plain counting: a step can be drawn once n steps came after it, and while the frames of its stack
    are there; all else has no mass, also after updates. What is drawn is what dqn.py's buffer, fed alike,
    holds."""
    for seed, capacity, ends in (0, 24, 0.2), (1, 7, 0.5):
        game, rng = Game(num_envs, stack, seed, ends), np.random.default_rng(seed)
        parent = empty("dqn", capacity, num_envs, game.shape, n_step)
        buffer = empty("per_dqn", capacity, num_envs, game.shape, n_step)
        rows = buffer.size // num_envs
        for count in range(1, 121):
            transition = game.step()
            parent.add(*transition)
            buffer.add(*transition)
            whole = [t for t in range(count - n_step) if t - (stack - 1) >= count - rows]
            want = np.zeros((rows, num_envs), bool)
            want[[t % rows for t in whole]] = True
            want = want.flatten()
            assert np.array_equal(buffer.p_alpha > 0, want)
            if not whole:
                continue
            drawn = buffer.sample(5, CPU, 0.4)
            assert want[drawn.slot].all()
            assert buffer.tree.node[1] == pytest.approx(buffer.p_alpha.sum(), rel=1e-12)
            update(buffer, drawn.slot, rng.normal(size=5))
            if count % 13 == 0:
                every, theirs = np.flatnonzero(want), {}
                update(buffer, every, np.ones(len(every)))
                for part in zip(*parent.sample(30 * len(want), CPU), strict=True):
                    theirs[part[1].item()] = [field.tolist() for field in part]
                ours = [[field.tolist() for field in part[:6]]
                        for part in zip(*buffer.sample(len(every), CPU, 0.4), strict=True)]
                assert ours == [theirs.pop(part[1]) for part in ours] and not theirs


def test_a_restored_prioritized_buffer_draws_alike():
    """Filled in part or wrapped around, saved with and without changes that the tree has yet to learn: the
    same draws and weights bit for bit, then and after more steps and updates."""
    for steps in 5, 100:
        game, rng, others = Game(2, 4), np.random.default_rng(0), []
        buffer = empty("per_dqn", 30, 2, game.shape, 2)

        def go_on(each, seed):
            torch.manual_seed(seed)
            drawn = each.sample(16, CPU, 0.5)
            update(each, drawn.slot, torch.randn(16) * 3)
            return drawn

        for step in range(steps + 60):
            if step in (steps, steps + 1):  # learned, and not yet
                others.append(filled("per_dqn", 40, 30, 2, 2, stack=4)[0])  # was in use
                others[-1].load_state_dict(copy.deepcopy(buffer.state_dict()))
            transition = game.step()
            for each in [buffer, *others]:
                each.add(*transition)
            if step < 3:
                continue
            seed = int(rng.integers(1000))
            drawn = go_on(buffer, seed)
            if step == steps - 1:
                buffer.sample(1, CPU, 0.5)
            for other in others:
                for ours, theirs in zip(drawn, go_on(other, seed), strict=True):
                    assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
                assert other.max_p_alpha == buffer.max_p_alpha
                assert np.array_equal(other.tree.node, buffer.tree.node)  # the leaves, too
        assert buffer.max_p_alpha > 2
