"""Tiny environments, learned in seconds to the exact value; and what a batch of them may hold: no transition
from one episode to the next, no end where a time limit was."""
import gymnasium as gym
import pytest
import torch
from common import EPISODIC, POLICY, VALUE, all_of, checkpoint, differences, load, probe, train

slow = pytest.mark.slow
SETTINGS = {"total_timesteps": 2500, "learning_starts": 50, "train_frequency": 1, "batch_size": 32,
            "target_network_frequency": 20, "buffer_size": 500, "learning_rate": 3e-3, "gamma": 0.99,
            "eval_episodes": 1, "checkpoint_frequency": 0}
CALMER = {"noisy_dqn": {"total_timesteps": 3000, "buffer_size": 3000, "learning_rate": 1e-3,
                        "sigma_0": 0.5}}  # than SETTINGS
# environment: {observation: values of the actions}, for a discount of .99 if not told otherwise
PROBES = {
    "Probe1": {0: [1]},
    "Probe2": {-1: [-1], 1: [1]},
    "Probe3": {0: [0.99], 1: [1]},
    "Probe4": {0: [-1, 1]},
    "Probe5": {-1: [1, -1], 1: [-1, 1]},
}


def one_and_all(scripts, probes):
    """Of all pairs all but those with Probe10 are slow, which is three of the others in one."""
    return [pytest.param(script, name, marks=[] if name == "Probe10" else slow)
            for script in scripts for name in ["Probe10", *probes]]


def q_values(script, folder, obs, num_actions):
    """Q(obs, .) of the network that a run left."""
    model = checkpoint(folder / "model.pt")
    q_net = load(script).QNetwork((1,), num_actions)
    q_net.load_state_dict(model["q_net"])
    if script == "noisy_dqn":
        q_net.draw_noise(torch.zeros)
    return q_net(torch.tensor([[float(obs)]]))[0].tolist()


# ---- the DQN family

@pytest.mark.parametrize("script, name", one_and_all(VALUE, PROBES))
def test_q(script, name, tmp_path):
    """Probe 10 with a discount of .7: Q is .7 before the step with the reward, .49 for a policy that explores
    as much. Noise tries too few wrong actions to learn more of them than that they are wrong."""
    two_steps, tolerance = {-1: [0.7, 0.7], 1: [0.7, 0.7], -2: [1, -1], 2: [-1, 1]}, 0.05
    settings, noisy = SETTINGS | {"n_step": 1} | CALMER.get(script, {}), script == "noisy_dqn"
    if name == "Probe10":
        settings, tolerance = settings | {"gamma": 0.7}, 0.1
        settings |= {} if noisy else {"total_timesteps": 2000, "end_e": 0.3, "learning_rate": 2e-3}
    folder = train(load(script), tmp_path, env_id=f"probes:{name}-v0", **settings)
    for obs, expected in PROBES.get(name, two_steps).items():
        q = q_values(script, folder, obs, len(expected))
        if noisy and name == "Probe10":
            assert abs(obs) == 1 or q[obs < 0] < 0.5  # the wrong one: 1 at -2, 0 at 2
            q, expected = [max(q)], [max(expected)]
        assert q == pytest.approx(expected, abs=tolerance), obs


@pytest.mark.parametrize("script, num_envs, n_step", [
    pytest.param(script, *numbers, marks=[] if (script, numbers) == ("dqn", (3, 4)) else slow)
    for script in VALUE for numbers in [(1, 1), (3, 4)]])
def test_q_at_a_time_limit(script, num_envs, n_step, tmp_path):
    """Reward 1 a step, cut at 10, gamma .9: 10. Not 5.26 or 4.14, an end at the limit; nor 9.09, with made-up
    steps."""
    settings = {**SETTINGS, **CALMER.get(script, {}), "gamma": 0.9, "num_envs": num_envs, "n_step": n_step}
    folder = train(load(script), tmp_path, env_id="probes:Probe6-v0", **settings)
    tolerance = 0.5 if script in CALMER else 0.05  # the noise in the targets does not average out
    assert q_values(script, folder, 0, 1) == pytest.approx([10.0], abs=tolerance)


def batches_of(module, monkeypatch):
    """The list of batches that will be drawn from its replay memory."""
    batches, sample = [], module.ReplayBuffer.sample

    def watched(*args):
        batches.append(sample(*args))
        return batches[-1]

    monkeypatch.setattr(module.ReplayBuffer, "sample", watched)
    return batches


