"""noisy_dqn.py: its noise, where that is drawn and where there is none."""
import math

import numpy as np
import pytest
import torch
from common import load, train

noisy_dqn = load("noisy_dqn")
FORMS = ["factorised", "independent"]


def noise_of(net):
    """All noise of a network as one tuple of bits."""
    return tuple(getattr(net.head[i], name).numpy().tobytes() for i in (0, 2) for name in ("eps_w", "eps_b"))


# ---- the layer

def test_factorised_noise_by_hand():
    """f(4) = 2 of the output; f(-.25) = -.5 and f(9) = 3 of the inputs: eps_w = 2 * [-.5, 3], eps_b = 2."""
    layer = noisy_dqn.NoisyLinear(2, 1, "factorised")
    layer.draw_noise(lambda _: torch.tensor([4.0, -0.25, 9.0]))
    assert layer.eps_b.tolist() == [2.0] and layer.eps_w.tolist() == [[-1.0, 6.0]]


@pytest.mark.parametrize("form, weight, bias, kurtosis", [
    ("factorised", 2 / math.pi, math.sqrt(2 / math.pi), math.pi**2 / 4), ("independent", 1, 1, 3)])
def test_moments_of_the_noise(form, weight, bias, kurtosis):
    """Mean 0; variances of weights and biases; fourth moment of the weights. 12,000 Gaussians a side."""
    torch.manual_seed(0)
    layer, eps_w, eps_b = noisy_dqn.NoisyLinear(600, 600, form), [], []
    for _ in range(20):
        layer.draw_noise()
        eps_w.append(layer.eps_w)
        eps_b.append(layer.eps_b)
    eps_w, eps_b = torch.stack(eps_w), torch.stack(eps_b)
    assert abs(eps_b.mean()) < 0.04 and abs(eps_w.mean()) < 0.005
    assert eps_b.var().item() == pytest.approx(bias, rel=0.05)
    assert eps_w.var().item() == pytest.approx(weight, rel=0.05)
    assert (eps_w**4).mean().item() / eps_w.var().item() ** 2 == pytest.approx(kurtosis, rel=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_only_factorised_noise_has_rank_1(form):
    """All 2 x 2 minors are 0, and eps_b is the factor of the outputs."""
    torch.manual_seed(0)
    layer = noisy_dqn.NoisyLinear(7, 5, form)
    layer.draw_noise()
    assert layer.eps_w.shape == (5, 7) and layer.eps_b.shape == (5,)
    e, of_input = layer.eps_w, layer.eps_w[0] / layer.eps_b[0]
    minors = torch.allclose(torch.einsum("ij,kl->ijkl", e, e), torch.einsum("il,kj->ijkl", e, e), rtol=1e-5)
    assert minors == (form == "factorised")
    assert torch.allclose(torch.outer(layer.eps_b, of_input), e, rtol=1e-5) == (form == "factorised")


@pytest.mark.parametrize("form, bound, sigma", [("factorised", 0.25, 0.125),
                                                ("independent", math.sqrt(3 / 16), 0.017)])
def test_initialisation(form, bound, sigma):
    """16 inputs, which count for the biases as well, and 2000 outputs."""
    torch.manual_seed(0)
    layer = noisy_dqn.NoisyLinear(16, 2000, form)
    for mu in layer.mu_w, layer.mu_b:
        assert 0.99 * bound < mu.max() <= bound and -bound <= mu.min() < -0.99 * bound
        assert mu.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)  # uniform
    for part in layer.sigma_w, layer.sigma_b:
        assert (part == torch.tensor(sigma)).all()
    assert [name for name, _ in layer.named_parameters()] == ["mu_w", "mu_b", "sigma_w", "sigma_b"]


