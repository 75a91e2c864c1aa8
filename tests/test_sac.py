"""sac.py at work: who learns from what, target critics, temperature and actions, and probes with entropy."""
import math

import pytest
import torch
from common import call, checkpoint, events, load, run_folder, train
from torch import nn
from torch.distributions import Normal

sac = load("sac")
SMALL = {"total_timesteps": 200, "learning_starts": 50, "batch_size": 8, "buffer_size": 300,
         "eval_episodes": 1}
WATCHED = "soft_target", "critic_loss", "policy_loss", "temperature_loss"


def watch(monkeypatch, record):
    """Let record(name, module of the last Critic call, its obs, arguments) see each call of a loss."""
    last = []
    forward = sac.Critic.forward

    def watched_forward(self, obs, action):
        last[:] = [self, obs, action]
        return forward(self, obs, action)

    def watched(name, function):
        return lambda *args, **named: record(name, last, [*args, *named.values()]) or function(*args, **named)

    monkeypatch.setattr(sac.Critic, "forward", watched_forward)
    for name in WATCHED:
        monkeypatch.setattr(sac, name, watched(name, getattr(sac, name)))


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
    """The target is the target critics', without a gradient; the losses are the critics'; and a step of the
    policy's optimizer changes the policy alone, by a gradient that comes through the critics."""
    seen, batches, drawn, parts, stepped = [], [], [], {}, []
    sample, sample_action = sac.ReplayBuffer.sample, sac.Policy.sample
    run, step = sac.Run.__init__, torch.optim.Adam.step

    def watched_sample(*args):
        batches.append(sample(*args))
        return batches[-1]

    def watched_sample_action(policy, obs):
        drawn[:] = obs, *sample_action(policy, obs)
        return drawn[1:]

    def watched_run(self, args, state, given):
        parts.update(given)
        run(self, args, state, given)

    def watched_step(self, *args, **kwargs):
        before = {name: vector(parts[name]) for name in ("policy", "critic", "target_critic", "temperature")}
        step(self, *args, **kwargs)
        changed = [name for name, was in before.items() if not torch.equal(vector(parts[name]), was)]
        stepped.append((next(name for name, part in parts.items() if part is self), changed))

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
            mine, through = ({id(part) for part in leaves(part)} for part in (logp, q))
            assert mine == {id(part) for part in parts["policy"].parameters()} and mine <= through
        if name == "temperature_loss":
            assert args[2] == -1 and args[0].requires_grad

    monkeypatch.setattr(sac.ReplayBuffer, "sample", watched_sample)
    monkeypatch.setattr(sac.Policy, "sample", watched_sample_action)
    monkeypatch.setattr(sac.Run, "__init__", watched_run)
    monkeypatch.setattr(torch.optim.Adam, "step", watched_step)
    watch(monkeypatch, record)
    train(sac, tmp_path, **{**SMALL, "total_timesteps": 100})
    names, nets = zip(*seen, strict=True)
    assert names == WATCHED * 50
    assert set(nets[0::4]) == {parts["target_critic"]}
    assert set(nets[1::4]) == set(nets[2::4]) == {parts["critic"]}
    order = [(f"{name}_optimizer", [name]) for name in ("critic", "policy", "temperature")]
    assert stepped == order * 50


def test_gradient_of_the_policy(tmp_path, monkeypatch):
    """With a critic of sum(a), and no entropy, the policy alone decides what it learns: the mean rises."""
    def forward(self, obs, action):
        return (action.sum(dim=1) + 0 * self.head.bias.sum()).expand(2, -1)

    monkeypatch.setattr(sac.Critic, "forward", forward)
    fields = {**SMALL, "learning_rate": 1e-2, "autotune": False, "alpha": 0.0}
    folder = train(sac, tmp_path, env_id="probes:Probe8-v0", **fields)
    policy = sac.Policy(1, 1)
    policy.load_state_dict(checkpoint(folder / "checkpoint.pt")["policy"])
    assert policy(torch.zeros(1, 1))[0].tanh().item() > 0.9


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
        want = torch.lerp(targets[i - 1], critics[i], 0.1)
        torch.testing.assert_close(targets[i], want, atol=1e-7, rtol=1e-6)
        assert not torch.equal(critics[i], critics[i - 1])


