"""What vLLM does not load of a PEFT adapter, by the checks of its `vllm/lora/peft_helper.py` (read in 2025 and 2026).

It takes LoRA alone, with use_rslora; it refuses use_dora, a bias other than none, modules_to_save, and a rank above
its --max-lora-rank; and it drops the fields that it does not know, such as rank_pattern and alpha_pattern.
"""

from collections.abc import Mapping
from typing import Any

MAX_RANK = 16
"""the default of --max-lora-rank"""


def serving_notes(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Return notes on what vLLM is known not to load of an adapter with these fields of adapter_config.json."""
    kind, merge = fields["peft_type"], "serve the merged model, fft export --to hf"
    if kind != "LORA":
        return (f"vLLM loads LoRA adapters only, not {kind}: {merge}",)
    wrong = [
        *(["use_dora"] if fields.get("use_dora") else []),
        *(["trained biases"] if fields.get("bias", "none") != "none" else []),
        *([f"modules_to_save ({', '.join(fields['modules_to_save'])})"] if fields.get("modules_to_save") else []),
    ]
    notes = [f"vLLM refuses adapters with {' and '.join(wrong)}: {merge}"] if wrong else []
    rank = max([fields["r"], *fields.get("rank_pattern", {}).values()])
    if rank > MAX_RANK and not wrong:
        notes.append(f"vLLM needs --max-lora-rank {rank} or more for this adapter; its default is {MAX_RANK}")
    if fields.get("rank_pattern") and not wrong:
        notes.append(
            "vLLM does not read rank_pattern and alpha_pattern; the scale of all modules is that of the config, so "
            "that it should compute the same, but compare its outputs"
        )
    return tuple(notes)
