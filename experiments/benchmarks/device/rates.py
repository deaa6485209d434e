"""What a step has to compute, and what a device can: the formula of the share of its peak, and peaks by device.

The operations of a step, a multiplication and an addition counted as two, with P kernels' entries in all blocks, A
adapters' entries, V · D of the output layer, and n of the B · T tokens with a target:

    full   B T (6 P + 3 S) + 6 n V D        every product once forward and twice backward
    LoRA   B T (4 P + 6 A + 3 S) + 4 n V D  no gradient of frozen kernels

S = 4 L T H K operations a token for scores and their use, half of them for a causal model. Embeddings are looked up,
norms, softmax and optimizer do not count, nor does what is computed a second time. An encoder's head is left out; its
last block counts whole, though a sequence task reads one token of it.
"""

from experiments.benchmarks.device.models import RANK, Work, config_of
from fft.models import FAMILIES
from fft.models.files.keys import expected_shapes

FORMULA = "full: B T (6 P + 3 S) + 6 n V D; LoRA: B T (4 P + 6 A + 3 S) + 4 n V D; S = 4 L T H K, half if causal"
TERA = 1e12
PEAKS = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "TPU v6": 918,
    "TPU v5p": 459,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v4": 275,
}
"""dense bfloat16 TFLOP/s of makers' data sheets, by a part of the device's name; the first that fits counts"""


def peak_of(device: str) -> float | None:
    """Return the peak of a device in operations a second by its name, None for one that is not in PEAKS."""
    return next((TERA * peak for part, peak in PEAKS.items() if part in device), None)


def operations(work: Work) -> float:
    """Return the operations of one training step by the formula above."""
    config = config_of(work)
    shape, shapes = config.shape, expected_shapes(FAMILIES[work.family], config, {})
    kernels = [size for path, size in shapes.items() if path.startswith("layers/") and path.endswith("/kernel")]
    passes = 4 if work.lora else 6
    entries = sum(rows * columns for rows, columns in kernels)
    adapters = RANK * sum(map(sum, kernels)) if work.lora else 0
    width = getattr(shape, "width", shape.dim // shape.heads)
    attention = 4 * shape.depth * work.tokens * shape.heads * width / (2 if work.causal else 1)
    targets = work.rows * (work.tokens - 1) if work.causal else 0
    of_tokens = work.rows * work.tokens * (passes * entries + 6 * adapters + 3 * attention)
    return of_tokens + passes * targets * shape.vocab * shape.dim


def measured(work: Work, seconds: float, device: str) -> dict[str, float | None]:
    """Return speed in tokens and TFLOP a second, and its share of the device's peak, for the seconds of one step."""
    rate, peak = operations(work) / seconds, peak_of(device)
    return {
        "seconds": seconds,
        "tokens_per_second": work.rows * work.tokens / seconds,
        "tflops": rate / TERA,
        "mfu": None if peak is None else rate / peak,
    }
