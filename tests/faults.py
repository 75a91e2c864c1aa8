"""One-line faults, and whether the tests catch them: python tests/faults.py [--only PATTERN]

Each row puts one fault into one script of a temporary copy and runs the tests that should then fail, which
pass without it. Most faults still learn something: they are mistakes of well-known projects, the traps of the
papers, and rules of this project. A row whose old text is gone has to be brought up to date.
"""
import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 120  # for the tests of a row; whoever hangs is caught, too

FAULTS = [  # script, old text, new text, what is wrong then, arguments of pytest in tests/
    # ---- dqn.py: targets, n-step windows, memory, exploration, counts
    ("dqn", "next_q = target_net(", "next_q = q_net(",
     "the target is of the network in training", "test_equations.py -k dqn_target"),
    ("dqn", "batch.discount * (1 - batch.terminated) * next_q", "batch.discount * next_q",
     "a terminal state has a value", "test_equations.py -k dqn_target"),
    ("dqn", "action, reward, terminated, truncated |", "action, reward, ended, truncated |",
     "a time limit is stored as terminal", "test_probes.py -k terminates_nothing"),
    ("dqn", "truncated | ", "truncated & ",
     "windows run over a time limit, and over a checkpoint's reset", "test_dqn.py -k a_checkpoint_cuts"),
    ("dqn", "discount[running] *= self.gamma", "discount[running] = self.gamma",
     "the bootstrap has gamma, not gamma^n", "test_replay.py -k by_hand"),
    ("dqn", "running & ~self.ended[slot]", "running & ~self.terminated[slot]",
     "windows run over a time limit", "test_replay.py -k by_hand"),
    ("dqn", "complete = self.count - self.n_step * self.num_envs", "complete = self.count",
     "windows that are incomplete are drawn", "test_replay.py -k lists_of_steps"),
    ("dqn", "(self.n_step + self.stack - 1) * self.num_envs)", "self.n_step * self.num_envs)",
     "stacks that lost their oldest frames are drawn", "test_replay.py -k lists_of_steps"),
    ("dqn", "slot[:, None] + self.num_envs * np.arange(", "slot[:, None] + np.arange(",
     "a stack has frames of other environments", "test_replay.py -k lists_of_steps"),
    ("dqn", "same &= ~self.ended", "same = ~self.ended",
     "a stack keeps frames of the episode before", "test_replay.py -k lists_of_steps"),
    ("dqn", "next_obs[env].copy()", "next_obs[env]",
     "the last observation is an array that the environment reuses", "test_replay.py -k lists_of_steps"),
    ("dqn", "self.final_obs.pop(first + env, None)", "continue",
     "last observations are kept for ever", "test_replay.py -k as_many_as_the_ends"),
    ("dqn", "torch.randint(drawable, (batch_size,)).numpy()", "np.random.randint(drawable, size=batch_size)",
     "draws are not from torch's generator", "test_replay.py -k generator"),
    ("dqn", "torch.rand(len(obs)).numpy() < epsilon", "torch.rand(1).numpy() < epsilon",
     "environments explore all at once", "test_dqn.py -k independently"),
    ("dqn", "min(step / max(duration, 1), 1)", "step / max(duration, 1)",
     "epsilon falls below its end", "test_dqn.py -k linear_schedule"),
    ("dqn", "args.exploration_fraction * args.total_timesteps",
     "args.exploration_fraction * args.total_timesteps / args.num_envs",
     "epsilon falls faster with several environments", "test_counts.py -k epsilon"),
    ("dqn", "epsilon=args.eval_epsilon", "epsilon=args.end_e",
     "evaluation explores", "test_counts.py -k epsilon"),
    ("dqn", "due(step - args.learning_starts, args.num_envs,", "due(step - args.learning_starts, 1,",
     "N environments have an N-th of the updates", "test_counts.py -k updates_and_copies"),
    ("dqn", "if due(step, args.num_envs, args.target_network_frequency):",
     "if step % args.target_network_frequency == 0:",
     "copies to the target network are missed", "test_counts.py -k updates_and_copies"),
    ("dqn", "target_net = copy.deepcopy(q_net)", "target_net = q_net",
     "the target network is the online one", "test_dqn.py -k copy_made_on_time"),
    ("dqn", "step += args.num_envs", "step += 1",
     "vector steps are counted", "test_counts.py -k updates_and_copies"),
    ("dqn", '"auto": len(obs_shape) == 3', '"auto": True',
     "rewards of vectors are clipped, too", "test_counts.py -k clipped_rewards"),
    ("dqn", ".float().div_(255)", ".float()",
     "frames are not scaled to 1", "test_networks.py -k scaled_to_1"),
    ("dqn", 'envs.reset(options={"reset_mask": ended})[0]', "envs.reset()[0]",
     "the end of one episode ends all", "test_probes.py -k from_one_episode"),
    ("dqn", "update(lr=args.learning_rate, eps=args.adam_eps)", "update(lr=args.learning_rate)",
     "Adam's eps is not what was typed", "test_resume.py -k typed_flags"),
    # ---- its plumbing, which is one text in all scripts
    ("dqn", "np.random.seed(seed)", "pass",
     "environments that draw from np.random are not seeded", "test_resume.py -k global_generators"),
    ("dqn", "SeedSequence((self.args.seed, step))", "SeedSequence((self.args.seed, 0))",
     "every checkpoint begins the same episodes", "test_run.py -k seed_goes_everywhere"),
    ("dqn", "envs.reset(seed=2**30 + args.seed)", "envs.reset(seed=args.seed)",
     "evaluation has the seeds of training", "test_run.py -k 'whole_episodes or seed_goes'"),
    ("dqn", "returns[running] += reward[running]", "returns += reward",
     "evaluation counts rewards after the end", "test_run.py -k whole_episodes"),
    ("dqn", "self.episodes.append((step - len(ended) + int(i) + 1,", "self.episodes.append((step,",
     "episodes that end together share a step", "test_run.py -k every_episode"),
    ("dqn", "self.returns[i] = self.lengths[i] = 0", "self.returns[:] = self.lengths[:] = 0",
     "one end zeroes the returns of all environments", "test_run.py -k every_episode"),
    ("dqn", "if due(step, step - self.logged, 1000):", "if step % 1000 == 0:",
     "losses are rarely logged with several environments", "test_run.py -k test_log"),
    ("dqn", "(step - self.first_step) / (time", "step / (time",
     "the speed counts transitions before a resume", "test_run.py -k bar_and_the_speed"),
    ("dqn", '"target_net": target_net, ', "",
     "the target network is not saved", "test_resume.py -k 'killed_and_resumed and dqn'"),
    ("dqn", "not value.isfinite().all()", "value.isnan().any()",
     "a checkpoint may hold infinity", "test_bad_input.py -k infinity"),
    ("dqn", "os.fsync(file.fileno())", "pass",
     "a power cut may leave an empty checkpoint", "test_run.py -k the_end_of_a_run"),
    ("dqn", "exist_ok=bool(args.resume)", "exist_ok=True",
     "two runs share a folder", "test_bad_input.py -k share_no_folder"),
    ("dqn", " or zipfile.ZipFile(path).testzip()", "",
     "flipped bits are loaded", "test_bad_input.py -k damaged_file"),
    ("dqn", "if size > memory and not args.evaluate:", "if size > memory:",
     "a small machine cannot evaluate", "test_bad_input.py -k needs_no_memory"),
    # ---- double_dqn.py, dueling_dqn.py
    ("double_dqn", "best_action = q_net(", "best_action = target_net(",
     "one network chooses and evaluates: DQN", "test_equations.py -k double_dqn_target"),
    ("double_dqn", "next_q = target_net(", "next_q = q_net(",
     "the online network evaluates its own choice", "test_equations.py -k double_dqn_target"),
    ("double_dqn", "F.mse_loss(q, y)", "F.smooth_l1_loss(q, y)",
     "the error is clipped", "test_equations.py -k double_dqn_target"),
    ("dueling_dqn", "torch.eye(num_actions) - 1 / num_actions", "torch.eye(num_actions)",
     "no mean is taken off: Eq. (7)", "test_equations.py -k dueling"),
    ("dueling_dqn", "torch.addmm(value, adv, self.center)", "value + adv - adv.mean()",
     "the mean is over the batch, too", "test_equations.py -k dueling"),
    ("dueling_dqn", "torch.addmm(value, adv, self.center)", "value + adv - adv.amax(1, keepdim=True)",
     "the maximum is taken off: Eq. (8)", "test_equations.py -k dueling"),
    ("dueling_dqn", "self.streams(self.body(obs)).relu()", "self.streams(self.body(obs))",
     "the streams are linear", "test_networks.py -k no_level"),
    # ---- noisy_dqn.py
    ("noisy_dqn", "q_net.draw_noise()\n        with torch", "pass\n        with torch",
     "acting has the noise of the update before", "test_networks.py -k new_for_every_action"),
    ("noisy_dqn", "            target_net.draw_noise()", "            pass",
     "the target's noise is never drawn anew", "test_networks.py -k new_for_every_action"),
    ("noisy_dqn", "(self.head[0], self.head[2])", "self.head[:1]",
     "the last layer keeps its first noise", "test_networks.py -k behind_the_body"),
    ("noisy_dqn", "q_net.draw_noise(torch.zeros)", "q_net.draw_noise()",
     "evaluation is noisy", "test_networks.py -k new_for_every_action"),
    ("noisy_dqn", "e.abs().sqrt().copysign(e)", "e.abs().sqrt()",
     "f(x) has no sign", "test_equations.py -k noisy"),
    ("noisy_dqn", "torch.outer(self.eps_b, eps_in)", "draw(*self.mu_w.shape)",
     "noise is independent, not factorised", "test_networks.py -k rank_1"),
    ("noisy_dqn", "sigma_0 * p**-0.5", "sigma_0",
     "the first sigma does not know its number of inputs", "test_networks.py -k first_weights_of_a_noisy"),
    # ---- per_dqn.py
    ("per_dqn", "td_error, args.per_alpha", "batch.weight * td_error, args.per_alpha",
     "priorities are of weighted errors", "test_per_dqn.py -k in_training"),
    ("per_dqn", "linear_schedule(args.per_beta, 1, args.total_timesteps, step)", "args.per_beta",
     "beta stays", "test_counts.py -k beta"),
    ("per_dqn", "per_beta, 1, args.total_timesteps,", "per_beta, 1, args.total_timesteps / args.num_envs,",
     "beta grows faster with several environments", "test_counts.py -k beta"),
    ("per_dqn", ".numpy() + eps) ** alpha", ".numpy()) ** alpha + eps",
     "eps is added after the exponent", "test_equations.py -k per/priorities"),
    ("per_dqn", ".min()) ** -beta", ".min()) ** beta",
     "weights favour what is drawn often", "test_equations.py -k per/weights"),
    ("per_dqn", "batch.weight * td_error.square()", "batch.weight.mean() * td_error.square()",
     "the weights are averaged apart", "test_equations.py -k per/loss"),
    ("per_dqn", "self.max_p_alpha if self.count > window else 0", "1.0 if self.count > window else 0",
     "a new transition has priority 1, not the highest", "test_replay.py -k priorities_by_hand"),
    ("per_dqn", "max(self.max_p_alpha, float(p_alpha.max()))", "float(p_alpha.max())",
     "the highest priority is that of the last batch", "test_replay.py -k priorities_by_hand"),
    ("per_dqn", "(np.arange(batch_size) + uniform) / batch_size", "uniform",
     "draws are not stratified", "test_replay.py -k equal_part"),
    ("per_dqn", "self.p_alpha[lost:lost + self.num_envs] = 0", "pass",
     "stacks that lost a frame are drawn", "test_replay.py -k only_complete"),
    ("per_dqn", "self.pending = 0, list(range(self.size))", "self.pending = 0, []",
     "the sums are empty after a resume", "test_replay.py -k prioritized_buffer"),
    ("per_dqn", "self.pending += slot.tolist()", "pass",
     "new priorities do not reach the sums", "test_replay.py -k only_complete"),
    ("per_dqn", "(prefix >= below) & (self.right[node] > 0)", "prefix >= below",
     "rounding finds a leaf of priority 0", "test_replay.py -k leaf_of_zero"),
    # ---- reinforce.py
    ("reinforce", "ret[t] + gamma * ahead", "ret[t] + ahead",
     "returns are not discounted", "test_equations.py -k rewards_to_go"),
    ("reinforce", "new_tensor(ret)", "new_tensor(ret[:1] * len(ret))",
     "the whole return for every step", "test_equations.py -k rewards_to_go"),
    ("reinforce", "-(logp * ret.detach()).sum()", "-(logp.mean() * ret.sum())",
     "the mean of log pi times the sum of returns", "test_equations.py -k reinforce"),
    ("reinforce", "weight = 1 / len(episodes) / (", "weight = 1 / (",
     "the sum over episodes, not the mean", "test_policy_runs.py -k gradient_of_a_batch"),
    ("reinforce", "optimizer.zero_grad()", "pass",
     "gradients pile up", "test_counts.py -k gradients_count_once"),
    ("reinforce", "for env in left.nonzero()[0]:", "for env in range(envs.num_envs):",
     "batches have more episodes of fast environments", "test_policy_runs.py -k collect"),
    ("reinforce", "left[env] - 1", "left[env]",
     "a batch never ends", "test_policy_runs.py -k collect"),
    ("reinforce", "if ended.any() and left.any() else", "if ended.any() else",
     "start states are skipped between batches", "test_policy_runs.py -k start_state"),
    ("reinforce", "ret.detach()", "ret",
     "a critic in the returns learns from the policy's loss", "test_equations.py -k through_advantages"),
    ("reinforce", "step + e", "e",
     "every batch is logged from step 0 on", "test_policy_runs.py -k batches_of_a_run"),
    ("reinforce", "logp.sum(1) if", "logp.mean(1) if",
     "log pi of several actions is their mean", "test_equations.py -k categorical"),
    ("reinforce", "self.logp - noise.log()", "self.logp - noise",
     "actions are not drawn from pi", "test_networks.py -k frequencies"),
    ("reinforce", "masked_fill(self.absent, -1e9)", "contiguous()",
     "actions that do not exist are drawn", "test_networks.py -k does_not_have"),
    ("reinforce", "dist.mode() if greedy else dist.sample()", "dist.sample()",
     "evaluation draws its actions", "test_networks.py -k each_kind_of_action"),
    # ---- vpg.py
    ("vpg", "adv = (ret - baseline).detach()", "adv = ret - baseline",
     "the policy's loss changes V", "test_equations.py -k no_gradient_through"),
    ("vpg", "logp * adv + ent_coef * entropy", "logp * adv - ent_coef * entropy",
     "entropy is a cost", "test_equations.py -k vpg"),
    ("vpg", "else past.mean", "else ret.mean()",
     "the baseline knows the action's own return", "test_policy_runs.py -k baseline_and_the_order"),
    ("vpg", 'past.mean * (args.baseline == "mean")', "past.mean",
     "--baseline none subtracts the mean of a checkpoint", "test_policy_runs.py -k resumed_mean"),
    ("vpg", "(x.detach() - self.mean).sum() / self.count", "(x.detach() - self.mean).mean()",
     "the mean of the past is that of the last batch", "test_networks.py -k running_mean"),
    ("vpg", ", ret) * len(ret) / len(all_ret)", ", ret)",
     "parts of a batch weigh alike", "test_policy_runs.py -k goes_in_parts"),
    ("vpg", "fit_optimizer.zero_grad()", "pass",
     "gradients of V pile up", "test_counts.py -k gradients_count_once"),
    ("vpg", "x.split(512) for x", "x.split(len(x)) for x",
     "memory grows with an episode of frames", "test_policy_runs.py -k gradient_of_a_batch"),
    ("vpg", ', "past": past}', "}",
     "the mean of the past is not saved", "test_resume.py --slow -k 'killed_and_resumed and vpg'"),
    # ---- a2c.py
    ("a2c", "(1 - terminated) * next_value", "(1 - terminated) * (1 - truncated) * next_value",
     "a time limit is an end", "test_equations.py -k gae"),
    ("a2c", "lam * (1 - terminated) * (1 - truncated)", "lam * (1 - terminated)",
     "advantages run over a time limit", "test_equations.py -k gae"),
    ("a2c", "cut[-1] = True", "cut[-1] |= False",
     "the rollout's last step has the first one's value", "test_equations.py -k next_values"),
    ("a2c", "batch.terminated + batch.truncated > 0", "batch.terminated > 0",
     "at a time limit the next episode's first value", "test_equations.py -k next_values"),
    ("a2c", "-(adv.detach() * logp)", "-(adv * logp)",
     "the policy's loss changes V", "test_equations.py -k no_gradient_through"),
    ("a2c", "vf_coef * value_loss - bonus", "vf_coef * value_loss + bonus",
     "entropy is a cost", "test_equations.py -k a2c_loss"),
    ("a2c", "lam=1.0", "lam=0.95",
     "a return of one n-step sum is asked for", "test_policy_runs.py -k one_episode_is_vpg"),
    ("a2c", "alpha=args.rmsprop_alpha, eps=args.rmsprop_eps", "alpha=args.rmsprop_alpha",
     "RMSprop has torch's eps", "test_policy_runs.py -k constants"),
    ("a2c", "reward_sum *= ~ended", "pass",
     "discounted sums run on into the next episode", "test_policy_runs.py -k statistics_of_rewards"),
    ("a2c", "params.grad *= (args", "params.grad[:99] *= (args",
     "only a part of the gradient is scaled down", "test_policy_runs.py -k scaled_down"),
    # ---- ppo.py
    ("ppo", "-torch.min(ratio * adv,", "-torch.max(ratio * adv,",
     "the optimistic bound", "test_equations.py -k ppo_loss"),
    ("ppo", "ratio.clamp(1 - clip_coef, 1 + clip_coef)", "ratio.clamp(max=1 + clip_coef)",
     "the ratio is clipped on one side", "test_equations.py -k ppo_loss"),
    ("ppo", "torch.max(error,", "torch.min(error,",
     "clipped value errors are the smaller ones", "test_equations.py -k ppo_loss"),
    ("ppo", "0.5 * error.mean()", "error.mean()",
     "the value loss is doubled", "test_equations.py -k ppo_loss"),
    ("ppo", "(ratio - 1 - log_ratio).detach()", "(-log_ratio).detach()",
     "the KL divergence may be negative", "test_equations.py -k ppo_loss"),
    ("ppo", "(logp - old_logp).clamp(max=40)", "(logp - old_logp)",
     "far from the old policy gradients are nan", "test_equations.py -k far_from"),
    ("ppo", "if args.norm_adv else adv_m", "if not args.norm_adv else adv_m",
     "--norm-adv does the opposite", "test_policy_runs.py -k 'its_old_policy or without_normalised'"),
    ("ppo", "torch.randperm(taken", "torch.arange(taken",
     "minibatches are the same in every epoch", "test_policy_runs.py -k its_old_policy"),
    ("ppo", "> args.target_kl", "< args.target_kl",
     "epochs end while the policy is near", "test_policy_runs.py -k target_kl"),
    ("ppo", "(1 - step / args.total_timesteps if", "(1 - (step + taken) / args.total_timesteps if",
     "the last rollout has a learning rate of 0", "test_counts.py -k learning_rate"),
    ("ppo", '"mean", torch.zeros(shape))', '"mean", torch.zeros(shape), persistent=False)',
     "statistics of observations are not saved", "test_networks.py -k restored_norm"),
    ("ppo", "delta**2 * self.count * len(x) / total", "delta**2 * len(x)",
     "the running variance is too large", "test_networks.py -k against_numpy"),
    ("ppo", "x.var(0, correction=0)", "x.var(0)",
     "the variance of one row is nan", "test_networks.py -k against_numpy"),
    ("ppo", "rows.append((obs, action,", "rows.append((obs, to_env(action, space),",
     "log pi is of the clipped and scaled action", "test_policy_runs.py -k what_was_drawn"),
    ("ppo", "batch.reward_sum.flatten()", "batch.reward.flatten()",
     "rewards are divided by their own deviation", "test_policy_runs.py -k statistics_of_rewards"),
    ("ppo", "return adv, adv + value", "return adv, adv",
     "V learns the advantage", "test_equations.py -k gae"),
    ("ppo", "/ self.log_std.exp()  # (B, A)", "/ self.log_std  # (B, A)",
     "a log deviation is taken for a deviation", "test_equations.py -k gaussian"),
    ("ppo", "outputs), gain=0.01)", "outputs))",
     "the first policy is not nearly uniform", "test_networks.py -k first_weights_of_a_policy"),
    ("ppo", "size < 1 + args.norm_adv", "size < 1",
     "a minibatch of one has nan as advantage", "test_bad_input.py -k fit_together"),
    # ---- its plumbing
    ("ppo", "weights_only=True", "weights_only=False",
     "a checkpoint runs code", "test_bad_input.py -k malicious"),
    ("ppo", 'state.get("script") != Path(__file__).stem', '"script" not in state',
     "the file of another script is taken", "test_bad_input.py -k another_script"),
    ("ppo", 'Path(f"{path}.partial").unlink(missing_ok=True)', "pass",
     "a full disk keeps half a file", "test_bad_input.py -k a_write_that_fails"),
    ("ppo", "not low <= value <= high or value != field.type(value)", "not low <= value <= high",
     "2.5 environments are 2", "test_bad_input.py -k given_in_python"),
    ("ppo", "min(10_000, 10**9 //", "min(10_000, 10**11 //",
     "a film takes all memory", "test_reports.py -k film_is_bounded"),
    ("ppo", "purge_step=self.first_step + 1", "purge_step=None",
     "a resumed run logs some points twice", "test_resume.py -k 'killed_and_resumed and ppo'"),
    ("ppo", "*self.env.step(action)[:4], {}", "self.env.step(action)",
     "what an environment puts in info ends the run", "test_reports.py -k whatever_is_in_info"),
    ("ppo", "params.grad.zero_()", "pass",
     "gradients pile up", "test_counts.py -k gradients_count_once"),
    ("ppo", "params.grad.div_(world)", "params.grad.div_(1)",
     "the gradient is the sum over the processes", "test_processes.py --slow -k update_is"),
    ("ppo", "view_as(param) for x in (flat, flat.grad)", "view_as(param).clone() for x in (flat, flat.grad)",
     "the networks do not have the weights that are stepped", "test_policy_runs.py -k one_update_is_a2c"),
    ("ppo", "        atexit.register(distributed.destroy_process_group)\n", "",
     "threads of the processes' group outlive Python's objects", "test_processes.py -k update_is"),
    # ---- sac.py
    ("sac", "2 * (math.log(2) - u - F.softplus(-2 * u))", "torch.log(1 - torch.tanh(u).square() + 1e-6)",
     "no gradient where tanh is 1", "test_equations.py -k where_tanh"),
    ("sac", "(log_normal - log_slope).sum(dim=-1)", "log_normal.sum(dim=1)",
     "log pi is that of u, not of the action", "test_equations.py -k squashed"),
    ("sac", "torch.minimum(*next_q) - alpha * next_logp", "torch.minimum(*next_q)",
     "the target has no entropy", "test_equations.py -k sac_losses/target"),
    ("sac", "(alpha * logp - torch.minimum(*q))", "(alpha * logp - q.mean(dim=0))",
     "the policy does not learn from the smaller Q", "test_equations.py -k sac_losses/policy"),
    ("sac", "logp.detach() + target_entropy", "logp.detach() - target_entropy",
     "alpha moves the wrong way", "test_equations.py -k sac_losses/temperature"),
    ("sac", "target_entropy=-action_size", "target_entropy=-1",
     "the target entropy does not know the number of actions", "test_sac.py -k target_entropy"),
    ("sac", "alpha = log_alpha.detach().exp() if args.autotune else args.alpha", "alpha = args.alpha",
     "what is learned of alpha is not used", "test_sac.py -k alpha_is_learned"),
    ("sac", "target_param.lerp_(param, tau)", "target_param.lerp_(param, 1 - tau)",
     "tau is the weight of the old critic", "test_equations.py -k polyak"),
    ("sac", "next_q = target_critic(", "next_q = critic(",
     "the target is of the critic in training", "test_sac.py -k learns_from_what"),
    ("sac", "policy.sample(batch.next_obs)", "policy.sample(batch.obs)",
     "the target has actions of the state before", "test_sac.py -k learns_from_what"),
    ("sac", "buffer.add(obs, action, reward, terminated,", "buffer.add(obs, action, reward, ended,",
     "a time limit is stored as terminal", "test_probes.py -k terminates_nothing"),
    ("sac", "buffer.add(obs, action,", "buffer.add(obs, to_env(action, space),",
     "the memory has scaled actions", "test_sac.py -k replay_has_the_action"),
    ("sac", "torch.randint(min(self.count, self.size),", "torch.randint(self.size,",
     "rows that are empty yet are drawn", "test_replay.py -k lists_of_steps"),
    ("sac", "log_std.clamp(-20, 2)", "log_std.clamp(-20, 20)",
     "the deviation has no bound", "test_networks.py -k bounded_standard"),
    ("sac", "policy(obs)[0].tanh() if greedy", "policy(obs)[0] if greedy",
     "evaluation acts beyond the policy's bounds", "test_networks.py -k tanh_of_the_mean"),
    ("sac", "if step < args.learning_starts:", "if step * args.num_envs < args.learning_starts:",
     "fewer random actions with several environments", "test_counts.py -k warm_up"),
    ("sac", "(1 - action) / 2 * space.low + (1 + action) / 2 * space.high", "action * space.high[0]",
     "all actions have one, symmetric bound", "test_networks.py -k own_bounds"),
    ("sac", "np.clip(scaled, space.low, space.high)", "scaled",
     "rounding leaves the bounds", "test_networks.py -k rounding"),
    ("sac", ' "temperature": temperature,', "",
     "alpha is not saved", "test_resume.py -k 'killed_and_resumed and sac'"),
    ("sac", "for optimizer in optimizers:", "for optimizer in optimizers[:2]:",
     "the temperature keeps its old learning rate", "test_resume.py -k typed_flags"),
]


def copy(folder: Path) -> None:
    """What the tests need."""
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))


def outcome(folder: Path, tests: str) -> str:
    """Of pytest with these arguments: caught, MISSED, hung or, where it found no tests, its exit status."""
    path, *more = shlex.split(tests)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
               f"--basetemp={folder.parent / 'tests'}", f"tests/{path}", *more]
    env = os.environ | {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        status = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return "hung"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # whatever it has started, too
    return {0: "MISSED", 1: "caught"}.get(status, f"exit status {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="rows with this regular expression in any column")
    only, caught = parser.parse_args().only, 0
    rows = [row for row in FAULTS if re.search(only, "\n".join(row))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "copy")
        folder.mkdir()
        copy(folder)
        for script, old, new, why, tests in rows:
            path = folder / f"{script}.py"
            text = path.read_text()
            if text.count(old) == 1:
                path.write_text(text.replace(old, new))
                found = outcome(folder, tests)
                path.write_text(text)
            else:
                found = f"old text is there {text.count(old)} times"
            caught += found in ("caught", "hung")
            print(f"{found}: {script}.py, {why}", flush=True)
    print(f"caught {caught} of {len(rows)}")
    sys.exit(caught < len(rows))


if __name__ == "__main__":
    main()
