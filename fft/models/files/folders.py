"""Which folder was meant: what a folder is that has no checkpoint in it, or no adapter."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from fft.disk.folder import ADAPTER, MODEL
from fft.models.files.config import read_json
from fft.models.files.keys import listed

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


def instead_of_checkpoint(folder: Path) -> str | None:
    """Return what a folder without a checkpoint is and what to give in its place; None where nothing in it says so."""
    if (folder / "run.json").is_file():
        if (folder / ADAPTER).is_dir():
            return f"{folder} is a run of fft that left an adapter: {adapter(folder / ADAPTER)}"
        return f"{folder} is a run of fft; the checkpoint that it left is {folder / MODEL}"
    if (folder / ADAPTER_CONFIG).is_file():
        return adapter(folder)
    if found := below(folder, CONFIG):
        return f"{folder} has no {CONFIG}; the checkpoints are in {named(found, folder)}"
    if found := below(folder, ADAPTER_CONFIG):
        return f"{folder} has no model, but PEFT adapters in {named(found, folder)} as --adapter, its base as --model"
    return None


def instead_of_adapter(folder: Path) -> str | None:
    """Return the same for a folder without an adapter."""
    if found := below(folder, ADAPTER_CONFIG):
        return f"the adapters are in {named(found, folder)}"
    if (folder / "run.json").is_file():
        return f"it is a run of fft, whose adapter is written by `fft export {folder} --to peft --out DIR`"
    if (folder / CONFIG).is_file():
        return "it is a model, which --model takes"
    return None


def adapter(folder: Path) -> str:
    """Return what a folder with an adapter is, and how to give it."""
    base = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE")
    said = (
        f"{folder} is a PEFT adapter of {base}, no model: score it by fft eval --model {base} --adapter {folder}, or "
        f"merge it into a model, where it can be merged, by fft export {base} --adapter {folder} --out DIR"
    )
    return said if Path(base).is_dir() else f"{said}. {base} is no folder here: name the base's own, or hf:OWNER/NAME"


def below(folder: Path, name: str) -> list[Path]:
    """Return the folders that hold a file of this name, one level below, else two; hidden ones are left out."""
    for pattern in (f"*/{name}", f"*/*/{name}"):
        found = [path.parent for path in folder.glob(pattern) if not _hidden(path.relative_to(folder))]
        if found:
            return sorted(found, key=lambda path: (len(str(path)), str(path)))
    return []


def named(found: Sequence[Path], folder: Path) -> str:
    """Return folders below `folder` in words, and the last of them as what to give."""
    return listed([f"{path.relative_to(folder)}/" for path in found]) + f": give one, such as {found[-1]}"


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
