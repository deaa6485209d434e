"""Artefacts: the tree that is read equals the one written, or there is an error."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError, MachineError
from fft.core.tree import flatten
from fft.disk.artefact import load_artefact, save_artefact

TREE = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(2.5)}, "b": jnp.ones(4)}


def test_the_tree_written_is_read(tmp_path):
    save_artefact(tmp_path / "parent" / "folder", TREE, {"method": "ewc", "rows": 512, "note": "é"})
    tree, provenance = load_artefact(tmp_path / "parent" / "folder")
    assert flatten(tree).keys() == flatten(TREE).keys()
    for path, leaf in flatten(tree).items():
        expected = np.asarray(flatten(TREE)[path])
        assert isinstance(leaf, jnp.ndarray) and leaf.dtype == expected.dtype and leaf.shape == expected.shape
        np.testing.assert_array_equal(leaf, expected)
    digest = hashlib.sha256((tmp_path / "parent" / "folder" / "tensors.safetensors").read_bytes()).hexdigest()
    assert provenance == {"method": "ewc", "rows": 512, "note": "é", "sha256": digest}


def test_an_array_that_is_not_contiguous_is_written_as_it_reads(tmp_path):
    transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_artefact(tmp_path, {"a": transposed}, {})
    np.testing.assert_array_equal(load_artefact(tmp_path)[0]["a"], transposed)


def test_an_empty_tree(tmp_path):
    save_artefact(tmp_path, {}, {"method": "full"})
    tree, provenance = load_artefact(tmp_path)
    assert tree == {} and provenance["method"] == "full"


def test_a_second_save_replaces_the_first(tmp_path):
    save_artefact(tmp_path, TREE, {"n": 1})
    save_artefact(tmp_path, {"c": np.zeros(2, np.float32)}, {"n": 2})
    tree, provenance = load_artefact(tmp_path)
    assert list(tree) == ["c"] and provenance["n"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"tensors.safetensors", "provenance.json"}


def test_an_unfinished_artefact_is_refused(tmp_path):
    save_artefact(tmp_path, TREE, {})
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(InputError, match=r"not a finished artefact.*provenance\.json"):
        load_artefact(tmp_path)


def test_one_flipped_bit_is_found(tmp_path):
    save_artefact(tmp_path, TREE, {})
    path = tmp_path / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="sha256 differs"):
        load_artefact(tmp_path)


@pytest.mark.parametrize("content", ["{", json.dumps({"method": "ewc"}), "[]"])
def test_an_invalid_provenance_is_refused(tmp_path, content):
    save_artefact(tmp_path, TREE, {})
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        load_artefact(tmp_path)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="Not a directory"):
        save_artefact(tmp_path / "file" / "below", TREE, {})


def test_64_bit_numbers_on_disk_are_refused_with_a_remedy(tmp_path):
    """Older versions computed and wrote float64 under JAX_ENABLE_X64."""
    save_artefact(tmp_path, {"a": np.ones(2, np.float64)}, {})
    with pytest.raises(InputError, match="holds a of F64, which fft does not compute in; remove the folder"):
        load_artefact(tmp_path)
