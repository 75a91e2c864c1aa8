"""The equations of the ten scripts against tests/cases/*.json, reference values that no script made.

What a function returns, and its gradients, must lie within the tolerance of each case, in float32. A function
whose text is the same in several scripts is tested in the first of them. After that come properties that
values alone do not show: what no gradient reaches, densities that integrate to 1, overestimation.
"""
import json
import runpy
import shutil
import sys
from types import SimpleNamespace
from unittest import mock

import mpmath
import numpy as np
import pytest
import torch
from common import TESTS, VALUE, having, load, train
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import nn

dqn, double_dqn, per_dqn, reinforce, vpg, a2c, ppo, sac = map(
    load, ("dqn", "double_dqn", "per_dqn", "reinforce", "vpg", "a2c", "ppo", "sac"))
CPU = "cpu"
FILES = {path.stem: json.loads(path.read_text()) for path in (TESTS / "cases").glob("*.json")}


def tensors(name, x):
    """The lists of a case as float32 tensors that ask for gradients. Rows of unequal length stay a list."""
    if not isinstance(x, list):
        return x
    try:
        if name in ("action", "changed_leaf") and all(isinstance(number, int) for number in flat(x)):
            return torch.tensor(x)
        return torch.tensor(x, dtype=torch.float32, requires_grad=True)
    except ValueError:
        return [tensors(name, row) for row in x]


def flat(x):
    return [number for item in x for number in flat(item)] if isinstance(x, list) else [x]


def grads(loss, prefix="d_", **inputs):
    """{d_x: gradient of the loss by x}, of x that is a tensor or a nested list of tensors."""
    def rebuild(x):
        return [rebuild(row) for row in x] if isinstance(x, list) else next(found)

    found = iter(torch.autograd.grad(loss, flat(list(inputs.values())), allow_unused=True,
                                     materialize_grads=True, retain_graph=True))
    return {prefix + name: rebuild(x) for name, x in inputs.items()}


def plain(result):
    """Nested lists of numbers."""
    if isinstance(result, list):
        return [plain(row) for row in result]
    if isinstance(result, torch.Tensor):
        assert result.dtype in (torch.float32, torch.int64)
    return np.asarray(result.detach() if isinstance(result, torch.Tensor) else result).tolist()


def shape(x):
    return [shape(row) for row in x] if isinstance(x, list) else 0


def differences(case, found):
    """A line for each result that is not what the case expects."""
    def differs(name):
        result, expected = plain(found[name]), case["expected"][name]
        return shape(result) != shape(expected) or not all(
            abs(x - y) <= case["tolerance"] * max(1, abs(y))
            for x, y in zip(flat(result), flat(expected), strict=True))

    return [f"{case['name']}: {name} is {plain(x)}, not {case['expected'][name]}"
            for name, x in found.items() if differs(name)]


# ---- the equations, each by the functions of a script

