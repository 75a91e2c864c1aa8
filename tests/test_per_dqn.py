"""per_dqn.py: its sum tree against plain sums, its draws, weights and priorities against the paper's."""
import math
import os
import time

import numpy as np
import pytest
import torch
from common import SMALL, call, load, run_folder, train
from test_dqn import Game, Table, batch

dqn, per_dqn = load("dqn"), load("per_dqn")
CPU, SIZES = "cpu", [1, 2, 3, 5, 8, 13, 100, 129]


def filled(size, p=None, alpha=0.6, eps=0.0, **fields):
    """A buffer in which `size` transitions can be drawn, leaf i from observation i, with TD errors p."""
    fields = {"num_envs": 1, "obs_shape": (1,), "n_step": 1, "gamma": 0.9, **fields}
    buffer = per_dqn.ReplayBuffer(size, **fields)
    for i in range(size + 1):
        add(buffer, i)
    if p is not None:
        buffer.update_priorities(np.arange(size), torch.tensor(p), alpha, eps)
    return buffer


def add(buffer, i):
    no = np.array([False])
    buffer.add(np.array([[float(i)]]), np.array([i]), np.array([1.0]), no, no, np.array([[i + 1.0]]))


def probabilities(buffer):
    """P(i) of all leaves of a buffer from which something was drawn."""
    leaves = buffer.tree.node[1 << buffer.tree.depth:]
    return leaves / leaves.sum()


# ---- the sum tree

def test_sum_tree_by_hand():
    tree = per_dqn.SumTree(4)
    tree.set(np.arange(4), np.array([1.0, 2.0, 3.0, 4.0]))
    assert tree.node[1] == 10
    assert tree.find(np.array([0, 0.999, 1, 2.999, 3, 5.999, 6, 9.999])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    tree.set(np.array([0]), np.array([5.0]))
    assert tree.node[1] == 14


@pytest.mark.parametrize("size", SIZES)
def test_sum_tree_against_a_running_sum(size):
    """Whole numbers, whose sums are exact, some of them 0, set at random places; the last of equal places
    counts. What is found is where the running sum first exceeds the prefix."""
    rng, tree, values = np.random.default_rng(size), per_dqn.SumTree(size), np.zeros(size)
    for _ in range(30):
        leaf = rng.integers(size, size=rng.integers(1, size + 1))
        value = rng.integers(10, size=len(leaf)) * rng.integers(2, size=len(leaf)).astype(float)
        tree.set(leaf, value)
        for i, number in zip(leaf, value, strict=True):
            values[i] = number
        total = values.sum()
        assert tree.node[1] == total
        if total > 0:
            sums = np.cumsum(values)
            below = np.nextafter(total, 0)
            prefix = np.concatenate([[0.0, below], sums[sums < total], rng.random(50) * below])
            want = [int(np.flatnonzero(sums > number)[0]) for number in prefix]
            assert tree.find(prefix).tolist() == want


@pytest.mark.parametrize("size", SIZES)
def test_a_leaf_of_zero_is_never_found(size):
    """Nor one beyond the last, even where rounding takes the prefix to the end of a node, or of the root."""
    rng = np.random.default_rng(size)
    for _ in range(50):
        tree, values = per_dqn.SumTree(size), 10 ** rng.uniform(-6, 3, size) * (rng.random(size) < 0.5)
        values[rng.integers(size)] = 0.1
        tree.set(np.arange(size), values)
        edges = np.append(np.cumsum(values), tree.node)
        near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)])
        prefix = np.append(rng.random(200) * tree.node[1], near[near <= tree.node[1]])
        found = tree.find(prefix)
        assert found.max() < size and values[found].min() > 0


def test_sum_tree_does_not_drift():
    """60,000 updates from 1e-6 to 1e3: each node is exactly the sum of its children, and the root is the
    plain sum; so it is when all leaves are small again, beside which old errors would be large."""
    rng, tree, values = np.random.default_rng(0), per_dqn.SumTree(4096), np.zeros(4096)
    for _ in range(600):
        leaf, value = rng.integers(4096, size=100), 10 ** rng.uniform(-6, 3, 100)
        tree.set(leaf, value)
        values[leaf] = value
    for _ in range(2):
        assert np.array_equal(tree.node[4096:], values)
        assert np.array_equal(tree.node[1:4096], tree.node[2::2] + tree.node[3::2])
        assert tree.node[1] == pytest.approx(math.fsum(values), rel=1e-12, abs=0)
        for leaf in np.arange(4096).reshape(64, 64):
            values[leaf] = 10 ** rng.uniform(-6, -5, 64)
            tree.set(leaf, values[leaf])


