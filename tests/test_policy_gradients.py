"""reinforce.py, vpg.py, a2c.py and ppo.py: distributions, returns, losses and normalisers against numbers
worked out by hand, plain Python, numpy and torch.distributions."""
import itertools
import math
import random

import numpy as np
import pytest
import torch
from common import POLICY, load
from gymnasium.spaces import Box, Discrete, MultiDiscrete

reinforce, vpg, a2c, ppo = (load(script) for script in ("reinforce", "vpg", "a2c", "ppo"))
same = torch.testing.assert_close


def vector(*values):
    return torch.tensor(values, dtype=torch.float32)


# ---- the distributions

@pytest.mark.parametrize("script", POLICY)
@pytest.mark.parametrize("shape", [(7, 2), (7, 5), (7, 3, 4), (1, 1, 6)])
def test_categorical_against_torch(script, shape):
    """Those of several actions add up."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(shape)
    action = torch.randint(shape[-1], shape[:-1])
    ours, theirs = load(script).Categorical(logits), torch.distributions.Categorical(logits=logits)
    logp, entropy = theirs.log_prob(action), theirs.entropy()
    same(ours.log_prob(action), logp.reshape(shape[0], -1).sum(1))
    same(ours.entropy(), entropy.reshape(shape[0], -1).sum(1))
    assert torch.equal(ours.mode(), logits.argmax(-1))
    assert ours.sample().shape == shape[:-1] and ours.sample().dtype == torch.int64


@pytest.mark.parametrize("script", POLICY)
@pytest.mark.parametrize("shape", [(7, 1), (7, 3), (5, 3, 2)])
def test_normal_against_torch(script, shape):
    torch.manual_seed(0)
    mean, log_std, action = torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape)
    ours, theirs = load(script).Normal(mean, log_std), torch.distributions.Normal(mean, log_std.exp())
    same(ours.log_prob(action), theirs.log_prob(action).sum(-1))
    same(ours.entropy(), theirs.entropy().sum(-1))
    assert torch.equal(ours.mode(), mean) and ours.sample().shape == shape


def test_entropies_and_densities_by_hand():
    assert a2c.Categorical(torch.zeros(1, 2)).entropy().item() == pytest.approx(0.693147, abs=1e-6)
    assert a2c.Categorical(torch.zeros(1, 6)).entropy().item() == pytest.approx(1.791759, abs=1e-6)
    assert a2c.Categorical(torch.zeros(1, 2, 6)).entropy().item() == pytest.approx(2 * 1.791759, abs=2e-6)
    assert a2c.Normal(torch.zeros(1, 1), vector(0)).entropy().item() == pytest.approx(1.418939, abs=1e-6)
    half = a2c.Normal(torch.zeros(1, 1), vector(-0.5))
    assert half.entropy().item() == pytest.approx(0.918939, abs=1e-6)
    assert half.log_prob(torch.ones(1, 1)).item() == pytest.approx(-1.778079, abs=1e-6)


@pytest.mark.parametrize("logits, actions", [
    ([0.0, 1.0, -2.0], None), ([[0.0, 1.0], [3.0, 0.5]], [(0, 0), (0, 1), (1, 0), (1, 1)])])
def test_sampling_frequencies(logits, actions):
    """Chi-square of 1e5 draws in rows of a batch, which are independent, as those of several actions are.
    Of 3 degrees of freedom it exceeds 25 with a probability of 2e-5, of 15 it exceeds 50 with 1e-5."""
    torch.manual_seed(0)
    logits = torch.tensor(logits)
    drawn = a2c.Categorical(logits.expand(100_000, *logits.shape)).sample()
    p = logits.softmax(-1)
    if actions:
        p = torch.stack([p[0, i] * p[1, j] for i, j in actions])
        drawn = 2 * drawn[:, 0] + drawn[:, 1]
    size = len(p)
    for part, want, bound in (drawn, p, 25), (size * drawn[::2] + drawn[1::2], p[:, None] * p, 50):
        counts, expected = torch.bincount(part, minlength=want.numel()), want.flatten() * len(part)
        assert ((counts - expected) ** 2 / expected).sum() < bound


def test_sampling_a_normal():
    torch.manual_seed(0)
    drawn = a2c.Normal(vector(1, -2).expand(100_000, 2), vector(0.5, -1)).sample()
    same(drawn.mean(0), vector(1, -2), atol=0.03, rtol=0)
    same(torch.cov(drawn.T), torch.diag(vector(math.e, math.exp(-2))), atol=0.05, rtol=0)
    assert abs(torch.corrcoef(torch.stack([drawn[::2, 0], drawn[1::2, 0]]))[0, 1]) < 0.03


@pytest.mark.parametrize("script", POLICY)
def test_values_that_an_action_does_not_have(script):
    """MultiDiscrete([2, 4, 1]): 4 logits for each; those that are not there are never drawn, and have no part
    in entropy and log-probability, nor in the gradient."""
    torch.manual_seed(0)
    policy = load(script).Policy((3,), MultiDiscrete([2, 4, 1]))
    torch.nn.init.normal_(policy.head.weight)
    dist = policy(torch.randn(500, 3))
    drawn = torch.cat([dist.sample() for _ in range(20)])
    assert drawn.shape == (10_000, 3)
    assert [set(column.tolist()) for column in drawn.T] == [{0, 1}, {0, 1, 2, 3}, {0}]
    p = dist.logits.softmax(-1)
    assert p.shape == (500, 3, 4) and p[:, 0, 2:].abs().max() == 0 and p[:, 2, 1:].abs().max() == 0
    parts = [torch.distributions.Categorical(logits=dist.logits[:, k, :n]) for k, n in enumerate((2, 4, 1))]
    same(dist.log_prob(drawn[:500]), sum(part.log_prob(drawn[:500, k]) for k, part in enumerate(parts)))
    same(dist.entropy(), sum(part.entropy() for part in parts))
    (dist.log_prob(drawn[:500]) + dist.entropy()).sum().backward()
    grad = policy.head.weight.grad.view(3, 4, -1)
    assert grad.isfinite().all() and grad[0, 2:].abs().max() == 0 == grad[2].abs().max() < grad[1].abs().min()


@pytest.mark.parametrize("script", POLICY)
def test_policies_of_each_kind_of_action(script):
    module, obs = load(script), torch.randn(5, 3)
    several = MultiDiscrete([3, 2], dtype=np.uint16), Box(-1, 1, (2,), np.float16)
    for space, shape in (Discrete(4, start=2, dtype=np.int32), (5,)), *((space, (5, 2)) for space in several):
        policy = module.Policy((3,), space)
        dist = policy(obs)
        action = dist.sample()
        assert action.shape == shape and dist.log_prob(action).shape == dist.entropy().shape == (5,)
        drawn, best = (f(policy, obs.numpy(), "cpu") for f in (module.act, module.greedy))
        assert drawn.shape == best.shape == shape and np.array_equal(best, dist.mode().detach().numpy())
        for row in module.to_env(drawn, space):
            assert space.contains(row)
    assert policy.log_std.tolist() == [0, 0]  # the last is a Box: a parameter, whatever the observation
    dist.log_prob(action).sum().backward()
    assert policy.log_std.grad.abs().min() > 0
    beyond = np.float32([[-9, 0.25], [0.5, 9]])
    assert module.to_env(beyond, Box(-1, 1, (2,))).tolist() == [[-1, 0.25], [0.5, 1]]
    assert module.to_env(np.array([0, 1]), Discrete(2, start=5)).tolist() == [5, 6]
    offset = MultiDiscrete([2, 2], start=[3, 7])
    assert module.to_env(np.array([[0, 1]]), offset).tolist() == [[3, 8]]


@pytest.mark.parametrize("script", POLICY)
def test_first_weights(script):
    """Orthogonal, without bias; the policy begins nearly uniform."""
    module = load(script)
    policy = module.Policy((3,), Discrete(4))
    first, second = policy.body.layers[0].weight, policy.body.layers[2].weight
    same(first.T @ first, 2 * torch.eye(3))
    same(second @ second.T, 2 * torch.eye(64), atol=1e-5, rtol=0)
    same(policy.head.weight @ policy.head.weight.T, 1e-4 * torch.eye(4))
    assert all(part.abs().max() == 0 for name, part in policy.named_parameters() if "bias" in name)
    if script != "reinforce":
        assert module.Critic((3,)).head.weight.norm().item() == pytest.approx(1, abs=1e-5)


# ---- returns and advantages

@pytest.mark.parametrize("module", [reinforce, vpg])
def test_returns(module):
    assert module.discounted_returns(vector(1, 2, 3), 0.5).tolist() == [2.75, 3.5, 3]
    assert module.discounted_returns(vector(4), 0.5).tolist() == [4]
    assert module.discounted_returns(torch.tensor([1, 2, 3]), 0.5).tolist() == [2.75, 3.5, 3]  # whole numbers
    torch.manual_seed(0)
    for gamma in 0.0, 0.9, 1.0:
        reward = torch.randn(20)
        want = [sum(gamma ** (k - t) * reward[k].item() for k in range(t, 20)) for t in range(20)]
        ret = module.discounted_returns(reward, gamma)
        assert ret.tolist() == pytest.approx(want, abs=1e-5) and ret.dtype == torch.float32


# gamma .9, lambda .5, rewards 1, 2, 3, values .5, 1, 1.5, and 2 of the last observation
GAE = {  # terminated and truncated at, V of the observation after t = 1, lambda: advantages
    "running on": (None, None, 1.5, 0.5, [3.12575, 3.835, 3.3]),
    "terminated at the end": (2, None, 1.5, 0.5, [2.76125, 3.025, 1.5]),
    "terminated after t = 1": (1, None, 4, 0.5, [1.85, 1, 3.3]),
    "truncated after t = 1": (None, 1, 4, 0.5, [3.47, 4.6, 3.3]),
    "truncated at the end": (None, 2, 1.5, 0.5, [3.12575, 3.835, 3.3]),
    "both after t = 1": (1, 1, 4, 0.5, [1.85, 1, 3.3]),
    "lambda 0": (None, None, 1.5, 0.0, [1.4, 2.35, 3.3]),
    "lambda 1": (None, None, 1.5, 1.0, [6.188, 5.32, 3.3]),
}


@pytest.mark.parametrize("module", [a2c, ppo])
@pytest.mark.parametrize("case", GAE)
def test_gae_by_hand(module, case):
    """Beside another environment, which is not to be mixed in."""
    terminated_at, truncated_at, after, lam, want = GAE[case]
    flags = torch.zeros(2, 3, 2)
    for i, at in enumerate((terminated_at, truncated_at)):
        if at is not None:
            flags[i, at, 0] = 1
    flags[0, :, 1] = 1  # the other: an end in each step
    pair = [torch.stack([vector(*ours), 100 * torch.ones(3)], 1)
            for ours in ([1, 2, 3], [0.5, 1, 1.5], [1, after, 2])]
    adv, ret = module.gae(*pair, *flags, 0.9, lam)
    assert adv.shape == ret.shape == (3, 2)
    assert adv[:, 0].tolist() == pytest.approx(want, abs=1e-5) and adv[:, 1].tolist() == [0, 0, 0]
    assert ret[:, 0].tolist() == pytest.approx([a + v for a, v in zip(want, (0.5, 1, 1.5), strict=True)])
    if case == "lambda 1":  # the discounted sum with the bootstrap
        assert ret[:, 0].tolist() == pytest.approx([6.688, 6.32, 4.8])


@pytest.mark.parametrize("module", [a2c, ppo])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae_against_plain_python(module, lam):
    """Each advantage by its definition, (gamma lam)^l delta_{t+l} up to the first end or that of the rollout;
    and with lambda 1 as the discounted rewards up to there, with the bootstrap, less V."""
    torch.manual_seed(0)
    rng, gamma = random.Random(0), 0.9
    for steps, envs in itertools.product((1, 2, 9, 30), (1, 3)):
        reward, value, next_value = torch.randn(3, steps, envs)
        terminated, truncated = (torch.rand(2, steps, envs) < rng.choice((0.0, 0.2, 0.5))).float()
        if lam == 1:  # the identity needs V of the next observation to be what is subtracted in the next step
            next_value[:-1] = torch.where((terminated + truncated)[:-1] > 0, next_value[:-1], value[1:])
        adv, ret = module.gae(reward, value, next_value, terminated, truncated, gamma, lam)
        assert adv.shape == ret.shape == (steps, envs)
        for t, env in itertools.product(range(steps), range(envs)):
            want, plain, last = 0.0, 0.0, t
            for k in range(t, steps):
                bootstrap = 0.0 if terminated[k, env] else gamma * next_value[k, env].item()
                delta = reward[k, env].item() + bootstrap - value[k, env].item()
                want += (gamma * lam) ** (k - t) * delta
                plain, last = plain + gamma ** (k - t) * reward[k, env].item(), k
                if terminated[k, env] or truncated[k, env]:
                    break
            assert adv[t, env].item() == pytest.approx(want, abs=1e-4)
            assert ret[t, env].item() == pytest.approx(want + value[t, env].item(), abs=1e-4)
            if lam == 1:
                bootstrap = 0 if terminated[last, env] else next_value[last, env].item()
                plain += gamma ** (last - t + 1) * bootstrap
                assert ret[t, env].item() == pytest.approx(plain, abs=1e-4)


# ---- losses

def policy_gradient(module, logp, weight, reduction="sum"):
    """The loss of reinforce or vpg, the latter without an entropy bonus."""
    if module is reinforce:
        return reinforce.reinforce_loss(logp, weight, reduction)
    return vpg.vpg_loss(logp, weight, torch.ones(len(logp)), 0.0, reduction)


@pytest.mark.parametrize("module", [reinforce, vpg])
def test_policy_gradient_by_hand(module):
    """Two actions alike, the first taken, G = 2.75."""
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = policy_gradient(module, module.Categorical(logits).log_prob(torch.tensor([0])), vector(2.75))
    loss.backward()
    assert loss.shape == () and loss.item() == pytest.approx(1.906155, abs=1e-6)
    assert logits.grad[0].tolist() == pytest.approx([-1.375, 1.375])
    logp, ret = vector(-1, -2, -4), vector(3, 1, -2)
    assert policy_gradient(module, logp, ret).item() == -3  # 3 + 2 - 8
    assert policy_gradient(module, logp, ret, "mean").item() == -1


@pytest.mark.parametrize("module", [reinforce, vpg])
def test_bandit(module):
    """Two arms that pay 1 and 3, drawn alike: the expected gradient of J is (-.5, .5), the variance of one
    sample of it 1 without a baseline, and 0 with 2. A baseline alone has the expected gradient 0."""
    for baseline, variance, pay in (0, 1, (1, 3)), (2, 0, (1, 3)), (-1, None, (0, 0)):
        grads = []
        for arm in 0, 1:
            logits = torch.zeros(1, 2, requires_grad=True)
            logp = module.Categorical(logits).log_prob(torch.tensor([arm]))
            (-policy_gradient(module, logp, vector(pay[arm] - baseline))).backward()
            grads.append(logits.grad[0])
        mean = (grads[0] + grads[1]) / 2
        assert mean.tolist() == pytest.approx([-0.5, 0.5] if any(pay) else [0, 0], abs=1e-7)
        if variance is not None:
            assert torch.stack(grads)[:, 1].var(correction=0).item() == pytest.approx(variance, abs=1e-7)


@pytest.mark.parametrize("script", ["vpg", "a2c", "ppo"])
def test_entropy_bonus(script):
    """A step against the gradient of the loss, of the bonus alone, spreads the policy."""
    logits, zero = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True), torch.zeros(1)
    entropy = a2c.Categorical(logits).entropy()
    if script == "vpg":
        loss = vpg.vpg_loss(zero, zero, entropy, 0.1, "sum")
    elif script == "a2c":
        loss, _ = a2c.a2c_loss(zero, zero, zero, zero, entropy, 0.5, 0.1)
    else:
        loss, _ = ppo.ppo_loss(*[zero] * 6, entropy, 0.2, 0.5, 0.1, False)
    loss.backward()
    assert loss.item() == pytest.approx(-0.1 * entropy.item())
    assert a2c.Categorical(logits - logits.grad).entropy() > entropy


def test_entropy_bonus_of_an_episode():
    zeros, entropy = vector(0, 0), vector(1, 3)
    assert vpg.vpg_loss(zeros, zeros, entropy, 0.1, "sum").item() == pytest.approx(-0.4)
    assert vpg.vpg_loss(zeros, zeros, entropy, 0.1, "mean").item() == pytest.approx(-0.2)


def test_value_loss_by_hand():
    value = vector(1, 2).requires_grad_()
    loss = vpg.value_loss(value, vector(3, 1))
    loss.backward()
    assert loss.item() == 1.25 and value.grad.tolist() == [-1, 0.5]  # (4 + 1) / 2 / 2


def test_a2c_by_hand():
    """Two steps, rewards 0 and 1, gamma .9, V .5, .5 and 2 at the end; two actions alike, each taken once."""
    logits, value = torch.zeros(2, 2, requires_grad=True), vector(0.5, 0.5).requires_grad_()
    zeros, dist = torch.zeros(2, 1), a2c.Categorical(logits)
    adv, ret = a2c.gae(torch.tensor([[0.0], [1.0]]), value.detach()[:, None], torch.tensor([[0.5], [2.0]]),
                       zeros, zeros, 0.9, 1.0)
    assert ret.flatten().tolist() == pytest.approx([2.52, 2.8])
    assert adv.flatten().tolist() == pytest.approx([2.02, 2.3])
    loss, info = a2c.a2c_loss(dist.log_prob(torch.tensor([0, 1])), adv.flatten(), value, ret.flatten(),
                              dist.entropy(), 0.5, 0.01)
    parts = {name: part.item() for name, part in info.items()}
    want = {"policy_loss": 1.49720, "value_loss": 4.6852 / 2, "entropy": 0.693147}
    assert parts == pytest.approx(want, abs=1e-5)
    assert loss.item() == pytest.approx(1.49720 + 0.5 * 4.6852 / 2 - 0.01 * 0.693147, abs=1e-5)
    assert loss.shape == () and not any(part.requires_grad for part in info.values())
    loss.backward()
    same(logits.grad, torch.tensor([[-2.02, 2.02], [2.3, -2.3]]) / 4)
    assert value.grad.tolist() == pytest.approx([-0.5 * 2.02 / 2, -0.5 * 2.3 / 2])


def test_no_gradient_through_advantages_and_targets():
    """Even where the caller has forgotten that they depend on V."""
    value = vector(0.5, 2).requires_grad_()
    logp, entropy = vector(-1, -2).requires_grad_(), vector(0, 0)
    adv, ret = vector(3, 1) - value, 2 * value
    a2c.a2c_loss(logp, adv, value, ret, entropy, 0.5, 0.0)[0].backward()
    assert value.grad.tolist() == pytest.approx([-0.125, -0.5])  # .5 (V - 2 V) / 2
    assert logp.grad.tolist() == pytest.approx([-1.25, 0.5])
    vpg.vpg_loss(logp, vector(3, 1) - value, entropy, 0.0, "sum").backward()
    vpg.value_loss(value, 2 * value).backward()
    assert value.grad.tolist() == pytest.approx([-0.375, -1.5])  # and (V - 2 V) / 2
    zero = torch.zeros(2, 1)
    for module in a2c, ppo:
        adv, ret = module.gae(zero + 1, value[:, None], value[:, None], zero, zero, 0.9, 0.5)
        assert not adv.requires_grad and not ret.requires_grad


CLIP = [  # ratio, advantage: objective, its derivative by log pi; eps .2
    (1.5, 1, 1.2, 0), (0.5, 1, 0.5, 0.5), (1.5, -1, -1.5, -1.5), (0.5, -1, -0.8, 0), (1.1, 1, 1.1, 1.1),
    (1.0, 2, 2, 2), (1.0, -2, -2, -2)]


def ppo_loss(logp, old_logp, adv, value=None, old_value=None, ret=None, clip_vloss=False):
    zeros = torch.zeros(len(logp))
    value, old_value, ret = (zeros if part is None else part for part in (value, old_value, ret))
    return ppo.ppo_loss(logp, old_logp, adv, value, old_value, ret, zeros, 0.2, 0.5, 0.01, clip_vloss)


@pytest.mark.parametrize("ratio, adv, objective, slope", CLIP)
def test_clip_by_hand(ratio, adv, objective, slope):
    old_logp = vector(-1.3)
    logp = (old_logp + math.log(ratio)).requires_grad_()
    loss, info = ppo_loss(logp, old_logp, vector(adv))
    loss.backward()
    assert loss.item() == info["policy_loss"].item() == pytest.approx(-objective, abs=1e-6)
    assert logp.grad.item() == pytest.approx(-slope, abs=1e-6)
    assert info["clipfrac"].item() == (abs(ratio - 1) > 0.2)
    assert info["approx_kl"].item() == pytest.approx(ratio - 1 - math.log(ratio), abs=1e-6)
    assert not any(part.requires_grad for part in info.values())


def test_clip_of_a_batch_is_the_mean():
    ratio, adv, objective, slope = torch.tensor(CLIP, dtype=torch.float32).T
    logp = ratio.log().requires_grad_()
    loss, info = ppo_loss(logp, torch.zeros(7), adv)
    loss.backward()
    assert loss.item() == pytest.approx(-objective.mean().item(), abs=1e-6)
    same(logp.grad, -slope / 7)
    assert info["clipfrac"].item() == pytest.approx(4 / 7)


def test_kl_by_hand():
    """log ratio .1: Schulman's k3, .005171, not k1, -.1; never negative."""
    for log_ratio, kl in (0.1, 0.005171), (-0.1, 0.004837):
        info = ppo_loss(vector(log_ratio), vector(0), vector(1))[1]
        assert info["approx_kl"].item() == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize("value, old_value, ret, clipped, plain", [
    (2.0, 1.0, 3.0, 1.62, 0.5),  # max(1, 3.24) / 2
    (2.0, 1.0, 1.1, 0.405, 0.405),  # max(.81, .01) / 2
    (0.0, 1.0, -1.0, 1.62, 0.5),
    (1.1, 1.0, 3.0, 1.805, 1.805)])  # within eps
