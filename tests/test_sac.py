"""sac.py: its equations against numbers worked out by hand, its buffer against lists of steps, two probes."""
import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from common import call, checkpoint, differences, events, load, run_folder, train
from gymnasium.spaces import Box
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

sac = load("sac")
CPU = "cpu"
SMALL = {"total_timesteps": 200, "learning_starts": 50, "batch_size": 8, "buffer_size": 300,
         "eval_episodes": 1}
WATCHED = "soft_target", "critic_loss", "policy_loss", "temperature_loss"


def column(*values):
    """(B, 1), so that a policy of one action has these."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1)


def pointwise(u, mean=0.0, std=1.0):
    """log pi (B,) of the actions tanh(u)."""
    u = torch.as_tensor(u)
    mean, std = torch.full_like(u, mean), torch.full_like(u, std)
    return sac.squash(mean[:, None], std.log()[:, None], ((u - mean) / std)[:, None])[1]


# ---- the density of a squashed Gaussian

# u: log N(u; 0, 1), log(1 - tanh^2 u), log pi
TABLE = {0: (-0.918939, 0, -0.918939), 0.5: (-1.043939, -0.240229, -0.803710),
         1: (-1.418939, -0.867562, -0.551377), 3: (-5.418939, -4.618657, -0.800282),
         6: (-18.918939, -10.613718, -8.305221), 10: (-50.918939, -18.613706, -32.305233)}


@pytest.mark.parametrize("u", TABLE)
@pytest.mark.parametrize("sign", [1, -1])
def test_density_by_hand(u, sign):
    """In float32, where log(1 - tanh^2 u + 1e-6) has -13.8155 at 10 instead of -18.6137."""
    log_normal, log_slope, logp = TABLE[u]
    assert log_normal - log_slope == pytest.approx(logp, abs=2e-6)
    action, found = sac.squash(column(0), column(0), column(sign * u))
    assert found.shape == (1,) and found.item() == pytest.approx(logp, abs=1e-5)
    assert action.item() == pytest.approx(math.tanh(sign * u))


def test_the_convention_on_the_scale():
    """Of the action in [-1, 1]. On the way to [-2, 2] the density would halve: that term is left out."""
    logp = sac.squash(column(0), column(0), column(0.5))[1].item()
    assert logp == pytest.approx(-0.803710, abs=1e-5)
    assert logp - math.log(2) == pytest.approx(-1.496857, abs=1e-5)


def test_density_and_its_gradient_by_hand():
    """mu .3, sigma .5, noise 1, so u = .8."""
    mean, log_std = column(0.3).requires_grad_(), column(math.log(0.5)).requires_grad_()
    action, logp = sac.squash(mean, log_std, column(1))
    assert action.item() == pytest.approx(0.664037, abs=1e-6)
    assert logp.item() == pytest.approx(-0.144284, abs=1e-6)
    assert logp.item() == pytest.approx(-0.725791 - math.log(1 - 0.664037**2), abs=1e-5)
    logp.backward()
    assert mean.grad.item() == pytest.approx(1.328074, abs=1e-5)  # 2 tanh u
    assert log_std.grad.item() == pytest.approx(-0.335963, abs=1e-5)  # -1 + 2 tanh(u) * sigma * noise


@pytest.mark.parametrize("u", [10.0, 30.0, 200.0])
def test_gradient_where_tanh_is_1(u):
    """There log(1 - tanh^2 u + 1e-6) has none, and log(1 - tanh^2 u) is infinite."""
    mean = column(u, -u).requires_grad_()
    sac.squash(mean, column(0, 0), column(0, 0))[1].sum().backward()
    assert mean.grad.flatten().tolist() == pytest.approx([2.0, -2.0])


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.3, 0.5), (-1.0, 0.8)])
def test_density_integrates_to_1(mean, std):
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    density = pointwise(torch.atanh(action), mean, std).exp()
    assert torch.trapezoid(density, action).item() == pytest.approx(1.0, abs=1e-4)


def test_density_against_torch():
    """Several dimensions: their log-probabilities add up."""
    torch.manual_seed(0)
    mean, log_std, noise = 0.5 * torch.randn(3, 50, 4, dtype=torch.float64)
    action, logp = sac.squash(mean, log_std, noise)
    squashed = TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform(cache_size=1))
    assert logp.shape == (50,) and torch.allclose(torch.atanh(action), mean + log_std.exp() * noise)
    assert torch.allclose(logp, squashed.log_prob(action).sum(dim=1))


# ---- targets and losses

def test_soft_target_by_hand():
    """1 + .99 * (min(2, 3) + .2 * 1) = 3.178, whichever critic has the 2; at a terminal state 1."""
    next_q = torch.tensor([[2.0, 3.0, 2.0], [3.0, 2.0, 3.0]])
    y = sac.soft_target(torch.ones(3), torch.tensor([0.0, 0.0, 1.0]), next_q, -torch.ones(3), 0.2, 0.99)
    assert y.tolist() == pytest.approx([3.178, 3.178, 1.0])


def test_losses_against_plain_python():
    torch.manual_seed(0)
    size, alpha, gamma = 7, 0.3, 0.9
    reward, logp, q, next_q = torch.randn(size), torch.randn(size), torch.randn(2, size), torch.randn(2, size)
    terminated = torch.tensor([0.0, 1, 0, 0, 1, 0, 1])
    y = sac.soft_target(reward, terminated, next_q, logp, alpha, gamma)
    critic, policy = 0.0, 0.0
    for i in range(size):
        soft_value = min(next_q[0, i].item(), next_q[1, i].item()) - alpha * logp[i].item()
        expected = reward[i].item() + (0 if terminated[i] else gamma * soft_value)
        assert y[i].item() == pytest.approx(expected, abs=1e-5)
        critic += sum((q[j, i].item() - expected) ** 2 / 2 for j in range(2)) / size
        policy += (alpha * logp[i].item() - min(q[0, i].item(), q[1, i].item())) / size
    assert y.shape == (size,)
    assert sac.critic_loss(q, y).item() == pytest.approx(critic, abs=1e-5)
    assert sac.policy_loss(logp, q, alpha).item() == pytest.approx(policy, abs=1e-5)


def test_critic_loss_by_hand():
    """Errors -1, 2 and 1, 4: (1 + 4) / 4 + (1 + 16) / 4; half, so that the gradient is the error over B."""
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = torch.tensor([2.0, 0.0], requires_grad=True)  # as where the caller has forgotten to stop it
    loss = sac.critic_loss(q, y)
    assert loss.shape == () and loss.item() == 5.5
    loss.backward()
    assert q.grad.tolist() == [[-0.5, 1.0], [0.5, 2.0]] and y.grad is None


def test_policy_loss_by_hand():
    """(-.2 - 1 + .4 - 4) / 2; the gradient goes to the smaller Q alone."""
    logp = torch.tensor([-1.0, 2.0], requires_grad=True)
    q = torch.tensor([[1.0, 5.0], [3.0, 4.0]], requires_grad=True)
    loss = sac.policy_loss(logp, q, 0.2)
    assert loss.shape == () and loss.item() == pytest.approx(-2.4)
    loss.backward()
    assert logp.grad.tolist() == pytest.approx([0.1, 0.1]) and q.grad.tolist() == [[-0.5, 0], [0, -0.5]]


@pytest.mark.parametrize("log_alpha, logp, loss, gradient", [
    (0.0, -1.0, 2.0, 2.0), (0.0, 3.0, -2.0, -2.0), (math.log(0.5), -1.0, 1.0, 1.0)])
def test_temperature_loss_by_hand(log_alpha, logp, loss, gradient):
    """Target entropy -1: an entropy of 1 is above it, so alpha falls; one of -3 is below."""
    log_alpha = torch.tensor(log_alpha, requires_grad=True)
    logp = torch.tensor([logp, logp], requires_grad=True)
    found = sac.temperature_loss(log_alpha, logp, -1.0)
    assert found.shape == () and found.item() == pytest.approx(loss)
    found.backward()
    assert log_alpha.grad.item() == pytest.approx(gradient) and logp.grad is None


def test_average():
    """tau .005, from 0 towards 1: .005 after one step, .49929 after 138, more than half after 139."""
    net, target_net = nn.Linear(2, 2), nn.Linear(2, 2)
    for part in net.parameters():
        part.data.fill_(1)
    for part in target_net.parameters():
        part.data.fill_(0)
    seen = []
    for _ in range(139):
        sac.average(target_net, net, 0.005)
        seen.append(target_net.weight[0, 0].item())
        assert target_net.bias[1].item() == seen[-1] and net.weight.unique().item() == 1
    assert seen[0] == pytest.approx(0.005)
    assert seen[137] == pytest.approx(0.49929, abs=1e-5) and seen[138] > 0.5


# ---- networks and actions

def test_critics_are_two_networks():
    """Each as if it were alone, without a weight in common, and initialised as torch's layers are."""
    torch.manual_seed(0)
    critic, obs, action = sac.Critic(3, 2), torch.randn(10, 3), torch.randn(10, 2)
    q = critic(obs, action)
    assert q.shape == (2, 10)
    layers = [layer for layer in [*critic.body, critic.head] if isinstance(layer, sac.TwinLinear)]
    for i in range(2):
        x = torch.cat([obs, action], dim=1)
        for layer in layers:
            bound = x.shape[1] ** -0.5
            assert 0.9 * bound < layer.weight[i].abs().max() <= bound
            assert not torch.isclose(layer.weight[0], layer.weight[1], atol=0).all()
            x = (torch.relu(x) if layer is not layers[0] else x) @ layer.weight[i] + layer.bias[i]
        assert torch.allclose(q[i], x[:, 0], atol=1e-6)
    assert (q[0] - q[1]).abs().min() > 1e-4
    q[0].sum().backward()
    assert all(part.grad[0].any() and not part.grad[1].any() for part in critic.parameters())
    one = nn.Sequential(nn.Linear(5, 256), nn.Linear(256, 256), nn.Linear(256, 1))
    assert vector(critic).numel() == 2 * vector(one).numel()