class Table(nn.Module):
    """Q of the states 0, 1, ... as rows."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(rows).detach().clone())

    def forward(self, obs):
        return self.table[obs[:, 0].long()]


def td(script, q_values, action, reward, discount, terminated, target_next, online_next=None, weight=None):
    """States 0 to B - 1 and the next ones, B to 2 B - 1; what must not be looked up is nan."""
    size, nan = len(action), torch.full_like(q_values, torch.nan)
    q_net = Table(torch.cat([q_values, nan if online_next is None else online_next]))
    target_net = Table(torch.cat([nan, target_next]))
    fields = {"obs": torch.arange(size)[:, None], "action": action, "reward": reward, "discount": discount,
              "terminated": terminated, "next_obs": torch.arange(size, 2 * size)[:, None],
              "weight": torch.ones(size) if weight is None else weight, "slot": torch.arange(size)}
    loss = script.td_loss(script.Batch(*(fields[name] for name in script.Batch._fields)), q_net, target_net)
    loss, *td_error = loss if isinstance(loss, tuple) else (loss,)
    slopes = grads(loss, online=q_net.table, target=target_net.table)
    assert not slopes["d_target"].any() and not slopes["d_online"][size:].any()
    assert not any(part.requires_grad for part in td_error)
    return {"loss": loss, "d_q_values": slopes["d_online"][:size],
            **dict(zip(["td_error"], td_error, strict=False))}


def dqn_target(script, next_q_values, **case):
    return td(script, target_next=next_q_values, **case)


def double_dqn_target(script, online_next_q_values, target_next_q_values, **case):
    return td(script, target_next=target_next_q_values, online_next=online_next_q_values, **case)


def n_step_return(script, reward, terminated, truncated, next_value, gamma, n):
    """Observations are numbers of steps. The end of the data cuts the window; n other steps follow it."""
    size, one, action = len(reward), np.ones(1, bool), np.zeros(1, int)
    buffer = script.ReplayBuffer(size, 1, (1,), n, gamma)
    for t in range(size):
        flags = one * bool(terminated[t]), one * bool(truncated[t] or t == size - 1)
        buffer.add(np.float32([[t]]), action, np.float32([reward[t].item()]), *flags, np.float32([[t + 1]]))
    for t in range(size + 1, size + 1 + n):
        buffer.add(np.float32([[t]]), action, np.float32([1e6]), one, one, np.float32([[t + 1]]))
    batch = buffer.sample(500, CPU, *[1.0][:script is per_dqn])
    rows = {int(start): i for i, start in enumerate(batch.obs)}
    rows = [rows[t] for t in range(size)]
    after, discount, ended = batch.next_obs[rows, 0].long(), batch.discount[rows], batch.terminated[rows]
    return {"steps": after - torch.arange(size), "reward_sum": batch.reward[rows], "discount": discount,
            "window_terminated": ended,
            "y": batch.reward[rows] + discount * (1 - ended) * next_value[after - 1]}


class Given(nn.Module):
    """A layer with this output, whatever goes in."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


def dueling(script, value, advantage, d_q_values):
    net = script.QNetwork((2,), advantage.shape[1])
    net.value, net.advantage = Given(value[:, None]), Given(advantage)
    q_values = net(torch.zeros(len(value), 2))
    return {"q_values": q_values, **grads((q_values * d_q_values).sum(), value=value, advantage=advantage)}


def noisy_linear(script, noise_in, noise_out, x, d_y, **params):
    layer = script.NoisyLinear(len(noise_in), len(noise_out))
    for name, param in params.items():
        assert getattr(layer, name).shape == param.shape
        getattr(layer, name).data = param.detach()
    layer.draw_noise(lambda *size: torch.cat([noise_out, noise_in]).detach().view(size))
    y = layer(x)
    return {"eps_b": layer.eps_b, "eps_w": layer.eps_w, "y": y,
            **grads((y * d_y).sum(), x=x, **{name: getattr(layer, name) for name in params})}


def filled(script, td_error, alpha, eps):
    """A memory with a transition for each of these errors, in the slots from 0 on."""
    no, buffer = np.zeros(1, bool), script.ReplayBuffer(len(td_error), 1, (1,), 1, 0.9)
    for t in range(len(td_error) + 1):
        buffer.add(np.float32([[t]]), np.array([0]), np.ones(1), no, no, np.float32([[t + 1]]))
    buffer.update_priorities(torch.arange(len(td_error)), td_error.detach(), alpha, eps)
    return buffer


def per_weights(script, priority, alpha, beta):
    """Of a batch that has each transition once."""
    buffer, size = filled(script, priority, alpha, 0.0), len(priority)
    buffer.tree.find = lambda prefix: np.arange(size)
    weight = buffer.sample(size, CPU, beta).weight
    assert not buffer.p_alpha[size:].any()
    return {"p_alpha": buffer.p_alpha[:size], "probability": buffer.p_alpha[:size] / buffer.tree.node[1],
            "weight": weight}


def per_priorities(script, td_error, eps, alpha):
    return {"p_alpha": filled(script, td_error, alpha, eps).p_alpha[:len(td_error)]}


