"""double_dqn.py: its target against numbers worked out by hand, and the bias that it removes."""
import pytest
import torch
from common import load
from test_dqn import Table, batch
from torch import nn

dqn, double_dqn = load("dqn"), load("double_dqn")


def test_td_loss_by_hand():
    """y = 1 + .9 * 5 = 5.5 (DQN: 10; with the networks swapped: 1.9; with the online one alone: 3.7), and 1
    at a terminal state; Q = 2: errors 3.5 and -1, loss (12.25 + 1) / 2."""
    q_net, target_net = Table([2.0, 7.0], [1.0, 3.0]), Table([0.0, 0.0], [10.0, 5.0])
    loss, td_error = double_dqn.td_loss(batch(), q_net, target_net)
    assert (td_error + 2).tolist() == [5.5, 1.0]
    assert td_error.shape == (2,) and not td_error.requires_grad
    assert loss.shape == () and loss.item() == 6.625
    loss.backward()
    assert q_net.table.grad.tolist() == [[-2.5, 0.0], [0.0, 0.0]]  # -(2 * 3.5 - 2 * 1) / 2
    assert target_net.table.grad is None


def test_no_gradient_into_the_target_of_one_network():
    """One table as both networks: only Q(s, a) has a gradient."""
    q_net = Table([2.0, 7.0], [1.0, 3.0])
    double_dqn.td_loss(batch(), q_net, q_net)[0].backward()  # y = 3.7 and 1
    assert q_net.table.grad.flatten().tolist() == pytest.approx([-(1.7 - 1.0), 0, 0, 0])


def test_n_steps_on_by_hand():
    """Rewards 1, 2, 3 sum to 5.23 at gamma .9, and both networks value s_3: y = 5.23 + .729 * 5 = 8.875."""
    q_net, target_net = Table([0.0, 0.0], [1.0, 3.0]), Table([0.0, 0.0], [10.0, 5.0])
    window = batch(reward=torch.full((2,), 5.23), discount=torch.full((2,), 0.729))
    _, td_error = double_dqn.td_loss(window, q_net, target_net)
    assert td_error.tolist() == pytest.approx([8.875, 5.23])


def test_td_loss_against_plain_python():
    torch.manual_seed(0)
    q_net, target_net, size = double_dqn.QNetwork((3,), 4), double_dqn.QNetwork((3,), 4), 40
    many = double_dqn.Batch(torch.randn(size, 3), torch.randint(4, (size,)), torch.randn(size),
                            torch.rand(size), torch.randint(2, (size,)).float(), torch.randn(size, 3))
    loss, td_error = double_dqn.td_loss(many, q_net, target_net)
    disagree = 0
    for i in range(size):
        online, target = (net(many.next_obs[i:i + 1])[0].tolist() for net in (q_net, target_net))
        disagree += online.index(max(online)) != target.index(max(target))
        y = many.reward[i].item()
        if not many.terminated[i]:
            y += many.discount[i].item() * target[online.index(max(online))]
        q = q_net(many.obs[i:i + 1])[0, many.action[i]].item()
        assert td_error[i].item() == pytest.approx(y - q, abs=1e-6)
    assert loss.item() == pytest.approx(td_error.square().mean().item()) and disagree > 10


@pytest.mark.parametrize("m", [2, 4, 10])
def test_overestimation(m):
    """All m true values are 0 and both networks err by U[-1, 1]: the largest estimate is too high by
    (m - 1) / (m + 1) (Theorem 2), the double one right on average. 4 standard errors are 0.006."""
    torch.manual_seed(0)
    states = 150_000
    q_net, target_net = (nn.Embedding.from_pretrained(torch.rand(states, m) * 2 - 1) for _ in range(2))
    q_net.weight[0] = 0  # where they come from; its error is the target
    zeros, next_obs = torch.zeros(states - 1), torch.arange(1, states)
    one = dqn.Batch(zeros.long(), zeros.long(), zeros, zeros + 1, zeros, next_obs)
    single, double = (script.td_loss(one, q_net, target_net)[1].mean().item() for script in (dqn, double_dqn))
    assert single == pytest.approx((m - 1) / (m + 1), abs=0.006)
    assert double == pytest.approx(0, abs=0.006)
