"""The papers' formulas in mpmath, as scalar loops. make.py applies them to its inputs.

Sums are written as the papers print them: where an implementation would use a recursion, these do not.
Gradients d_x, with respect to x, are numerical, by mpmath.diff: of the loss if there is one, else of the sum
of the output, or of its product with a given d_output. Inputs are nested lists of mpmath numbers.
"""
from mpmath import diff, e, exp, fabs, log, mpf, pi, sign, sqrt, tanh


def exact(x):
    """The number that the input's decimals say: 0.9 is 9/10."""
    if isinstance(x, list):
        return [exact(item) for item in x]
    return x if isinstance(x, bool) else mpf(repr(x))


def plain(x):
    """Numbers that JSON knows."""
    if isinstance(x, list):
        return [plain(item) for item in x]
    return x if isinstance(x, int) else 0.0 if fabs(x) < 1e-25 else float(x)


def each(f, *xs):
    """f(x, ...) for the numbers in nested lists of one shape, as a nested list."""
    return [each(f, *row) for row in zip(*xs, strict=True)] if isinstance(xs[0], list) else f(*xs)


def flat(x):
    """The numbers of a nested list, as a list."""
    return [number for item in x for number in flat(item)] if isinstance(x, list) else [x]


def columns(rows):
    """The transpose of a list of lists."""
    return [list(column) for column in zip(*rows, strict=True)]


def mean(x):
    """The mean of all numbers of a nested list."""
    return sum(flat(x)) / len(flat(x))


def dot(x, y):
    """The sum of the products of two nested lists of one shape."""
    return sum(flat(each(lambda a, b: a * b, x, y)))


def half_mse(x, y):
    """Half the mean squared difference."""
    return mean(each(lambda a, b: (a - b) ** 2, x, y)) / 2


def minus(x, y):
    return each(lambda a, b: a - b, x, y)


def clip(x, low, high):
    return min(max(x, low), high)


def gradient(f, x):
    """df/dx for each number of the nested list x, by mpmath.diff."""
    if not isinstance(x, list):
        return diff(f, x)
    return [gradient(lambda v, i=i: f([*x[:i], v, *x[i + 1:]]), x[i]) for i in range(len(x))]


# value learning

def td(q_values, action, next_q, reward, discount, terminated):
    """Target and squared error, given the value of the next state."""
    y = each(lambda r, d, end, v: r + d * (1 - end) * v, reward, discount, terminated, next_q)

    def error(q_values):
        return each(lambda y, row, a: y - row[int(a)], y, [tuple(row) for row in q_values], action)

    def huber(delta):  # the error term clipped to [-1, 1]
        return delta**2 / 2 if fabs(delta) <= 1 else fabs(delta) - mpf(1) / 2

    def loss(q_values):
        return mean(each(lambda delta: delta**2, error(q_values)))

    def huber_loss(q_values):
        return mean(each(huber, error(q_values)))

    return {"next_q": next_q, "y": y, "td_error": error(q_values),
            "loss": loss(q_values), "d_q_values": gradient(loss, q_values),
            "huber_loss": huber_loss(q_values), "huber_d_q_values": gradient(huber_loss, q_values)}


def dqn_target(q_values, action, next_q_values, reward, discount, terminated):
    return td(q_values, action, [max(row) for row in next_q_values], reward, discount, terminated)


def double_dqn_target(q_values, action, online_next_q_values, target_next_q_values, reward, discount,
                      terminated):
    best = [row.index(max(row)) for row in online_next_q_values]
    next_q = [row[a] for row, a in zip(target_next_q_values, best, strict=True)]
    return {"best_action": best} | td(q_values, action, next_q, reward, discount, terminated)


def last_step(t, n, terminated, truncated):
    """The last step of the window of up to n steps from t: an end of the episode or the data cuts it."""
    ends = [k for k in range(t, len(terminated)) if terminated[k] or truncated[k]]
    return int(min([t + n - 1, len(terminated) - 1, *ends]))


