"""Runs a script on a device that every machine has: python elsewhere.py ../ppo.py --num-envs 2

The device computes on the CPU and gives its bits, but like a GPU it refuses what is not at one place:
tensors of both devices in one operation, NumPy without .cpu(), and float64, which mps does not have.
"""
import importlib
import sys
from pathlib import Path

import torch
import tyro
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class Elsewhere(torch.Tensor):
    """A tensor on the device; `data_here` has its numbers."""

    @staticmethod
    def __new__(cls, data: torch.Tensor):
        if data.dtype == torch.float64:
            raise TypeError("float64 on the device")
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, data.size(), data.stride(), data.storage_offset(), dtype=data.dtype, device="elsewhere:0")
        tensor.data_here = data
        return tensor

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, other):
        self.data_here = other.data_here

    def tolist(self):
        return self.data_here.tolist()

    def new_tensor(self, data):
        return Elsewhere(self.data_here.new_tensor(data))

    def numpy(self):
        raise TypeError("numpy() of a tensor on the device")

    def __array__(self, *_):
        return self.numpy()

    def __reduce_ex__(self, protocol):
        return self.data_here.__reduce_ex__(protocol)  # a file has no devices

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


def operate(func, args: tuple, kwargs: dict):
    """The operation on the numbers, its result at the device it was asked for or at that of its arguments."""
    def to_cpu(x):
        if isinstance(x, Elsewhere):
            return x.data_here
        return torch.device("cpu") if isinstance(x, torch.device) else x

    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    there = {id(x.data_here): x for x in tensors if isinstance(x, Elsewhere)}
    copies = func._schema.name in ("aten::_to_copy", "aten::copy_")
    if there and not copies and any(x.dim() and not isinstance(x, Elsewhere) for x in tensors):
        raise RuntimeError(f"{func} of tensors on the device and of others")
    result = func(*tree_map(to_cpu, args), **tree_map(to_cpu, kwargs))
    if func._schema.name == "aten::copy_":
        return args[0]
    device = kwargs.get("device")
    if device is None and not there or device is not None and torch.device(device).type == "cpu":
        return result
    return tree_map(lambda x: there.get(id(x), x) if id(x) in there or not isinstance(x, torch.Tensor)
                    else Elsewhere(x), result)


class Operations(TorchDispatchMode):
    """Those without an argument on the device, too, such as a copy to it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return operate(func, args, kwargs or {})


def main() -> None:
    _setup_privateuseone_for_python_backend("elsewhere")
    tensor = torch.tensor  # asks the device itself, past all modes
    torch.tensor = lambda data, device=None, **options: tensor(data, **options).to(device or "cpu")
    del sys.argv[0]
    path = Path(sys.argv[0])
    sys.path.insert(0, str(path.parent))
    script = importlib.import_module(path.stem)
    set_up = script.set_up
    script.set_up = lambda args: (set_up(args)[0], "elsewhere")
    args = tyro.cli(script.Args)
    with Operations():
        state = script.load(args)
        script.train(tyro.cli(script.Args, default=script.Args(**state["args"])) if state else args, state)


if __name__ == "__main__":
    main()
