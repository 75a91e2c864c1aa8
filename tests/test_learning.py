"""Every script learns its small task with its default flags; fixed seeds, fixed numbers of transitions."""
import pytest
from common import EVAL, SCRIPTS, VALUE, end, start

# script: (flags, seeds, what the best and the worst final evaluation must reach). On CartPole-v1 a random
# policy gets about 20, and 475 counts as solved. The greedy policy of DQN's family is judged on the last
# weights, and one seed in ten or so is caught while they swing; REINFORCE and VPG have a part of their own
# budget: of these one of two seeds must solve it.
TASK = {script: ([], ["1", "2"], 475.0, 100.0) for script in VALUE}
TASK["reinforce"] = ["--total-timesteps", "150000"], ["1", "2"], 475.0, 100.0
TASK["vpg"] = ["--total-timesteps", "100000"], ["1", "2"], 475.0, 100.0
TASK["a2c"] = ["--total-timesteps", "100000"], ["1", "2"], 475.0, 475.0
TASK["ppo"] = ["--total-timesteps", "50000"], ["1", "2"], 475.0, 475.0
TASK["sac"] = ["--total-timesteps", "10000"], ["1", "2"], -200.0, -200.0  # Pendulum-v1: at random -1,200


@pytest.mark.parametrize("script", SCRIPTS)
def test_solves_its_task(script, tmp_path):
    flags, seeds, best, worst = TASK[script]
    started = [start(script, *flags, "--seed", seed, cwd=tmp_path) for seed in seeds]
    lines = [end(process).out.splitlines()[-1] for process in started]
    means = dict(zip(seeds, (float(EVAL.fullmatch(line)[1]) for line in lines), strict=True))
    assert max(means.values()) >= best and min(means.values()) >= worst, means
