"""Networks, distributions, noise and normalisers of the ten scripts: what is drawn and how often, actions in
every kind of space, first weights, shared weights, running statistics against numpy."""
import math

import numpy as np
import pytest
import torch
from common import POLICY, VALUE, having, load, train
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import nn

dueling_dqn, noisy_dqn, vpg, a2c, ppo, sac = map(
    load, ("dueling_dqn", "noisy_dqn", "vpg", "a2c", "ppo", "sac"))
CPU = "cpu"
same = torch.testing.assert_close


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def frames(number):
    return torch.randint(256, (number, 4, 84, 84), dtype=torch.uint8)


def observations(shape, number):
    return frames(number) if len(shape) == 3 else torch.randn(number, *shape)


def q_network(script, shape):
    """For six actions."""
    return load(script).QNetwork(shape, 6)


# ---- distributions

@pytest.mark.parametrize("script", having("Categorical"))
@pytest.mark.parametrize("logits, actions", [
    ([0.0, 1.0, -2.0], None), ([[0.0, 1.0], [3.0, 0.5]], [(0, 0), (0, 1), (1, 0), (1, 1)])])
def test_sampling_frequencies(script, logits, actions):
    """Chi-square of 1e5 draws in rows of a batch, which are independent, as those of several actions are.
    Of 3 degrees of freedom it exceeds 25 with a probability of 2e-5, of 15 it exceeds 50 with 1e-5."""
    logp = torch.tensor(logits).log_softmax(-1)
    drawn, p = load(script).Categorical(logp.expand(100_000, *logp.shape)).sample(), logp.exp()
    assert drawn.dtype == torch.int64
    if actions:
        p = torch.stack([p[0, i] * p[1, j] for i, j in actions])
        drawn = 2 * drawn[:, 0] + drawn[:, 1]
    size = len(p)
    for part, want, bound in (drawn, p, 25), (size * drawn[::2] + drawn[1::2], p[:, None] * p, 50):
        counts, expected = torch.bincount(part, minlength=want.numel()), want.flatten() * len(part)
        assert ((counts - expected) ** 2 / expected).sum() < bound


@pytest.mark.parametrize("script", having("Normal"))
def test_sampling_a_normal(script):
    mean, log_std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, -1.0])
    drawn = load(script).Normal(mean.expand(100_000, 2), log_std).sample()
    same(drawn.mean(0), mean, atol=0.03, rtol=0)
    same(torch.cov(drawn.T), torch.diag((2 * log_std).exp()), atol=0.05, rtol=0)
    assert abs(torch.corrcoef(torch.stack([drawn[::2, 0], drawn[1::2, 0]]))[0, 1]) < 0.03
    with pytest.raises(RuntimeError):  # (4,) would broadcast to (4, 4)
        load(script).Normal(torch.zeros(4, 1), torch.zeros(1)).log_prob(torch.zeros(4))


@pytest.mark.parametrize("script", having("Normal"))
def test_a_normal_of_a_whole_rollout(script):
    """(T, N, A) gives the numbers of its rows, (T * N, A), also where the deviation depends on the state."""
    normal = load(script).Normal
    mean, log_std, action = torch.randn(3, 5, 4, 2)
    whole, rows = normal(mean, log_std), normal(mean.flatten(0, 1), log_std.flatten(0, 1))
    same(whole.log_prob(action).flatten(), rows.log_prob(action.flatten(0, 1)))
    if script != "reinforce":  # it has no entropy
        same(whole.entropy().flatten(), rows.entropy())