@pytest.mark.parametrize("script, num_envs, n_step", [
    ("dqn", 1, 1), ("dqn", 3, 1), ("dqn", 2, 3), ("per_dqn", 1, 1), ("per_dqn", 2, 3), ("sac", 1, 1),
    ("sac", 3, 1)])
def test_no_transition_goes_from_one_episode_to_the_next(script, num_envs, n_step, tmp_path, monkeypatch):
    """Observations are numbers: 10 * episode + step, two steps, of which the second terminates. Environments
    seldom end together; a checkpoint cuts episodes in their midst and terminates nothing."""
    module = load(script)
    batches = batches_of(module, monkeypatch)
    fields = {"total_timesteps": 300, "learning_starts": 50, "train_frequency": 1, "batch_size": 32,
              "buffer_size": 40, "gamma": 0.5, "eval_episodes": 1, "checkpoint_frequency": 99}
    fields |= {"n_step": n_step} if script != "sac" else {}
    train(module, tmp_path, env_id=probe(script, "Apart"), num_envs=num_envs, **fields)
    obs, next_obs, terminated = (torch.cat([getattr(batch, name) for batch in batches]).squeeze()
                                 for name in ("obs", "next_obs", "terminated"))
    steps, left = next_obs - obs, 2 - obs % 10  # of the window, and to the end
    assert set(obs.long().remainder(10).tolist()) == {0, 1} and len(obs.unique()) > 40
    cut = (steps < left.clamp(max=n_step)) if n_step > 1 else torch.zeros(len(obs), dtype=bool)
    assert torch.equal(steps[~cut], left.clamp(max=n_step)[~cut]) and (steps[cut] == 1).all()
    assert torch.equal(terminated, (steps == left).float()) and cut.float().mean() < 0.1
    if script != "sac":
        assert torch.equal(torch.cat([batch.discount for batch in batches]), 0.5 ** steps)


def test_a_time_limit_terminates_nothing(tmp_path):
    """Nor does a checkpoint."""
    for script in "dqn", "per_dqn", "sac":
        replay = {"learning_starts": 90, "batch_size": 8, "buffer_size": 200}
        folder = train(load(script), tmp_path, env_id=probe(script, "Limit"), total_timesteps=99, num_envs=3,
                       eval_episodes=1, checkpoint_frequency=33, **replay)
        buffer = checkpoint(folder / "checkpoint.pt")["buffer"]
        assert len(buffer["terminated"]) == 99 and not buffer["terminated"].any()


# ---- the policy gradients

_episodes = {"total_timesteps": 1200, "num_envs": 4, "episodes_per_env": 4, "learning_rate": 2e-2}
POLICY_SETTINGS = {
    "reinforce": _episodes,
    "vpg": {**_episodes, "value_learning_rate": 1e-2, "value_epochs": 10, "ent_coef": 0.0},
    "a2c": {"total_timesteps": 6000, "num_envs": 4, "num_steps": 3, "anneal_lr": False, "ent_coef": 0.0},
    "ppo": {"total_timesteps": 2560, "num_envs": 4, "num_steps": 16, "num_minibatches": 2, "update_epochs": 4,
            "learning_rate": 5e-3, "ent_coef": 0.0},
}
# longer, as values come only after the policy
TWO_STEPS = {"reinforce": {"total_timesteps": 2400}, "vpg": {"total_timesteps": 4000},
             "a2c": {"total_timesteps": 9000}, "ppo": {"total_timesteps": 3840}}
CRITICS = [script for script in POLICY if script != "reinforce"]
VALUES = {"Probe1": {0: 1}, "Probe2": {-1: -1, 1: 1}, "Probe3": {0: 0.99, 1: 1}}
RIGHT = {"Probe4": {0: 1}, "Probe5": {-1: 0, 1: 1}, "TwoWheels": {0: [1, 1]}}  # actions


def learned(script, name, tmp_path, **fields):
    """The networks (policy, critic or None) of a run on that environment."""
    module, env_id = load(script), f"probes:{name}-v0"
    fields = {"gamma": 0.99, "checkpoint_frequency": 0, "eval_episodes": 1, **POLICY_SETTINGS[script],
              **fields}
    state = checkpoint(train(module, tmp_path, env_id=env_id, **fields) / "checkpoint.pt")
    space = gym.make(env_id).action_space
    if script not in EPISODIC:
        net = module.ActorCritic((1,), space, False)
        net.load_state_dict(state["net"])
        return net.policy, net.critic
    policy, critic = module.Policy((1,), space), module.Critic((1,)) if script == "vpg" else None
    policy.load_state_dict(state["policy"])
    if critic:
        critic.load_state_dict(state["critic"])
    return policy, critic


