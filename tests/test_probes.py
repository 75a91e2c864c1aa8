"""Tiny environments, learned in seconds to the exact value."""
import gymnasium as gym
import pytest
import torch
from common import EPISODIC, POLICY, VALUE, checkpoint, load, train

SETTINGS = {"total_timesteps": 2500, "learning_starts": 50, "train_frequency": 1, "batch_size": 32,
            "target_network_frequency": 20, "buffer_size": 500, "learning_rate": 3e-3, "gamma": 0.99,
            "eval_episodes": 1}
CALMER = {"noisy_dqn": {"total_timesteps": 3000, "buffer_size": 3000, "learning_rate": 1e-3}}  # than SETTINGS
# environment: {observation: values of the actions}, for a discount of .99 if not told otherwise
PROBES = {
    "Probe1": {0: [1]},
    "Probe2": {-1: [-1], 1: [1]},
    "Probe3": {0: [0.99], 1: [1]},
    "Probe4": {0: [-1, 1]},
    "Probe5": {-1: [1, -1], 1: [-1, 1]},
    "Start5": {0: [-1, 1]},
}


def values(module, folder, obs, num_actions):
    """Q(obs, .) of the network that a run left."""
    model = checkpoint(folder / "model.pt")
    form = [model["args"]["noise"]] if "noise" in model["args"] else []  # which noisy_dqn's network asks for
    q_net = module.QNetwork((1,), num_actions, *form)
    q_net.load_state_dict(model["q_net"])
    if form:
        q_net.draw_noise(torch.zeros)
    return q_net(torch.tensor([[float(obs)]]))[0].tolist()


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("probe", PROBES)
def test_probe(script, probe, tmp_path):
    module = load(script)
    folder = train(module, tmp_path, env_id=f"probes:{probe}-v0", **SETTINGS | CALMER.get(script, {}))
    for obs, expected in PROBES[probe].items():
        assert values(module, folder, obs, len(expected)) == pytest.approx(expected, abs=0.05), obs


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("num_envs, n_step", [(1, 1), (3, 4)])
def test_a_time_limit_is_no_end(script, num_envs, n_step, tmp_path):
    """Reward 1 a step, cut at 10, gamma .9: 10. Not 5.26 or 4.14, an end at the limit; nor 9.09, with made-up
    steps."""
    module = load(script)
    settings = {**SETTINGS, **CALMER.get(script, {}), "gamma": 0.9, "num_envs": num_envs, "n_step": n_step}
    folder = train(module, tmp_path, env_id="probes:Probe6-v0", **settings)
    tolerance = 0.5 if script in CALMER else 0.05  # the noise in the targets does not average out
    assert values(module, folder, 0, 1) == pytest.approx([10.0], abs=tolerance)


@pytest.mark.parametrize("script", VALUE)
@pytest.mark.parametrize("num_envs, n_step", [(1, 1), (3, 1), (2, 3)])
def test_no_transition_goes_from_one_episode_to_the_next(script, num_envs, n_step, tmp_path, monkeypatch):
    """Observations are numbers: 10 * episode + step, two steps. Environments seldom end together."""
    module, batches = load(script), []
    td_loss = module.td_loss
    monkeypatch.setattr(module, "td_loss", lambda *args: batches.append(args[0]) or td_loss(*args))
    train(module, tmp_path, env_id="probes:Apart-v0", num_envs=num_envs, n_step=n_step,
          **{**SETTINGS, "gamma": 0.5, "total_timesteps": 300, "buffer_size": 40})
    obs, next_obs, terminated, discount = (torch.cat([getattr(batch, name) for batch in batches]).squeeze()
                                           for name in ("obs", "next_obs", "terminated", "discount"))
    steps = next_obs - obs
    left = 2 - obs % 10  # steps to the end
    assert set(obs.long().remainder(10).tolist()) == {0, 1} and len(obs.unique()) > 40
    assert torch.equal(steps, left.clamp(max=n_step)) and torch.equal(discount, 0.5 ** steps)
    assert torch.equal(terminated, (left <= n_step).float())


# ---- the policy gradients

_episodes = {"total_timesteps": 1200, "num_envs": 4, "episodes_per_env": 4, "learning_rate": 2e-2}
POLICY_SETTINGS = {
    "reinforce": _episodes,
    "vpg": {**_episodes, "value_learning_rate": 1e-2, "value_epochs": 10, "ent_coef": 0.0},
    "a2c": {"total_timesteps": 6000, "num_envs": 4, "num_steps": 3, "learning_rate": 7e-4, "ent_coef": 0.0},
    "ppo": {"total_timesteps": 2560, "num_envs": 4, "num_steps": 16, "num_minibatches": 2, "update_epochs": 4,
            "learning_rate": 5e-3, "ent_coef": 0.0},
}
CRITICS = [script for script in POLICY if script != "reinforce"]
VALUES = {"Probe1": {0: 1}, "Probe2": {-1: -1, 1: 1}, "Probe3": {0: 0.99, 1: 1}}
RIGHT = {"Probe4": {0: 1}, "Probe5": {-1: 0, 1: 1}, "Start5": {0: 1}, "TwoWheels": {0: [1, 1]}}  # actions


