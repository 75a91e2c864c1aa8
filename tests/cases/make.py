"""Make the reference values of this folder: the inputs are here, the formulas in formulas.py.

    python tests/cases/make.py           write the files
    python tests/cases/make.py --check   compare them with what is stored; exit status 1 on a difference

An input 0.9 means 9/10. Everything is computed with 100 digits and rounded once, to a float64. Results below
1e-25 are written as 0. `hand` has values that were worked out by hand, to the digits that are written.
Needs mpmath, which comes with torch.
"""
import json
import math
import sys
from decimal import Decimal
from pathlib import Path

import formulas
from formulas import exact, plain
from mpmath import mp

mp.dps = 100  # digits
HERE = Path(__file__).resolve().parent
FILES = {}  # name -> text

DQN = "Mnih et al. 2015, Nature 518:529-533"
DOUBLE_DQN = "van Hasselt et al. 2016, arXiv:1509.06461"
HUANG = "Huang et al. 2022, The 37 Implementation Details of Proximal Policy Optimization, ICLR blog track"
A3C = "Mnih et al. 2016, arXiv:1602.01783"
GAE = "Schulman et al. 2016, arXiv:1506.02438"
PPO = "Schulman et al. 2017, arXiv:1707.06347"
PER = "Schaul et al. 2016, arXiv:1511.05952"
SUTTON = "Sutton et al. 2000, NIPS 12:1057-1063"
WILLIAMS = "Williams 1992, Machine Learning 8:229-256"
SAC = "Haarnoja et al. 2018, arXiv:1812.05905"
PARTS = {  # of per.json and sac_losses.json
    "weights": "Eq. (1), Sec. 3.4", "priorities": "Sec. 3.3", "loss": "Algorithm 1", "beta": "Sec. 3.4",
    "sum_tree": "App. B.2.1", "stratified": "App. B.2.1", "target": "Eq. (5); minimum: Sec. 6",
    "critic": "Eq. (5)", "policy": "Eqs. (7), (9); minimum: Sec. 6", "temperature": "Eq. (18)"}


def agrees(value, hand) -> bool:
    """Whether the value, rounded to the digits of the hand value, is the hand value; an int is exact."""
    if isinstance(hand, list):
        return len(value) == len(hand) and all(map(agrees, value, hand))
    digits = 9 if isinstance(hand, int) else -Decimal(repr(hand)).as_tuple().exponent
    return math.isclose(round(value, digits), hand, abs_tol=1e-12)


def case(name, function, inputs, hand=None, part=None, dtype=None, drop=()):
    """A case; `drop` names the results that do not belong in it."""
    results = getattr(formulas, function)(**{key: exact(x) for key, x in inputs.items()})
    expected = {key: plain(x) for key, x in results.items() if key not in drop}
    for key, x in (hand or {}).items():
        assert agrees(expected[key], x), f"{function}, {name}: {key} is {expected[key]}, by hand {x}"
    head = {"name": name, "part": part, "source": PARTS.get(part), "dtype": dtype, "tolerance": 1e-5}
    return {key: x for key, x in head.items() if x} | {"inputs": inputs, "expected": expected}


def write(name, source, inputs, outputs, cases):
    """The text of a file, with the inputs and the expected values of a case on one line each."""
    def dump(x):
        return json.dumps(x, allow_nan=False)

    head = {"function": name, "source": source, "inputs": inputs, "outputs": outputs}
    lines = [f" {dump(key)}: {dump(x)}," for key, x in head.items()] + [' "cases": [']
    for x in cases:
        rows = [dump({k: v for k, v in x.items() if k not in ("inputs", "expected")})[:-1]]
        rows += [f'"inputs": {dump(x["inputs"])}', f'"expected": {dump(x["expected"])}' + "}"]
        lines.append("  " + ",\n   ".join(rows) + ("," if x is not cases[-1] else ""))
    FILES[f"{name}.json"] = "\n".join(["{", *lines, " ]", "}", ""])


# value learning

TD_OUT = ("next_q (B,), value of s'; y (B,), target; td_error (B,), y - Q(s, a); loss (), mean of"
          " td_error^2; huber_loss (), the same with the error clipped to [-1, 1]: td_error^2 / 2 inside,"
          " |td_error| - 1/2 outside; d_q_values, huber_d_q_values (B, A), their gradients, none through y")
TD_IN = ("q_values (B, A), Q(s, .) of the online network; action (B,) int; reward (B,), the n-step sum if n"
         " > 1; discount (B,), gamma^k; terminated (B,), 0 or 1; ")
batch = {"q_values": [[0.5, -1.2, 2.0], [1.5, 0.3, -0.7], [-2.0, -3.0, -1.0], [0.0, 4.0, 1.0]],
         "action": [2, 0, 1, 1], "reward": [1.0, -0.5, 0.0, 2.5], "discount": [0.99, 0.99, 0.970299, 0.9801],
         "terminated": [0, 1, 0, 0]}