def per_loss(script, q, y, weight):
    """Transitions to a terminal state, so that the reward is the target."""
    zeros = torch.zeros(len(q))
    found = td(script, q[:, None], zeros.long(), y, zeros + 1, zeros + 1, zeros[:, None], weight=weight)
    return {**found, "d_q": found["d_q_values"][:, 0]}


def per_sum_tree(script, p_alpha, changed_leaf, changed_p_alpha, prefix):
    tree = script.SumTree(len(p_alpha))
    for leaf, values in (np.arange(len(p_alpha)), p_alpha), (np.array(changed_leaf, int), changed_p_alpha):
        tree.node[(1 << tree.depth) + leaf] = values.detach()
        tree.update(leaf)
    return {"total": tree.node[1], "leaf": tree.find(prefix.detach().double().numpy())}


def per_stratified(script, p_alpha, uniform):
    buffer, seen = filled(script, p_alpha, 1.0, 0.0), []
    find = buffer.tree.find
    buffer.tree.find = lambda prefix: seen.append(prefix) or find(prefix)
    with mock.patch.object(torch, "rand", lambda size, dtype: uniform.detach().to(dtype)):
        batch = buffer.sample(len(uniform), CPU, 0.4)
    assert batch.obs[:, 0].tolist() == batch.slot.tolist()
    return {"prefix": seen[0], "leaf": batch.slot}


def per_beta(script, beta_start, step, total_steps):
    return {"beta": script.linear_schedule(beta_start, 1, total_steps, step)}


def entropy_of(dist):
    """None in reinforce.py, which has no use for it."""
    return dist.entropy() if hasattr(dist, "entropy") else None


def categorical(script, logits, action):
    """Through the layers of a Policy behind its head."""
    rows = logits[0] if action.dim() == 2 else logits[:1]
    sizes = [len(row) for row in rows]
    policy = script.Policy((1,), MultiDiscrete(sizes) if action.dim() == 2 else Discrete(sizes[0]))
    policy.body = policy.head = nn.Identity()
    widest = max(sizes)
    dist = policy(torch.stack([  # the filling has logits that would be best
        torch.cat([nn.functional.pad(part, (0, widest - len(part)), value=1e4) for part in row])
        for row in (logits if action.dim() == 2 else logits[:, None])]))
    logp, entropy = dist.log_prob(action), entropy_of(dist)
    found = {"logp": logp, **grads(logp.sum(), logits=logits)}
    return found if entropy is None else found | {
        "entropy": entropy, **grads(entropy.sum(), "entropy_d_", logits=logits)}


def gaussian(script, mean, log_std, action):
    policy = script.Policy((1,), Box(-1, 1, mean.shape[1:]))
    policy.body = policy.head = nn.Identity()
    policy.log_std.data = log_std.detach()
    dist = policy(mean)
    logp = dist.log_prob(action)
    slopes = grads(logp.sum(), mean=mean, log_std=policy.log_std)
    entropy = entropy_of(dist)
    return {"logp": logp} | slopes | ({} if entropy is None else {"entropy": entropy})


def rewards_to_go(script, reward, gamma):
    return {"ret": script.discounted_returns(reward, gamma)}


def episodes(script, loss_of, logits, action, reward, gamma):
    """What is the same in reinforce and vpg; the mean over episodes is taken in train."""
    rows = {"ret": [], "logp": [], "entropy": [], "episode_loss": []}
    for i in range(len(logits)):
        dist, ret = script.Categorical(logits[i].log_softmax(-1)), script.discounted_returns(reward[i], gamma)
        logp, entropy = dist.log_prob(action[i]), entropy_of(dist)
        for name, x in zip(rows, (ret, logp, entropy, loss_of(i, logp, ret, entropy)), strict=True):
            rows[name].append(x)
    loss = sum(rows["episode_loss"]) / len(logits)
    return {**rows, "loss": loss, **grads(loss, logits=logits)}


def reinforce_loss(script, **case):
    found = episodes(script, lambda i, logp, ret, entropy: script.reinforce_loss(logp, ret), **case)
    return {name: x for name, x in found.items() if name != "entropy"}


