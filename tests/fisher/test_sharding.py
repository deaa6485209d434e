"""The Fisher pass on eight simulated devices: the numbers of one device, with parameters on each of them or split."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import tiny_checkpoint

PROGRAM = """
import faulthandler, json, sys
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P, NamedSharding
from fft import models
from fft.core.batch import Batch
from fft.core.errors import InputError
from fft.fisher.diagonal import diagonal_fisher
from fft.core.tree import flatten
from fft.fisher.sharding import fully_sharded
from fft.tasks import Classify

faulthandler.dump_traceback_later(240, exit=True)  # shows where devices wait for each other
checkpoint = models.load(sys.argv[1])
task = Classify("original", ("negative", "positive"))
rng = np.random.default_rng(0)

def batch(rows=16):
    ids = rng.integers(4, 30, (rows, 9)).astype(np.int32)
    ids[:, 3] = ids[:, 1]
    mask = (np.arange(9)[None] < rng.integers(3, 10, rows)[:, None]).astype(np.int32)
    weight = (np.arange(rows) < rows - 3).astype(np.float32)
    label = rng.integers(0, 2, rows).astype(np.int32)
    return Batch(ids, mask, 0 * ids, label, weight, np.arange(rows, dtype=np.int32))

batches = [batch(), batch()]

def fisher(params, **more):
    return diagonal_fisher(checkpoint.model, task, params, batches, jax.random.key(0), draws=2, **more)

def worst(result, expected):
    paths = [path for path in expected if "key/bias" not in path]
    pairs = [(np.asarray(result[path], np.float64), np.asarray(expected[path])) for path in paths]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)

answer = {}
line = Mesh(np.array(jax.devices()), ("data",))
grid = Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))
for way in ("fused", "vmapped"):
    single = fisher(checkpoint.params, way=way)
    split = fully_sharded(checkpoint.params, line)
    halves = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(grid, P("fsdp") if x.shape[0] % 4 == 0 else P())), checkpoint.params
    )
    laid = (("data", checkpoint.params, line), ("fsdp", split, line), ("both", halves, grid))
    for name, params, mesh in laid if way == "fused" else laid[2:]:
        result = fisher(params, way=way, mesh=mesh)
        answer[f"{way} {name}"] = worst(flatten(result.diagonal), flatten(single.diagonal))
        assert result.examples == single.examples == 26
        if name == "fsdp":
            kernel = result.diagonal["layers"]["0"]["mlp"]["up"]["kernel"]
            assert kernel.addressable_shards[0].data.size == kernel.size // 8, "the diagonal stays sharded"

def refusal(**settings):
    try:
        diagonal_fisher(checkpoint.model, task, checkpoint.params, key=jax.random.key(0), mesh=line, **settings)
    except InputError as error:
        return str(error)

answer["uneven"] = refusal(batches=[batch(12)])
answer["gnb"] = refusal(batches=batches, estimator="gnb")
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tiny_checkpoint.write_checkpoint(tmp_path_factory.mktemp("sharding") / "bert")
    # Eight devices on few cores wait for each other; on a busy machine longer than XLA's 40 seconds.
    flags = "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600"
    flags = f"{os.environ['XLA_FLAGS']} {flags}"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
    }
    command = [sys.executable, "-c", PROGRAM, folder]
    for _ in range(3):  # on a loaded machine XLA's simulated devices can wait for each other for ever
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
        if "Timeout" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("how", ["fused data", "fused fsdp", "fused both", "vmapped both"])
def test_a_mesh_gives_the_numbers_of_one_device(answer, how):
    assert answer[how] <= 1e-5


def test_what_a_mesh_cannot_do_is_refused(answer):
    assert "8 devices cannot share batches of 12 rows evenly" in answer["uneven"]
    assert "gnb squares a whole batch's gradient and takes one device" in answer["gnb"]