def test_variance_of_the_output():
    """4 inputs of 1 at the start: .25 * 2 / pi from the weights, .25 / 4 * sqrt(2 / pi) from the biases."""
    torch.manual_seed(0)
    layer, x, noise = noisy_dqn.NoisyLinear(4, 50, "factorised"), torch.ones(1, 4), []
    with torch.no_grad():
        for _ in range(4000):
            layer.draw_noise()
            noise.append(layer(x) - x @ layer.mu_w.T - layer.mu_b)
    assert torch.cat(noise).var().item() == pytest.approx(0.15915 + 0.04987, rel=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_forward_and_gradients_by_hand(form):
    """Eq. (9) in plain Python; dy/dsigma = eps * x, and dy/dmu = x, in sums over the batch."""
    torch.manual_seed(0)
    layer, x = noisy_dqn.NoisyLinear(3, 2, form), torch.randn(4, 3)
    y, m, s, e = layer(x), layer.mu_w, layer.sigma_w, layer.eps_w
    for b in range(4):
        for j in range(2):
            want = layer.mu_b[j] + layer.sigma_b[j] * layer.eps_b[j]
            for i in range(3):
                want = want + (m[j, i] + s[j, i] * e[j, i]) * x[b, i]
            assert y[b, j].item() == pytest.approx(want.item(), abs=1e-5)
    y.sum().backward()
    assert torch.allclose(layer.sigma_w.grad, e * x.sum(0))
    assert torch.allclose(layer.sigma_b.grad, 4 * layer.eps_b)
    assert torch.allclose(layer.mu_w.grad, x.sum(0).expand(2, 3)) and layer.mu_b.grad.tolist() == [4.0, 4.0]


@pytest.mark.parametrize("form", FORMS)
def test_noise_drawn_before_the_backward_pass_leaves_the_gradient_right(form):
    torch.manual_seed(0)
    layer, x = noisy_dqn.NoisyLinear(3, 2, form), torch.randn(1, 3)
    y, eps_w, eps_b = layer(x).sum(), layer.eps_w.clone(), layer.eps_b.clone()
    layer.draw_noise()
    assert not torch.equal(layer.eps_w, eps_w)
    y.backward()
    assert torch.allclose(layer.sigma_w.grad, eps_w * x) and torch.equal(layer.sigma_b.grad, eps_b)


# ---- the network

@pytest.mark.parametrize("shape", [(3,), (4, 84, 84)])
@pytest.mark.parametrize("form", FORMS)
def test_layers_behind_the_body_are_noisy(form, shape):
    net = noisy_dqn.QNetwork(shape, 6, form)
    layers = [module for module in net.modules() if isinstance(module, noisy_dqn.NoisyLinear)]
    assert layers == [net.head[0], net.head[2]] and {layer.noise for layer in layers} == {form}
    obs = torch.zeros((2, *shape), dtype=torch.float32 if len(shape) == 1 else torch.uint8)
    assert net(obs).shape == (2, 6)


@pytest.mark.parametrize("form", FORMS)
def test_noise_stays_until_it_is_drawn(form):
    """And all transitions of a batch have the same."""
    torch.manual_seed(0)
    net, obs = noisy_dqn.QNetwork((3,), 4, form), torch.randn(1, 3).expand(5, 3)
    first = net(obs)
    assert torch.equal(net(obs), first) and torch.allclose(first, first[:1].expand(5, 4), atol=1e-6)
    before = noise_of(net)
    net.draw_noise()
    assert not any(a == b for a, b in zip(noise_of(net), before, strict=True))
    assert not torch.isclose(net(obs), first).any()


@pytest.mark.parametrize("form", FORMS)
def test_no_noise_in_evaluation(form):
    """Whatever sigma is, and until the next draw."""
    torch.manual_seed(0)
    net, obs = noisy_dqn.QNetwork((3,), 4, form), torch.randn(5, 3)
    with torch.no_grad():
        hidden = (net.body(obs) @ net.head[0].mu_w.T + net.head[0].mu_b).relu()
        want = hidden @ net.head[2].mu_w.T + net.head[2].mu_b
    assert not torch.allclose(net(obs), want, atol=1e-3)
    assert torch.allclose(net.draw_noise(torch.zeros)(obs), want, atol=1e-5)
    assert not torch.allclose(net.draw_noise()(obs), want, atol=1e-3)


def test_the_target_network_keeps_its_own_noise():
    """Noise is no part of the state that a sync copies and a checkpoint holds."""
    q_net, target_net = (noisy_dqn.QNetwork((3,), 4, "factorised") for _ in range(2))
    assert set(q_net.state_dict()) == {name for name, _ in q_net.named_parameters()}
    before = noise_of(target_net)
    target_net.load_state_dict(q_net.state_dict())
    assert noise_of(target_net) == before != noise_of(q_net)
    obs = torch.randn(5, 3)
    assert torch.equal(q_net.draw_noise(torch.zeros)(obs), target_net.draw_noise(torch.zeros)(obs))


# ---- training

@pytest.mark.parametrize("form", FORMS)
def test_noise_is_new_for_every_action_and_update(form, tmp_path, monkeypatch):
    """In both networks at each update, syncs between them or not; and none in evaluation."""
    td_loss, greedy, seen, noisy = noisy_dqn.td_loss, noisy_dqn.greedy, [], []

    def watched_td_loss(batch, q_net, target_net):
        assert q_net.head[0].noise == target_net.head[2].noise == form
        seen.extend(zip(noise_of(q_net), noise_of(target_net), strict=True))
        return td_loss(batch, q_net, target_net)

    def watched_greedy(q_net, obs, device):
        noisy.append(any(any(bits) for bits in noise_of(q_net)))
        if noisy[-1]:
            seen.append(noise_of(q_net))
        return greedy(q_net, obs, device)

    monkeypatch.setattr(noisy_dqn, "td_loss", watched_td_loss)
    monkeypatch.setattr(noisy_dqn, "greedy", watched_greedy)
    train(noisy_dqn, tmp_path, total_timesteps=100, num_envs=2, learning_starts=20, train_frequency=1,
          target_network_frequency=7, batch_size=8, buffer_size=100, eval_episodes=1, noise=form)
    noise = [part for parts in seen for part in parts]
    assert len(noise) == 50 * 4 + 80 * 8 and len(set(noise)) == len(noise)
    assert noisy[:50] == [True] * 50 and not any(noisy[50:]) and len(noisy) > 55


def test_actions_are_those_of_the_noisy_network(tmp_path, monkeypatch):
    """No random ones, in the warm-up neither: the environments get what greedy returned."""
    greedy, add, chosen, stored = noisy_dqn.greedy, noisy_dqn.ReplayBuffer.add, [], []
    monkeypatch.setattr(noisy_dqn, "greedy", lambda *args: chosen.append(greedy(*args)) or chosen[-1])
    monkeypatch.setattr(noisy_dqn.ReplayBuffer, "add", lambda *args: stored.append(args[2]) or add(*args))
    train(noisy_dqn, tmp_path, total_timesteps=60, num_envs=2, learning_starts=40, batch_size=8,
          buffer_size=100, eval_episodes=1)
    assert len(stored) == 30 and np.array_equal(stored, chosen[:30])
