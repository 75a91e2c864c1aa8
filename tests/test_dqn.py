"""dqn.py at work: how it acts and explores, when it copies its network, what a checkpoint does to memory."""
import numpy as np
import pytest
import torch
from common import VALUE, all_of, checkpoint, load, train
from torch import nn

dqn = load("dqn")
CPU = "cpu"


class Favours2(nn.Module):
    """Q of 6 actions, of which 2 is the best; `seen` has the number of observations of each pass."""

    def __init__(self):
        super().__init__()
        self.q, self.seen = nn.Parameter(torch.eye(6)[2]), []

    def forward(self, obs):
        self.seen.append(len(obs))
        return self.q.expand(len(obs), 6)


def test_epsilon_greedy_frequencies():
    """The greedy action with probability 1 - eps + eps / 6, any other with eps / 6."""
    for epsilon in 0.0, 0.1, 0.5, 1.0:
        torch.manual_seed(0)
        draws, obs = 60_000, np.zeros((60, 1), np.float32)
        actions = [dqn.act(Favours2(), obs, epsilon, 6, CPU) for _ in range(draws // 60)]
        assert all(action.shape == (60,) and action.dtype == np.int64 for action in actions)
        frequency = np.bincount(np.concatenate(actions), minlength=6) / draws
        expected = np.full(6, epsilon / 6) + (1 - epsilon) * np.eye(6)[2]
        assert np.abs(frequency - expected).max() <= 4 * np.sqrt(0.25 / draws) * (epsilon > 0)


def test_environments_explore_independently():
    """In one vector step some explore while others do not, and those that do take actions of their own."""
    torch.manual_seed(0)
    obs = np.zeros((2, 1), np.float32)
    pairs = np.array([dqn.act(Favours2(), obs, 0.6, 6, CPU) for _ in range(4000)])
    first, second = (pairs == 2).T
    assert first.mean() == pytest.approx(0.5, abs=0.03) == second.mean()
    assert (first & second).mean() == pytest.approx(0.25, abs=0.03)
    others = pairs[~first & ~second]
    counts = np.unique(others, axis=0, return_counts=True)[1]
    assert len(counts) == 25 and counts.max() < 2 * counts.min()


def test_no_forward_when_all_explore():
    """Where no action is greedy the network is not asked, and one is enough that it is."""
    torch.manual_seed(0)
    q_net, obs = Favours2(), np.zeros((8, 1), np.float32)
    for epsilon, passes in (1.0, 0), (0.0, 20):
        for _ in range(20):
            dqn.act(q_net, obs, epsilon, 6, CPU)
        assert q_net.seen == [8] * passes
    q_net.seen.clear()
    greedy = [(dqn.act(q_net, obs[:1], 0.9, 6, CPU) == 2).item() for _ in range(2000)]
    assert 130 < len(q_net.seen) < 270 and len(q_net.seen) < sum(greedy)


def test_greedy_is_the_argmax_without_a_graph():
    torch.manual_seed(0)
    q_net, obs, seen = dqn.QNetwork((3,), 4), np.random.default_rng(0).normal(size=(50, 3)), []
    obs = obs.astype(np.float32)
    q_net.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    action = dqn.act(q_net, obs, 0.0, 4, CPU)
    assert len(set(action)) > 1
    assert action.tolist() == q_net(torch.from_numpy(obs)).argmax(1).tolist()
    assert seen == [False, True]


def test_network_for_frames():
    """The paper's, with 6 actions."""
    q_net = dqn.QNetwork((4, 84, 84), 6)
    assert q_net(torch.zeros(2, 4, 84, 84, dtype=torch.uint8)).shape == (2, 6)
    assert sum(part.numel() for part in q_net.parameters()) == 1_687_206


def test_linear_schedule():
    values = [dqn.linear_schedule(1.0, 0.05, 250_000, step) for step in (0, 125_000, 250_000, 400_000)]
    assert values == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert dqn.linear_schedule(1.0, 0.05, 0, 1) == pytest.approx(0.05)


@pytest.mark.parametrize("script", all_of(VALUE))
def test_target_network_is_a_copy_made_on_time(script, tmp_path, monkeypatch):
    """Bit-equal to the online network right after a sync, unchanged between syncs, and the online network
    learns in every update."""
    module, seen = load(script), []
    td_loss = module.td_loss

    def watched(batch, q_net, target_net):
        seen.append([nn.utils.parameters_to_vector(net.parameters()).detach() for net in (q_net, target_net)])
        return td_loss(batch, q_net, target_net)

    monkeypatch.setattr(module, "td_loss", watched)
    train(module, tmp_path, total_timesteps=140, learning_starts=20, train_frequency=1,
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


@pytest.mark.parametrize("script", ["dqn", "per_dqn"])
def test_a_checkpoint_cuts_windows_but_terminates_nothing(script, tmp_path):
    """Saves after 101 and 202 steps, in episodes of 10: the step before is marked as an end, and its next
    observation kept. Nor does a time limit terminate anything."""
    folder = train(load(script), tmp_path, env_id="probes:Probe6-v0", total_timesteps=203, learning_starts=60,
                   n_step=3, checkpoint_frequency=101, batch_size=8, buffer_size=300, eval_episodes=1)
    buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
    ends = np.flatnonzero(buffer["ended"])
    assert np.diff(ends, prepend=-1).tolist() == 2 * ([10] * 10 + [1]) + [1]
    assert not buffer["terminated"].any() and sorted(buffer["final_slot"]) == ends.tolist()