# ---- draws and weights

@pytest.mark.parametrize("alpha, p, w_4, w_1", [
    (0.0, [0.25] * 4, [1] * 4, [1] * 4),
    (0.6, [0.148230, 0.224674, 0.286555, 0.340542], [1, 0.846745, 0.768229, 0.716978],
     [1, 0.659754, 0.517282, 0.435275]),
    (1.0, [0.1, 0.2, 0.3, 0.4], [1, 0.757858, 0.644394, 0.574349], [1, 0.5, 1 / 3, 0.25])])
def test_probabilities_and_weights_by_hand(alpha, p, w_4, w_1):
    """TD errors 1, 2, 3, 4; weights over the largest in the batch. 4 standard errors are 0.013."""
    for beta, weights in (0.4, w_4), (1.0, w_1), (0.0, [1] * 4):
        buffer = filled(4, [1.0, -2.0, 3.0, -4.0], alpha)
        drawn = buffer.sample(np.random.default_rng(0), 25_000, CPU, beta)
        assert probabilities(buffer)[:4] == pytest.approx(p, abs=1e-6)
        assert np.bincount(drawn.index) / 25_000 == pytest.approx(p, abs=0.013)
        assert drawn.weight.shape == (25_000,) and drawn.weight.dtype == torch.float32
        assert drawn.weight.numpy() == pytest.approx(np.array(weights)[drawn.index], abs=1e-6)
        assert drawn.obs[:, 0].tolist() == drawn.index.tolist() == drawn.action.tolist()


def test_the_largest_weight_is_that_of_the_batch():
    """A batch without the smallest priority has a weight of 1 nevertheless."""
    drawn = filled(4, [1e-3, 2.0, 2.0, 4.0], 1.0).sample(np.random.default_rng(0), 4, CPU, 1.0)
    assert dict(zip(drawn.index.tolist(), drawn.weight.tolist(), strict=True)) == {1: 1, 2: 1, 3: 0.5}


def test_one_is_drawn_from_each_equal_part():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert filled(8, [2.0] * 8).sample(rng, 8, CPU, 0.4).index.tolist() == list(range(8))
    buffer = filled(4, [1.0, 2.0, 3.0, 4.0], 1.0)  # parts [0, 5) and [5, 10)
    pairs = [tuple(buffer.sample(rng, 2, CPU, 0.4).index.tolist()) for _ in range(500)]
    assert set(pairs) == {(first, second) for first in (0, 1, 2) for second in (2, 3)}  # independently
    assert np.mean([first == 0 for first, _ in pairs]) == pytest.approx(0.2, abs=0.07)  # uniform in its part