def test_replay_has_the_action_of_the_policy_and_the_environment_the_scaled_one(tmp_path):
    """Torques from -1 to .5 and from 3 to 10; the reward is their sum."""
    for num_envs in 1, 3:
        folder = train(sac, tmp_path, env_id="probes:Asymmetric-v0", num_envs=num_envs, **SMALL)
        buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
        action = buffer["action"]
        assert action.min() < -0.9 and action.max() > 0.9 and action.abs().max() <= 1
        total = -0.25 + 0.75 * action[:, 0] + 6.5 + 3.5 * action[:, 1]
        torch.testing.assert_close(buffer["reward"], total, atol=1e-4, rtol=1e-4)


def test_alpha_is_learned_or_fixed(tmp_path, monkeypatch):
    """Log alpha, from the log of the argument. At first the entropy is far above -1, so it falls; what is
    learned is what the losses have."""
    seen = []
    watch(monkeypatch, lambda name, _, args: seen.append(float(args[2])) if name == "policy_loss" else None)
    folders = [train(sac, tmp_path, autotune=autotune, alpha=0.4, learning_rate=1e-3, **SMALL)
               for autotune in (True, False)]
    learned, fixed = (checkpoint(folder / "checkpoint.pt") for folder in folders)
    assert fixed["temperature"]["log_alpha"].item() == pytest.approx(math.log(0.4))
    steps = 150 * 1e-3  # of Adam, all in one direction
    assert learned["temperature"]["log_alpha"].item() == pytest.approx(math.log(0.4) - steps, abs=0.01)
    assert not fixed["temperature_optimizer"]["state"] and learned["temperature_optimizer"]["state"]
    assert seen[0] == pytest.approx(0.4) and seen[150:] == pytest.approx([0.4] * 150)
    assert seen[149] == pytest.approx(0.4 * math.exp(-steps), abs=0.005)


@pytest.mark.parametrize("env_id, size", [("Pendulum-v1", 1), ("probes:Asymmetric-v0", 2)])
def test_target_entropy(env_id, size, tmp_path, monkeypatch):
    """Minus the number of actions."""
    seen = set()
    watch(monkeypatch, lambda name, _, args: seen.add(args[2]) if name == "temperature_loss" else None)
    train(sac, tmp_path, env_id=env_id, **SMALL)
    assert seen == {-size}


def test_an_alpha_of_0_is_plain(tmp_path, monkeypatch):
    """With --no-autotune: no entropy in targets and policy loss. Targets are the rewards' alone."""
    seen = []
    place = {"soft_target": 4, "policy_loss": 2}  # of alpha among the arguments
    watch(monkeypatch, lambda name, _, args: seen.append(float(args[place[name]])) if name in place else None)
    train(sac, tmp_path, env_id="probes:Probe8-v0", autotune=False, alpha=0.0, **SMALL)
    assert seen == [0.0] * 300


def test_what_is_logged(tmp_path):
    """The first update after each 1,000th transition."""
    fields = {**SMALL, "total_timesteps": 1010, "learning_starts": 990}
    folder = train(sac, tmp_path, autotune=False, alpha=0.4, **fields)
    tags = events(folder)
    assert {tag.partition("/")[2] for tag in tags if tag.startswith("losses/")} == {
        "critic_loss", "policy_loss", "entropy", "alpha"}
    assert tags["losses/alpha"] == [(1000, pytest.approx(0.4))]
    assert -1 < tags["losses/entropy"][0][1] < 0.7  # log 2 is the most that there is in [-1, 1]


