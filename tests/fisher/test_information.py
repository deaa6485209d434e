"""Fisher information on disk: what is saved, what is rejected, sums over tasks, and shares by layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from fft.core.errors import InputError
from fft.core.tree import flatten
from fft.disk.artefact import save_artefact
from fft.fisher.information import accumulated, by_place, load_fisher, load_previous, save_fisher, tasks_of
from fft.fisher.storage import unpack

TOLD = {
    "base_sha256": "b",
    "model": "base/",
    "estimator": "mc",
    "examples": 3,
    "trace": 21.0,
    "data": {"train_rows": 9},
}
DIAGONAL = {
    "embed": {"word": {"embedding": jnp.ones((3, 2))}},
    "layers": {str(i): {"attention": {"query": {"kernel": jnp.full((2, 2), i + 1.0)}}} for i in (0, 1)},
    "heads": {"original": {"out": {"kernel": jnp.full((2, 1), 1.5)}}},
}


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_what_is_saved_is_loaded(tmp_path, storage):
    save_fisher(tmp_path, DIAGONAL, storage, TOLD)
    stored, provenance = load_fisher(tmp_path, DIAGONAL, "b")
    assert provenance["kind"] == "fisher" and provenance["storage"] == storage and provenance["estimator"] == "mc"
    for path, leaf in flatten(unpack(stored)).items():
        np.testing.assert_allclose(leaf, flatten(DIAGONAL)[path], rtol=1e-6)


def test_what_is_refused(tmp_path):
    save_artefact(tmp_path / "other", DIAGONAL, {"method": "ewc"})
    with pytest.raises(InputError, match=r"expected Fisher information in .*; there is none"):
        load_fisher(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no Fisher information"):
        load_fisher(tmp_path / "other")
    save_fisher(tmp_path / "f", DIAGONAL, "float32", TOLD)
    with pytest.raises(InputError, match="measured at other weights, those of base/"):
        load_fisher(tmp_path / "f", DIAGONAL, "c")
    with pytest.raises(InputError, match="another architecture: it has embed/word/embedding"):
        load_fisher(tmp_path / "f", {"layers": DIAGONAL["layers"]}, "b")
    text = (tmp_path / "f" / "provenance.json").read_text()
    (tmp_path / "f" / "provenance.json").write_text(text.replace('"base_sha256": "b"', '"base_sha256": "c"'))
    with pytest.raises(InputError, match=r"provenance\.json is not the file that was written"):
        load_fisher(tmp_path / "f", DIAGONAL, "c")
    payload = (tmp_path / "f" / "tensors.safetensors").read_bytes()
    (tmp_path / "f" / "provenance.json").write_text(text)
    (tmp_path / "f" / "tensors.safetensors").write_bytes(payload[:-4])
    with pytest.raises(InputError, match=r"tensors\.safetensors is not the file that was written"):
        load_fisher(tmp_path / "f")


def test_online_ewc_fades_the_past_and_keeps_leaves_of_either_task():
    """F = γ F_previous + F_new, recursively: after three tasks γ² F_1 + γ F_2 + F_3."""
    tasks = [{"layers": {"0": {"kernel": jnp.full((2,), float(v))}}} for v in (5, 7, 11)]
    tasks[0]["heads"] = {"a": {"bias": jnp.full((1,), 3.0)}}
    total = accumulated(accumulated(tasks[0], 0.5, tasks[1]), 0.5, tasks[2])
    np.testing.assert_allclose(total["layers"]["0"]["kernel"], 0.25 * 5 + 0.5 * 7 + 11)
    np.testing.assert_allclose(total["heads"]["a"]["bias"], 0.75)
    with pytest.raises(InputError, match=r"previous Fisher's layers/0/kernel is \(2,\), this one's \(3,\)"):
        accumulated(tasks[0], 1.0, {"layers": {"0": {"kernel": jnp.ones(3)}}})


def test_a_previous_fisher_may_differ_in_heads_alone(tmp_path):
    save_fisher(tmp_path, DIAGONAL, "float32", TOLD)
    other_head = {**DIAGONAL, "heads": {"b": {"out": {"kernel": jnp.ones((2, 4))}}}}
    assert flatten(load_previous(tmp_path, other_head)[0]).keys() == flatten(DIAGONAL).keys()
    with pytest.raises(InputError, match="another architecture: it has layers/1/attention/query/kernel"):
        load_previous(tmp_path, {**DIAGONAL, "layers": {"0": DIAGONAL["layers"]["0"]}})


def test_the_tasks_in_words():
    assert tasks_of({"tasks": ["a"]}) == "'a'"
    assert tasks_of({"tasks": ["a", "b"], "previous": {"gamma": 0.9}}) == "'b', added to 0.9 x that of 'a'"


def test_places_from_the_embeddings_up_with_their_share_of_the_trace():
    places = by_place(DIAGONAL, 2)
    assert [(place["layer"], place["role"]) for place in places] == [
        ("embeddings", "word"),
        ("block 0", "query"),
        ("block 1", "query"),
        ("head original", "head out"),
    ]
    assert [place["share"] for place in places] == pytest.approx([6 / 21, 4 / 21, 8 / 21, 3 / 21])
    assert [place["mean"] for place in places] == pytest.approx([1, 1, 2, 1.5])
