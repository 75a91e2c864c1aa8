"""dueling_dqn.py: how the two streams are joined, against numbers worked out by hand."""
import pytest
import torch
from common import load
from torch import nn

dueling_dqn = load("dueling_dqn")


class Given(nn.Module):
    """A stream with these outputs, whatever goes in."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))

    def forward(self, features):
        return self.rows


def joined(value, adv):
    """A network whose streams give these values (B, 1) and advantages (B, A), and its Q (B, A)."""
    net = dueling_dqn.QNetwork((2,), 3)
    net.value, net.advantage = Given(value), Given(adv)
    return net, net(torch.zeros(len(value), 2))


def test_streams_are_joined_by_eq_9():
    """The largest advantage instead of their mean, Eq. (8), would give 8, 9, 10."""
    assert joined([[10.0]], [[1.0, 2.0, 3.0]])[1].tolist() == [[9.0, 10.0, 11.0]]


def test_the_mean_is_over_actions_alone():
    """Over the whole batch it would give 4, 5, 6 and 24, 25, 26."""
    _, q = joined([[10.0], [20.0]], [[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]])
    assert q.tolist() == [[9.0, 10.0, 11.0], [19.0, 20.0, 21.0]]


def test_gradients():
    """Of (Q_0 - 8)^2 / 2 at Q_0 = 9: 1 to V, and 1 - 1/3, -1/3, -1/3 to A."""
    net, q = joined([[10.0]], [[1.0, 2.0, 3.0]])
    (0.5 * (q[0, 0] - 8) ** 2).backward()
    assert net.value.rows.grad.tolist() == [[1.0]]
    assert net.advantage.rows.grad[0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("pixels", [False, True])
def test_value_is_the_mean_and_advantages_have_no_level(pixels):
    """mean_a Q = V; the same actions are best in Q and A; A + 5 leaves Q as it is and V + 5 raises it."""
    torch.manual_seed(0)
    shape = (4, 84, 84) if pixels else (3,)
    net = dueling_dqn.QNetwork(shape, 6)
    obs = torch.randint(256, (4, *shape), dtype=torch.uint8) if pixels else 5 * torch.randn(40, *shape)
    with torch.no_grad():
        q, hidden = net(obs), net.streams(net.body(obs / 255 if pixels else obs))
        size = hidden.shape[1] // 2
        value, adv = net.value(hidden[:, :size]), net.advantage(hidden[:, size:])
        assert q.shape == adv.shape == (len(obs), 6) and value.shape == (len(obs), 1)
        assert torch.allclose(q.mean(1, keepdim=True), value, atol=1e-5)
        assert torch.equal(q.argmax(1), adv.argmax(1)) and (pixels or len(q.argmax(1).unique()) > 1)
        net.advantage.bias += 5
        assert torch.allclose(net(obs), q, atol=1e-5)
        net.value.bias += 5
        assert torch.allclose(net(obs), q + 5, atol=1e-5)


@pytest.mark.parametrize("shape, width, hidden", [((3,), 120, 84), ((4, 84, 84), 3136, 512)])
def test_each_stream_has_a_hidden_layer_of_its_own(shape, width, hidden):
    """Two streams of dqn.py's size on one shared body (Fig. 1): what feeds one does not reach the other."""
    net = dueling_dqn.QNetwork(shape, 6)
    sizes = {name: tuple(part.shape) for name, part in net.named_parameters() if not name.startswith("body")}
    assert sizes == {"streams.0.weight": (2 * hidden, width), "streams.0.bias": (2 * hidden,),
                     "value.weight": (1, hidden), "value.bias": (1,),
                     "advantage.weight": (6, hidden), "advantage.bias": (6,)}
    obs = torch.randint(256, (2, *shape), dtype=torch.uint8) if len(shape) == 3 else torch.randn(2, *shape)
    net(obs).sum().backward()  # the mean over actions leaves A no gradient, to rounding
    of_value, of_advantage = net.streams[0].weight.grad.split(hidden)
    assert of_value.abs().max() > 1e-4 and of_advantage.abs().max() < 1e-5
    net(obs)[:, 0].sum().backward()
    assert of_advantage.abs().max() > 1e-4
