"""Adapters in: a folder of PEFT's, strict both ways against the base it is for."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fft.adapters import Adapter
from fft.errors import InputError
from fft.local import local
from fft.methods import from_json
from fft.models import FAMILIES, Head
from fft.models.config import read_json
from fft.models.heads import HEADS_JSON, ORIGINAL, check_name, read_record, width
from fft.models.hf import read_tensors, refuse_not_finite
from fft.models.keys import listed
from fft.models.sniff import check_not_pointer
from fft.paths import unflatten
from fft.peft.layout import layout_of
from fft.peft.writing import CONFIG, WEIGHTS
from fft.schema import validated

PICKLE = "adapter_model.bin"
CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file as s; '
    f"s(torch.load('{PICKLE}', weights_only=True), '{WEIGHTS}')\""
)


def load(folder, base, formats):
    """Return the Adapter in a folder of PEFT's for the Checkpoint `base`; weights become float32 jax arrays.

    Raises InputError for a peft_type or a setting that is not computed here, and for tensors that are unknown,
    missing, of another shape or not floating point: an adapter of another base, mostly.
    """
    folder = Path(local(folder, "the adapter"))
    raw = read_raw(folder)
    if raw["peft_type"] not in formats:
        raise InputError(
            f"{folder}: peft_type {raw['peft_type']!r} is not supported; supported are {', '.join(formats)}"
        )
    form = formats[raw["peft_type"]]
    config = validated(form.config, raw, str(folder / CONFIG))
    method = from_json([form.method(config)], str(folder / CONFIG))
    stored = read_weights(folder)
    family = FAMILIES[base.model.family]
    name, head, own = head_of(folder, stored, base, f"{form.prefix}{family.head_rows[-1][0]}.weight")
    layout = layout_of(family, base.model.config, name, 0 if head is None else width(head))
    places = [*form.tensors(config, layout), *layout.whole(form.prefix, config.saved)]
    refuse_not_finite(stored, folder)
    theta = to_theta(stored, {place.key: place for place in places}, folder, base.folder)
    return Adapter(method, theta, {name: head} if own else {}, name if own else None)


def read_raw(folder):
    """Return adapter_config.json as a dict with a peft_type."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"the adapter {folder} {what}; expected a folder with {CONFIG} and {WEIGHTS}")
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} has no {CONFIG}; expected an adapter of PEFT, with {CONFIG} and {WEIGHTS}")
    check_not_pointer(folder / CONFIG)
    raw = read_json(folder / CONFIG)
    if not isinstance(raw.get("peft_type"), str):
        raise InputError(f"{folder / CONFIG} has no peft_type, so what the adapter computes is unknown")
    return raw


def read_weights(folder):
    """Return {PEFT's key: array}; a pickle is refused, with the command that converts it."""
    if (folder / WEIGHTS).exists():
        return read_tensors(folder / WEIGHTS)
    if (folder / PICKLE).exists():
        raise InputError(
            f"{folder} holds its weights only as pickle ({PICKLE}), which can run code and is never read; convert it, "
            f"in an environment with torch that you trust it in: {CONVERT}"
        )
    raise InputError(f"{folder} has no {WEIGHTS}: no weights to load")


def head_of(folder, stored, base, key):
    """Return (name, Head, whether the adapter brings it): the head an adapter works with; `key` is its last kernel's.

    Our own HEADS_JSON names the head. Without one, a head as wide as the base's classifier is that one, trained
    further, and any other has the labels that transformers would give it. An adapter without a head uses the base's.
    """
    if key not in stored:
        return base.primary, base.heads.get(base.primary), False
    if (folder / HEADS_JSON).is_file():
        heads, primary = read_record(read_json(folder / HEADS_JSON), folder / HEADS_JSON)
        if primary is not None:
            check_name(primary)
            return primary, heads[primary], True
    name, outputs = base.primary or ORIGINAL, stored[key].shape[0] if stored[key].ndim else 0
    if name in base.heads and width(base.heads[name]) == outputs:
        return name, base.heads[name], True
    labels = tuple(f"LABEL_{i}" for i in range(outputs))
    return name, Head("regression", ()) if outputs == 1 else Head("classification", labels), True


def to_theta(stored, places, folder, base):
    """Return the trainable tree, float32 jax arrays, from PEFT's tensors; `places` is {key: Tensor}, all of them."""
    if strange := sorted(set(stored) - set(places)):
        raise InputError(f"{folder / WEIGHTS} has tensors that the base {base} has no place for: {listed(strange)}")
    if missing := sorted(set(places) - set(stored)):
        raise InputError(f"{folder / WEIGHTS} lacks tensors that its {CONFIG} promises: {listed(missing)}")
    leaves, wrong = {}, []
    for key, place in places.items():
        value = stored[key]
        if value.dtype.name not in ("float32", "float16", "bfloat16"):
            wrong.append(f"{key} is {value.dtype.name}, expected float32, float16 or bfloat16")
        elif value.shape != place.shape:
            wrong.append(f"{key} is {list(value.shape)}, expected {list(place.shape)}")
        else:
            leaves[place.path] = jnp.asarray(np.ascontiguousarray(place.ours(value), dtype=np.float32))
    if wrong:
        raise InputError(f"{folder / WEIGHTS} does not fit the base {base}: {listed(wrong, '; ')}")
    return unflatten(leaves)
