"""Hints about a folder without a checkpoint or an adapter: what it is instead, and what to give in its place."""

from collections.abc import Sequence
from pathlib import Path, PurePath

from fft.disk.folder import ADAPTER, MODEL
from fft.models.files.config import read_json
from fft.models.files.gguf_file import SUFFIX
from fft.models.files.keys import listed

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"


def instead_of_checkpoint(folder: Path) -> str | None:
    """Return what a folder without a checkpoint is and what to give in its place; None if it is not known."""
    if (folder / "run.json").is_file():
        if (folder / ADAPTER).is_dir():
            return f"{folder} is a run of fft that left an adapter: {adapter_hint(folder / ADAPTER)}"
        return f"{folder} is a run of fft; the checkpoint that it left is {folder / MODEL}"
    if (folder / ADAPTER_CONFIG).is_file():
        return adapter_hint(folder)
    if files := sorted(folder.glob(f"*{SUFFIX}")):
        return f"{folder} has no {CONFIG}, but GGUF files: give one, such as {files[-1]}"
    if folders := folders_with(CONFIG, folder):
        return f"{folder} has no {CONFIG}; the checkpoints are in {choices(folders, folder)}"
    if folders := folders_with(ADAPTER_CONFIG, folder):
        where = choices(folders, folder)
        return f"{folder} has no model, but PEFT adapters in {where} as --adapter, its base as --model"
    return None


def instead_of_adapter(folder: Path) -> str | None:
    """Return what a folder without an adapter is and what to give in its place; None if it is not known."""
    if folders := folders_with(ADAPTER_CONFIG, folder):
        return f"the adapters are in {choices(folders, folder)}"
    if (folder / "run.json").is_file():
        return f"it is a run of fft, whose adapter is written by `fft export {folder} --to peft --out DIR`"
    if (folder / CONFIG).is_file():
        return "it is a model, which --model takes"
    return None


def adapter_hint(folder: Path) -> str:
    """Return the commands that evaluate the adapter in a folder or merge it into its base."""
    base = str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE")
    hint = (
        f"{folder} is a PEFT adapter of {base}, no model: score it by fft eval --model {base} --adapter {folder}, or "
        f"merge it into a model, where it can be merged, by fft export {base} --adapter {folder} --out DIR"
    )
    return hint if Path(base).is_dir() else f"{hint}. {base} is no folder here: name the base's own, or hf:OWNER/NAME"


def folders_with(name: str, parent: Path) -> list[Path]:
    """Return the folders with a file of this name, one level below `parent`, else two levels; not hidden ones."""
    for pattern in (f"*/{name}", f"*/*/{name}"):
        folders = [path.parent for path in parent.glob(pattern) if not _hidden(path.relative_to(parent))]
        if folders:
            return sorted(folders, key=lambda path: (len(str(path)), str(path)))
    return []


def choices(folders: Sequence[Path], parent: Path) -> str:
    """List folders below `parent`, and suggest the last of them."""
    return listed([f"{path.relative_to(parent)}/" for path in folders]) + f": give one, such as {folders[-1]}"


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