def vpg_loss(script, value, ent_coef, **case):
    found = episodes(script, lambda i, logp, ret, entropy: script.vpg_loss(
        logp, ret, value[i], entropy, ent_coef), **case)
    every = torch.cat([value[i] for i in range(len(value))])
    loss = script.value_loss(every, torch.cat(found["ret"]))
    return {**found, "value_loss": loss, **grads(loss, value=value)}


def gae(script, **case):
    adv, ret = script.gae(**case)
    return {"adv": adv, "ret": ret}


def a2c_loss(script, logits, action, vf_coef, ent_coef, value, **case):
    adv, ret = script.gae(value=value, **case, lam=1.0)
    dist = script.Categorical(logits.flatten(0, 1).log_softmax(-1))
    logp = dist.log_prob(action.flatten())
    loss, parts = script.a2c_loss(logp, adv.flatten(), value.flatten(), ret.flatten(), dist.entropy(),
                                  vf_coef, ent_coef)
    return {"ret": ret, "adv": adv, "logp": logp.view_as(adv), "loss": loss, **parts,
            **grads(loss, logits=logits, value=value)}


def ppo_loss(script, logp, value, entropy, **case):
    loss, parts = script.ppo_loss(logp=logp, value=value, entropy=entropy, **case)
    return {"loss": loss, **parts, **grads(loss, logp=logp, value=value, entropy=entropy)}


def squashed_log_prob(script, mean, log_std, noise):
    action, logp = script.squash(mean, log_std, noise)
    return {"action": action, "logp": logp, **grads(logp.sum(), mean=mean, log_std=log_std)}


def soft_target(script, **case):
    return {"y": script.soft_target(**case)}


def critic_loss(script, q, y):
    loss = script.critic_loss(q, y)
    assert not grads(loss, y=y)["d_y"].any()
    return {"loss": loss, **grads(loss, q=q)}


def policy_loss(script, logp, q, alpha):
    loss = script.policy_loss(logp, q, alpha)
    return {"loss": loss, **grads(loss, logp=logp, q=q)}


def temperature_loss(script, log_alpha, logp, target_entropy):
    log_alpha = torch.tensor(log_alpha, requires_grad=True)
    loss = script.temperature_loss(log_alpha, logp, target_entropy)
    slopes = grads(loss, log_alpha=log_alpha, logp=logp)
    assert not slopes.pop("d_logp").any()
    return {"alpha": log_alpha.exp(), "loss": loss, **slopes,
            "alpha_moves": -int(slopes["d_log_alpha"].sign())}


def polyak(script, net, target_net, tau, steps):
    net, target_net = (nn.ParameterList([x.detach()[:1].clone(), x.detach()[1:].clone()])
                       for x in (net, target_net))
    before = torch.cat([*net])
    for _ in range(steps):
        script.polyak_update(target_net, net, tau)
    assert torch.equal(torch.cat([*net]), before)
    return {"target_net": torch.cat([*target_net])}


# file, or file/part: scripts, the equation, results that no function returns
EQUATIONS = {
    "dqn_target": (having("td_loss", [name for name in VALUE if name != "double_dqn"]), dqn_target,
                   "next_q y td_error huber_loss huber_d_q_values"),
    "double_dqn_target": (["double_dqn"], double_dqn_target,
                          "best_action next_q y td_error huber_loss huber_d_q_values"),
    "n_step_return": (having("ReplayBuffer", VALUE), n_step_return, ""),
    "dueling": (["dueling_dqn"], dueling, ""),
    "noisy_linear": (["noisy_dqn"], noisy_linear, "eps_in"),
    "per/weights": (["per_dqn"], per_weights, "raw_weight"),
    "per/priorities": (["per_dqn"], per_priorities, "priority"),
    "per/loss": (["per_dqn"], per_loss, ""),
    "per/sum_tree": (["per_dqn"], per_sum_tree, ""),
    "per/stratified": (["per_dqn"], per_stratified, ""),
    "per/beta": (having("linear_schedule"), per_beta, ""),
    "categorical": (having("Categorical"), categorical, ""),
    "gaussian": (having("Normal"), gaussian, ""),
    "rewards_to_go": (having("discounted_returns"), rewards_to_go, ""),
    "reinforce": (having("reinforce_loss"), reinforce_loss, ""),
    "vpg": (having("vpg_loss"), vpg_loss, "adv"),
    "gae": (having("gae"), gae, "delta"),
    "a2c_loss": (having("a2c_loss"), a2c_loss, ""),
    "ppo_loss": (having("ppo_loss"), ppo_loss, "ratio"),
    "squashed_log_prob": (["sac"], squashed_log_prob, "u"),
    "polyak": (having("polyak_update"), polyak, ""),
    "sac_losses/target": (["sac"], soft_target, ""),
    "sac_losses/critic": (["sac"], critic_loss, ""),
    "sac_losses/policy": (["sac"], policy_loss, ""),
    "sac_losses/temperature": (["sac"], temperature_loss, ""),
}