def test_policy_has_a_bounded_standard_deviation():
    policy = sac.Policy(3, 2)
    nn.init.normal_(policy.head.weight, std=100)
    mean, log_std = policy(torch.randn(100, 3))
    assert mean.shape == log_std.shape == (100, 2) and mean.abs().max() > 20
    assert log_std.min() == -20 and log_std.max() == 2


def constant(mean, std):
    """A policy that is the same everywhere."""
    policy = sac.Policy(1, len(mean))
    nn.init.zeros_(policy.head.weight)
    policy.head.bias.data = torch.tensor([*mean, *(math.log(part) for part in std)])
    return policy


def test_greedy_is_the_tanh_of_the_mean():
    action = sac.greedy(constant([0.5, -3.0], [1.0, 0.1]), np.zeros((4, 1), np.float32), CPU)
    assert action.shape == (4, 2) and action == pytest.approx(np.tanh([[0.5, -3.0]] * 4), abs=1e-6)


def test_actions_are_drawn_from_the_policy():
    """In every environment and dimension alike and on its own."""
    policy, rng = constant([0.5, -0.2], [0.3, 0.6]), np.random.default_rng(0)
    u = np.arctanh(sac.act(policy, np.zeros((20_000, 1), np.float32), CPU, rng, 2, warm_up=False))
    assert u.mean(axis=0) == pytest.approx([0.5, -0.2], abs=0.02)
    assert u.std(axis=0) == pytest.approx([0.3, 0.6], rel=0.03)
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.03 and abs(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]) < 0.03