@pytest.mark.parametrize("script", having("Policy", POLICY))
def test_values_that_an_action_does_not_have(script):
    """MultiDiscrete([2, 4, 1]): 4 logits for each. Those that are absent are never drawn, and have no part in
    entropy and log-probability, nor in the gradient."""
    policy = load(script).Policy((3,), MultiDiscrete([2, 4, 1]))
    nn.init.normal_(policy.head.weight)
    dist = policy(torch.randn(500, 3))
    drawn = torch.cat([dist.sample() for _ in range(20)])
    assert drawn.shape == (10_000, 3)
    assert [set(column.tolist()) for column in drawn.T] == [{0, 1}, {0, 1, 2, 3}, {0}]
    assert (dist.mode() <= torch.tensor([1, 3, 0])).all()
    logits = policy.head(policy.body(torch.zeros(1, 3)))  # the gradient below is of these
    assert logits.shape == (1, 12)
    p = dist.logp.exp()
    assert p.shape == (500, 3, 4) and p[:, 0, 2:].abs().max() == 0 and p[:, 2, 1:].abs().max() == 0
    same(p.sum(2), torch.ones(500, 3))
    entropy = dist.entropy() if script != "reinforce" else 0.0
    (dist.log_prob(drawn[:500]) + entropy).sum().backward()
    grad = policy.head.weight.grad.view(3, 4, -1)
    assert grad.isfinite().all() and grad[0, 2:].abs().max() == 0 == grad[2].abs().max() < grad[1].abs().min()


@pytest.mark.parametrize("script", having("Policy", POLICY))
@pytest.mark.parametrize("space, shape", [
    (Discrete(4), (5,)), (MultiDiscrete([3, 2]), (5, 2)),
    (Box(-3, 0.5, (2,), np.float16), (5, 2))])
def test_policies_of_each_kind_of_action(script, space, shape):
    module, obs = load(script), torch.randn(5, 3)
    policy = module.Policy((3,), space)
    nn.init.normal_(policy.head.weight)
    dist = policy(obs)
    sample = dist.sample()
    assert dist.log_prob(sample).shape == (5,) and not sample.requires_grad
    assert script == "reinforce" or dist.entropy().shape == (5,)
    drawn = module.act(policy, obs.numpy(), CPU)
    best = module.act(policy, obs.numpy(), CPU, greedy=True)
    assert drawn.shape == best.shape == shape and np.array_equal(best, dist.mode().detach().numpy())
    many = np.stack([module.act(policy, obs.numpy(), CPU) for _ in range(50)])
    assert (many != many[0]).any()
    for row in module.to_env(drawn, space):
        assert space.contains(row)
    if isinstance(space, Box):  # the deviation is a parameter, whatever the observation
        assert torch.equal(dist.mode(), policy.head(policy.body(obs)))
        assert policy.log_std.tolist() == [0, 0] and dist.log_std is policy.log_std
    else:
        assert torch.equal(dist.mode(), dist.logp.argmax(-1)) and module.to_env(drawn, space) is drawn


@pytest.mark.parametrize("script", having("act", POLICY))
def test_acting_builds_no_graph(script):
    seen, policy = [], load(script).Policy((3,), Discrete(4))
    policy.head.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    for greedy in False, True:
        load(script).act(policy, np.zeros((5, 3), np.float32), CPU, greedy=greedy)
    policy(torch.zeros(5, 3))
    assert seen == [False, False, True]


@pytest.mark.parametrize("script", having("to_env"))
class TestToEnv:
    def test_each_dimension_has_its_own_bounds(self, script):
        """-1, 0 and 1 are its lowest, middle and highest action. What lies beyond is clipped."""
        low, high = np.array([-1, 3, -0.1], np.float32), np.array([0.5, 10, 0.7], np.float32)
        action = np.float32([[-1, -1, -1], [0, 0, 0], [1, 1, 1], [-1, 0, 1], [-9, 0.5, 9]])
        scaled = load(script).to_env(action, Box(low, high))
        assert scaled.dtype == np.float32 and (scaled[0] == low).all() and (scaled[2] == high).all()
        assert scaled[1] == pytest.approx((low + high) / 2) and scaled[3] == pytest.approx([-1, 6.5, 0.7])
        assert scaled[4] == pytest.approx([-1, 8.25, 0.7])

    def test_rounding_does_not_leave_the_bounds(self, script):
        """In [low, low], say."""
        rng = np.random.default_rng(0)
        for width in 0, 1e-6, 1:
            low = rng.normal(size=1000).astype(np.float32)
            space = Box(low, low + np.float32(width) * rng.random(1000).astype(np.float32))
            action = np.concatenate([rng.uniform(-1, 1, (20, 1000)), -np.ones((1, 1000)), np.ones((1, 1000))])
            assert all(space.contains(row) for row in load(script).to_env(action.astype(np.float32), space))

    def test_huge_bounds_and_other_types_and_shapes(self, script):
        space = Box(np.array([-3.0, -1e308]), np.array([1.0, 1e308]), dtype=np.float64)
        scaled = load(script).to_env(np.float32([[-1, 0], [1, 1]]), space)
        assert scaled.dtype == np.float64 and scaled.tolist() == [[-3, 0], [1, 1e308]]
        space = Box(np.float32([[-3, 0], [1, 2]]), np.float32([[1, 8], [2, 2]]))
        if script == "sac":
            scaled = load(script).to_env(np.float32([[-1, 1, 0, 0]] * 5), space)
            assert scaled.shape == (5, 2, 2) and scaled[0].tolist() == [[-3, 8], [1.5, 2]]


