"""`fft generate`: write texts with a causal language model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fft.core.bounds import Finite
from fft.core.computation import Format
from fft.core.errors import InputError
from fft.core.naming import counted
from fft.core.settings import TELLS_DEFAULT, AsJson, without_name
from fft.disk.local import CHECKPOINT
from fft.evaluate.settings import Generation


@dataclass(frozen=True, kw_only=True)
class Flags(Generation):
    """Continue texts with a causal language model, or answer in its chat template.

    The most probable token is taken at each place unless --temperature is given. A text ends with the model's end
    token, or after --max-new tokens.
    """

    model: Annotated[str, tyro.conf.Positional, CHECKPOINT]
    """a folder with a Hugging Face checkpoint, a run folder, a GGUF file, hf:NAME or demo:smollm2"""
    prompt: Annotated[tuple[str, ...], TELLS_DEFAULT] = ()
    """texts that are continued as they stand; "" is the beginning of a text"""
    chat: Annotated[tuple[str, ...], TELLS_DEFAULT] = ()
    """texts that are answered: messages of the user, put into the model's chat template"""
    task: Annotated[Path | None, TELLS_DEFAULT] = None
    """a file of JSON lines with a `prompt`, or with `messages`, which are put into the chat template"""
    adapter: Annotated[tuple[Path, ...], TELLS_DEFAULT] = ()
    """folders with PEFT adapters of MODEL, or runs: one is merged into it, of several LoRAs the weighted sum"""
    adapter_weights: Annotated[tuple[Finite, ...], TELLS_DEFAULT] = ()
    """the factor of each --adapter's update; of a single one 1 by default"""
    out: Annotated[Path | None, TELLS_DEFAULT] = None
    """write one JSON line per text to this file, in the column `text` (.jsonl)"""
    compute: Format = "float32"
    """number format of products and hidden states"""
    json: AsJson = False

    def __post_init__(self) -> None:
        super().__post_init__()
        sources = {"--prompt": self.prompt != (), "--chat": self.chat != (), "--task": self.task is not None}
        given = [flag for flag, is_given in sources.items() if is_given]
        if len(given) != 1:
            problem = f"{' and '.join(given)} are given: leave one out" if given else "none is given: give one of them"
            raise InputError(f"{', '.join(sources)} say what to continue, and {problem}, after MODEL")


def parse(args: list[str], cli: Callable[..., Flags]) -> Flags:
    """Parse the flags; `fft generate --model MODEL` is the same as `fft generate MODEL`."""
    return cli(Flags, args=without_name(args, "--model"))


def execute(flags: Flags, console: Console) -> tuple[dict, int]:
    """Generate, print the texts or write them to --out."""
    from fft import models
    from fft.core.computation import Computation
    from fft.data.prompts import checked, in_chat, read_prompts
    from fft.disk.files import write_lines
    from fft.evaluate.generate import generate
    from fft.run.adapted import adapted
    from fft.run.restored import load_causal

    if flags.out is not None:
        refuse_out(flags.out)
    if flags.task is not None:
        prompts = read_prompts(flags.task)
    elif flags.chat:
        prompts = [in_chat(checked(text, f"--chat {number}")) for number, text in enumerate(flags.chat, 1)]
    else:
        prompts = [checked(text, f"--prompt {number}") for number, text in enumerate(flags.prompt, 1)]
    base = adapted(load_causal(flags.model), flags.adapter, flags.adapter_weights)
    checkpoint = models.computed(base, Computation(flags.compute))
    for note in checkpoint.notes:
        console.out(f"note: {note}", highlight=False)
    generated = generate(checkpoint, prompts, flags)
    if flags.out is not None:
        write_lines(flags.out, [{"text": text} for text in generated.texts])
        console.out(f"wrote {counted(len(generated.texts), 'text')} to {flags.out}", highlight=False)
        if empty := sum(not text.strip() for text in generated.texts):
            console.out(f"note: {counted(empty, 'text is', 'texts are')} empty", highlight=False)
    else:
        for text in generated.texts:
            console.out(text, highlight=False)
    return generated._asdict(), 0


def refuse_out(path: Path) -> None:
    """Refuse a file that could not be written or read again, before anything is generated. Raises: InputError."""
    if path.suffix.lower() != ".jsonl":
        raise InputError(f"--out {path}: the texts are written as JSON lines: name a file that ends in .jsonl")
    if path.is_dir() or not path.parent.is_dir():
        problem = "is a folder: name a file in it" if path.is_dir() else "is in a folder that does not exist: create it"
        raise InputError(f"--out {path} {problem}")