def test_acting_builds_no_graph():
    policy, seen = sac.Policy(3, 2), []
    policy.register_forward_hook(lambda module, inputs, output: seen.append(output[0].requires_grad))
    obs = np.zeros((5, 3), np.float32)
    sac.act(policy, obs, "cpu", np.random.default_rng(0), 2, warm_up=False)
    sac.greedy(policy, obs, "cpu")
    policy(torch.from_numpy(obs))
    assert seen == [False, False, True]


def test_actions_of_the_warm_up_are_uniform():
    policy, rng = constant([5.0, 5.0], [0.1, 0.1]), np.random.default_rng(0)
    action = sac.act(policy, np.zeros((20_000, 1), np.float32), CPU, rng, 2, warm_up=True)
    assert action.dtype == np.float32 and np.abs(action).max() <= 1
    counts = np.histogram2d(*action.T, bins=4, range=[[-1, 1]] * 2)[0]
    assert np.abs(counts / 20_000 - 1 / 16).max() < 0.01


def test_scale():
    """Each dimension has its own bounds; -1, 0 and 1 are its lowest, middle and highest action."""
    low, high = np.array([-1, 3, -0.1], np.float32), np.array([0.5, 10, 0.7], np.float32)
    space = Box(low, high)
    actions = np.array([[-1, -1, -1], [0, 0, 0], [1, 1, 1], [-1, 0, 1]], np.float32)
    scaled = sac.scale(actions, space)
    assert scaled.dtype == np.float32 and (scaled[0] == low).all() and (scaled[2] == high).all()
    assert scaled[1] == pytest.approx((low + high) / 2) and scaled[3] == pytest.approx([-1, 6.5, 0.7])