# ---- networks

@pytest.mark.parametrize("script", having("Policy", POLICY))
def test_first_weights_of_a_policy(script):
    """Orthogonal, without bias. The policy begins nearly uniform."""
    policy = load(script).Policy((3,), Discrete(4))
    first, second = policy.body.layers[0].weight, policy.body.layers[2].weight
    same(first.T @ first, 2 * torch.eye(3))
    same(second @ second.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    same(policy.head.weight @ policy.head.weight.T, 1e-4 * torch.eye(4))
    assert all(part.abs().max() == 0 for name, part in policy.named_parameters() if "bias" in name)


@pytest.mark.parametrize("script", having("Critic", POLICY))
def test_first_weights_of_a_critic(script):
    critic = load(script).Critic((3,))
    assert critic.head.weight.norm().item() == pytest.approx(1, abs=1e-5)
    assert critic(torch.randn(7, 3)).shape == (7,)
    assert all(part.abs().max() == 0 for name, part in critic.named_parameters() if "bias" in name)


@pytest.mark.parametrize("script, name", [(script, name) for name, scripts in (
    ("QNetwork", VALUE), ("Body", POLICY)) for script in having(name, scripts)])
def test_frames_are_scaled_to_1_and_stay_as_they_are(script, name):
    obs = frames(3)
    before = obs.clone()
    net = getattr(load(script), name)((4, 84, 84)) if name == "Body" else q_network(script, (4, 84, 84))
    scaled = obs / 255
    with torch.no_grad():
        same(net(obs), net(scaled), atol=1e-5, rtol=1e-4)  # floats are taken as they come
        assert net(obs).shape == (3, 6 if name == "QNetwork" else 512)
        assert not torch.allclose(net(obs), net(obs.float()), atol=1e-2)
    assert torch.equal(obs, before)


@pytest.mark.parametrize("script", having("ActorCritic"))
def test_policy_and_critic_are_apart_for_vectors_and_share_a_body_for_frames(script):
    for shape in (3,), (4, 84, 84):
        net, obs = load(script).ActorCritic(shape, Discrete(6), norm_obs=False), observations(shape, 2)
        dist, value = net(obs)
        same((dist.logp, value), (net.policy(obs).logp, net.critic(obs)), atol=1e-6, rtol=1e-5)
        assert value.shape == (2,)
        net.critic(obs).sum().backward()
        reached = {name for name, part in net.named_parameters() if part.grad is not None and part.grad.any()}
        shared = {name for name in reached if name.startswith("policy")}
        assert bool(shared) == (len(shape) == 3) and not any("head" in name for name in shared)
        sizes = sum(part.numel() for part in net.parameters())
        body, heads = (1_684_128, 7 * 513) if shared else (2 * (4 * 64 + 65 * 64), 7 * 65)
        assert sizes == body + heads


@pytest.mark.parametrize("script", having("ActorCritic"))
def test_observations_are_normalised_in_front_of_both(script):
    """The statistics are in the state that is saved, but no parameters."""
    net, obs = load(script).ActorCritic((3,), Discrete(4), norm_obs=True), 2 * torch.randn(7, 3) + 1
    plain = load(script).ActorCritic((3,), Discrete(4), norm_obs=False)
    assert {name for name, _ in net.named_parameters()} == {
        name.replace("body", "body.1") for name, _ in plain.named_parameters()}
    plain.load_state_dict({name.replace("body.1", "body"): x for name, x in net.state_dict().items()
                           if "mean" not in name and "var" not in name and "count" not in name})
    with torch.no_grad():
        same(net(obs), plain(obs), atol=1e-5, rtol=1e-5)  # nothing was seen yet
        net.norm.update(obs)
        same(net(obs), plain(net.norm(obs)))
        assert not torch.allclose(net(obs)[1], plain(obs)[1], atol=1e-3)
    other = load(script).ActorCritic((3,), Discrete(4), norm_obs=True)
    other.load_state_dict(net.state_dict())
    same(other(obs), net(obs), atol=0, rtol=0)


# ---- normalisers

@pytest.mark.parametrize("script", having("RunningNorm"))
@pytest.mark.parametrize("shape", [(), (3,)])
def test_running_norm_against_numpy(script, shape):
    """On all rows at once, after 1e-4 rows of mean 0 and variance 1; far from 0, too. All in float32."""
    rng = np.random.default_rng(0)
    for offset, scale in (0, 1), (100, 0.1), (-3, 50):
        norm, rows = load(script).RunningNorm(shape), []
        for size in (1, 1, 8, 3, 100, 1):
            rows.append((offset + scale * rng.normal(size=(size, *shape))).astype(np.float32))
            norm.update(torch.from_numpy(rows[-1]))
        x = np.concatenate(rows).astype(np.float64)
        total = len(x) + 1e-4
        mean = x.sum(0) / total
        var = (x.var(0) * len(x) + len(x) * 1e-4 / total * x.mean(0) ** 2 + 1e-4) / total
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-6, atol=1e-6 * scale)
        np.testing.assert_allclose(norm.var, var, rtol=1e-3 if offset == 100 else 1e-5)
        assert norm.count.item() == pytest.approx(total)
        assert {x.dtype for x in norm.state_dict().values()} == {torch.float32}
        scaled = np.clip((rows[4] - mean) / np.sqrt(var + 1e-8), -10, 10)
        np.testing.assert_allclose(norm(torch.from_numpy(rows[4])), scaled, atol=1e-3, rtol=1e-3)
    assert norm(torch.full((1, *shape), 1e9)).unique().item() == 10
    assert norm(torch.full((1, *shape), -1e9)).unique().item() == -10