one = {"q_values": [[7.0, 0.0]], "action": [0], "reward": [1.0], "discount": [0.9], "terminated": [0]}
target = {"target_next_q_values": [[1.0, 2.0, 0.5], [9.0, 8.0, 7.0], [-4.0, -0.5, -6.0], [3.0, 1.0, 2.0]]}
online = {"online_next_q_values": [[3.0, 1.0, 2.0], [0.0, 1.0, 2.0], [-1.0, -3.0, -0.5], [2.0, 1.9, 2.1]]}
write("dqn_target", f"{DQN}, Algorithm 1; {DOUBLE_DQN}, Eq. (3)",
      TD_IN + "next_q_values (B, A), Q(s', .) of the target network", TD_OUT, [
    case("one transition", "dqn_target", one | {"next_q_values": [[10.0, 5.0]]},
         {"y": [10], "td_error": [3], "loss": 9, "d_q_values": [[-6, 0]], "huber_d_q_values": [[-1, 0]]}),
    case("terminated", "dqn_target", one | {"next_q_values": [[10.0, 5.0]], "terminated": [1]}, {"y": [1]}),
    case("small error", "dqn_target", one | {"next_q_values": [[10.0, 5.0]], "q_values": [[9.5, 0.0]]},
         {"td_error": [0.5], "d_q_values": [[-1, 0]], "huber_d_q_values": [[-0.5, 0]]}),
    case("batch", "dqn_target", batch | {"next_q_values": target["target_next_q_values"]})])
write("double_dqn_target",
      f'{DOUBLE_DQN}, section "Double DQN" (unnumbered); Wang et al. 2016, arXiv:1511.06581, Eq. (6)',
      TD_IN + "online_next_q_values (B, A), Q(s', .) of the online network; target_next_q_values (B, A), of"
      " the target network", "best_action (B,) int, argmax of the online network; " + TD_OUT, [
    case("the networks disagree", "double_dqn_target", one | {
        "online_next_q_values": [[1.0, 3.0]], "target_next_q_values": [[10.0, 5.0]]},
         {"best_action": [1], "y": [5.5]}),
    case("terminated", "double_dqn_target", one | {"terminated": [1],
         "online_next_q_values": [[1.0, 3.0]], "target_next_q_values": [[10.0, 5.0]]}, {"y": [1]}),
    case("batch", "double_dqn_target", batch | online | target)])

four = {"reward": [1.0, 2.0, 3.0, 4.0], "terminated": [0, 0, 0, 1], "truncated": [0, 0, 0, 0],
        "next_value": [10.0, 10.0, 10.0, 10.0], "gamma": 0.9, "n": 3}
cut = four | {"terminated": [0, 0, 0, 0]}
seven = {"reward": [1.0, -2.0, 3.0, 0.5, 4.0, -1.0, 2.0], "terminated": [0, 0, 1, 0, 0, 0, 0],
         "truncated": [0, 0, 0, 0, 0, 1, 0], "next_value": [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0],
         "gamma": 0.99}
late = {"y": [12.52, 15.23, 14.7, 13], "steps": [3, 3, 2, 1]}
write("n_step_return", "Hessel et al. 2018, arXiv:1710.02298, Eq. (2)",
      "reward, terminated, truncated (T,), of consecutive steps of one environment; next_value (T,), value"
      " of the state that step t led to, such as max_a Q, the true one at ends of episodes; gamma; n int. A"
      " window ends after n steps, at the end of its episode, or with the data, whichever is first",
      "steps (T,) int, length k of the window from t; reward_sum (T,), of gamma^i r_{t+i} over i < k;"
      " discount (T,), gamma^k; window_terminated (T,), whether its last step is terminal; y (T,),"
      " reward_sum + discount * (1 - window_terminated) * next_value of the window's last step", [
    case("terminated", "n_step_return", four, {"reward_sum": [5.23, 7.94, 6.6, 4], "steps": [3, 3, 2, 1],
         "discount": [0.729, 0.729, 0.81, 0.9], "y": [12.52, 7.94, 6.6, 4]}),
    case("truncated", "n_step_return", cut | {"truncated": [0, 0, 0, 1]}, late),
    case("terminated and truncated", "n_step_return", four | {"truncated": [0, 0, 0, 1]},
         {"y": [12.52, 7.94, 6.6, 4]}),
    case("cut by the end of the data", "n_step_return", cut, late),
    case("two episodes, and a third begun, n = 2", "n_step_return", seven | {"n": 2}),
    case("two episodes, and a third begun, n = 5", "n_step_return", seven | {"n": 5}),
    case("n = 1", "n_step_return", seven | {"n": 1}),
    case("n longer than the episode", "n_step_return", four | {"n": 10},
         {"y": [8.146, 7.94, 6.6, 4], "steps": [4, 3, 2, 1]})])