@pytest.mark.parametrize("equation, script", [(name, script) for name, row in EQUATIONS.items()
                                              for script in row[0]])
def test_equation(equation, script):
    _, results, absent = EQUATIONS[equation]
    absent += " entropy entropy_d_logits" if script == "reinforce" else ""
    name, _, part = equation.partition("/")
    cases = [case for case in FILES[name]["cases"] if case.get("part", "") == part and "dtype" not in case]
    assert cases
    for case in cases:
        found = results(load(script), **{key: tensors(key, x) for key, x in case["inputs"].items()})
        found = {key: x for key, x in found.items() if key in case["expected"]}
        assert found.keys() | absent.split() >= case["expected"].keys(), case["name"]
        assert not (wrong := differences(case, found)), wrong


def test_every_reference_value_is_used():
    """But for the one that is beyond float32: see below."""
    parts = {(name, case.get("part", "")) for name, text in FILES.items() for case in text["cases"]}
    used = {(name.partition("/")[0], name.partition("/")[2]) for name in EQUATIONS}
    assert used == parts - {("advantage_normalisation", "")} and len(FILES) == 18
    beyond = [case["name"] for text in FILES.values() for case in text["cases"] if "dtype" in case]
    assert beyond == ["log ratio 100, adv negative: not clipped, beyond float32"]


def test_reference_values_are_what_their_formulas_give(tmp_path, monkeypatch):
    """As `python tests/cases/make.py --check` says; and it says no where one digit differs."""
    monkeypatch.syspath_prepend(TESTS / "cases")
    monkeypatch.setattr(sys, "argv", ["make.py", "--check"])
    with mpmath.workdps(15):  # make.py sets it; afterwards it is as before
        make = SimpleNamespace(**runpy.run_path(str(TESTS / "cases" / "make.py")))
    with pytest.raises(SystemExit) as end:
        make.main()
    assert end.value.code == 0
    shutil.copytree(TESTS / "cases", tmp_path / "cases")
    path = tmp_path / "cases" / "gae.json"
    path.write_text(path.read_text().replace("3.12575", "3.12576"))
    monkeypatch.setitem(make.main.__globals__, "HERE", tmp_path / "cases")
    with pytest.raises(SystemExit, match="gae.json$"):
        make.main()


# ---- what a run of ppo.py makes of its advantages

@pytest.mark.parametrize("case", FILES["advantage_normalisation"]["cases"], ids=lambda case: case["name"])
def test_advantage_normalisation(case, tmp_path, monkeypatch):
    """In one minibatch, of these advantages in another order."""
    adv, seen, ppo_loss = torch.tensor(case["inputs"]["adv"]), [], ppo.ppo_loss

    def watched(logp, old_logp, adv, *rest):
        seen.append(adv)
        return ppo_loss(logp, old_logp, adv, *rest)

    monkeypatch.setattr(ppo, "gae", lambda reward, value, *rest: (adv[:, None], value))
    monkeypatch.setattr(ppo, "ppo_loss", watched)
    train(ppo, tmp_path, total_timesteps=len(adv), num_envs=1, num_steps=len(adv), num_minibatches=1,
          update_epochs=2, eval_episodes=1)
    assert len(seen) == 2
    for found in seen:
        assert not differences({**case, "expected": {"normalised": sorted(case["expected"]["normalised"])}},
                               {"normalised": found.sort().values})