@pytest.mark.parametrize("script", having("RunningNorm"))
def test_a_restored_norm_goes_on_alike(script):
    norm, other = (load(script).RunningNorm((2,)) for _ in range(2))
    norm.update(torch.randn(5, 2))
    other.load_state_dict(norm.state_dict())
    more = 3 * torch.randn(9, 2) + 7
    norm.update(more)
    other.update(more)
    assert torch.equal(norm(more), other(more)) and not list(norm.parameters())


def test_running_mean_against_numpy():
    past, rows = vpg.RunningMean(), []
    for size in (1,), (5,), (1, 2), (4, 25):
        rows.append(torch.randn(size) + 3)
        past.update(rows[-1].clone().requires_grad_())
        rows[-1] = rows[-1].flatten()
        assert not past.mean.requires_grad
        assert past.mean.item() == pytest.approx(torch.cat(rows).mean().item(), rel=1e-5)
    other = vpg.RunningMean()
    other.load_state_dict(past.state_dict())
    assert torch.equal(other.mean, past.mean) and other.count == 108


# ---- sac.py

def test_critics_are_two_networks():
    """Each as if it were alone, without a weight in common, and initialised as torch's layers are."""
    critic, obs, action = sac.Critic(3, 2), torch.randn(10, 3), torch.randn(10, 2)
    q = critic(obs, action)
    assert q.shape == (2, 10)
    layers = [layer for layer in critic.modules() if isinstance(layer, sac.TwinLinear)]
    for i in range(2):
        x = torch.cat([obs, action], dim=1)
        for layer in layers:
            bound = x.shape[1] ** -0.5
            assert 0.9 * bound < layer.weight[i].abs().max() <= bound
            assert not torch.isclose(layer.weight[0], layer.weight[1], atol=0).all()
            x = (torch.relu(x) if layer is not layers[0] else x) @ layer.weight[i] + layer.bias[i]
        same(q[i], x[:, 0], atol=1e-6, rtol=1e-5)
    assert (q[0] - q[1]).abs().min() > 1e-4
    q[0].sum().backward()
    assert all(part.grad[0].any() and not part.grad[1].any() for part in critic.parameters())
    one = nn.Sequential(nn.Linear(5, 256), nn.Linear(256, 256), nn.Linear(256, 1))
    assert sum(x.numel() for x in critic.parameters()) == 2 * sum(x.numel() for x in one.parameters())


