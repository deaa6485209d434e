"""A repaired LoRA run as a LoRA: between base and tuned model, α scales the update A·B of each layer, and so B."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fft.adapters import save_adapter
from fft.adapters.adapter import Adapter
from fft.core.errors import InputError
from fft.core.tree import depth_of, flatten, unflatten
from fft.disk.folder import EXPERIMENT
from fft.methods import LoRA, RsLoRA
from fft.methods.lora import B
from fft.run.restored import adapter_of


def write_scaled(run: str, settings: Mapping[str, Any], folder: Path) -> bool:
    """Write a run's LoRA with the α of a chosen candidate to `folder`, and return whether it was done.

    `settings` are {"alpha": α} or {"alphas": {layer: α}}. Only a run of a language task whose model is its base and a
    LoRA has one: heads of its own would be scaled too, and other adapters are not linear in a scale.
    """
    alphas = settings.get("alphas") or settings.get("alpha")
    if alphas is None or not (Path(run) / EXPERIMENT).is_file():
        return False
    try:
        base, adapter, name = adapter_of(run)
    except InputError:  # the run's model is no base with an adapter
        return False
    if type(adapter.method) not in (LoRA, RsLoRA) or adapter.heads or not base.language:
        return False
    save_adapter(scaled(adapter, alphas, base.model.depth), base, folder, name)
    return True


def scaled(adapter: Adapter, alphas: float | Mapping[str, float], blocks: int) -> Adapter:
    """Return a LoRA whose B is multiplied by the α of its depth: one for all, or by the names of `repair`'s layers."""
    depths = list(alphas.values()) if isinstance(alphas, Mapping) else [alphas] * (blocks + 2)
    theta = {
        path: leaf * depths[depth_of(path, blocks)] if path.endswith(f"/{B}") else leaf
        for path, leaf in flatten(adapter.theta).items()
    }
    return adapter._replace(theta=unflatten(theta))