def learned(script, probe, tmp_path, **fields):
    """The networks (policy, critic or None) of a run on that environment."""
    module, env_id = load(script), f"probes:{probe}-v0"
    fields = {"gamma": 0.99, "checkpoint_frequency": 0, "eval_episodes": 1, **POLICY_SETTINGS[script],
              **fields}
    state = checkpoint(train(module, tmp_path, env_id=env_id, **fields) / "checkpoint.pt")
    space = gym.make(env_id).action_space
    if script not in EPISODIC:
        net = module.ActorCritic((1,), space)
        net.load_state_dict(state["net"])
        return net.policy, net.critic
    policy, critic = module.Policy((1,), space), module.Critic((1,)) if script == "vpg" else None
    policy.load_state_dict(state["policy"])
    if critic:
        critic.load_state_dict(state["critic"])
    return policy, critic


@pytest.mark.parametrize("script", CRITICS)
@pytest.mark.parametrize("probe", VALUES)
def test_value(script, probe, tmp_path):
    _, critic = learned(script, probe, tmp_path)
    for obs, expected in VALUES[probe].items():
        assert critic(torch.tensor([[float(obs)]])).item() == pytest.approx(expected, abs=0.05), obs


@pytest.mark.parametrize("script", POLICY)
@pytest.mark.parametrize("probe", RIGHT)
def test_policy(script, probe, tmp_path):
    policy, _ = learned(script, probe, tmp_path)
    for obs, action in RIGHT[probe].items():
        probability = policy(torch.tensor([[float(obs)]])).log_prob(torch.tensor([action])).exp()
        assert probability.item() > 0.95, obs


@pytest.mark.parametrize("script", POLICY)
def test_policy_of_a_torque(script, tmp_path):
    """The farther from 1, the less: the mean goes there from 0, and the deviation, of 1, shrinks."""
    fields = {"a2c": {"learning_rate": 3e-3}, "ppo": {}}.get(
        script, {"learning_rate": 1e-2, "total_timesteps": 2400, "episodes_per_env": 8})
    dist = learned(script, "Aim", tmp_path, **fields)[0](torch.zeros(1, 1))
    assert dist.mean.item() == pytest.approx(1, abs=0.3) and dist.log_std.exp().item() < 0.7


@pytest.mark.parametrize("script, expected", [("vpg", 4.138), ("a2c", 10.0), ("ppo", 10.0)])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_value_at_a_time_limit(script, expected, num_envs, tmp_path):
    """Reward 1 a step, cut at 10, gamma .9; the observation never changes. vpg sums to the cut, so that its V
    is the mean over the 10 steps of those sums, (1 - .9^k) / .1 for k from 1 to 10; the others bootstrap
    there, and where a rollout of 3 or 16 steps ends in the midst of an episode."""
    if script == "vpg":
        assert expected == pytest.approx(sum((1 - 0.9**k) / 0.1 for k in range(1, 11)) / 10, abs=1e-3)
    total = {"vpg": 2000, "a2c": 1500, "ppo": 640}[script] * num_envs
    _, critic = learned(script, "Probe6", tmp_path, gamma=0.9, num_envs=num_envs, total_timesteps=total)
    assert critic(torch.zeros(1, 1)).item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("script", [script for script in POLICY if script not in EPISODIC])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_no_pair_of_a_rollout_goes_from_one_episode_to_the_next(script, num_envs, tmp_path, monkeypatch):
    """Observations are numbers: 10 * episode + step, two steps. Environments seldom end together; rollouts of
    5 begin and end in the midst of episodes, and after a checkpoint comes a reset."""
    module, rollouts = load(script), []
    rollout = module.Rollout
    monkeypatch.setattr(module, "Rollout", lambda *parts: rollouts.append(rollout(*parts)) or rollouts[-1])
    minibatches = {"num_minibatches": 1} if script == "ppo" else {}
    train(module, tmp_path, env_id="probes:Apart-v0", total_timesteps=60 * num_envs, num_envs=num_envs,
          num_steps=5, eval_episodes=1, checkpoint_frequency=20 * num_envs, **minibatches)
    obs, next_obs, terminated, truncated = (
        torch.cat([getattr(part, name) for part in rollouts]).view(60, num_envs)
        for name in ("obs", "next_obs", "terminated", "truncated"))
    assert truncated.max() == 0
    assert torch.equal(next_obs - obs, torch.ones(60, num_envs))
    assert torch.equal(terminated, (next_obs % 10 == 2).float())
    assert (obs[20::20] // 10 > obs[19:-1:20] // 10).all() and len(obs.unique()) > 50
    for part in rollouts:  # next_values takes the value of the next row for that of next_obs
        going = part.terminated[:-1] == 0
        assert torch.equal(part.obs[1:][going], part.next_obs[:-1][going])