def test_scale_stays_within_the_bounds():
    """However rounding falls: in [low, low] some actions would be off by a bit."""
    rng = np.random.default_rng(0)
    for width in 0, 1e-6, 1:
        low = rng.normal(size=1000).astype(np.float32)
        space = Box(low, low + np.float32(width) * rng.random(1000).astype(np.float32))
        actions = np.concatenate([rng.uniform(-1, 1, (20, 1000)), -np.ones((1, 1000)), np.ones((1, 1000))])
        assert all(space.contains(action) for action in sac.scale(actions.astype(np.float32), space))


def test_scale_keeps_the_shape_and_the_type_of_the_space():
    low, high = [[-3.0, 0.0], [1.0, -1e308]], [[1.0, 8.0], [2.0, 1e308]]
    space = Box(np.array(low), np.array(high), dtype=np.float64)
    scaled = sac.scale(np.array([[-1, 1, 0, 0]] * 5, np.float32), space)
    assert scaled.shape == (5, 2, 2) and scaled.dtype == np.float64
    assert scaled[0].tolist() == [[-3.0, 8.0], [1.5, 0.0]]


@pytest.mark.parametrize("num_envs", [1, 3])
def test_replay_has_the_action_of_the_policy_and_the_environment_the_scaled_one(num_envs, tmp_path):
    """Torques from -1 to .5 and from 3 to 10; the reward is their sum."""
    folder = train(sac, tmp_path, env_id="probes:Asymmetric-v0", num_envs=num_envs, **SMALL)
    buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
    action = buffer["action"].flatten(0, 1)
    assert action.min() < -0.9 and action.max() > 0.9 and action.abs().max() <= 1
    total = -0.25 + 0.75 * action[:, 0] + 6.5 + 3.5 * action[:, 1]
    assert torch.allclose(buffer["reward"].flatten(), total, atol=1e-4)


def test_learning_does_not_depend_on_the_bounds(tmp_path):
    """Other bounds, another shape and type of the action: the same bits, so the entropy and its target are of
    the action in [-1, 1]."""
    states = []
    for name in "Torques", "WideTorques":
        folder = train(sac, tmp_path, env_id=f"probes:{name}-v0", **SMALL)
        states.append(checkpoint(folder / "checkpoint.pt"))
    assert {line.partition(":")[0] for line in differences(*states)} == {"/args/env_id"}


# ---- the replay buffer

class Game:
    """Steps of num_envs environments, in which observations and actions occur once; `steps` keeps them."""

    def __init__(self, num_envs, seed, ends=0.2):
        self.num_envs, self.rng, self.ends, self.number = num_envs, np.random.default_rng(seed), ends, 0
        self.obs, self.steps = self.new(3), []

    def new(self, width):
        self.number += self.num_envs
        numbers = np.arange(self.number - self.num_envs, self.number, dtype=np.float32)
        return np.repeat(numbers[:, None], width, axis=1)

    def step(self):
        """Arguments of ReplayBuffer.add."""
        obs, action, next_obs = self.obs, self.new(2), self.new(3)
        reward = self.rng.normal(size=self.num_envs)
        terminated, truncated = self.rng.random((2, self.num_envs)) < self.ends / 2
        self.obs = np.where((terminated | truncated)[:, None], self.new(3), next_obs)
        self.steps.append([part.copy() for part in (obs, action, reward, terminated, next_obs)])
        return obs, action, reward, terminated, truncated, next_obs

    def drawable(self, size):
        """{action: (obs, action, reward, terminated, next_obs)} of the last size / N vector steps but one."""
        rows = self.steps[:-1][-math.ceil(size / self.num_envs):]
        return {row[1][i, 0]: [part[i] for part in row] for row in rows for i in range(self.num_envs)}


