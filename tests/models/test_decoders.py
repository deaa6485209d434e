"""States, scores, gradients, padding, packing, causality and files: every generative family against torch.

`pytest -s` prints the largest deviations by family, as multiples of max(1, largest value); see docs/models.md.
"""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from fft import models
from fft.core.batch import Inputs
from fft.core.errors import InputError
from fft.core.tree import flatten
from tests.helpers import torch_decoders as oracle
from tests.helpers.torch_decoders import CASES, FAMILIES, PAD, TOKENS, VARIANTS

RIGHT, LEFT = oracle.texts([12, 7, 3]), oracle.texts([12, 7, 3], left=True)
RIGHT.ids[1, 6] = PAD  # a text that ends in the padding id: score heads read the token before
MEANINGLESS = ("problem_type", "architectures", "dtype", "transformers_version", "_name_or_path")
worst = {}


@pytest.fixture(scope="module", autouse=True)
def printed():
    yield
    columns = sorted({column for _, column in worst})
    print("\n" + "".join(f"{name:>17}" for name in ("family", *columns)))
    for family in FAMILIES:
        print("".join(f"{cell:>17}" for cell in (family, *(f"{worst.get((family, c), 0):.1e}" for c in columns))))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A function that returns the Pair of a family and the number of a variant."""
    made = {}

    def get(family, variant=0):
        if (family, variant) not in made:
            theirs = oracle.make(family, **VARIANTS[family][variant])
            made[family, variant] = oracle.Pair(theirs, tmp_path_factory.mktemp(family))
        return made[family, variant]

    return get


def close(family, column, ours, expected, tolerance=1e-5, least=1.0):
    """Check |ours - expected| <= tolerance · max(least, largest |expected|), and record the deviation."""
    assert np.isfinite(ours).all()
    error = float(np.abs(ours - expected).max()) / max(least, float(np.abs(expected).max()))
    worst[family, column] = max(worst.get((family, column), 0), error)
    assert error <= tolerance, (family, column, error)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_states_and_scores(pair, family, variant):
    both = pair(family, variant)
    for inputs, name in ((RIGHT, "states"), (LEFT, "padding in front")):
        tokens, pooled = both.states(inputs)
        states, logits = both.expected(inputs)
        real = inputs.mask == 1
        close(family, name, tokens[real], states[real])
        close(family, "scores" if inputs is RIGHT else name, both.logits(pooled), logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients(pair, family):
    """Leaf by leaf, next to the leaf's largest gradient or 1 % of the model's (biases of keys have nearly none)."""
    for ours, theirs in zip(*oracle.gradients(pair(family), RIGHT), strict=True):
        assert set(ours) == set(theirs)
        largest = max(float(np.abs(value).max()) for value in theirs.values())
        for path, value in ours.items():
            close(family, "gradients", np.asarray(value), theirs[path], 1e-4, 0.01 * largest)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_pooled(pair, family):
    both = pair(family)
    for inputs in (RIGHT, LEFT):
        close(family, "pooled only", both.pooled(inputs), both.states(inputs)[1], 1e-6)


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_later_tokens_change_no_earlier_state(pair, family, variant):
    both, full = pair(family, variant), oracle.texts([TOKENS] * 3)
    before, _ = both.states(full)
    for place in (1, 5, TOKENS - 1):
        ids = full.ids.copy()
        ids[:, place] = (ids[:, place] - 2 + 7) % (oracle.VOCABULARY - 2) + 2
        after, _ = both.states(full._replace(ids=ids))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place] != before[:, place]).any(axis=1).all()


@pytest.mark.parametrize(("family", "variant"), CASES)
def test_packed_rows_equal_unpacked_ones(pair, family, variant):
    both = pair(family, variant)
    lengths = [[5, 6], [4, 3, 4], [12]]
    apart = oracle.texts([length for row in lengths for length in row], seed=3)
    ids, segments = np.full((3, TOKENS), PAD, np.int32), np.zeros((3, TOKENS), np.int32)
    expected = np.concatenate([both.states(Inputs(*(field[i : i + 3] for field in apart)))[0] for i in (0, 3)])
    placed = []
    for row, texts in enumerate(lengths):
        start = 0
        for number, length in enumerate(texts, start=1):
            ids[row, start : start + length] = apart.ids[len(placed), :length]
            segments[row, start : start + length] = number
            placed.append((row, start, length))
            start += length
    tokens, _ = both.states(Inputs(ids, segments, np.zeros_like(ids)))
    for text, (row, start, length) in enumerate(placed):
        close(family, "packing", tokens[row, start : start + length], expected[text, :length])


def test_without_padding_id_the_mask_says_where_a_row_ends(tmp_path):
    both = oracle.Pair(oracle.make("llama", pad_token_id=None), tmp_path)
    _, pooled = both.states(RIGHT)
    for row, length in enumerate([12, 7, 3]):
        states, logits = both.expected(Inputs(*(field[row : row + 1, :length] for field in RIGHT)))
        close("llama", "states", pooled[row], states[0, -1])
        close("llama", "scores", both.logits(pooled[row : row + 1]), logits)


def config_of(folder):
    return {name: value for name, value in AutoConfig.from_pretrained(folder).to_dict().items()
            if name not in MEANINGLESS}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_saving_in_one_file_and_in_shards(pair, family, tmp_path):
    """What torch reads from a folder of ours is what it wrote, to the last bit; and the other way round."""
    for variant in range(len(VARIANTS[family])):
        both = pair(family, variant)
        _, expected = both.expected(RIGHT)
        for shard_bytes in (10**9, 8_000):
            folder = models.save(both.checkpoint, tmp_path / f"{variant}-{shard_bytes}", shard_bytes=shard_bytes)
            assert (folder / "model.safetensors.index.json").exists() == (shard_bytes == 8_000)
            back = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
            with torch.no_grad():
                close(family, "round trip", oracle.forward(back, RIGHT)[1].numpy(), expected, 0)
            assert config_of(folder) == config_of(both.folder)

    both.theirs.save_pretrained(tmp_path / "theirs", max_shard_size="8KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    read = flatten(models.load(tmp_path / "theirs").params)
    assert all(np.array_equal(read[path], leaf) for path, leaf in flatten(both.params).items())


@pytest.mark.parametrize(
    ("family", "dtype"), [*((family, "bfloat16") for family in FAMILIES), ("llama", "float16"), ("gpt2", "float16")]
)
def test_checkpoints_of_half_width(pair, family, dtype, tmp_path):
    both = pair(family)
    oracle.make(family, **VARIANTS[family][0]).to(getattr(torch, dtype)).save_pretrained(tmp_path)
    wide = {"dtype": torch.float32, "attn_implementation": "eager"}
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path, **wide).eval()
    checkpoint = models.load(tmp_path)
    assert checkpoint.raw_config["dtype"] == dtype
    with torch.no_grad():
        states = oracle.forward(theirs, RIGHT)[0].numpy()
    real = RIGHT.mask == 1
    close(family, "half width", both.states(RIGHT, checkpoint.params)[0][real], states[real])
    saved = models.save(checkpoint, tmp_path / "ours")
    assert models.load(saved).raw_config["dtype"] == dtype


def test_rows_beyond_the_positions_are_refused(pair):
    """For `dynamic`, whose frequencies would depend on the batch beyond them, as for all others."""
    both = pair("llama", 2)
    assert both.model.config.ropes()[0].rope_type == "dynamic"
    longest = both.model.config.max_positions
    both.states(oracle.texts([longest], longest))
    with pytest.raises(InputError, match=f"{longest + 1} tokens a row.*positions for {longest}"):
        both.states(oracle.texts([longest + 1], longest + 1))


def test_the_first_name_of_gemmas_activation(tmp_path):
    """Files that say `gelu` mean the tanh approximation, with which Gemma was trained."""
    both = oracle.Pair(oracle.make("gemma", hidden_act="gelu_pytorch_tanh"), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "hidden_act": "gelu", "hidden_activation": None}))
    assert models.load(tmp_path).model.config.shape == both.model.config.shape


def test_a_padding_id_is_written_where_neither_the_file_nor_the_family_has_one(tmp_path):
    for family, stated, expected in (("llama", None, 1), ("gemma", "absent", 0), ("gemma", None, 2), ("gpt2", None, 0)):
        folder = tmp_path / f"{family}-{stated}"
        oracle.make(family, **VARIANTS[family][0]).save_pretrained(folder)
        raw = {**json.loads((folder / "config.json").read_text()), "pad_token_id": None}
        if stated == "absent":
            raw.pop("pad_token_id")
        (folder / "config.json").write_text(json.dumps(raw))
        models.save(models.load(folder), tmp_path / "saved")
        assert AutoConfig.from_pretrained(tmp_path / "saved").pad_token_id == expected, (family, stated)