def test_policy_has_a_bounded_standard_deviation():
    policy = sac.Policy(3, 2)
    nn.init.normal_(policy.head.weight, std=100)
    mean, log_std = policy(torch.randn(100, 3))
    assert mean.shape == log_std.shape == (100, 2) and mean.abs().max() > 20
    assert log_std.min() == -20 and log_std.max() == 2


def constant(mean, std):
    """A policy of sac.py that is the same everywhere."""
    policy = sac.Policy(1, len(mean))
    nn.init.zeros_(policy.head.weight)
    policy.head.bias.data = torch.tensor([*mean, *(math.log(part) for part in std)])
    return policy


def test_greedy_is_the_tanh_of_the_mean():
    action = sac.act(constant([0.5, -3.0], [1.0, 0.1]), np.zeros((4, 1), np.float32), CPU, greedy=True)
    assert action.shape == (4, 2) and action == pytest.approx(np.tanh([[0.5, -3.0]] * 4), abs=1e-6)


def test_actions_are_drawn_from_the_policy():
    """In every environment and dimension alike and on its own."""
    policy = constant([0.5, -0.2], [0.3, 0.6])
    u = np.arctanh(sac.act(policy, np.zeros((20_000, 1), np.float32), CPU))
    assert u.mean(axis=0) == pytest.approx([0.5, -0.2], abs=0.02)
    assert u.std(axis=0) == pytest.approx([0.3, 0.6], rel=0.03)
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.03 and abs(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]) < 0.03


def test_acting_of_sac_builds_no_graph():
    policy, seen = sac.Policy(3, 2), []
    policy.register_forward_hook(lambda module, inputs, output: seen.append(output[0].requires_grad))
    policy.head.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    for greedy in False, True:
        sac.act(policy, np.zeros((5, 3), np.float32), CPU, greedy=greedy)
    assert seen and not any(seen)
    policy(torch.zeros(5, 3))
    assert seen[-1]


# ---- dueling_dqn.py