def test_advantages_are_normalised_in_each_minibatch(tmp_path, monkeypatch):
    """Not in the whole rollout; and not at all without --norm-adv."""
    seen, ppo_loss = [], ppo.ppo_loss

    def watched(logp, old_logp, adv, *rest):
        seen.append(adv)
        return ppo_loss(logp, old_logp, adv, *rest)

    adv = torch.arange(16.0).square()
    monkeypatch.setattr(ppo, "gae", lambda reward, value, *rest: (adv[:, None], value))
    monkeypatch.setattr(ppo, "ppo_loss", watched)
    for norm_adv in True, False:
        train(ppo, tmp_path, total_timesteps=16, num_envs=1, num_steps=16, num_minibatches=2, update_epochs=1,
              eval_episodes=1, norm_adv=norm_adv)
    for part in seen[:2]:
        assert part.shape == (8,) and part.mean().item() == pytest.approx(0, abs=1e-6)
        assert part.std().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(torch.cat(seen[2:]).sort().values, adv)


@pytest.mark.parametrize("script", having("next_values"))
def test_next_values(script):
    """V of the next row, but where an episode ended and in the last row that of the true next observation.
    The critic is asked for those alone."""
    asked = []

    def critic(obs):
        asked.extend(obs[:, 0].tolist())
        return obs[:, 0]

    flags = torch.zeros(2, 4, 3)
    flags[0, 1, 0] = flags[1, 0, 1] = flags[0, 2, 2] = flags[1, 2, 2] = 1
    value, next_obs = torch.arange(12.0).view(4, 3), torch.arange(100.0, 112).view(4, 3, 1)
    batch = SimpleNamespace(terminated=flags[0], truncated=flags[1], next_obs=next_obs)
    found = load(script).next_values(critic, batch, value.requires_grad_())
    assert found.tolist() == [[3, 101, 5], [103, 7, 8], [9, 10, 108], [109, 110, 111]]
    assert sorted(asked) == [101, 103, 108, 109, 110, 111] and not found.requires_grad


# ---- gradients

def test_no_gradient_into_the_target_of_one_network():
    """One table as both networks: only Q(s, a) has a gradient. y is 1 + .9 * 3 and, terminated, 1."""
    for name in having("td_loss"):
        script, net = load(name), Table([[2.0, 7.0], [1.0, 3.0]])
        zero = torch.zeros(2)
        fields = {"obs": zero[:, None], "action": zero.long(), "reward": zero + 1, "discount": zero + 0.9,
                  "terminated": torch.tensor([0.0, 1.0]), "next_obs": zero[:, None] + 1, "weight": zero + 1,
                  "slot": torch.arange(2)}
        loss = script.td_loss(script.Batch(*(fields[key] for key in script.Batch._fields)), net, net)
        (loss[0] if isinstance(loss, tuple) else loss).backward()
        assert net.table.grad.flatten().tolist() == pytest.approx([-(1.7 - 1.0), 0, 0, 0]), name


def test_no_gradient_through_advantages_and_targets():
    """Even where the caller has forgotten that they depend on V, or the old policy on the new one."""
    value, logp = torch.tensor([0.5, 2.0], requires_grad=True), torch.tensor([-1.0, -2.0], requires_grad=True)
    zeros, ret = torch.zeros(2), torch.tensor([3.0, 1.0])
    for loss, _ in (a2c.a2c_loss(logp, ret - value, value, 2 * value, zeros, 0.5, 0.0), ppo.ppo_loss(
            logp, logp, ret - value, value, value, 2 * value, zeros, 0.2, 0.5, 0.0, clip_vloss=True)):
        loss.backward()
        assert value.grad.tolist() == pytest.approx([-0.125, -0.5])  # .5 (V - 2 V) / 2
        assert logp.grad.tolist() == pytest.approx([-1.25, 0.5])
        value.grad = logp.grad = None
    reinforce.reinforce_loss(logp, ret - value).backward()
    assert value.grad is None and logp.grad.tolist() == pytest.approx([-2.5, 1])
    logp.grad = None
    vpg.vpg_loss(logp, ret, value, zeros, 0.0).backward()
    assert value.grad is None and logp.grad.tolist() == pytest.approx([-2.5, 1])
    vpg.value_loss(value, 2 * value).backward()
    assert value.grad.tolist() == pytest.approx([-0.25, -1])
    for script in having("gae"):
        rows = torch.zeros(2, 1)
        adv, ret = load(script).gae(rows + 1, value[:, None], value[:, None], rows, rows, 0.9, 0.5)
        assert not adv.requires_grad and not ret.requires_grad