write("dueling", "Wang et al. 2016, arXiv:1511.06581, Eq. (9)",
      "value (B,), advantage (B, A), the outputs of the two streams; d_q_values (B, A), gradient of some"
      " loss with respect to q_values", "q_values (B, A); d_value (B,), d_advantage (B, A), gradients of that"
      " loss", [
    case("one state", "dueling", {
        "value": [10.0], "advantage": [[1.0, 2.0, 3.0]], "d_q_values": [[1.0, 0.0, 0.0]]},
         {"q_values": [[9, 10, 11]], "d_value": [1], "d_advantage": [[0.666667, -0.333333, -0.333333]]}),
    case("two states: the mean is over actions", "dueling", {
        "value": [10.0, 20.0], "advantage": [[1.0, 2.0, 3.0], [11.0, 12.0, 13.0]],
        "d_q_values": [[1.0, -2.0, 0.5], [0.0, 0.0, 3.0]]}, {"q_values": [[9, 10, 11], [19, 20, 21]]}),
    case("a constant added to the advantages changes nothing", "dueling", {
        "value": [10.0], "advantage": [[101.0, 102.0, 103.0]], "d_q_values": [[1.0, 0.0, 0.0]]},
         {"q_values": [[9, 10, 11]]})])

layer = {"mu_w": [[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]], "sigma_w": [[0.25, 0.1, 0.3], [-0.2, 0.4, 0.15]],
         "mu_b": [0.05, -0.1], "sigma_b": [0.2, 0.3],
         "noise_in": [4.0, -0.25, 0.09], "noise_out": [-1.44, 2.25],
         "x": [[1.0, 2.0, -1.0], [0.5, -0.3, 0.8]], "d_y": [[1.0, -0.5], [0.25, 2.0]]}
write("noisy_linear", "Fortunato et al. 2018, arXiv:1706.10295, Eqs. (9)-(11)",
      "mu_w, sigma_w (q, p); mu_b, sigma_b (q,); noise_in (p,), noise_out (q,), standard normal draws; x (B,"
      " p); d_y (B, q), gradient of some loss with respect to y", "eps_in (p,), eps_b (q,), f(x) = sgn(x)"
      " sqrt|x| of the draws; eps_w (q, p), their outer product; y (B, q); d_mu_w, d_sigma_w, d_mu_b,"
      " d_sigma_b, d_x, gradients", [
    case("batch", "noisy_linear", layer, {"eps_in": [2, -0.5, 0.3], "eps_b": [-1.2, 1.5],
         "eps_w": [[-2.4, 0.6, -0.36], [3, -0.75, 0.45]]}),
    case("no noise: a linear layer", "noisy_linear", layer | {
        "noise_in": [0.0, 0.0, 0.0], "noise_out": [0.0, 0.0]}, {"y": [[-0.55, 1.9], [0.4, -0.53]]}),
    case("gradient of sigma is eps_w x", "noisy_linear", {"mu_w": [[0.0, 0.0]], "sigma_w": [[0.5, 0.5]],
         "mu_b": [0.0], "sigma_b": [0.5], "noise_in": [4.0, -0.25], "noise_out": [1.0], "x": [[3.0, 2.0]],
         "d_y": [[1.0]]}, {"y": [[3]], "d_sigma_w": [[6, -1]], "d_sigma_b": [1]})])

p, weights = [1.0, 2.0, 3.0, 4.0], []
P6 = [0.148230, 0.224674, 0.286555, 0.340542]
for alpha, beta, probability, weight in [
        (0.0, 0.4, [0.25] * 4, [1] * 4), (0.0, 1.0, [0.25] * 4, [1] * 4),
        (0.6, 0.4, P6, [1, 0.846745, 0.768229, 0.716978]), (0.6, 1.0, P6, [1, 0.659754, 0.517282, 0.435275]),
        (1.0, 0.4, [0.1, 0.2, 0.3, 0.4], [1, 0.757858, 0.644394, 0.574349]),
        (1.0, 1.0, [0.1, 0.2, 0.3, 0.4], [1, 0.5, 0.333333, 0.25])]:
    inputs = {"priority": p, "alpha": alpha, "beta": beta}
    weights.append(case(f"alpha {alpha}, beta {beta}", "per_weights", inputs,
                        {"probability": probability, "weight": weight}, part="weights"))