@pytest.mark.parametrize("shape", [(3,), (4, 84, 84)])
def test_value_is_the_mean_and_advantages_have_no_level(shape):
    """mean_a Q = V; the same actions are best in Q and A; A + 5 leaves Q as it is and V + 5 raises it. The
    hidden layer of each stream is rectified."""
    net, obs = q_network("dueling_dqn", shape), 5 * torch.randn(40, 3) if len(shape) == 1 else frames(4)
    streams = {}
    for name in "value", "advantage":
        getattr(net, name).register_forward_hook(
            lambda _, x, y, name=name: streams.update({name: (x[0].clone(), y.clone())}))
    with torch.no_grad():
        q = net(obs)
        (of_value, value), (of_advantage, adv) = streams["value"], streams["advantage"]
        assert of_value.min() == 0 == of_advantage.min() < of_value.max() and of_advantage.max() > 0
        assert q.shape == adv.shape == (len(obs), 6) and value.shape == (len(obs), 1)
        same(q.mean(1, keepdim=True), value, atol=1e-5, rtol=0)
        assert torch.equal(q.argmax(1), adv.argmax(1))
        net.advantage.bias += 5
        same(net(obs), q, atol=1e-5, rtol=0)
        net.value.bias += 5
        same(net(obs), q + 5, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape, width, hidden", [((3,), 120, 42), ((4, 84, 84), 3136, 512)])
def test_each_stream_has_a_hidden_layer_of_its_own(shape, width, hidden):
    """On one shared body (Fig. 1): what feeds one does not reach the other."""
    net = q_network("dueling_dqn", shape)
    _, *rest = net.children()
    layers = [layer for part in rest for layer in part.modules() if isinstance(layer, nn.Linear)]
    assert [tuple(x.weight.shape) for x in layers] == [(2 * hidden, width), (1, hidden), (6, hidden)]
    obs = observations(shape, 2)
    net(obs).sum().backward()  # the mean over actions leaves A no gradient, to rounding
    of_value, of_advantage = layers[0].weight.grad.split(hidden)
    assert of_value.abs().max() > 1e-4 and of_advantage.abs().max() < 1e-5
    net(obs)[:, 0].sum().backward()
    assert of_advantage.abs().max() > 1e-4


# ---- noisy_dqn.py

def noise_of(net):
    """All noise of a network as one tuple of bits."""
    return tuple(getattr(net.head[i], name).numpy().tobytes() for i in (0, 2) for name in ("eps_w", "eps_b"))


def test_moments_of_the_noise():
    """Mean 0; variances of weights and biases; fourth moment of the weights. 12,000 Gaussians a side."""
    layer, eps_w, eps_b = noisy_dqn.NoisyLinear(600, 600), [], []
    for _ in range(20):
        layer.draw_noise()
        eps_w.append(layer.eps_w)
        eps_b.append(layer.eps_b)
    eps_w, eps_b = torch.stack(eps_w), torch.stack(eps_b)
    assert abs(eps_b.mean()) < 0.04 and abs(eps_w.mean()) < 0.005
    assert eps_b.var().item() == pytest.approx(math.sqrt(2 / math.pi), rel=0.05)
    assert eps_w.var().item() == pytest.approx(2 / math.pi, rel=0.05)
    assert (eps_w**4).mean().item() / eps_w.var().item() ** 2 == pytest.approx(math.pi**2 / 4, rel=0.1)


def test_factorised_noise_has_rank_1():
    """All 2 x 2 minors are 0, and eps_b is the factor of the outputs."""
    layer = noisy_dqn.NoisyLinear(7, 5)
    assert layer.eps_w.shape == (5, 7) and layer.eps_b.shape == (5,)
    e, of_input = layer.eps_w, layer.eps_w[0] / layer.eps_b[0]
    assert torch.allclose(torch.einsum("ij,kl->ijkl", e, e), torch.einsum("il,kj->ijkl", e, e), rtol=1e-5)
    assert torch.allclose(torch.outer(layer.eps_b, of_input), e, rtol=1e-5)


def test_first_weights_of_a_noisy_layer():
    """Section 3.2. 16 inputs, which count for the biases as well, and 2000 outputs."""
    layer, bound, sigma = noisy_dqn.NoisyLinear(16, 2000), 0.25, 0.125
    for mu in layer.mu_w, layer.mu_b:
        assert 0.99 * bound < mu.max() <= bound and -bound <= mu.min() < -0.99 * bound
        assert mu.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # uniform
    for part in layer.sigma_w, layer.sigma_b:
        assert (part == torch.tensor(sigma)).all()
    assert {name for name, _ in layer.named_parameters()} == {"mu_w", "mu_b", "sigma_w", "sigma_b"}
    for part in noisy_dqn.QNetwork((4,), 2, sigma_0=3.0).head[::2]:
        fan_in = part.mu_w.shape[1]
        assert (part.sigma_w == 3 / math.sqrt(fan_in)).all() and (part.sigma_b == 3 / math.sqrt(fan_in)).all()


def test_variance_of_the_output():
    """4 inputs of 1 at the start: .25 * 2 / pi from the weights, .25 / 4 * sqrt(2 / pi) from the biases."""
    layer, x, noise = noisy_dqn.NoisyLinear(4, 50), torch.ones(1, 4), []
    with torch.no_grad():
        for _ in range(4000):
            layer.draw_noise()
            noise.append(layer(x) - x @ layer.mu_w.T - layer.mu_b)
    assert torch.cat(noise).var().item() == pytest.approx(0.15915 + 0.04987, rel=0.05)


def test_noise_drawn_before_the_backward_pass_leaves_the_gradient_right():
    """dy/dsigma = eps * x, of the noise that the forward pass had."""
    layer, x = noisy_dqn.NoisyLinear(3, 2), torch.randn(1, 3)
    y, eps_w, eps_b = layer(x).sum(), layer.eps_w.clone(), layer.eps_b.clone()
    layer.draw_noise()
    assert not torch.equal(layer.eps_w, eps_w)
    y.backward()
    same(layer.sigma_w.grad, eps_w * x)
    same(layer.sigma_b.grad, eps_b)


def test_layers_behind_the_body_are_noisy():
    """For frames, too. The noise stays until it is drawn, and all transitions of a batch have the same."""
    for shape in (4, 84, 84), (3,):
        net = q_network("noisy_dqn", shape)
        layers = [module for module in net.modules() if isinstance(module, noisy_dqn.NoisyLinear)]
        assert layers == [net.head[0], net.head[2]]
    obs = torch.randn(1, 3).expand(5, 3)
    first, before = net(obs), noise_of(net)
    assert torch.equal(net(obs), first) and torch.allclose(first, first[:1].expand(5, 6), atol=1e-6)
    net.draw_noise()
    assert not any(a == b for a, b in zip(noise_of(net), before, strict=True))
    assert not torch.isclose(net(obs), first).any()


def test_no_noise_in_evaluation():
    """Whatever sigma is, and until the next draw."""
    net, obs = q_network("noisy_dqn", (3,)), torch.randn(5, 3)
    with torch.no_grad():
        hidden = (net.body(obs) @ net.head[0].mu_w.T + net.head[0].mu_b).relu()
        want = hidden @ net.head[2].mu_w.T + net.head[2].mu_b
        assert not torch.allclose(net(obs), want, atol=1e-3)
        net.draw_noise(torch.zeros)
        same(net(obs), want, atol=1e-5, rtol=0)
        net.draw_noise()
        assert not torch.allclose(net(obs), want, atol=1e-3)


def test_the_target_network_keeps_its_own_noise():
    """Noise is no part of the state that a sync copies and a checkpoint holds."""
    q_net, target_net = (q_network("noisy_dqn", (3,)) for _ in range(2))
    assert set(q_net.state_dict()) == {name for name, _ in q_net.named_parameters()}
    before = noise_of(target_net)
    target_net.load_state_dict(q_net.state_dict())
    assert noise_of(target_net) == before != noise_of(q_net)
    obs = torch.randn(5, 3)
    for net in q_net, target_net:
        net.draw_noise(torch.zeros)
    assert torch.equal(q_net(obs), target_net(obs))


def test_noise_is_new_for_every_action_and_update(tmp_path, monkeypatch):
    """In both networks at each update, syncs between them or not; and none in evaluation. The environments
    get the actions of the noisy network and no others, in the warm-up neither."""
    td_loss, forward, add = noisy_dqn.td_loss, noisy_dqn.QNetwork.forward, noisy_dqn.ReplayBuffer.add
    seen, noisy, chosen, stored = [], [], [], []

    def watched_td_loss(batch, q_net, target_net):
        seen.extend(zip(noise_of(q_net), noise_of(target_net), strict=True))
        return td_loss(batch, q_net, target_net)

    def watched_forward(q_net, obs):
        q = forward(q_net, obs)
        if torch.is_inference_mode_enabled():  # to act
            noisy.append(any(any(bits) for bits in noise_of(q_net)))
            if noisy[-1]:
                seen.append(noise_of(q_net))
            chosen.append(q.argmax(1).numpy())
        return q

    monkeypatch.setattr(noisy_dqn, "td_loss", watched_td_loss)
    monkeypatch.setattr(noisy_dqn.QNetwork, "forward", watched_forward)
    monkeypatch.setattr(noisy_dqn.ReplayBuffer, "add", lambda *args: stored.append(args[2]) or add(*args))
    train(noisy_dqn, tmp_path, total_timesteps=100, num_envs=2, learning_starts=20, train_frequency=1,
          target_network_frequency=7, batch_size=8, buffer_size=100, eval_episodes=1)
    noise = [part for parts in seen for part in parts]
    assert len(noise) == 50 * 4 + 80 * 8 and len(set(noise)) == len(noise)
    assert noisy[:50] == [True] * 50 and not any(noisy[50:]) and len(noisy) > 55
    assert len(stored) == 50 and np.array_equal(stored, chosen[:50])
