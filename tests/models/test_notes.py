"""The notes on a checkpoint's files reach the user, whichever command reads it."""

import json
import shutil

import jax
import pytest

from fft import models
from fft.adapters import save_adapter
from fft.adapters.adapter import Adapter
from fft.after import mergeable, subject
from fft.after.settings import DiagnoseSettings, RepairSettings
from fft.experiment import Data, Experiment, Optim
from fft.methods import LoRA
from fft.run.accept import accept
from tests.helpers.tiny_runs import fft


@pytest.fixture(scope="module")
def old(tiny, tmp_path_factory):
    """The knowing base with an unknown empty field and other weights."""
    folder = shutil.copytree(tiny / "bert", tmp_path_factory.mktemp("old") / "base")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"custom_heads": {}}))
    base = models.load(folder)
    return models.save(base._replace(params=jax.tree.map(lambda leaf: leaf * 1.01, base.params)), folder.parent / "old")


@pytest.fixture(scope="module")
def note(old):
    """The one note on it."""
    (note,) = models.load(old).notes
    assert note.startswith(f"{old / 'config.json'}: the unknown field(s) custom_heads are null, false or empty")
    return note


@pytest.fixture(scope="module")
def adapter(old, tmp_path_factory):
    """An adapter for it, in PEFT's files."""
    base, method = models.load(old), LoRA(rank=2)
    theta = method.init(base.params, jax.random.key(0))
    folder = tmp_path_factory.mktemp("adapters") / "a"
    return save_adapter(Adapter(method, theta, base.heads, base.primary), base, folder, "old")


def test_an_adapter_adds_its_own(old, note):
    base = models.load(old)
    adapter = Adapter(LoRA(), LoRA().init(base.params, jax.random.key(0)), base.heads, None, ("of the adapter",))
    assert adapter.on(base).notes == (note, "of the adapter")


def test_a_run(old, note, tiny, tmp_path):
    experiment = Experiment(str(old), Data(str(tiny / "new.csv")), method=LoRA(), optim=Optim(steps=2))
    assert accept(experiment, tmp_path / "run").notes[0] == note


def test_two_checkpoints(old, note, tiny):
    original = Data(str(tiny / "original.csv"))
    for base, tuned in ((old, tiny / "bert"), (tiny / "bert", old)):
        told = subject.load_subject(DiagnoseSettings(str(base), str(tuned), original)).record
        assert told["notes"][0] == note
    sides = mergeable.load_sides(RepairSettings(str(tiny / "bert"), str(old), original, original))
    assert sides.record["notes"][0] == note


COMMANDS = {
    "eval": ("eval", "--model", "OLD", "--task", "original.csv"),
    "eval with an adapter": ("eval", "--model", "OLD", "--adapter", "ADAPTER", "--task", "original.csv"),
    "export": ("export", "OLD", "--adapter", "ADAPTER", "--out", "OUT"),
    "check": ("check", "OLD", "bert", "--original", "original.csv"),
    "merge": ("merge", "bert", "OLD", "--how", "arithmetic", "--out", "OUT"),
    "fisher": ("fisher", "--model", "OLD", "--original", "original.csv", "--samples", 16, "--out", "OUT"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands(command, old, note, adapter, tiny, tmp_path):
    places = {"OLD": old, "ADAPTER": adapter, "OUT": tmp_path / "out"}
    places |= {name: tiny / name for name in ("bert", "original.csv")}
    answer = fft(*(places.get(argument, argument) for argument in COMMANDS[command]))
    assert answer.code in (0, 1, 4) and f"note: {note}" in answer.out, answer