def test_what_is_typed_beside_resume_counts(tmp_path):
    """A rate in all three optimizers; and without --autotune the temperature, for the log of alpha stays."""
    call("sac", *"--total-timesteps 100 --learning-starts 50 --batch-size 8 --eval-episodes 1".split(),
         cwd=tmp_path)
    path = run_folder(tmp_path) / "checkpoint.pt"
    before = checkpoint(path)
    nets = {"policy", "critic", "target_critic", "temperature"}
    optimizers = {"policy_optimizer", "critic_optimizer", "temperature_optimizer"}
    assert set(before) == nets | optimizers | {"buffer", "step", "args", "script"}
    assert all(before[name]["state"] for name in optimizers)
    typed = "--total-timesteps 101 --learning-rate 0.002 --no-autotune --alpha 0.7".split()
    call("sac", "--resume", path, *typed, cwd=tmp_path)
    after = checkpoint(path)
    assert {after[name]["param_groups"][0]["lr"] for name in optimizers} == {0.002}
    assert after["args"]["alpha"] == 0.7 and after["step"] == 101
    assert before["temperature"]["log_alpha"].item() < math.log(0.2)


# ---- probes

def entropy(mean, std):
    """Of tanh(u), u ~ N(mean, std^2), by quadrature: that of u, plus the mean of log(1 - tanh(u)^2)."""
    u = torch.linspace(mean - 10 * std, mean + 10 * std, 20_001, dtype=torch.float64)
    normal = Normal(torch.tensor(mean, dtype=torch.float64), std)
    slope = torch.trapezoid(normal.log_prob(u).exp() * torch.log1p(-torch.tanh(u) ** 2), u)
    return (normal.entropy() + slope).item()


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
    torch.manual_seed(0)
    with torch.no_grad():
        return critic(obs, policy.sample(obs)[0]).mean(dim=1).tolist()


def test_without_reward_entropy_is_the_most_there_is(tmp_path):
    """Probe 8: mean 0, standard deviation .8745, entropy .6836."""
    assert entropy(0.0, 0.8745) == pytest.approx(0.6836, abs=1e-4)  # the most a squashed Gaussian has
    folder = train(sac, tmp_path, env_id="probes:Probe8-v0", total_timesteps=1000, alpha=1.0, **PROBE)
    mean, log_std = (part.item() for part in nets(folder)[0](torch.zeros(1, 1)))
    assert entropy(mean, math.exp(log_std)) == pytest.approx(0.6836, abs=0.01)
    assert mean == pytest.approx(0, abs=0.1) and math.exp(log_std) == pytest.approx(0.8745, abs=0.08)


@pytest.mark.slow
def test_soft_values(tmp_path):
    """Probe 9: Q(1) = 1, and Q(0) = .99 * (1 + .2 * .6836): not .99, without the entropy at 1."""
    folder = train(sac, tmp_path, env_id="probes:Probe9-v0", total_timesteps=3000, alpha=0.2, tau=0.02,
                   **PROBE)
    assert soft_q(folder, 1) == pytest.approx([1, 1], abs=0.05)
    assert soft_q(folder, 0) == pytest.approx([1.1254] * 2, abs=0.05)


@pytest.mark.slow
def test_autotune_finds_the_entropy_that_is_told(tmp_path):
    """Probe 8, -1 for one torque: alpha falls until the policy is as narrow as that."""
    fields = {**PROBE, "autotune": True, "learning_rate": 3e-3}
    folder = train(sac, tmp_path, env_id="probes:Aim-v0", total_timesteps=4000, alpha=0.5, **fields)
    mean, log_std = (part.item() for part in nets(folder)[0](torch.zeros(1, 1)))
    assert entropy(mean, math.exp(log_std)) == pytest.approx(-1, abs=0.3)
    assert 3 * math.tanh(mean) == pytest.approx(1, abs=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_time_limit_is_no_end(num_envs, tmp_path):
    """Reward 3 a step, cut at 5, gamma .8: 15, with .8 * .01 * .68 / .2 for the entropy; 10 if the end of an
    episode is a terminal state."""
    folder = train(sac, tmp_path, env_id="probes:LimitBox-v0", total_timesteps=2000, num_envs=num_envs,
                   gamma=0.8, alpha=0.01, tau=0.05, **PROBE)
    assert soft_q(folder, 0) == pytest.approx([15.03] * 2, abs=0.1)