wide = {"priority": [1e-6, 0.5, 1000.0, 2.0, 0.5], "alpha": 0.6, "beta": 0.7}
tree = {"p_alpha": p, "changed_leaf": [], "changed_p_alpha": [], "prefix": [0.0, 0.999, 1.0, 3.0, 6.0, 9.999]}
td_errors = {"td_error": [0.5, -2.0, 0.0, 3.5], "eps": 1e-6}
write("per", f"{PER}, Eq. (1), Algorithm 1, Sec. 3.4, App. B.2.1",
      "By part. weights: priority (N,), alpha, beta. priorities: td_error (B,), eps, alpha. loss: q, y,"
      " weight (B,). sum_tree: p_alpha (N,), leaves; changed_leaf int and changed_p_alpha, new values of"
      " some leaves; prefix (B,). stratified: p_alpha (N,), uniform (B,) draws from [0, 1). beta:"
      " beta_start, step, total_steps",
      "weights: p_alpha (N,), p^alpha; probability (N,), P; raw_weight (N,), (N P)^-beta; weight (N,),"
      " divided by their maximum. priorities: priority (B,), |td_error| + eps; p_alpha (B,). loss: td_error"
      " (B,), y - q; loss (), mean of weight * td_error^2; d_q (B,). sum_tree: total (), after the changes;"
      " leaf (B,) int, the first whose running sum exceeds the prefix. stratified: prefix (B,), one in each"
      " of B equal parts of the total; leaf (B,) int. beta: beta (), annealed linearly to 1", weights + [
    case("a wide range", "per_weights", wide, part="weights"),
    case("alpha 0.6", "per_priorities", td_errors | {"alpha": 0.6}, part="priorities"),
    case("alpha 1", "per_priorities", td_errors | {"alpha": 1.0},
         {"priority": [0.500001, 2.000001, 0.000001, 3.500001]}, part="priorities"),
    case("weighted before the mean", "per_loss", {"q": [1.0, 2.0, 0.0], "y": [1.5, 0.0, 4.0],
         "weight": [1.0, 0.5, 0.25]}, {"td_error": [0.5, -2, 4], "loss": 2.083333,
                                       "d_q": [-0.333333, 0.666667, -0.666667]}, part="loss"),
    case("prefixes", "per_sum_tree", tree, {"total": 10, "leaf": [0, 0, 1, 2, 3, 3]}, part="sum_tree"),
    case("a changed leaf", "per_sum_tree", tree | {"changed_leaf": [0], "changed_p_alpha": [5.0],
         "prefix": [0.0, 4.5, 5.0, 6.75, 7.0, 9.75, 10.0, 13.75]},
         {"total": 14, "leaf": [0, 0, 1, 1, 2, 2, 3, 3]}, part="sum_tree"),
    case("five leaves, some empty", "per_sum_tree", {"p_alpha": [0.0, 2.0, 0.0, 3.0, 0.0], "changed_leaf": [],
         "changed_p_alpha": [], "prefix": [0.0, 1.75, 2.0, 4.75]}, {"leaf": [1, 1, 3, 3]}, part="sum_tree"),
    case("two parts", "per_stratified", {"p_alpha": p, "uniform": [0.5, 0.5]},
         {"prefix": [2.5, 7.5], "leaf": [1, 3]}, part="stratified"),
    case("four parts", "per_stratified", {"p_alpha": p, "uniform": [0.25, 0.75, 0.125, 0.5]},
         {"prefix": [0.625, 4.375, 5.3125, 8.75], "leaf": [0, 2, 2, 3]}, part="stratified"),
    case("half way", "per_beta", {"beta_start": 0.4, "step": 50, "total_steps": 100}, {"beta": 0.7},
         part="beta"),
    case("after the end", "per_beta", {"beta_start": 0.4, "step": 300, "total_steps": 100}, {"beta": 1},
         part="beta")])

write("polyak", f"{SAC}, Algorithm 1", "net, target_net (n,), parameters; tau; steps int, updates with the"
      " same net",
      "target_net (n,), afterwards", [
    case("one update", "polyak", {"net": [1.0, -2.0], "target_net": [0.0, 4.0], "tau": 0.005, "steps": 1},
         {"target_net": [0.005, 3.97]}),
    case("half way", "polyak", {"net": [1.0], "target_net": [0.0], "tau": 0.005, "steps": 138},
         {"target_net": [0.49929]}),
    case("tau 1 copies", "polyak", {"net": [1.0, -2.0], "target_net": [0.0, 4.0], "tau": 1.0, "steps": 1},
         {"target_net": [1, -2]}),
    case("tau 0 keeps", "polyak", {"net": [1.0, -2.0], "target_net": [0.0, 4.0], "tau": 0.0, "steps": 3},
         {"target_net": [0, 4]})])

# distributions

write("categorical", f"{A3C}, section 4 (entropy); several actions at once: {HUANG}",
      "logits (B, A) and action (B,) int; for MultiDiscrete logits (B, K, A_k), rows of unequal length, and"
      " action (B, K) int",
      "logp, entropy (B,), summed over K; d_logits, entropy_d_logits, gradients of their sums over B", [
    case("two equal actions", "categorical", {"logits": [[0.0, 0.0]], "action": [0]},
         {"logp": [-0.693147], "entropy": [0.693147], "d_logits": [[0.5, -0.5]]}),
    case("six equal actions", "categorical", {"logits": [[3.0] * 6], "action": [5]}, {"entropy": [1.791759]}),
    case("batch", "categorical", {"logits": [[0.5, -1.0, 2.0], [-3.0, 0.0, 1.0]], "action": [2, 0]}),
    case("large logits", "categorical", {"logits": [[1000.0, 0.0, -1000.0], [1000.0, 0.0, -1000.0]],
         "action": [0, 2]}, {"logp": [0, -2000], "entropy": [0, 0]}),
    case("MultiDiscrete of 3, 2 and 4", "categorical", {"action": [[0, 1, 3], [2, 0, 1]], "logits": [
        [[0.5, -1.0, 2.0], [0.3, 0.7], [1.0, 0.0, -1.0, 2.0]],
        [[-0.5, 1.5, 0.0], [-2.0, 1.0], [0.2, 0.4, 0.6, 0.8]]]}),
    case("MultiDiscrete, all equal", "categorical", {"logits": [[[0.0, 0.0], [0.0] * 6]], "action": [[1, 4]]},
         {"logp": [-2.484907], "entropy": [2.484907]})])
