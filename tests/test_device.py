"""On a device that is not the CPU: an operation has its tensors at one place, and the bits are the same.

Every machine has the device of elsewhere.py. A real GPU rounds otherwise: there the runs are enough.
"""
import pytest
import torch
from common import (
    EVAL,
    PIXELS,
    POLICY,
    ROOT,
    SCRIPTS,
    SMALL,
    TESTS,
    call,
    checkpoint,
    differences,
    end,
    run,
    run_folder,
    start,
    takes,
)
from test_determinism import assert_equal

FRAMES = ["--env-id odd:Stacks-v0", "--num-threads 1", "--episodes-per-env 1", "--value-epochs 1",
          "--train-frequency 60"]
BOX = ["--env-id Pendulum-v1", "--norm-obs", "--norm-reward"]
CASES = [(script, [flag for flag in flags if takes(script, flag)]) for script in SCRIPTS for flags in [
    ["--num-envs 2", "--n-step 3"],
    *[FRAMES] * (script in PIXELS),
    *[BOX] * (script in POLICY),
    *[["--baseline mean"]] * (script == "vpg"),
    *[["--env-id probes:TwoWheels-v0", "--clip-vloss", "--target-kl 0.01"]] * (script == "ppo"),
    *[["--no-autotune"]] * (script == "sac")]]
CASES = [(script, " ".join(flags)) for script, flags in CASES]
FAST = "ppo", "--env-id Pendulum-v1 --norm-obs --norm-reward"  # the one that runs without --slow
assert FAST in CASES


def elsewhere(script, *flags, cwd, path=ROOT, status=0):
    """The script in the folder `path` on another device."""
    return end(start(script, path / f"{script}.py", *flags, path=TESTS / "elsewhere.py", cwd=cwd), status)


@pytest.mark.parametrize("script, flags", [
    case if case == FAST else pytest.param(*case, marks=pytest.mark.slow) for case in CASES])
def test_same_bits(script, flags, tmp_path):
    folders = [tmp_path / "cpu", tmp_path / "device"]
    outs = []
    for folder, play in zip(folders, (call, elsewhere), strict=True):
        folder.mkdir()
        outs.append(play(script, *SMALL[script], *flags.split(), cwd=folder).out.splitlines()[-1])
    assert outs[0] == outs[1]
    assert_equal(*map(run_folder, folders))


@pytest.mark.slow
@pytest.mark.parametrize("script", ["noisy_dqn", "per_dqn", "a2c", "sac"])
def test_resumes_on_another_device(script, tmp_path):
    """A checkpoint of the CPU goes on elsewhere, and a model.pt from there is evaluated on the CPU."""
    models, half = [], [*SMALL[script], "--total-timesteps", "160", "--checkpoint-frequency", "160"]
    for name, play in ("cpu", call), ("device", elsewhere):
        (tmp_path / name).mkdir()
        call(script, *half, cwd=tmp_path / name)
        folder = run_folder(tmp_path / name)
        play(script, "--resume", folder / "checkpoint.pt", "--total-timesteps", "320", cwd=tmp_path)
        models.append(folder / "model.pt")
    assert differences(*map(checkpoint, models)) == []
    lines = [play(script, "--evaluate", models[1], cwd=tmp_path).out for play in (call, elsewhere)]
    assert lines[0] == lines[1] != ""


BAD = [("ppo", "(taken // world).to(device)", "(taken // world)", "and of others"),
       ("dqn", ".argmax(dim=1).cpu().numpy()", ".argmax(dim=1).numpy()", "numpy() of a tensor"),
       ("dqn", "np.float32(~running & self.terminated[slot])", "np.float64(~running & self.terminated[slot])",
        "float64 on the device")]


@pytest.mark.slow
@pytest.mark.parametrize("script, good, bad, message", BAD)
def test_refuses(script, good, bad, message, tmp_path):
    """What would fail on a GPU or on mps fails there, too."""
    text = (ROOT / f"{script}.py").read_text()
    assert good in text
    (tmp_path / f"{script}.py").write_text(text.replace(good, bad))
    assert message in elsewhere(script, *SMALL[script], cwd=tmp_path, path=tmp_path, status=1).err


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("script, flags", CASES)
def test_on_a_gpu(script, flags, tmp_path):
    """It trains, resumes, and what it leaves is evaluated on the CPU."""
    run(script, *SMALL[script], "--device", "cuda", *flags.split(), cwd=tmp_path)
    folder = run_folder(tmp_path)
    total = checkpoint(folder / "checkpoint.pt")["step"] + 64
    call(script, "--resume", folder / "checkpoint.pt", "--total-timesteps", total, cwd=tmp_path)
    result = call(script, "--evaluate", folder / "model.pt", "--device", "cpu", cwd=tmp_path)
    assert EVAL.fullmatch(result.out.splitlines()[-1])