@pytest.mark.parametrize("batch_size", [1, 100])
def test_draws_against_p(batch_size):
    """Chi-square of 1e5 draws (1e4 alone); 49 degrees of freedom exceed 100 with a probability of 1e-5."""
    rng = np.random.default_rng(0)
    buffer, draws = filled(50, rng.exponential(size=50), 0.6, 0.01), 100_000 if batch_size > 1 else 10_000
    index = [buffer.sample(rng, batch_size, CPU, 0.4).index for _ in range(draws // batch_size)]
    expected = probabilities(buffer)[:50] * draws
    counts = np.bincount(np.concatenate(index), minlength=50)
    assert len(counts) == 50 and expected.min() > 10 and expected.max() > 5 * expected.min()
    assert ((counts - expected) ** 2 / expected).sum() < 100


def test_weights_make_the_mean_uniform():
    """With beta 1 and the weights as they are before the division by the largest, 1 / (N P(i)), E_P[w g] is
    the plain mean of g. The largest is that of the smallest P."""
    rng = np.random.default_rng(0)
    buffer, g = filled(50, rng.exponential(size=50), 0.6, 0.01), rng.normal(size=50)
    drawn = buffer.sample(rng, 20_000, CPU, 1.0)
    p, w = probabilities(buffer)[:50], np.zeros(50)
    weight = drawn.weight.numpy() / (50 * p.min())
    w[drawn.index] = weight
    assert set(drawn.index) == set(range(50))
    assert (p * w * g).sum() == pytest.approx(g.mean(), abs=1e-6)
    assert (weight * g[drawn.index]).mean() == pytest.approx(g.mean(), abs=0.01)


# ---- priorities

def test_priorities_by_hand():
    """(|TD error| + eps)^alpha; the highest so far for a new transition, from 1 on, and it never falls."""
    buffer = filled(5)
    assert buffer.priority[:, 0].tolist() == [1, 1, 1, 1, 1, 0]
    buffer.update_priorities(np.array([0, 1]), torch.tensor([-0.31, 0.0]), 0.5, 0.25)
    add(buffer, 6)  # row 0 begins again, so that its window is open; that of row 5 is whole
    assert buffer.priority[:, 0] == pytest.approx([0, 0.5, 1, 1, 1, 1])
    buffer.update_priorities(np.array([1, 2]), torch.tensor([2.0, -8.75]), 0.5, 0.25)
    buffer.update_priorities(np.array([2, 3]), torch.tensor([0.75, 0.75]), 0.5, 0.25)
    assert buffer.priority[:, 0] == pytest.approx([0, 1.5, 1, 1, 1, 1])
    add(buffer, 7)
    assert buffer.priority[:, 0] == pytest.approx([3, 0, 1, 1, 1, 1])
    buffer.sample(np.random.default_rng(0), 1, CPU, 0.4)
    assert buffer.tree.node[1] == pytest.approx(7)


def test_equal_places_in_a_batch():
    """One transition may be drawn twice: it gets one priority, and the tree agrees."""
    buffer = filled(3)
    buffer.update_priorities(np.array([1, 1, 0]), torch.tensor([2.0, 2.0, 5.0]), 1.0, 0.0)
    buffer.sample(np.random.default_rng(0), 1, CPU, 0.4)
    assert buffer.priority[:3, 0].tolist() == [5, 2, 1] and buffer.tree.node[1] == 8


def test_td_loss_by_hand():
    """Errors 8 and -1, which stay unweighted; weights .5 and .1: loss (.5 * 64 + .1 * 1) / 2."""
    q_net, target_net = Table([2.0, 7.0], [1.0, 3.0]), Table([0.0, 0.0], [10.0, 5.0])
    one = per_dqn.Batch(*batch(), torch.tensor([0.5, 0.1]), np.arange(2))
    loss, td_error = per_dqn.td_loss(one, q_net, target_net)
    assert td_error.tolist() == [8.0, -1.0] and not td_error.requires_grad
    assert loss.shape == () and loss.item() == pytest.approx(16.05)
    loss.backward()
    assert q_net.table.grad.flatten().tolist() == pytest.approx([-3.9, 0, 0, 0])  # -(.5 * 16 - .1 * 2) / 2
    assert target_net.table.grad is None


def test_priorities_and_beta_in_training(tmp_path, monkeypatch):
    """Each batch gives its own, unweighted errors back before the next is drawn; beta is .5 + .5 * step / 200
    (.75 at half way, 1 at the end). All with the numbers that were asked for."""
    buffer_class, td_loss, seen = per_dqn.ReplayBuffer, per_dqn.td_loss, []
    sample, update = buffer_class.sample, buffer_class.update_priorities

    def watched_sample(self, rng, batch_size, device, beta):
        drawn = sample(self, rng, batch_size, device, beta)
        seen.append([beta, drawn.index, drawn.weight])
        return drawn

    def watched_td_loss(batch, q_net, target_net):
        loss, td_error = td_loss(batch, q_net, target_net)
        y = batch.reward + batch.discount * (1 - batch.terminated) * target_net(batch.next_obs).max(1).values
        q = q_net(batch.obs).gather(1, batch.action[:, None])[:, 0]
        seen[-1].append((y - q).abs().detach().numpy().astype(float))
        return loss, td_error

    def watched_update(self, index, td_error, alpha, eps):
        assert (alpha, eps) == (0.7, 1e-3)
        update(self, index, td_error, alpha, eps)
        seen[-1] += [index, self.priority.reshape(-1)[index], self.highest.item()]

    monkeypatch.setattr(buffer_class, "sample", watched_sample)
    monkeypatch.setattr(buffer_class, "update_priorities", watched_update)
    monkeypatch.setattr(per_dqn, "td_loss", watched_td_loss)
    train(per_dqn, tmp_path, total_timesteps=200, learning_starts=20, batch_size=16, buffer_size=100,
          train_frequency=1, eval_episodes=1, n_step=2, learning_rate=1e-2, per_alpha=0.7, per_beta=0.5,
          per_eps=1e-3)
    highest = 1.0
    assert len(seen) == 180 and min(part[2].min() for part in seen) < 0.7
    for i, (beta, index, _, error, updated, priority, at_most) in enumerate(seen):
        assert beta == pytest.approx(0.5 + 0.5 * (i + 21) / 200) and np.array_equal(index, updated)
        assert priority == pytest.approx((error + 1e-3) ** 0.7, abs=1e-3)
        highest = max(highest, priority.max())
        assert at_most == highest
    assert seen[79][0] == pytest.approx(0.75) and seen[179][0] == 1


# ---- with the rest of the buffer

@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("n_step, num_envs", [(1, 1), (3, 1), (1, 3), (4, 3)])
def test_whole_transitions_alone_have_a_priority(n_step, num_envs, stack):
    """By plain counting: an entry can be drawn once n steps came after it, and while the rows of its stack
    are there. What is drawn is what dqn.py's buffer, fed alike, holds; all of it is drawn."""
    for seed, size, ends in (0, 24, 0.2), (1, 7, 0.5):
        game, rng = Game(num_envs, stack, seed, ends), np.random.default_rng(seed)
        parent = dqn.ReplayBuffer(size, num_envs, game.shape, n_step, 0.9)
        buffer = per_dqn.ReplayBuffer(size, num_envs, game.shape, n_step, 0.9)
        rows = len(buffer.priority)
        for count in range(1, 121):
            transition = game.step()
            parent.add(*transition)
            buffer.add(*transition)
            whole = [t for t in range(count - n_step) if t - (stack - 1) >= count - rows]
            want = np.zeros((rows, num_envs), bool)
            want[[t % rows for t in whole]] = True
            assert np.array_equal(buffer.priority > 0, want)
            if not whole:
                continue
            drawn = buffer.sample(rng, 5, CPU, 0.4)
            assert (probabilities(buffer)[:want.size] > 0).tolist() == want.flatten().tolist()
            buffer.update_priorities(drawn.index, torch.from_numpy(rng.normal(size=5)), 0.6, 0.01)
            if count > n_step and count % 13 == 0:
                every, theirs = np.flatnonzero(want), {}
                buffer.update_priorities(every, torch.ones(len(every)), 0.6, 0.01)
                for part in zip(*parent.sample(rng, 30 * want.size, CPU), strict=True):
                    theirs[part[1].item()] = [field.tolist() for field in part]
                ours = [[field.tolist() for field in part[:6]]
                        for part in zip(*buffer.sample(rng, len(every), CPU, 0.4), strict=True)]
                assert ours == [theirs.pop(part[1]) for part in ours] and not theirs


@pytest.mark.parametrize("steps", [5, 100])
def test_a_restored_buffer_draws_alike(steps):
    """Filled in part or wrapped around, saved with and without changes that the tree has yet to learn: the
    same draws and weights bit for bit, then and after more steps and updates."""
    game, rng = Game(2, 4, 0), np.random.default_rng(0)

    def empty():
        return per_dqn.ReplayBuffer(30, 2, game.shape, 2, 0.9)

    def go_on(buffer, seed):
        rng = np.random.default_rng(seed)
        drawn = buffer.sample(rng, 16, CPU, 0.5)
        buffer.update_priorities(drawn.index, torch.from_numpy(rng.normal(size=16) * 3), 0.6, 1e-6)
        return drawn

    buffer, others = empty(), []
    for step in range(steps + 60):
        if step in (steps, steps + 1):  # learned, and not yet
            state = {name: value if name == "count" else value.clone()
                     for name, value in buffer.state_dict().items()}
            others.append(empty())
            others[-1].load_state_dict(state)
        transition = game.step()
        for each in [buffer, *others]:
            each.add(*transition)
        if step < 3:
            continue
        seed = rng.integers(1000)
        drawn = go_on(buffer, seed)
        if step == steps - 1:
            buffer.sample(rng, 1, CPU, 0.5)
        for other in others:
            for ours, theirs in zip(drawn, go_on(other, seed), strict=True):
                assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
            assert other.highest == buffer.highest and np.array_equal(other.priority, buffer.priority)
            assert np.array_equal(other.tree.node, buffer.tree.node)
    assert buffer.highest > 2


# ---- what is refused

def refused(cwd, *flags):
    """The sentence on standard error."""
    result = call("per_dqn", *flags, cwd=cwd, status=2)
    assert len(result.err.splitlines()) == 1 and result.out == ""
    return result.err


def test_a_priority_of_zero_is_refused(tmp_path):
    """Where all TD errors are 0 nothing could be drawn, and weights would be 0 / 0. A tiny eps is enough."""
    assert "--per-eps" in refused(tmp_path, *SMALL["per_dqn"], "--per-eps", "0")
    assert list(tmp_path.iterdir()) == []
    for alpha, eps in (0.0, 1e-300), (0.6, 1e-300), (1.0, 1e-300), (1.0, 5e-324):
        for errors in [0.0, 0.0, 0.0], [0.0, 1.0, 1e3]:
            buffer = filled(3, errors, alpha, eps)
            for beta in 0.0, 0.4, 1.0:
                drawn = buffer.sample(np.random.default_rng(0), 64, CPU, beta)
                assert drawn.weight.isfinite().all() and drawn.weight.max() == 1 and drawn.index.max() < 3


def test_alpha_cannot_change_on_resuming(tmp_path):
    """The stored p^alpha would be of two alphas; beta and eps may change."""
    call("per_dqn", *SMALL["per_dqn"], "--per-alpha", "0.7", cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    message = refused(tmp_path, "--resume", path, "--per-alpha", "0.5")
    assert "--per-alpha" in message and "0.7" in message
    call("per_dqn", "--resume", path, "--total-timesteps", "350", "--per-beta", "0.5", "--per-eps", "1e-3",
         cwd=tmp_path)


@pytest.mark.parametrize("size", [1000, 1023, 1025, 2**20])
def test_memory_of_the_tree_counts(size, tmp_path, monkeypatch):
    """What all arrays of a buffer for CartPole take is never more than the estimate that is compared to the
    machine's memory, and at most 30 % less."""
    buffer = per_dqn.ReplayBuffer(size, 1, (4,), 1, 0.99)
    arrays = [*vars(buffer).values(), buffer.tree.node]
    taken = sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(0.99 * taken)}.__getitem__)
    assert "--buffer-size" in refused(tmp_path, *SMALL["per_dqn"], "--buffer-size", size)
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": int(taken / 0.7)}.__getitem__)
    call("per_dqn", *SMALL["per_dqn"], "--buffer-size", size, cwd=tmp_path)


def test_speed_with_a_million_leaves():
    """A batch of 128 drawn and its priorities updated, in less time than one running sum of a million
    priorities takes, with which a memory without a tree would begin each batch."""
    buffer = per_dqn.ReplayBuffer(1_000_000, 1, (4,), 1, 0.99)
    rng, times, sums = np.random.default_rng(0), [], []
    buffer.priority[:1_000_000] = rng.random((1_000_000, 1))
    buffer.count, buffer.changed = 1_000_001, [np.arange(1_000_000)]
    buffer.ended[:] = False
    for _ in range(100):
        td_error, began = torch.rand(128), time.perf_counter()
        index = buffer.sample(rng, 128, CPU, 0.4).index
        buffer.update_priorities(index, td_error, 0.6, 1e-6)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
        buffer.priority.cumsum()
        sums.append(time.perf_counter() - began)
    print(f"{np.median(times) * 1e6:.0f} us for a batch, {np.median(sums) * 1e6:.0f} us for a running sum")
    assert np.median(times) < np.median(sums)
