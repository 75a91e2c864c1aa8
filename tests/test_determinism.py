"""Two processes with the same seed leave the same bits."""
import pytest
import torch
from common import (
    REPLAY,
    SCRIPTS,
    SMALL,
    VALUE,
    all_of,
    call,
    checkpoint,
    differences,
    end,
    events,
    run_folder,
    start,
)


def assert_equal(a, b):
    assert events(a) == events(b)
    for name in "checkpoint.pt", "model.pt":
        assert differences(checkpoint(a / name), checkpoint(b / name)) == []


@pytest.mark.parametrize("script", all_of(SCRIPTS))
def test_same_seed_same_bits(script, tmp_path):
    """A process of its own and this one, which other tests may have used before. Another seed, other bits."""
    flags = [*SMALL[script], "--total-timesteps", "1500", "--num-envs", "3"]
    flags += ["--buffer-size", "1000"] * (script in REPLAY) + ["--n-step", "3"] * (script in VALUE)
    for name in "abc":
        (tmp_path / name).mkdir()
    process = start(script, *flags, cwd=tmp_path / "a")
    here = call(script, *flags, cwd=tmp_path / "b").out.splitlines()[1:]
    call(script, *flags, "--seed", "2", cwd=tmp_path / "c")
    assert end(process).out.splitlines()[1:] == here
    a, b, c = (run_folder(tmp_path / name) for name in "abc")
    assert len(events(a)) >= 4
    assert_equal(a, b)
    assert events(a)["charts/episodic_return"] != events(c)["charts/episodic_return"]
    different = differences(checkpoint(a / "model.pt"), checkpoint(c / "model.pt"))
    assert any("weight" in line for line in different) and "/args/seed: 1 and 2" in different


def test_equality_is_of_bits():
    a = {"x": torch.tensor([0.0, 1.0]), "y": [1, {"z": 2.0}], "args": {"seed": 1}}
    assert differences(a, {**a, "x": a["x"].clone()}) == []
    for other in ({**a, "x": torch.tensor([-0.0, 1.0])}, {**a, "x": torch.tensor([0.0, 1.0]).double()},
                  {**a, "y": [1, {"z": 2}]}, {**a, "y": [1]}, {"x": a["x"]}, {**a, "args": {"seed": 2}}):
        assert differences(a, other)