write("gaussian", f"{WILLIAMS}, Eq. (12); {HUANG}", "mean, action (B, A); log_std (A,)",
      "logp, entropy (B,), summed over A; d_mean (B, A), d_log_std (A,), gradients of the sum of logp", [
    case("standard", "gaussian", {"mean": [[0.0]], "log_std": [0.0], "action": [[0.0]]},
         {"logp": [-0.918939], "entropy": [1.418939], "d_mean": [[0]], "d_log_std": [-1]}),
    case("log_std -0.5", "gaussian", {"mean": [[0.0]], "log_std": [-0.5], "action": [[1.0]]},
         {"logp": [-1.778079], "entropy": [0.918939]}),
    case("two dimensions", "gaussian", {"mean": [[0.3, -0.2], [1.0, 2.0], [0.0, 0.0]], "log_std": [-0.7, 0.4],
         "action": [[0.8, -1.0], [1.0, -1.0], [3.0, 0.5]]})])
squash, hand = [], {0.0: (-0.918939, 0), 0.5: (-0.803710, 0.462117), 1.0: (-0.551377, 0.761594),
                    3.0: (-0.800282, 0.995055), 6.0: (-8.305221, 0.999988), 10.0: (-32.305233, 1.0)}
for u in (0.0, 0.5, 1.0, 3.0, 6.0, 9.0, 10.0, 20.0, -9.0, -20.0):
    logp, action = hand.get(u, (None, None))
    squash.append(case(f"mean 0, std 1, u = {u:g}", "squashed_log_prob",
                       {"mean": [[0.0]], "log_std": [[0.0]], "noise": [[u]]},
                       {} if logp is None else {"logp": [logp], "action": [[action]]}))
write("squashed_log_prob", f"{SAC}, Eqs. (8), (25), (26)",
      "mean, log_std, noise (B, A): u = mean + exp(log_std) * noise, action = tanh(u)",
      "u, action (B, A); logp (B,), summed over A, of the action in [-1, 1]; d_mean, d_log_std (B, A),"
      " gradients of the sum of logp, the noise constant", squash + [
    case("std 0.5", "squashed_log_prob", {"mean": [[0.3]], "log_std": [[math.log(0.5)]], "noise": [[1.0]]},
         {"u": [[0.8]], "action": [[0.664037]], "logp": [-0.144284], "d_mean": [[1.328074]],
          "d_log_std": [[-0.335963]]}),
    case("narrow, far out", "squashed_log_prob", {"mean": [[12.0], [-12.0]], "log_std": [[-3.0], [-3.0]],
         "noise": [[0.5], [0.5]]}),
    case("three dimensions", "squashed_log_prob", {
        "mean": [[0.3, -1.0, 2.0], [-0.5, 0.1, -7.0]], "log_std": [[-0.7, 0.4, -1.5], [1.2, -5.0, 0.0]],
        "noise": [[1.0, -0.6, 0.2], [-1.7, 0.9, -2.0]]})])

# policy gradients

write("rewards_to_go", f"{SUTTON}, Sec. 1; {GAE}, Sec. 2", "reward (T,) of one episode; gamma", "ret (T,)", [
    case("gamma 0.5", "rewards_to_go", {"reward": [1.0, 2.0, 3.0], "gamma": 0.5}, {"ret": [2.75, 3.5, 3]}),
    case("gamma 1", "rewards_to_go", {"reward": [1.0, 2.0, 3.0], "gamma": 1.0}, {"ret": [6, 5, 3]}),
    case("gamma 0", "rewards_to_go", {"reward": [1.0, 2.0, 3.0], "gamma": 0.0}, {"ret": [1, 2, 3]}),
    case("one step", "rewards_to_go", {"reward": [-1.5], "gamma": 0.99}, {"ret": [-1.5]}),
    case("signs", "rewards_to_go", {"reward": [0.0, -1.0, 0.0, 2.0, -0.5, 1.0], "gamma": 0.97})])
two = {"logits": [[[0.5, -0.5], [0.0, 1.0]]], "action": [[0, 1]], "reward": [[1.0, 2.0]], "gamma": 0.9}
unequal = {"logits": [[[0.5, -1.0, 2.0]], [[0.0, 0.0, 0.0], [1.0, 0.5, -0.5], [-0.2, 0.1, 0.3]]],
           "action": [[1], [2, 0, 1]], "reward": [[3.0], [1.0, -1.0, 0.5]], "gamma": 0.9}
bandit = {"logits": [[[0.0, 0.0]], [[0.0, 0.0]]], "action": [[0], [1]], "reward": [[1.0], [3.0]],
          "gamma": 1.0}
EPISODES = (
    "Lists over the E episodes, each of its own length T: logits (E, T, A); action (E, T) int; reward (E, T)")
write("reinforce", f"{WILLIAMS}, Eq. (11), with the rewards-to-go of {SUTTON}, Sec. 1", EPISODES + "; gamma",
      "ret, logp (E, T); episode_loss (E,), -sum over t of ret * logp; loss (), their mean; d_logits (E, T,"
      " A), gradient of loss", [
    case("one step", "reinforce", {
        "logits": [[[0.0, 0.0]]], "action": [[0]], "reward": [[2.75]], "gamma": 0.5},
         {"loss": 1.906155, "d_logits": [[[-1.375, 1.375]]]}),
    case("two steps: the sum over an episode", "reinforce", two, {"ret": [[2.8, 2]]}),
    case("two episodes of unequal length", "reinforce", unequal),
    case("bandit, each arm once", "reinforce", bandit,
         {"d_logits": [[[-0.25, 0.25]], [[0.75, -0.75]]]})])
