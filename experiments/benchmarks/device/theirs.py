"""The training steps of the device check in torch: transformers with SDPA, PEFT for LoRA, eager and compiled.

The parameters that are trained are float32 and the products bfloat16 by autocast, as in `fft`; the frozen base of an
adapter is bfloat16. The optimizer is torch's fused AdamW, after clipping.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers

from experiments.benchmarks.device.models import ALPHA, CLASSES, GROUPS, RANK, Work, batch_of, work_of
from experiments.benchmarks.device.rates import measured

ARCHITECTURES = {"llama": ("Llama", "ForCausalLM"), "bert": ("Bert", "ForSequenceClassification")}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMS: dict[str, Callable[[torch.nn.Module, bool], Any]] = {
    "torch": lambda model, toy: model,
    "torch compiled": lambda model, toy: torch.compile(model, backend="aot_eager" if toy else "inductor"),
}


def steps(group: str, toy: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the speed and the memory of the training steps of one of GROUPS, of each form or why it does not work."""
    if DEVICE == "cpu" and not toy:
        yield f"torch-{group}", {"left_out": "torch sees no CUDA device"}
        return
    for form in FORMS:  # compiling takes longest, so it comes last
        for name in GROUPS[group]:
            yield f"steps/{name}/{form}", working_step(work_of(name, toy), form, toy)
            gc.collect()
            if DEVICE == "cuda":
                torch.cuda.empty_cache()


def working_step(work: Work, form: str, toy: bool) -> dict[str, Any]:
    """Return `measured_step`, or the error by which compiling or running failed."""
    try:
        return measured_step(work, form, toy)
    except Exception as error:  # whatever a compiler or a lack of memory raises; the other forms go on
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def measured_step(work: Work, form: str, toy: bool) -> dict[str, Any]:
    """Return the speed of one training step, its seconds to compile and its peak memory."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    take = training_step(work, form, toy)
    (compiled,) = seconds_of(take, 1, warm=0)
    seconds = statistics.median(seconds_of(take, 2 if toy else 8, warm=2))
    return {
        **measured(work, seconds, torch.cuda.get_device_name() if DEVICE == "cuda" else DEVICE),
        "peak_bytes": torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        "compile_seconds": compiled - seconds,
        "loss": take(),
    }


def seconds_of(take: Callable[[], float], calls: int, warm: int) -> list[float]:
    """Return the seconds of each of some calls, each of which waits for the device, after `warm` ones."""
    seconds = []
    for _ in range(warm + calls):
        start = time.perf_counter()
        take()
        seconds.append(time.perf_counter() - start)
    return seconds[warm:]


def torch_model(work: Work) -> torch.nn.Module:
    """Return transformers' model with random weights in training mode, with PEFT's adapters for LoRA."""
    torch.manual_seed(0)
    stem, head = ARCHITECTURES[work.family]
    config = getattr(transformers, f"{stem}Config")(**work.fields, num_labels=CLASSES, use_cache=False)
    with torch.device(DEVICE):
        model = getattr(transformers, f"{stem}{head}")._from_config(config, attn_implementation="sdpa")
    if work.lora:
        from peft import LoraConfig, get_peft_model

        settings = LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear")
        model = get_peft_model(model.to(torch.bfloat16), settings)
    return model.train()


def training_step(work: Work, form: str, toy: bool) -> Callable[[], float]:
    """Return a training step in one of FORMS; it returns the loss."""
    model = torch_model(work)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.01, fused=True)
    batch, forward = batch_of(work), FORMS[form](model, toy)
    ids = torch.tensor(batch.ids, dtype=torch.long, device=DEVICE)
    labels = ids if work.causal else torch.tensor(batch.targets, dtype=torch.long, device=DEVICE)

    def take() -> float:
        optimizer.zero_grad()
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = forward(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return loss.item()

    return take
