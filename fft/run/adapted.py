"""Adapters put on a base: those of PEFT's folders, and those that runs trained."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fft import adapters
from fft.adapters.adapter import Adapter
from fft.adapters.several import weighted_sum
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.disk.folder import ADAPTER, EXPERIMENT
from fft.disk.local import local
from fft.models import Checkpoint
from fft.models.identity import body_sha256
from fft.run.restored import adapter_of


def load_adapter(source: str | Path, base: Checkpoint) -> Adapter:
    """Load the adapter in a PEFT folder, or the one that a run trained, for the Checkpoint `base`.

    Raises: InputError as `fft.adapters.reading.load` and `fft.run.restored.adapter_of`, and for a run of another base.
    """
    folder = Path(local(source, "the adapter"))
    if not (folder / EXPERIMENT).is_file():
        return adapters.load_adapter(folder, base)
    if (folder / ADAPTER).is_dir():
        return adapters.load_adapter(folder / ADAPTER, base)
    own, adapter, name = adapter_of(folder)
    if body_sha256(own) != body_sha256(base):
        raise InputError(
            f"the run {folder} was trained from {name}, which has other weights than {base.folder}: give that base"
        )
    return adapter


def adapted(base: Checkpoint, sources: Sequence[str | Path], weights: Sequence[float] = ()) -> Checkpoint:
    """Return the base with an adapter merged, or with the sum of several LoRAs times `weights`.

    Raises: InputError as `load_adapter` and `weighted_sum`, and for weights that are not one for each adapter.
    """
    if not weights and len(sources) <= 1:
        return load_adapter(sources[0], base).on(base) if sources else base
    if len(weights) != len(sources):
        given = f"--adapter names {counted(len(sources), 'adapter')}, and --adapter-weights"
        raise InputError(f"{given} has {counted(len(weights), 'value')}: give one for each, such as 0.5 0.5")
    named = dict(zip(map(str, sources), weights, strict=True))
    if len(named) < len(sources):
        repeated = next(name for name, times in Counter(map(str, sources)).items() if times > 1)
        raise InputError(f"{repeated} is given twice with --adapter: leave one out, and give it the sum of the weights")
    return weighted_sum(base, {name: load_adapter(name, base) for name in named}, named).on(base)