def test_value_clip_by_hand(value, old_value, ret, clipped, plain):
    for clip_vloss, want in (True, clipped), (False, plain):
        loss, info = ppo_loss(vector(0), vector(0), vector(0), vector(value), vector(old_value), vector(ret),
                              clip_vloss)
        assert info["value_loss"].item() == pytest.approx(want, abs=1e-5)
        assert loss.item() == pytest.approx(0.5 * want, abs=1e-5)


def test_ppo_against_plain_python():
    torch.manual_seed(0)
    size = 50
    logp, old_logp, adv, value, old_value, ret, entropy = torch.randn(7, size)
    logp = old_logp + 0.3 * logp
    for clip_vloss in True, False:
        total, policy, error = 0.0, 0.0, 0.0
        for i in range(size):
            ratio, a = math.exp(logp[i].item() - old_logp[i].item()), adv[i].item()
            policy -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a) / size
            v, old, target = value[i].item(), old_value[i].item(), ret[i].item()
            near = old + min(max(v - old, -0.2), 0.2)
            error += max((v - target) ** 2, (near - target) ** 2 if clip_vloss else 0) / 2 / size
        total = policy + 0.7 * error - 0.03 * entropy.mean().item()
        loss, info = ppo.ppo_loss(logp, old_logp, adv, value, old_value, ret, entropy, 0.2, 0.7, 0.03,
                                  clip_vloss)
        found = [loss, info["policy_loss"], info["value_loss"], info["entropy"]]
        same(torch.stack(found), vector(total, policy, error, entropy.mean()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("space", [Discrete(3), MultiDiscrete([2, 3]), Box(-1, 1, (2,))])
@pytest.mark.parametrize("size", [12, 4, 1])
def test_old_policy_in_parts(space, size):
    torch.manual_seed(0)
    net, obs, seen = ppo.ActorCritic((5,), space), torch.randn(12, 5), []
    dist, value = net(obs)
    action = dist.sample()
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    logp, old_value = ppo.evaluate_actions(net, obs, action, size)
    same((logp, old_value), (dist.log_prob(action).detach(), value.detach()))
    assert seen == [size] * (12 // size) and not logp.requires_grad and not old_value.requires_grad


def test_normalize():
    """With the deviation of torch, n - 1; numpy's would give 1.2247. No division by 0."""
    assert ppo.normalize(vector(1, 2, 3)).tolist() == pytest.approx([-1, 0, 1], abs=1e-6)
    assert ppo.normalize(vector(5, 5)).tolist() == [0, 0]
    adv = ppo.normalize(100 + 20 * torch.randn(64))
    assert adv.mean().item() == pytest.approx(0, abs=1e-5) and adv.std().item() == pytest.approx(1, abs=1e-5)


# ---- normalisers

@pytest.mark.parametrize("module", [a2c, ppo])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_running_norm_against_numpy(module, shape):
    """On all rows at once, after 1e-4 rows of mean 0 and variance 1; far from 0, too."""
    rng = np.random.default_rng(0)
    for offset, scale in (0, 1), (1e4, 0.1), (-3, 50):
        norm, rows = module.RunningNorm(shape, True), []
        for size in (1, 1, 8, 3, 100, 1):
            rows.append((offset + scale * rng.normal(size=(size, *shape))).astype(np.float32))
            norm.update(rows[-1])
        x = np.concatenate(rows).astype(np.float64)
        total = len(x) + 1e-4
        mean = x.sum(0) / total
        var = (x.var(0) * len(x) + len(x) * 1e-4 / total * x.mean(0) ** 2 + 1e-4) / total
        np.testing.assert_allclose(norm.mean, mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(norm.var, var, rtol=1e-7)
        assert norm.count == pytest.approx(total) and norm.mean.dtype == norm.var.dtype == np.float64
        scaled = norm.scale(rows[4])
        assert scaled.dtype == np.float32 and scaled.shape == rows[4].shape
        deviation = np.sqrt(var + 1e-8)
        np.testing.assert_allclose(scaled, np.clip((rows[4] - mean) / deviation, -10, 10), atol=1e-4)
        np.testing.assert_allclose(norm.scale(rows[4], center=False), np.clip(rows[4] / deviation, -10, 10),
                                   atol=1e-4)
        other = module.RunningNorm(shape, True)
        other.load_state_dict(norm.state_dict())
        state, saved = norm.state_dict(), norm.mean.copy()
        assert norm.scale(rows[4]).tobytes() == other.scale(rows[4]).tobytes()
        for each in norm, other:
            each.update(rows[2])
        assert norm.mean.tobytes() == other.mean.tobytes() and norm.var.tobytes() == other.var.tobytes()
        assert norm.count == other.count > state["count"]
        assert np.array_equal(state["mean"].numpy(), saved)  # what is saved does not change with the run


@pytest.mark.parametrize("module", [a2c, ppo])
def test_a_normaliser_that_is_off_does_nothing(module):
    norm, x = module.RunningNorm((2,), False), np.float32([[100, -100]])
    norm.update(x)
    assert norm.scale(x) is x and norm.scale(x, center=False) is x and norm.mean.tolist() == [0, 0]