def n_step_return(reward, terminated, truncated, next_value, gamma, n):
    windows = []
    for t in range(len(reward)):
        last = last_step(t, n, terminated, truncated)
        total = sum(gamma ** (i - t) * reward[i] for i in range(t, last + 1))
        discount, end = gamma ** (last + 1 - t), terminated[last]
        windows.append([last + 1 - t, total, discount, end, total + discount * (1 - end) * next_value[last]])
    names = ("steps", "reward_sum", "discount", "window_terminated", "y")
    return dict(zip(names, columns(windows), strict=True))


def dueling(value, advantage, d_q_values):
    def q_values(value, advantage):
        return [[v + a - mean(row) for a in row] for v, row in zip(value, advantage, strict=True)]

    return {"q_values": q_values(value, advantage),
            "d_value": gradient(lambda v: dot(q_values(v, advantage), d_q_values), value),
            "d_advantage": gradient(lambda a: dot(q_values(value, a), d_q_values), advantage)}


def noisy_linear(mu_w, sigma_w, mu_b, sigma_b, noise_in, noise_out, x, d_y):
    eps_in, eps_b = (each(lambda z: sign(z) * sqrt(fabs(z)), noise) for noise in (noise_in, noise_out))
    eps_w = [[out * inp for inp in eps_in] for out in eps_b]

    def layer(mu_w, sigma_w, mu_b, sigma_b, x):
        w = each(lambda mu, sigma, eps: mu + sigma * eps, mu_w, sigma_w, eps_w)
        b = each(lambda mu, sigma, eps: mu + sigma * eps, mu_b, sigma_b, eps_b)
        return [[dot(weights, row) + bias for weights, bias in zip(w, b, strict=True)] for row in x]

    at = {"mu_w": mu_w, "sigma_w": sigma_w, "mu_b": mu_b, "sigma_b": sigma_b, "x": x}
    slopes = {f"d_{k}": gradient(lambda v, k=k: dot(layer(**at | {k: v}), d_y), at[k]) for k in at}
    return {"eps_in": eps_in, "eps_b": eps_b, "eps_w": eps_w, "y": layer(**at)} | slopes


def per_weights(priority, alpha, beta):
    p_alpha = [p**alpha for p in priority]
    probability = [p / sum(p_alpha) for p in p_alpha]
    raw = [(len(priority) * p) ** -beta for p in probability]
    return {"p_alpha": p_alpha, "probability": probability, "raw_weight": raw,
            "weight": [w / max(raw) for w in raw]}


def per_priorities(td_error, eps, alpha):
    priority = [fabs(delta) + eps for delta in td_error]
    return {"priority": priority, "p_alpha": [p**alpha for p in priority]}


def per_loss(q, y, weight):
    def loss(q):
        return mean(each(lambda w, a, b: w * (a - b) ** 2, weight, y, q))

    return {"td_error": minus(y, q), "loss": loss(q), "d_q": gradient(loss, q)}


def per_sum_tree(p_alpha, changed_leaf, changed_p_alpha, prefix):
    """The leaf of a prefix is the first whose running sum exceeds it."""
    p = list(p_alpha)
    for leaf, value in zip(changed_leaf, changed_p_alpha, strict=True):
        p[int(leaf)] = value
    return {"total": sum(p), "leaf": [next(i for i in range(len(p)) if sum(p[:i + 1]) > x) for x in prefix]}


def per_stratified(p_alpha, uniform):
    prefix = [(b + u) * sum(p_alpha) / len(uniform) for b, u in enumerate(uniform)]
    return {"prefix": prefix, "leaf": per_sum_tree(p_alpha, [], [], prefix)["leaf"]}


def per_beta(beta_start, step, total_steps):
    return {"beta": beta_start + (1 - beta_start) * min(step / total_steps, 1)}


def polyak(net, target_net, tau, steps):
    for _ in range(int(steps)):
        target_net = each(lambda new, old: tau * new + (1 - tau) * old, net, target_net)
    return {"target_net": target_net}


# distributions

def log_softmax(logits):
    return [z - log(sum(exp(other) for other in logits)) for z in logits]


def log_prob(logits, action):
    return log_softmax(logits)[int(action)]


def entropy(logits):
    return -sum(exp(z) * z for z in log_softmax(logits))