write("vpg", f"{SUTTON}, Sec. 3; entropy: {A3C}, section 4",
      EPISODES + "; value (E, T), baseline b(s_t), such as V(s_t); gamma; ent_coef",
      "ret, adv, logp, entropy (E, T), adv = ret - value; episode_loss (E,), -sum over t of adv * logp +"
      " ent_coef * entropy; loss (), their mean; d_logits (E, T, A), gradient of loss; value_loss (), half"
      " the mean of (value - ret)^2 over all steps; d_value (E, T), gradient of value_loss", [
    case("no baseline: REINFORCE", "vpg", two | {"value": [[0.0, 0.0]], "ent_coef": 0.0}),
    case("baseline and entropy, two episodes", "vpg", unequal | {"value": [[2.0], [0.5, -0.5, 1.5]],
                                                                 "ent_coef": 0.01}),
    case("bandit, baseline 2", "vpg", bandit | {"value": [[2.0], [2.0]], "ent_coef": 0.0},
         {"d_logits": [[[0.25, -0.25]], [[0.25, -0.25]]]})])

ROLLOUT = ("reward, terminated, truncated (T, N); value, next_value (T, N), V of the state and of the true"
      " next state, also where an episode ends; gamma")
kinds = {"running on": (0, 0), "terminated": (1, 0), "truncated": (0, 1), "terminated and truncated": (1, 1)}
hand = {
    ("running on", "", 0.5): [3.12575, 3.835, 3.3], ("terminated", "inside", 0.5): [1.85, 1, 3.3],
    ("terminated", "at the end", 0.5): [2.76125, 3.025, 1.5], ("truncated", "inside", 0.5): [3.47, 4.6, 3.3],
    ("terminated and truncated", "inside", 0.5): [1.85, 1, 3.3], ("running on", "", 0.0): [1.4, 2.35, 3.3],
    ("running on", "", 1.0): [6.188, 5.32, 3.3]}
cases = []
for kind, (terminated, truncated) in kinds.items():
    for place in ("",) if kind == "running on" else ("inside", "at the end"):
        end = {"inside": 1, "at the end": 2}.get(place)
        for lam in (0.0, 0.5, 1.0):
            inputs = {
                "reward": [[1.0], [2.0], [3.0]], "value": [[0.5], [1.0], [1.5]],
                "next_value": [[1.0], [4.0 if place == "inside" else 1.5], [2.0]],
                "terminated": [[terminated * (t == end)] for t in range(3)],
                "truncated": [[truncated * (t == end)] for t in range(3)], "gamma": 0.9, "lam": lam}
            known = hand.get((kind, place, lam))
            name = f"{kind} {place}".strip() + f", lam {lam:g}"
            cases.append(case(name, "gae", inputs, {"adv": [[a] for a in known]} if known else {}))
four_envs = {
    "reward": [[1.0, 0.0, -1.0, 0.5], [0.5, 2.0, 1.0, -0.5], [0.0, 1.0, 3.0, 1.5], [1.0, -1.0, 0.5, 2.0]],
    "value": [[0.5, 1.0, -0.5, 2.0], [1.5, 0.0, 0.5, 1.0], [2.0, -1.0, 1.0, 0.5], [0.0, 0.5, 1.5, -1.0]],
    "next_value": [[1.5, 0.0, 0.5, 7.0], [9.0, -1.0, 6.0, 0.5], [0.0, 8.0, 1.5, -1.0], [2.5, 5.0, -2.0, 1.0]],
    "terminated": [[0, 0, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]],
    "truncated": [[0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]], "gamma": 0.99}
cases += [case(f"four environments, lam {lam:g}", "gae", four_envs | {"lam": lam})
          for lam in (0.0, 0.5, 0.95, 1.0)]
write("gae", f"{GAE}, Eq. (16); {PPO}, Eqs. (11), (12), whose last exponent should be T-t-1",
      ROLLOUT + "; lam",
      "delta (T, N), TD error; adv (T, N), cut where an episode ends, without bootstrap where it is"
      " terminated; ret (T, N), adv + value", cases)

rollout = {"reward": [[0.0], [1.0]], "value": [[0.5], [0.5]], "next_value": [[0.5], [2.0]],
           "terminated": [[0], [0]], "truncated": [[0], [0]], "logits": [[[0.0, 0.0]], [[0.0, 0.0]]],
           "action": [[0], [1]], "gamma": 0.9, "vf_coef": 0.5, "ent_coef": 0.01}
big = four_envs | {"action": [[0, 2, 1, 0], [1, 0, 2, 1], [2, 1, 0, 2], [0, 2, 1, 0]], "logits": [
    [[round(z, 1) for z in (0.5 * t - 0.3 * n, 0.2 * n, 0.1 * t * n - 0.4)] for n in range(4)]
    for t in range(4)]}
