"""The device check runs as a toy without the libraries that a GPU image lacks, and keeps what it has when cut off."""

import json
import os
import subprocess
import sys
import time

import pytest

from experiments.benchmarks.device import __main__ as program
from experiments.benchmarks.device.models import WORKS
from experiments.benchmarks.device.rates import operations, peak_of

ABSENT = "grain tensorflow_datasets array_record tyro annotated_types pydantic gguf altair vl_convert immutabledict"
"""what an image with jax, flax, optax, orbax, torch, transformers and peft does not have"""
BLOCK = f"""
import sys

class Block:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in {ABSENT.split()}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block)
"""


def check(folder, *flags):
    """The record that the check prints as its last line, with the modules in ABSENT blocked in all its processes."""
    (folder / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()])}
    command = [sys.executable, "-m", program.PACKAGE, "--toy", "--out", f"{folder}/device.json", *flags]
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    record = json.loads(process.stdout.splitlines()[-1])
    assert record == json.loads((folder / "device.json").read_text())
    assert process.returncode == 0, record["parts"]
    return record


def test_toy_needs_no_library_that_a_gpu_image_lacks(tmp_path):
    record = check(tmp_path, "--only", "exact", "2048", "torch-2048", "fisher")
    assert {part["end"] for part in record["parts"].values()} == {"finished"} and not record["left_out"]
    for compute in ("float32", "bfloat16"):
        found = record["exact"][compute]
        assert set(found) == {"full step", "lora step", "fisher", "attention"}
        assert all(operation["within"] for operation in found.values()), found
        assert record["fisher"][f"gradient_in_{compute}"]["units"] > 0
    for step in record["steps"].values():
        assert set(step) == {"fft", "torch", "torch compiled", "ratio"}, step
        theirs = min(step[name]["seconds"] for name in ("torch", "torch compiled"))
        assert step["ratio"] == pytest.approx(step["fft"]["seconds"] / theirs)
        losses = [step[name]["loss"] for name in ("fft", "torch", "torch compiled")]
        assert max(losses) - min(losses) < 0.1, "all start near log V"


def test_a_part_that_is_cut_off_keeps_what_it_had_measured(tmp_path, monkeypatch):
    says = json.dumps({"steps/full-2048/fft": {"seconds": 2.0}}) + '\n{"steps/full'

    def started(name, toy, output, errors):
        command = [sys.executable, "-c", f"import time; print({says!r}, end='', flush=True); time.sleep(600)"]
        return subprocess.Popen(command, stdout=output, stderr=errors, start_new_session=True)

    monkeypatch.setattr(program, "started", started)
    monkeypatch.setattr(program, "LIMITS", {"2048": 3})
    monkeypatch.setattr(program, "LEAST", 1)
    start = time.monotonic()
    record = program.check(3.5, tmp_path / "device.json", False, ["2048", "fisher"])
    assert time.monotonic() - start < 30
    assert record["parts"]["2048"]["end"] == "cut off after 3 s"
    assert record["steps"] == {"full-2048": {"fft": {"seconds": 2.0}}}
    assert record["left_out"] == ["fisher"]
    assert json.loads((tmp_path / "device.json").read_text()) == record


def test_operations_of_a_step_by_hand():
    kernels = 16 * (2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192)
    adapters = 16 * 16 * (2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192))
    attention = 4 * 16 * 2048 * 32 * 64 / 2
    output = 4 * 2047 * 128256 * 2048
    tokens = 4 * 2048
    assert operations(WORKS["full-2048"]) == tokens * (6 * kernels + 3 * attention) + 6 * output
    lora = tokens * (4 * kernels + 6 * adapters + 3 * attention) + 4 * output
    assert operations(WORKS["lora-2048"]) == lora
    bert = 12 * (4 * 768 * 768 + 2 * 768 * 3072)
    assert operations(WORKS["bert-128"]) == 64 * 128 * (6 * bert + 3 * 4 * 12 * 128 * 768)


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("TPU v5 lite", 197),
    ],
)
def test_peak_of_a_device_by_its_name(device, tera):
    assert peak_of(device) == tera * 1e12


def test_an_unknown_device_has_no_peak():
    assert peak_of("Abacus 3000") is None