def probability(policy, obs, action):
    return policy(torch.tensor([[float(obs)]])).log_prob(torch.tensor([action])).exp().item()


@pytest.mark.parametrize("script", POLICY)
def test_two_steps(script, tmp_path):
    """Probe 10: the action of the sign is right in the second step, and any in the first; V is 1 and .7."""
    policy, critic = learned(script, "Probe10", tmp_path, gamma=0.7, **TWO_STEPS[script])
    assert probability(policy, -2, 0) > 0.95 and probability(policy, 2, 1) > 0.95
    for obs, value in [(-2, 1), (2, 1), (-1, 0.7), (1, 0.7)] if critic else []:
        assert critic(torch.tensor([[float(obs)]])).item() == pytest.approx(value, abs=0.07), obs


@slow
@pytest.mark.parametrize("script", CRITICS)
@pytest.mark.parametrize("name", VALUES)
def test_value(script, name, tmp_path):
    _, critic = learned(script, name, tmp_path)
    for obs, expected in VALUES[name].items():
        assert critic(torch.tensor([[float(obs)]])).item() == pytest.approx(expected, abs=0.05), obs


@pytest.mark.parametrize("name", [*(pytest.param(name, marks=slow) for name in RIGHT if name != "TwoWheels"),
                                  "TwoWheels"])
@pytest.mark.parametrize("script", POLICY)
def test_policy(script, name, tmp_path):
    policy, _ = learned(script, name, tmp_path)
    for obs, action in RIGHT[name].items():
        assert probability(policy, obs, action) > 0.95, obs


@pytest.mark.parametrize("script", POLICY)
def test_policy_of_a_torque(script, tmp_path):
    """Bounds of -3 and 3; the farther from 1, which is a third of the way, the less. The mean goes there from
    0, and the deviation, of 1, shrinks."""
    fields = {"a2c": {"learning_rate": 3e-3}, "ppo": {}}.get(
        script, {"learning_rate": 1e-2, "total_timesteps": 2400, "episodes_per_env": 8})
    dist = learned(script, "Aim", tmp_path, **fields)[0](torch.zeros(1, 1))
    assert 3 * dist.mean.item() == pytest.approx(1, abs=0.5) and dist.log_std.exp().item() < 0.7


@pytest.mark.parametrize("script, expected", [("vpg", 4.138), ("a2c", 10.0), ("ppo", 10.0)])
@pytest.mark.parametrize("num_envs", [pytest.param(1, marks=slow), 3])
def test_value_at_a_time_limit(script, expected, num_envs, tmp_path):
    """Reward 1 a step, cut at 10, gamma .9; the observation never changes. vpg sums to the cut, so that its V
    is the mean over the 10 steps of those sums, (1 - .9^k) / .1 for k from 1 to 10; the others bootstrap
    there, and where a rollout of 3 or 16 steps ends in the midst of an episode."""
    if script == "vpg":
        assert expected == pytest.approx(sum((1 - 0.9**k) / 0.1 for k in range(1, 11)) / 10, abs=1e-3)
    total = {"vpg": 2000, "a2c": 1500, "ppo": 640}[script] * num_envs
    _, critic = learned(script, "Probe6", tmp_path, gamma=0.9, num_envs=num_envs, total_timesteps=total)
    assert critic(torch.zeros(1, 1)).item() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("script, num_envs", [("a2c", 3), ("ppo", 1), ("ppo", 3)])
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


@pytest.mark.parametrize("script", all_of(["sac", *POLICY]))
def test_learning_does_not_depend_on_the_bounds(script, tmp_path):
    """Two torques in [-1, 1], or with other bounds, in float64 and with sac in rows and columns: the same
    bits, so all that is learned, and the entropy and its target, are of the action in [-1, 1]."""
    fields = {"sac": {"total_timesteps": 120, "learning_starts": 50, "batch_size": 8, "buffer_size": 300}}
    fields = fields.get(script, {"total_timesteps": 300, "num_envs": 2}) | {"eval_episodes": 1}
    states = []
    for name in "Torques", "WideTorques" if script == "sac" else "FarTorques":
        folder = train(load(script), tmp_path, env_id=f"probes:{name}-v0", **fields)
        states.append(checkpoint(folder / "checkpoint.pt"))
    different = [line for line in differences(*states) if not line.startswith("/args/env_id")]
    assert not different