write("a2c_loss",
      f"{A3C}, section 4 and Algorithm S3; {PPO}, Eq. (10), whose last exponent should be T-t-1",
      ROLLOUT + "; logits (T, N, A); action (T, N) int; vf_coef; ent_coef",
      "ret (T, N), R; adv (T, N), R - value; logp (T, N); policy_loss (), -mean of adv * logp; value_loss"
      " (), half the mean of (value - R)^2; entropy (), mean; loss (), policy_loss + vf_coef * value_loss -"
      " ent_coef * entropy; d_logits (T, N, A), d_value (T, N), gradients of loss, none through R and adv", [
    case("two steps", "a2c_loss", rollout, {
        "ret": [[2.52], [2.8]], "adv": [[2.02], [2.3]], "policy_loss": 1.4972, "value_loss": 2.3426,
        "entropy": 0.693147}),
    case("terminated at the end", "a2c_loss", rollout | {"terminated": [[0], [1]]}, {"ret": [[0.9], [1]]}),
    case("four environments", "a2c_loss", big | {"vf_coef": 0.25, "ent_coef": 0.05}),
    case("four environments, no entropy bonus", "a2c_loss", big | {"vf_coef": 0.5, "ent_coef": 0.0})])

coefs = {"clip_coef": 0.2, "vf_coef": 0.5, "ent_coef": 0.01, "clip_vloss": False}


def ppo(name, log_ratio, adv, hand=None, value=0.5, old_value=0.5, ret=1.0, **other):
    """A case with the same value, old value and return in each sample, unless lists are given."""
    rows = {k: x if isinstance(x, list) else [x] * len(adv) for k, x in
            {"value": value, "old_value": old_value, "ret": ret}.items()}
    settings = coefs | {k: x for k, x in other.items() if k in coefs}
    logp = [round(x - 0.7, 15) for x in log_ratio]
    inputs = {"logp": logp, "old_logp": [-0.7] * len(adv), "adv": adv} | rows
    return case(name, "ppo_loss", inputs | {"entropy": [0.7] * len(adv)} | settings, hand,
                **{k: x for k, x in other.items() if k not in coefs})


UP, HALF, IN, clip_v = math.log(1.5), math.log(0.5), math.log(1.1), {"clip_vloss": True}
write("ppo_loss", f"{PPO}, Eqs. (7), (9); value clipping, the 1/2, approx_kl and clipfrac: {HUANG}",
      "logp, old_logp, adv, value, old_value, ret, entropy (B,); clip_coef; vf_coef; ent_coef; clip_vloss"
      " bool",
      "ratio (B,); policy_loss (); value_loss (), half the mean squared error, with clip_vloss of the larger"
      " of the two errors; entropy (), mean; loss (), policy_loss + vf_coef * value_loss - ent_coef *"
      " entropy; approx_kl (), mean of ratio - 1 - log ratio; clipfrac (), share of |ratio - 1| > clip_coef;"
      " d_logp, d_value, d_entropy (B,), gradients of loss. Left out where float32 overflows: ratio and"
      " approx_kl", [
    ppo("ratio 1.5, adv 1: clipped", [UP], [1.0], {"policy_loss": -1.2, "d_logp": [0], "clipfrac": 1}),
    ppo("ratio 0.5, adv 1: not clipped", [HALF], [1.0],
        {"policy_loss": -0.5, "d_logp": [-0.5], "clipfrac": 1}),
    ppo("ratio 1.5, adv -1: not clipped", [UP], [-1.0], {"policy_loss": 1.5, "d_logp": [1.5]}),
    ppo("ratio 0.5, adv -1: clipped", [HALF], [-1.0], {"policy_loss": 0.8, "d_logp": [0]}),
    ppo("ratio 1.1, adv 1: inside", [IN], [1.0], {"policy_loss": -1.1, "d_logp": [-1.1], "clipfrac": 0}),
    ppo("ratio 1: the first minibatch", [0.0, 0.0], [1.0, -2.0], {"ratio": [1, 1], "policy_loss": 0.5,
        "approx_kl": 0, "clipfrac": 0, "d_logp": [-0.5, 1]}),
    ppo("log ratio 0.1", [0.1], [1.0], {"approx_kl": 0.005171}),
    ppo("value, target 3: the clipped error is larger", [0.0], [1.0], {"value_loss": 1.62, "d_value": [0]},
        2.0, 1.0, 3.0, **clip_v),
    ppo("value, target 1.1: the other is", [0.0], [1.0], {"value_loss": 0.405, "d_value": [0.45]},
        2.0, 1.0, 1.1, **clip_v),
    ppo("value, target 3, no value clipping", [0.0], [1.0], {"value_loss": 0.5, "d_value": [-0.5]},
        2.0, 1.0, 3.0),
    ppo("batch", [UP, HALF, IN, -0.05, -0.4], [1.0, -0.5, 0.3, -2.0, 1.5], None, [2.0, 0.5, -1.0, 0.9, 0.3],
        [1.0, 0.9, -1.1, 2.0, 0.25], [1.1, 2.0, -3.0, 0.0, 0.3125], ent_coef=0.0),
    ppo("batch, value clipping", [UP, HALF, IN, -0.05, -0.4], [1.0, -0.5, 0.3, -2.0, 1.5], None,
        [2.0, 0.5, -1.0, 0.9, 0.3], [1.0, 0.9, -1.1, 2.0, 0.25], [1.1, 2.0, -3.0, 0.0, 0.3125], **clip_v,
        clip_coef=0.3, vf_coef=1.0),
    ppo("log ratio -100, both signs", [-100.0, -100.0], [1.0, -1.0],
        {"policy_loss": 0.4, "d_logp": [0, 0], "approx_kl": 99}),
    ppo("log ratio 100, adv positive: clipped, though the ratio overflows in float32", [100.0, 0.1],
        [2.0, -1.0], {"policy_loss": -0.647415, "d_logp": [0, 0.552585]}, drop=("ratio", "approx_kl")),
    ppo("log ratio 100, adv negative: not clipped, beyond float32", [100.0], [-1.0], dtype="float64")])