def per_row(f, logits, *others):
    """f for each row of logits, however deeply the rows are nested."""
    if not isinstance(logits[0], list):
        return f(logits, *others)
    return [per_row(f, *row) for row in zip(logits, *others, strict=True)]


def categorical(logits, action):
    def total(x):
        return [sum(flat(row)) for row in x]

    return {"logp": total(per_row(log_prob, logits, action)), "entropy": total(per_row(entropy, logits)),
            "d_logits": gradient(lambda z: sum(flat(per_row(log_prob, z, action))), logits),
            "entropy_d_logits": gradient(lambda z: sum(flat(per_row(entropy, z))), logits)}


def log_normal(x, mu, log_std):
    return -(((x - mu) / exp(log_std)) ** 2) / 2 - log_std - log(2 * pi) / 2


def gaussian(mean, log_std, action):
    def logp(mean, log_std):
        return [sum(each(log_normal, x, mu, log_std)) for x, mu in zip(action, mean, strict=True)]

    return {"logp": logp(mean, log_std),
            "entropy": [sum(s + log(2 * pi * e) / 2 for s in log_std) for _ in mean],
            "d_mean": gradient(lambda x: sum(logp(x, log_std)), mean),
            "d_log_std": gradient(lambda x: sum(logp(mean, x)), log_std)}


def squashed_log_prob(mean, log_std, noise):
    def reparameterised(mean, log_std):
        return each(lambda mu, s, eps: mu + exp(s) * eps, mean, log_std, noise)

    def logp(mean, log_std):
        u = reparameterised(mean, log_std)
        terms = each(lambda x, mu, s: log_normal(x, mu, s) - log(1 - tanh(x) ** 2), u, mean, log_std)
        return [sum(row) for row in terms]

    u = reparameterised(mean, log_std)
    return {"u": u, "action": each(tanh, u), "logp": logp(mean, log_std),
            "d_mean": gradient(lambda x: sum(logp(x, log_std)), mean),
            "d_log_std": gradient(lambda x: sum(logp(mean, x)), log_std)}


# policy gradients

def rewards_to_go(reward, gamma):
    steps = range(len(reward))
    return {"ret": [sum(gamma ** (k - t) * reward[k] for k in steps[t:]) for t in steps]}


def vpg(logits, action, reward, value, gamma, ent_coef):
    """An episode's loss is a sum over its steps; the loss is the mean over episodes."""
    ret = [rewards_to_go(r, gamma)["ret"] for r in reward]
    adv = minus(ret, value)

    def losses(logits):
        logp, bonus = per_row(log_prob, logits, action), per_row(entropy, logits)
        terms = each(lambda lp, a, h: -lp * a - ent_coef * h, logp, adv, bonus)
        return [sum(row) for row in terms]

    return {"ret": ret, "adv": adv, "logp": per_row(log_prob, logits, action),
            "entropy": per_row(entropy, logits), "episode_loss": losses(logits), "loss": mean(losses(logits)),
            "d_logits": gradient(lambda z: mean(losses(z)), logits),
            "value_loss": half_mse(value, ret), "d_value": gradient(lambda v: half_mse(v, ret), value)}


def reinforce(logits, action, reward, gamma):
    out = vpg(logits, action, reward, each(lambda r: mpf(0), reward), gamma, mpf(0))
    return {key: out[key] for key in ("ret", "logp", "episode_loss", "loss", "d_logits")}


def gae(reward, value, next_value, terminated, truncated, gamma, lam):
    """The sum of (gamma lam)^l delta_{t+l}, up to the end of the episode or the rollout."""
    delta = each(lambda r, v, nv, end: r + gamma * (1 - end) * nv - v, reward, value, next_value, terminated)
    adv = []
    for d, *ends in zip(*map(columns, (delta, terminated, truncated)), strict=True):
        sums = [range(t, last_step(t, len(d), *ends) + 1) for t in range(len(d))]
        adv.append([sum((gamma * lam) ** (k - t) * d[k] for k in steps) for t, steps in enumerate(sums)])
    return {"delta": delta, "adv": columns(adv), "ret": each(lambda a, v: a + v, columns(adv), value)}


