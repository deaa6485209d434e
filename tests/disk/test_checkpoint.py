"""Saved steps are restored bit for bit; a damaged one gives a reason, and an older intact step is restored instead."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fft.core.errors import InputError, MachineError
from fft.disk.checkpoint import Checkpoints


class State(NamedTuple):
    step: Any
    theta: Any
    opt_state: Any
    key: Any
    seen: Any


def make_state(seed: int = 0) -> State:
    """A tiny train state: multi_transform over AdamW and a frozen group, a typed key, and a zero-size leaf."""
    key = jax.random.key(seed)
    theta = {
        "layers": {str(i): {"kernel": jax.random.normal(jax.random.fold_in(key, i), (3, 4))} for i in range(2)},
        "heads": {"half": jnp.full((5,), 0.1, jnp.bfloat16)},
    }
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {"trained": optax.adamw(optax.linear_schedule(0.1, 0.0, 10)), "frozen": optax.set_to_zero()},
            {"layers": "trained", "heads": "frozen"},
        ),
    )
    opt_state = tx.init(theta)
    opt_state = tx.update(jax.tree.map(jnp.ones_like, theta), opt_state, theta)[1]
    seen = {"none": jnp.zeros((0, 7)), "on": jnp.array([True, False]), "empty": {}}
    return State(jnp.int32(7), theta, opt_state, jax.random.split(key, 2), seen)


def abstract(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def bits(leaf) -> tuple:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(jax.random.key_impl(leaf)), *bits(jax.random.key_data(leaf)))
    return str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert bits(ours) == bits(theirs)


def small(value: float) -> dict:
    return {"theta": {"a": jnp.full((300, 2), value), "b": jnp.arange(3)}}


def folders(path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


# --- save and restore ---


@pytest.mark.parametrize("as_like", [abstract, lambda tree: tree])
def test_a_train_state_comes_back_bit_for_bit(tmp_path, as_like):
    state = make_state()
    extra = {"history": [{"step": 0, "new": 0.1 + 0.2}], "best": None, "loss": float("nan"), "n": np.int64(3)}
    Checkpoints(tmp_path).save(120, state, extra)
    restored = Checkpoints(tmp_path).restore(as_like(state))
    assert restored.step == 120
    assert_same(restored.tree, state)
    assert restored.extra["history"] == [{"step": 0, "new": 0.1 + 0.2}]
    assert restored.extra["n"] == 3
    assert np.isnan(restored.extra["loss"])
    for leaf in jax.tree.leaves(restored.tree):
        assert isinstance(leaf, jax.Array)
        assert not leaf.committed
        assert leaf.devices() == {jax.devices()[0]}


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_key_keeps_its_kind_and_its_stream(tmp_path, impl):
    key = jax.random.key(3, impl=impl)
    Checkpoints(tmp_path).save(1, {"key": key}, {})
    got = Checkpoints(tmp_path).restore({"key": key}).tree["key"]
    np.testing.assert_array_equal(jax.random.normal(got, (4,)), jax.random.normal(key, (4,)))


@pytest.mark.parametrize("tree", [{}, {"a": optax.EmptyState(), "b": ()}, {"a": jnp.zeros((0, 2))}, {"n": 5, "x": 0.5}])
def test_odd_trees_come_back(tmp_path, tree):
    Checkpoints(tmp_path).save(1, tree, {})
    got = Checkpoints(tmp_path).restore(tree).tree
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    assert [np.shape(leaf) for leaf in jax.tree.leaves(got)] == [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(tree), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_donated_and_not_contiguous_leaves_are_saved_as_they_are(tmp_path):
    tree = {"t": np.arange(6, dtype=np.float32).reshape(2, 3).T, "j": jnp.arange(8.0)}
    Checkpoints(tmp_path).save(1, tree, {})
    like = {"t": jax.ShapeDtypeStruct((3, 2), jnp.float32), "j": jax.ShapeDtypeStruct((8,), jnp.float32)}
    got = Checkpoints(tmp_path).restore(like).tree
    np.testing.assert_array_equal(got["t"], [[0, 3], [1, 4], [2, 5]])
    doubled = jax.jit(lambda leaves: jax.tree.map(lambda x: 2 * x, leaves), donate_argnums=0)(got)
    np.testing.assert_array_equal(doubled["j"], np.arange(8) * 2)


@pytest.mark.parametrize("key", ["a.b", "a/b", ""])
def test_keys_that_would_make_two_paths_one_are_refused(tmp_path, key):
    with pytest.raises(InputError, match="dot or slash"):
        Checkpoints(tmp_path).save(1, {"x": {key: jnp.ones(2)}}, {})
    assert folders(tmp_path) == []


@pytest.mark.parametrize(
    "leaf, message", [(np.zeros(2, np.int64), "int64"), ("text", "not an array"), (np.array(["a"]), "not an array")]
)
def test_leaves_jax_would_change_are_refused(tmp_path, leaf, message):
    with pytest.raises(InputError, match=f"theta/a is .*{message}"):
        Checkpoints(tmp_path).save(1, {"theta": {"a": leaf}}, {})


def test_two_leaves_of_one_name_are_refused(tmp_path):
    with pytest.raises(InputError, match="two leaves are named x/1"):
        Checkpoints(tmp_path).save(1, {"x": Twins({"1": jnp.ones(2)}, {"1": jnp.ones(2)})}, {})


@jax.tree_util.register_pytree_with_keys_class
class Twins:
    """A container whose two children carry one key."""

    def __init__(self, left, right):
        self.children = (left, right)

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey("1"), child["1"]) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*({"1": child} for child in children))


@pytest.mark.parametrize("name", ["lr[1e-3]", "[!a]", "layers=[1,2]", "[shared]/run", "a*b", "a?b"])
def test_a_folder_whose_name_is_a_pattern(tmp_path, monkeypatch, name):
    """Test absolute and relative paths, and steps saved before the folder was renamed to a pattern."""
    state, like = make_state(), abstract(make_state())
    Checkpoints(tmp_path / "plain").save(1, make_state(1), {})
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "plain").rename(tmp_path / name)
    Checkpoints(tmp_path / name).save(2, state, {})
    monkeypatch.chdir(tmp_path / name)
    assert_same(Checkpoints("").restore(like, step=1).tree, make_state(1))
    Checkpoints("").save(3, make_state(3), {})
    for step, tree in ((2, state), (3, make_state(3))):
        assert_same(Checkpoints(tmp_path / name).restore(like, step).tree, tree)


# --- which steps are kept ---


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 7):
        checkpoints.save(step, small(step), {"step": step}, best=2 if step > 2 else None)
    assert checkpoints.steps() == [2, 5, 6]
    assert checkpoints.restore(small(0), step=2).tree["theta"]["a"][0, 0] == 2
    checkpoints.save(7, small(7), {}, best=7)
    assert checkpoints.steps() == [6, 7]


def test_a_step_saved_again_replaces_the_first(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, small(1), {"n": 1})
    checkpoints.save(5, small(2), {"n": 2}, best=5)
    step, tree, extra = checkpoints.restore(small(0))
    assert (step, tree["theta"]["a"][0, 0], extra) == (5, 2, {"n": 2})
    checkpoints.save(6, small(3), {"n": 3}, best=5)
    checkpoints.save(7, small(3), {"n": 3}, best=5)
    assert folders(tmp_path) == ["00000005.1", "00000006", "00000007"]


def test_saves_that_did_not_finish_do_not_count_and_are_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1), {})
    checkpoints.save(2, small(2), {})
    (tmp_path / "00000002" / "manifest.json").unlink()
    (tmp_path / "00000003" / "arrays.orbax-checkpoint-tmp").mkdir(parents=True)
    assert checkpoints.steps() == [1]
    assert checkpoints.restore(small(0)).step == 1
    assert "step 2" in checkpoints.warnings[1] and "did not finish" in checkpoints.warnings[1]
    assert folders(tmp_path) == ["00000001", "00000002", "00000003"]  # reading changes nothing
    checkpoints.save(4, small(4), {})
    assert folders(tmp_path) == ["00000001", "00000004"]


def test_extra_alone_can_be_read(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1), {"best_step": 1})
    checkpoints.save(2, small(2), {"best_step": 2})
    assert checkpoints.read_extra() == (2, {"best_step": 2})
    assert checkpoints.read_extra(1) == (1, {"best_step": 1})
    (tmp_path / "00000002" / "extra.json").write_text('{"best_step": 3}')
    assert checkpoints.read_extra() == (1, {"best_step": 1})
    assert "extra.json" in checkpoints.warnings[0]


def test_a_step_half_deleted_does_not_count(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, small(step), {})
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a kill before the first file was deleted
    checkpoints.save(3, small(3), {})
    assert folders(tmp_path) == ["00000001", "00000002", "00000003"]
    assert checkpoints.steps() == [2, 3]


# --- damage ---


def saved_twice(path) -> Checkpoints:
    checkpoints = Checkpoints(path)
    checkpoints.save(1, make_state(1), {"n": 1})
    checkpoints.save(2, make_state(2), {"n": 2})
    return checkpoints


def files_of(folder) -> list:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_flipped_bit_in_any_file_falls_back(tmp_path):
    checkpoints = saved_twice(tmp_path)
    like, draw = abstract(make_state()), random.Random(0)
    files = files_of(tmp_path / "00000002")
    assert len(files) >= 5
    for file in files:
        content = file.read_bytes()
        for position in {0, len(content) - 1, draw.randrange(max(len(content), 1))} if content else ():
            broken = bytearray(content)
            broken[position] ^= 1 << draw.randrange(8)
            file.write_bytes(broken)
            checkpoints.warnings.clear()
            step, tree, extra = checkpoints.restore(like)
            assert (step, extra) == (1, {"n": 1}), file
            assert_same(tree, make_state(1))
            assert len(checkpoints.warnings) == 1 and "step 2" in checkpoints.warnings[0]
        file.write_bytes(content)
    assert checkpoints.restore(like).step == 2


@pytest.mark.parametrize("harm", ["cut", "missing"])
def test_a_cut_or_missing_file_falls_back(tmp_path, harm):
    checkpoints = saved_twice(tmp_path)
    for file in files_of(tmp_path / "00000002"):
        content = file.read_bytes()
        if harm == "missing":
            file.unlink()
        elif content:
            file.write_bytes(content[: len(content) // 2])
        else:
            continue
        assert checkpoints.restore(abstract(make_state())).step == 1, file
        assert file.name in checkpoints.warnings[-1]
        file.write_bytes(content)


def test_wrong_numbers_in_intact_files_are_detected_by_the_hash_of_the_leaf(tmp_path, monkeypatch):
    import fft.disk.checkpoint as module

    save = module._save_arrays

    def wrong(folder, values):
        save(folder, {path: value + 1 if path == "theta/b" else value for path, value in values.items()})

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1), {})
    monkeypatch.setattr(module, "_save_arrays", wrong)
    checkpoints.save(2, small(2), {})
    assert checkpoints.restore(small(0)).step == 1
    assert "theta/b: the numbers are not those that were saved" in checkpoints.warnings[0]


def test_a_damaged_step_is_moved_aside_and_never_costs_the_good_one(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1), {})
    checkpoints.save(2, small(2), {})
    (tmp_path / "00000002" / "extra.json").write_text("[]")
    checkpoints.restore(small(0))
    checkpoints.save(3, small(3), {})
    assert folders(tmp_path) == ["00000001", "00000003", "damaged-00000002"]
    assert checkpoints.steps() == [1, 3]


def test_without_an_intact_step_the_error_lists_the_damage(tmp_path):
    checkpoints = saved_twice(tmp_path)
    for step in (1, 2):
        (tmp_path / f"{step:08d}" / "extra.json").write_text("{}")
    with pytest.raises(InputError, match=r"(?s)no intact checkpoint.*step 2 .*extra\.json.*step 1 "):
        checkpoints.restore(abstract(make_state()))
    with pytest.raises(InputError, match="no intact checkpoint"):
        Checkpoints(tmp_path / "nowhere").restore({"a": jnp.ones(2)})


def test_a_step_requested_by_number_is_not_replaced_by_another(tmp_path):
    checkpoints = saved_twice(tmp_path)
    (tmp_path / "00000001" / "extra.json").write_text("{}")
    with pytest.raises(InputError, match=r"(?s)of step 1 .*other steps there: 2"):
        checkpoints.restore(abstract(make_state()), step=1)


def test_another_structure_is_refused_with_the_difference_by_path(tmp_path):
    saved = {"theta": {"a": jnp.ones((2, 3)), "b": jnp.ones(2), "c": jnp.ones(4)}, "key": jax.random.key(0)}
    like = {
        "theta": {"a": jnp.ones((3, 2)), "b": jnp.ones(2, jnp.int32), "d": jnp.ones(1)},
        "key": jax.random.key(0, impl="rbg"),
    }
    Checkpoints(tmp_path).save(1, saved, {})
    with pytest.raises(InputError) as caught:
        Checkpoints(tmp_path).restore(like)
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "theta/d: missing in the checkpoint",
        "theta/c: in the checkpoint, but not expected",
        "key: dtype key<fry> in the checkpoint, key<rbg> expected",
        "theta/a: shape [2, 3] in the checkpoint, [3, 2] expected",
        "theta/b: dtype float32 in the checkpoint, int32 expected",
    ]


# --- a finished run ---


def saved_in_two(folder):
    """Save a train state without a lasting part, and two steps of which theta lasts."""
    checkpoints, state = Checkpoints(folder), make_state()
    checkpoints.save(1, state, {"step": 1}, best=1)
    for step in (2, 3):
        checkpoints.save(step, state, {"step": step}, 1, "theta")
    return checkpoints, state


def test_a_part_of_a_step_can_be_read_whether_it_lasts_or_not(tmp_path):
    checkpoints, state = saved_in_two(tmp_path)
    for step in (1, 2):
        for part in ({"theta": state.theta}, {"key": state.key, "step": state.step}, {"opt_state": state.opt_state}):
            assert_same(checkpoints.restore(abstract(part), step, part=True).tree, part)
        assert_same(checkpoints.restore(abstract(state), step).tree, state)
    with pytest.raises(InputError, match="more: missing in the checkpoint"):
        checkpoints.restore({"theta": {**state.theta, "more": jnp.ones(1)}}, part=True)


def test_reduce_deletes_all_but_the_lasting_part_of_the_remaining_steps(tmp_path):
    checkpoints, state = saved_in_two(tmp_path)
    (tmp_path / "damaged-00000000").mkdir()
    (tmp_path / "notes").mkdir()
    checkpoints.reduce({1, 3})
    assert folders(tmp_path) == ["00000001", "00000003", "notes"]
    assert folders(tmp_path / "00000003") == ["arrays", "extra.json", "manifest.json"]
    for step in (1, 3):
        assert_same(checkpoints.restore(abstract({"theta": state.theta}), step, part=True).tree["theta"], state.theta)
        assert checkpoints.read_extra(step) == (step, {"step": step})
    assert_same(checkpoints.restore(abstract(state), 1).tree, state)  # saved without a lasting part, so not reduced
    with pytest.raises(InputError, match="is from a finished run and lacks the state to continue training"):
        checkpoints.restore(abstract(state), 3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    checkpoints.reduce({1, 3})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


@pytest.mark.parametrize("part", ["arrays", "rest"])
def test_damage_to_parts_that_are_not_read_does_not_matter(tmp_path, part):
    checkpoints, state = saved_in_two(tmp_path)
    for path in (tmp_path / "00000003" / part).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    like = abstract({"theta": state.theta})
    assert checkpoints.restore(like, part=True).step == (2 if part == "arrays" else 3)
    assert checkpoints.restore(abstract(state)).step == 2
    assert len(checkpoints.warnings) == (2 if part == "arrays" else 1)


# --- kills and full disks ---

RUN = """
    import sys
    import jax.numpy as jnp
    from fft.disk.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1])
    step = max(checkpoints.steps(), default=0)
    while True:
        step += 1
        tree = {'theta': {str(i): jnp.full((50,), float(step)) for i in range(4)}, 'step': jnp.int32(step)}
        checkpoints.save(step, tree, {'step': step}, best=step // 3 * 3)
        print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_good_step(tmp_path):
    draw, like = random.Random(1), {"theta": {str(i): jnp.zeros(50) for i in range(4)}, "step": jnp.int32(0)}
    folder, torn, announced = tmp_path / "checkpoints", 0, 0
    for _ in range(5):
        announced = max(announced, save_and_kill(folder, draw.uniform(0.0, 0.2)))
        checkpoints = Checkpoints(folder)
        step, tree, extra = checkpoints.restore(like)
        assert step >= announced  # an announced step is on disk
        assert extra == {"step": step} and int(tree["step"]) == step
        assert all((np.asarray(leaf) == step).all() for leaf in tree["theta"].values())
        assert all("did not finish" in line for line in checkpoints.warnings)
        assert len(checkpoints.steps()) <= 4
        torn += any(not (path / "manifest.json").exists() for path in folder.iterdir())
        announced = step
    assert torn, "no kill happened during a save, so the test shows nothing"


def save_and_kill(folder, seconds: float) -> int:
    """Save step after step in another process, kill it `seconds` after its first save; returns the last announced."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        return int(([first, *process.stdout.read().split("\n")[:-1]])[-1])


FULL = """
    import asyncio, gc, resource, signal, sys
    import jax.numpy as jnp
    from fft.disk.checkpoint import Checkpoints
    from fft.core.errors import MachineError
    checkpoints = Checkpoints(sys.argv[1])
    checkpoints.save(1, {'a': jnp.ones((60,))}, {'step': 1})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for limit in map(int, sys.argv[2:]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            checkpoints.save(2, {'a': jnp.ones((60_000,))}, {'text': 'x' * 500_000})
            print('saved')
        except MachineError as error:
            print('refused', str(error).count('File too large'), str(error).count('Free some space'))
    abandoned = asyncio.new_event_loop().create_future()
    abandoned.set_exception(ValueError('a write nobody waits for'))
    del abandoned
    gc.collect()
"""


def test_on_a_full_disk_the_earlier_step_stays_and_no_files_are_left(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(tmp_path), "50", "3000", "100000", "300000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n") == ["refused 1 1"] * 4 + [""], done.stderr
    assert "Traceback" not in done.stderr and "never retrieved" not in done.stderr
    assert folders(tmp_path) == ["00000001"]
    assert Checkpoints(tmp_path).restore({"a": jnp.ones(60)}).extra == {"step": 1}


DEEP = """
    import sys
    import jax.numpy as jnp
    from fft.disk.checkpoint import Checkpoints
    Checkpoints(sys.argv[1]).save(1, {'a': jnp.ones((60,))}, {})
"""


def test_the_process_ends_if_a_folder_cannot_be_created(tmp_path):
    """The path of the step is just short enough, and that of its arrays too long."""
    room = 4096 - len(f"{tmp_path}/00000001/arrays.") - 1
    deep = tmp_path.joinpath(*["d" * 200] * (room // 201), "d" * (room % 201))
    command = [sys.executable, "-c", textwrap.dedent(DEEP), str(deep)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines()[-1].startswith(
        f"fft.core.errors.MachineError: cannot write {deep}: File name too long"
    )


def test_a_full_disk_at_the_manifest_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small(1), {})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(MachineError, match=r"extra\.json: No space left on device"):
        checkpoints.save(2, small(2), {})
    assert folders(tmp_path) == ["00000001"]


def test_a_folder_below_a_file_is_the_machines_fault(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    assert checkpoints.steps() == []
    with pytest.raises(MachineError, match="Not a directory"):
        checkpoints.save(1, small(1), {})


def test_a_manifest_of_a_later_format_is_refused(tmp_path):
    import hashlib

    from fft.disk.files import canonical

    Checkpoints(tmp_path).save(1, small(1), {})
    path = tmp_path / "00000001" / "manifest.json"
    manifest = {**json.loads(path.read_text()), "format": 3}
    del manifest["sha256"]
    path.write_text(json.dumps({**manifest, "sha256": hashlib.sha256(canonical(manifest)).hexdigest()}))
    with pytest.raises(InputError, match="format 3"):
        Checkpoints(tmp_path).restore(small(0))


def test_restoring_works_inside_a_running_event_loop(tmp_path):
    import asyncio

    async def notebook_cell():
        Checkpoints(tmp_path).save(1, small(1), {})
        return Checkpoints(tmp_path).restore(small(0)).step

    assert asyncio.run(notebook_cell()) == 1