def test_ppo_far_from_the_old_policy():
    """A ratio beyond float32 makes neither the loss nor a gradient infinite or nan, whatever the sign."""
    logp = torch.tensor([100.0, 100.0, 1000.0, -1000.0], requires_grad=True)
    zeros, adv = torch.zeros(4), torch.tensor([-1.0, 1.0, 0.0, -1.0])
    loss, parts = ppo.ppo_loss(logp, zeros, adv, zeros, zeros, zeros, zeros, 0.2, 0.5, 0.0, True)
    loss.backward()
    assert loss.isfinite() and logp.grad.isfinite().all() and all(part.isfinite() for part in parts.values())


@pytest.mark.parametrize("m", [2, 4, 10])
def test_overestimation(m):
    """All m true values are 0 and both networks err by U[-1, 1]. The largest estimate is too high by
    (m - 1) / (m + 1) (van Hasselt et al. 2016, Theorem 2), the double one right on average: the slope of the
    loss at Q = 0 is -2 times the mean target. 4 standard errors are 0.006."""
    torch.manual_seed(0)
    states = 150_000
    q_net, target_net = (Table(torch.rand(states, m) * 2 - 1) for _ in range(2))
    q_net.table.data[0] = 0  # where they come from; its error is the target
    zeros, next_obs = torch.zeros(states - 1), torch.arange(1, states)[:, None]
    one = dqn.Batch(zeros[:, None], zeros.long(), zeros, zeros + 1, zeros, next_obs)
    for script, bias in (dqn, (m - 1) / (m + 1)), (double_dqn, 0):
        q_net.table.grad = None
        script.td_loss(one, q_net, target_net).backward()
        assert q_net.table.grad[0, 0].item() / -2 == pytest.approx(bias, abs=0.006)


# ---- the density of a squashed Gaussian

def log_density(u, mean=0.0, std=1.0):
    """log pi (B,) of the actions tanh(u), of sac.py."""
    mean, std = torch.full_like(u, mean), torch.full_like(u, std)
    return sac.squash(mean[:, None], std.log()[:, None], ((u - mean) / std)[:, None])[1]


def test_gradient_where_tanh_is_1():
    """There log(1 - tanh^2 u + 1e-6) has none, and log(1 - tanh^2 u) is infinite."""
    mean = torch.tensor([[30.0], [-30.0], [200.0], [-200.0]], requires_grad=True)
    sac.squash(mean, torch.zeros(4, 1), torch.zeros(4, 1))[1].sum().backward()
    assert mean.grad.flatten().tolist() == pytest.approx([2, -2, 2, -2])


@pytest.mark.parametrize("mean, std", [(0.0, 1.0), (0.3, 0.5), (-1.0, 0.8)])
def test_density_integrates_to_1(mean, std):
    action = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1]
    density = log_density(torch.atanh(action), mean, std).exp()
    assert torch.trapezoid(density, action).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("std, entropy", [(0.5, 0.5), (0.8745, 0.6836), (1.0, 0.6698)])
def test_entropy_by_quadrature(std, entropy):
    """At .8745 it is the most that a squashed Gaussian has."""
    u = torch.linspace(-10 * std, 10 * std, 20_001, dtype=torch.float64)
    density = torch.distributions.Normal(0, std).log_prob(u).exp()
    assert torch.trapezoid(-density * log_density(u, 0.0, std), u).item() == pytest.approx(entropy, abs=1e-4)
