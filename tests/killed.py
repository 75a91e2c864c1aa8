"""Runs a script whose process gets a signal at the k-th step of its environments, in the middle of a rollout:
python killed.py SIGKILL 700 ../ppo.py --num-envs 2

What was logged until then is in the folder of the run, so that a resumed run has to supersede it.
"""
import os
import runpy
import signal
import sys

from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import SyncVectorEnv
from torch.utils.tensorboard import SummaryWriter

_, name, at, *sys.argv = sys.argv
writers, steps = [], 0
original = SummaryWriter.__init__


def remember(self, *args, **kwargs):
    original(self, *args, **kwargs)
    writers.append(self)


def counted(step):
    def step_or_die(self, actions):
        global steps
        steps += 1
        if steps == int(at):
            for writer in writers:
                writer.flush()
            os.kill(os.getpid(), signal.Signals[name])
        return step(self, actions)
    return step_or_die


SummaryWriter.__init__ = remember
for cls in SyncVectorEnv, AtariVectorEnv:
    cls.step = counted(cls.step)
runpy.run_path(sys.argv[0], run_name="__main__")