write("advantage_normalisation", HUANG, "adv (B,), B > 1", "mean (); std (), unbiased (divided by B - 1);"
      " normalised (B,), (adv - mean) / (std + 1e-8)", [
    case("three", "advantage_normalisation", {"adv": [1.0, 2.0, 3.0]},
         {"std": 1, "normalised": [-1.0, 0, 1.0]}),
    case("two", "advantage_normalisation", {"adv": [-1.0, 1.0]}, {"normalised": [-0.707107, 0.707107]}),
    case("one sign", "advantage_normalisation", {"adv": [0.5, 4.0, 1.25, 2.0, 7.5]}),
    case("all equal", "advantage_normalisation", {"adv": [2.5, 2.5, 2.5, 2.5]}, {"normalised": [0, 0, 0, 0]}),
    case("as small as 1e-8", "advantage_normalisation", {"adv": [1e-8, 2e-8, 3e-8]},
         {"normalised": [-0.5, 0, 0.5]})])

# soft actor-critic

soft = {"reward": [1.0], "terminated": [0], "next_q": [[2.0], [3.0]], "next_logp": [-1.0],
        "alpha": 0.2, "gamma": 0.99}
pair = {"q": [[1.0, -2.0, 0.5], [1.5, -3.0, 0.0]]}
write("sac_losses", f"{SAC}, Eqs. (5), (7), (9), (18); minimum of the two critics: Sec. 6 (text)",
      "By part. target: reward, terminated, next_logp (B,); next_q (2, B), of the target critics; alpha;"
      " gamma. critic: q (2, B), y (B,). policy: logp (B,), q (2, B), of reparameterised actions; alpha."
      " temperature: log_alpha; logp (B,); target_entropy",
      "target: y (B,). critic: loss (), sum over the critics of half the mean of (q - y)^2; d_q (2, B)."
      " policy: loss (); d_logp (B,), d_q (2, B). temperature: alpha (); loss (), mean of -alpha * (logp +"
      " target_entropy); d_log_alpha (); alpha_moves int, -1 if a gradient step makes alpha smaller, +1 if"
      " larger", [
    case("running on", "sac_target", soft, {"y": [3.178]}, "target"),
    case("terminated", "sac_target", soft | {"terminated": [1]}, {"y": [1]}, "target"),
    case("batch", "sac_target", soft | {"reward": [1.0, -0.5, 0.0, 2.0], "terminated": [0, 0, 1, 0],
         "next_q": [[2.0, 5.0, 1.0, -3.0], [3.0, 4.0, 2.0, -2.0]], "next_logp": [-1.0, 2.5, 0.3, 0.0]},
         part="target"),
    case("batch", "sac_critic_loss", pair | {"y": [2.0, -1.0, 0.25]},
         {"loss": 1.0625, "d_q": [[-0.333333, -0.333333, 0.083333], [-0.166667, -0.666667, -0.083333]]},
         "critic"),
    case("batch", "sac_policy_loss", pair | {"logp": [-1.0, 0.5, 2.0], "alpha": 0.2},
         {"loss": 0.766667, "d_logp": [0.066667, 0.066667, 0.066667],
          "d_q": [[-0.333333, 0, 0], [0, -0.333333, -0.333333]]}, "policy"),
    case("entropy above its target", "sac_temperature_loss", {"log_alpha": 0.0, "logp": [-1.0],
         "target_entropy": -1.0}, {"loss": 2, "d_log_alpha": 2, "alpha_moves": -1}, "temperature"),
    case("entropy below its target", "sac_temperature_loss", {"log_alpha": -1.6, "logp": [3.0, 1.5],
         "target_entropy": -2.0}, {"alpha_moves": 1}, "temperature"),
    case("batch", "sac_temperature_loss", {"log_alpha": -1.6, "logp": [-1.0, 0.5, 2.0, -3.0],
         "target_entropy": -1.0}, {"alpha_moves": -1}, "temperature")])


def main() -> None:
    stored = {path.name: path.read_text() for path in HERE.glob("*.json")}
    if "--check" in sys.argv[1:]:
        names = sorted(stored.keys() | FILES.keys())
        differ = [name for name in names if stored.get(name) != FILES.get(name)]
        sys.exit(f"these differ from what make.py makes: {', '.join(differ)}" if differ else 0)
    for name, text in FILES.items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