def compare(buffer, expected, rng):
    """Every draw is as it was, and all that can be drawn is."""
    draws = buffer.sample(rng, max(60, 15 * len(expected)), CPU)
    seen = set()
    for obs, action, reward, terminated, next_obs in zip(*(part.numpy() for part in draws), strict=True):
        want = expected[action[0]]  # a KeyError: this one cannot be drawn
        assert np.array_equal(obs, want[0]) and np.array_equal(action, want[1])
        assert np.array_equal(next_obs, want[4]) and terminated == want[3]
        assert reward == pytest.approx(want[2], abs=1e-6)
        seen.add(action[0])
    assert seen == set(expected)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("size, ends", [(24, 0.2), (7, 0.5), (30, 0.02)])
def test_buffer_against_lists_of_steps(size, ends, num_envs):
    """Small, so that it wraps around many times; looked at while it fills and after every so many steps."""
    game, rng = Game(num_envs, 0, ends), np.random.default_rng(0)
    buffer = sac.ReplayBuffer(size, num_envs, 3, 2)
    for step in range(1, 161):
        transition = game.step()
        buffer.add(*[part.copy() for part in transition])
        if step > 1 and (step < 12 or step % 13 == 0):
            compare(buffer, game.drawable(size), rng)


@pytest.mark.parametrize("ends", [0, 0.3])
@pytest.mark.parametrize("num_envs", [1, 2, 5])
def test_exactly_buffer_size_can_be_drawn(num_envs, ends):
    game, buffer = Game(num_envs, 0, ends), sac.ReplayBuffer(10, num_envs, 3, 2)
    for _ in range(100):
        buffer.add(*game.step())
    assert len(buffer.sample(np.random.default_rng(0), 500, CPU).action[:, 0].unique()) == 10
    assert len(buffer.final) <= buffer.ended.sum()  # the ends of what was overwritten are gone


def test_the_buffer_keeps_no_array_of_its_caller():
    game, buffer = Game(2, 0, ends=0.5), sac.ReplayBuffer(40, 2, 3, 2)
    for _ in range(20):
        transition = game.step()
        buffer.add(*transition)
        for array in transition[1:]:  # environments may reuse their arrays
            array[...] = 77
    compare(buffer, game.drawable(40), np.random.default_rng(0))


def test_batch_shapes_and_types():
    game, buffer = Game(2, 0), sac.ReplayBuffer(40, 2, 3, 2)
    for _ in range(15):
        buffer.add(*game.step())
    kinds = [(tuple(part.shape), part.dtype) for part in buffer.sample(np.random.default_rng(0), 5, CPU)]
    shapes = (5, 3), (5, 2), (5,), (5,), (5, 3)
    assert kinds == [(shape, torch.float32) for shape in shapes]


def test_draws_are_uniform():
    """Chi-square over all that can be drawn. With 57 degrees of freedom, 105 has a probability of 1e-4."""
    game, buffer = Game(2, 0), sac.ReplayBuffer(80, 2, 3, 2)
    for _ in range(30):
        buffer.add(*game.step())
    counts = Counter(buffer.sample(np.random.default_rng(0), 50_000, CPU).action[:, 0].tolist())
    mean = 50_000 / 58
    assert len(counts) == 58 and sum((count - mean) ** 2 / mean for count in counts.values()) < 105


@pytest.mark.parametrize("steps", [5, 107])
def test_a_restored_buffer_goes_on_alike(steps):
    """Filled in part or wrapped around: only written rows are in the state, and everything after is equal."""
    game, buffer = Game(2, 0), sac.ReplayBuffer(40, 2, 3, 2)
    for _ in range(steps):
        buffer.add(*game.step())
    state = copy.deepcopy(buffer.state_dict())
    assert len(state["obs"]) == min(steps, 21)
    restored = sac.ReplayBuffer(40, 2, 3, 2)
    restored.load_state_dict(state)
    for _ in range(60):
        transition = game.step()
        buffer.add(*transition)
        restored.add(*transition)
        a, b = (one.sample(np.random.default_rng(game.number), 50, CPU) for one in (buffer, restored))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# ---- training