def a2c_loss(reward, value, next_value, terminated, truncated, logits, action, gamma, vf_coef, ent_coef):
    """R is the sum of the rewards to the end of the episode or rollout, and the bootstrap there."""
    envs = zip(*map(columns, (reward, terminated, truncated, next_value)), strict=True)
    ret = columns([n_step_return(*env, gamma, len(reward))["y"] for env in envs])
    adv = minus(ret, value)

    def pg_loss(logits):
        return -mean(each(lambda lp, a: lp * a, per_row(log_prob, logits, action), adv))

    def loss(logits, value):
        return pg_loss(logits) + vf_coef * half_mse(value, ret) - ent_coef * mean(per_row(entropy, logits))

    return {"ret": ret, "adv": adv, "logp": per_row(log_prob, logits, action),
            "policy_loss": pg_loss(logits), "value_loss": half_mse(value, ret),
            "entropy": mean(per_row(entropy, logits)), "loss": loss(logits, value),
            "d_logits": gradient(lambda z: loss(z, value), logits),
            "d_value": gradient(lambda v: loss(logits, v), value)}


def ppo_loss(logp, old_logp, adv, value, old_value, ret, entropy, clip_coef, vf_coef, ent_coef, clip_vloss):
    def surrogate(lp, old, a):
        return min(exp(lp - old) * a, clip(exp(lp - old), 1 - clip_coef, 1 + clip_coef) * a)

    def squared_error(v, old, target):
        near = old + clip(v - old, -clip_coef, clip_coef) if clip_vloss else v
        return max((v - target) ** 2, (near - target) ** 2)

    def losses(logp, value):
        pg_loss = -mean(each(surrogate, logp, old_logp, adv))
        return pg_loss, mean(each(squared_error, value, old_value, ret)) / 2

    def loss(logp, value, entropy):
        pg_loss, value_loss = losses(logp, value)
        return pg_loss + vf_coef * value_loss - ent_coef * mean(entropy)

    log_ratio, (pg_loss, value_loss) = minus(logp, old_logp), losses(logp, value)
    return {"ratio": each(exp, log_ratio), "policy_loss": pg_loss, "value_loss": value_loss,
            "entropy": mean(entropy), "loss": loss(logp, value, entropy),
            "approx_kl": mean(each(lambda x: exp(x) - 1 - x, log_ratio)),
            "clipfrac": mean(each(lambda x: mpf(fabs(exp(x) - 1) > clip_coef), log_ratio)),
            "d_logp": gradient(lambda x: loss(x, value, entropy), logp),
            "d_value": gradient(lambda x: loss(logp, x, entropy), value),
            "d_entropy": gradient(lambda x: loss(logp, value, x), entropy)}


def advantage_normalisation(adv):
    std = sqrt(sum((a - mean(adv)) ** 2 for a in adv) / (len(adv) - 1))
    return {"mean": mean(adv), "std": std, "normalised": [(a - mean(adv)) / (std + mpf("1e-8")) for a in adv]}


# soft actor-critic

def sac_target(reward, terminated, next_q, next_logp, alpha, gamma):
    value = each(lambda q1, q2, lp: min(q1, q2) - alpha * lp, *next_q, next_logp)
    return {"y": each(lambda r, end, v: r + gamma * (1 - end) * v, reward, terminated, value)}


def sac_critic_loss(q, y):
    def loss(q):
        return sum(half_mse(row, y) for row in q)

    return {"loss": loss(q), "d_q": gradient(loss, q)}


def sac_policy_loss(logp, q, alpha):
    def loss(logp, q):
        return mean(each(lambda lp, q1, q2: alpha * lp - min(q1, q2), logp, *q))

    return {"loss": loss(logp, q), "d_logp": gradient(lambda x: loss(x, q), logp),
            "d_q": gradient(lambda x: loss(logp, x), q)}


def sac_temperature_loss(log_alpha, logp, target_entropy):
    def loss(log_alpha):
        return mean(each(lambda lp: -exp(log_alpha) * (lp + target_entropy), logp))

    slope = diff(loss, log_alpha)
    return {"alpha": exp(log_alpha), "loss": loss(log_alpha), "d_log_alpha": slope,
            "alpha_moves": int(-sign(slope))}