def watch(monkeypatch, record):
    """Let record(name, module of the last Critic call, its obs, arguments) see each call of a loss."""
    last = []
    forward = sac.Critic.forward

    def watched_forward(self, obs, action):
        last[:] = [self, obs, action]
        return forward(self, obs, action)

    def watched(name, function):
        return lambda *args: record(name, last, args) or function(*args)

    monkeypatch.setattr(sac.Critic, "forward", watched_forward)
    for name in WATCHED:
        monkeypatch.setattr(sac, name, watched(name, getattr(sac, name)))


def watch_batches(monkeypatch):
    """A list that grows with each batch that is drawn."""
    batches, sample = [], sac.ReplayBuffer.sample

    def watched(*args):
        batches.append(sample(*args))
        return batches[-1]

    monkeypatch.setattr(sac.ReplayBuffer, "sample", watched)
    return batches


def leaves(tensor):
    """The tensors that its gradient reaches."""
    found, todo = [], [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [parent for parent, _ in node.next_functions if parent]
    return found


def vector(net):
    return nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def test_who_learns_from_what(tmp_path, monkeypatch):
    """The target is the target critics', without a gradient; the losses are the critics'; and the gradient of
    the policy loss reaches the policy, through the critics but no weight of theirs."""
    seen, batches, drawn = [], watch_batches(monkeypatch), []
    sample_action = sac.sample_action

    def watched(policy, obs, rng):
        drawn[:] = obs, *sample_action(policy, obs, rng)
        return drawn[1:]

    monkeypatch.setattr(sac, "sample_action", watched)

    def record(name, last, args):
        seen.append((name, last[0] if last else None))
        if name == "soft_target":
            assert not any(isinstance(part, torch.Tensor) and part.requires_grad for part in args)
            assert last[1] is drawn[0] is batches[-1].next_obs and last[2] is drawn[1] and args[3] is drawn[2]
            assert args[0] is batches[-1].reward and args[1] is batches[-1].terminated
        if name == "critic_loss":
            q, y = args
            assert q.shape == (2, 8) and y.shape == (8,) and not y.requires_grad
            assert last[1] is batches[-1].obs and last[2] is batches[-1].action
            assert {id(part) for part in leaves(q)} == {id(part) for part in last[0].parameters()}
        if name == "policy_loss":
            logp, q, alpha = args
            assert logp.shape == (8,) and q.shape == (2, 8) and not alpha.requires_grad
            assert last[1] is drawn[0] is batches[-1].obs and last[2] is drawn[1] and logp is drawn[2]
            mine, critics = ({id(part) for part in leaves(part)} for part in (logp, q))
            assert critics <= mine and len(mine) == 6
            assert not mine & {id(part) for part in last[0].parameters()}
        if name == "temperature_loss":
            assert args[2] == -1 and args[0].requires_grad

    watch(monkeypatch, record)
    train(sac, tmp_path, **SMALL)
    names, nets = zip(*seen, strict=True)
    assert names == WATCHED * 150
    targets, critics, policy_s = (set(nets[i::4]) for i in range(3))
    assert len(targets) == len(critics) == 1 and policy_s == critics != targets


def test_target_critics_follow(tmp_path, monkeypatch):
    """Equal at first, and after each update tau nearer; the critics learn in each."""
    seen = {"soft_target": [], "critic_loss": []}

    def record(name, last, args):
        if name in seen:
            seen[name].append(vector(last[0]))

    watch(monkeypatch, record)
    train(sac, tmp_path, tau=0.1, **SMALL)
    targets, critics = seen.values()
    assert torch.equal(targets[0], critics[0]) and len(targets) == 150
    for i in range(1, 150):
        assert torch.equal(targets[i], torch.lerp(targets[i - 1], critics[i], 0.1))
        assert not torch.equal(critics[i], critics[i - 1])


@pytest.mark.parametrize("num_envs", [1, 8])
@pytest.mark.parametrize("train_frequency", [1, 4])
def test_counts_do_not_depend_on_the_number_of_environments(num_envs, train_frequency, tmp_path, monkeypatch):
    """400 transitions, updates from 200 on."""
    count, add = Counter(), sac.ReplayBuffer.add

    def counted_add(self, obs, *rest):
        count["transitions"] += len(obs)
        return add(self, obs, *rest)

    watch(monkeypatch, lambda name, *_: count.update([name]))
    monkeypatch.setattr(sac.ReplayBuffer, "add", counted_add)
    folder = train(sac, tmp_path, total_timesteps=400, num_envs=num_envs, learning_starts=200, batch_size=8,
                   train_frequency=train_frequency, buffer_size=400, eval_episodes=1)
    assert count == {"transitions": 400, **dict.fromkeys(WATCHED, 200 // train_frequency)}
    assert checkpoint(folder / "checkpoint.pt")["step"] == 400


def test_warm_up_ends_on_time(tmp_path, monkeypatch):
    """Action 51 is the first that is drawn from the policy."""
    warm_up, act = [], sac.act

    def watched(*args, **kwargs):
        warm_up.append(kwargs["warm_up"])
        return act(*args, **kwargs)

    monkeypatch.setattr(sac, "act", watched)
    train(sac, tmp_path, **SMALL)
    assert warm_up == [True] * 50 + [False] * 150


@pytest.mark.parametrize("num_envs", [1, 3])
def test_no_transition_goes_from_one_episode_to_the_next(num_envs, tmp_path, monkeypatch):
    """Observations are numbers: 10 * episode + step, two steps, of which the second terminates; environments
    seldom end together."""
    batches = watch_batches(monkeypatch)
    train(sac, tmp_path, env_id="probes:ApartBox-v0", num_envs=num_envs, **{**SMALL, "buffer_size": 40})
    obs, next_obs, terminated = (torch.cat([getattr(batch, name) for batch in batches]).squeeze()
                                 for name in ("obs", "next_obs", "terminated"))
    assert (next_obs - obs == 1).all() and len(obs.unique()) > 40
    assert torch.equal(terminated, obs % 10)


def test_a_time_limit_or_a_checkpoint_terminates_nothing(tmp_path):
    """Saves after 101 and 202 steps, in episodes of 5."""
    folder = train(sac, tmp_path, env_id="probes:LimitBox-v0", checkpoint_frequency=101,
                   **{**SMALL, "total_timesteps": 203})
    buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
    lengths = np.diff(np.flatnonzero(buffer["ended"]), prepend=-1)
    assert lengths.tolist() == 2 * ([5] * 20 + [1]) + [1] and not buffer["terminated"].any()


def test_alpha_is_learned_or_fixed(tmp_path):
    """Log alpha, from the log of the argument. At first the entropy is far above -1, so it falls."""
    folders = [train(sac, tmp_path, autotune=autotune, alpha=0.4, learning_rate=1e-3, **SMALL)
               for autotune in (True, False)]
    learned, fixed = (checkpoint(folder / "checkpoint.pt") for folder in folders)
    assert fixed["temperature"]["0"].item() == pytest.approx(math.log(0.4))
    steps = 150 * 1e-3  # of Adam, all in one direction
    assert learned["temperature"]["0"].item() == pytest.approx(math.log(0.4) - steps, abs=0.01)
    assert not fixed["temperature_optimizer"]["state"] and learned["temperature_optimizer"]["state"]


def test_what_is_logged(tmp_path):
    folder = train(sac, tmp_path, autotune=False, alpha=0.4, **SMALL)
    tags = events(folder)
    losses = {tag.partition("/")[2] for tag in tags if tag.startswith("losses/")}
    assert losses == {"critic_loss", "policy_loss", "entropy", "alpha"}
    assert tags["losses/alpha"] == [(200, pytest.approx(0.4))]
    assert -1 < tags["losses/entropy"][0][1] < 0.7  # log 2 is the most that there is in [-1, 1]


def test_what_is_typed_beside_resume_counts(tmp_path):
    """A rate in all three optimizers; and without --autotune the temperature."""
    call("sac", *"--total-timesteps 100 --learning-starts 50 --batch-size 8 --eval-episodes 1".split(),
         cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    before = checkpoint(path)
    nets = {"policy", "critic", "target_critic", "temperature"}
    optimizers = {"policy_optimizer", "critic_optimizer", "temperature_optimizer"}
    rest = {"buffer", "rng", "torch", "step", "args", "script", "recent"}
    assert set(before) == nets | optimizers | rest
    assert all(before[name]["state"] for name in optimizers)
    typed = "--total-timesteps 101 --learning-rate 0.002 --no-autotune --alpha 0.7".split()
    call("sac", "--resume", path, *typed, cwd=tmp_path)
    after = checkpoint(path)
    assert {after[name]["param_groups"][0]["lr"] for name in optimizers} == {0.002}
    assert before["temperature"]["0"].item() < math.log(0.2)
    assert after["temperature"]["0"].item() == pytest.approx(math.log(0.7))


# ---- probes

def entropy(mean, std):
    """Of tanh(u), u ~ N(mean, std^2), by quadrature."""
    u = torch.linspace(mean - 10 * std, mean + 10 * std, 20_001, dtype=torch.float64)
    density = Normal(mean, std).log_prob(u).exp()
    return torch.trapezoid(-density * pointwise(u, mean, std), u).item()


def test_entropy_by_quadrature():
    assert entropy(0.0, 0.8745) == pytest.approx(0.6836, abs=1e-4)  # the most a squashed Gaussian has
    assert entropy(0.0, 1.0) == pytest.approx(0.6698, abs=1e-4)
    assert entropy(0.0, 0.5) == pytest.approx(0.5000, abs=1e-4)


PROBE = {"learning_starts": 100, "batch_size": 32, "learning_rate": 1e-3, "autotune": False,
         "eval_episodes": 1}


def nets(folder):
    state = checkpoint(folder / "checkpoint.pt")
    policy, critic = sac.Policy(1, 1), sac.Critic(1, 1)
    policy.load_state_dict(state["policy"])
    critic.load_state_dict(state["critic"])
    return policy, critic


def soft_q(folder, obs):
    """Both critics' mean over actions of the policy: (2,)."""
    policy, critic = nets(folder)
    obs = torch.full((4000, 1), float(obs))
    with torch.no_grad():
        action, _ = sac.sample_action(policy, obs, np.random.default_rng(0))
        return critic(obs, action).mean(dim=1).tolist()


def test_without_reward_entropy_is_the_most_there_is(tmp_path):
    """Probe 8: mean 0, standard deviation .8745, entropy .6836."""
    folder = train(sac, tmp_path, env_id="probes:Probe8-v0", total_timesteps=2000, alpha=1.0, **PROBE)
    mean, log_std = nets(folder)[0](torch.zeros(1, 1))
    assert entropy(mean.item(), log_std.exp().item()) == pytest.approx(0.6836, abs=0.01)
    assert mean.item() == pytest.approx(0, abs=0.1)
    assert log_std.exp().item() == pytest.approx(0.8745, abs=0.08)


def test_soft_values(tmp_path):
    """Probe 9: Q(1) = 1, and Q(0) = .99 * (1 + .2 * .6836): not .99, without the entropy at 1."""
    folder = train(sac, tmp_path, env_id="probes:Probe9-v0", total_timesteps=3000, alpha=0.2, tau=0.02,
                   **PROBE)
    assert soft_q(folder, 1) == pytest.approx([1, 1], abs=0.05)
    assert soft_q(folder, 0) == pytest.approx([1.1254] * 2, abs=0.05)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_time_limit_is_no_end(num_envs, tmp_path):
    """Reward 3 a step, cut at 5, gamma .8: 15, with .8 * .01 * .68 / .2 for the entropy; 10 if the end of an
    episode is a terminal state."""
    folder = train(sac, tmp_path, env_id="probes:LimitBox-v0", total_timesteps=2500, num_envs=num_envs,
                   gamma=0.8, alpha=0.01, tau=0.05, **PROBE)
    assert soft_q(folder, 0) == pytest.approx([15.03] * 2, abs=0.1)
