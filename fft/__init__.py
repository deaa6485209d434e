"""fft: forgetting-free fine-tuning in JAX.

    import fft
    run = fft.tune(model="base/", new="new.csv", original="old.csv", method=fft.EWC(strength=1e3), out="runs/ewc")
    run.record["original"], run.record["verdict"]
    model, params = fft.restore("runs/ewc")[:2]

Names are imported when they are first used, so that `import fft` costs nothing.
"""

import importlib

_HOMES = {
    "Adapter": "fft.adapters.adapter",
    "Adapters": "fft.adapters.adapter",
    "load_adapter": "fft.adapters",
    "save_adapter": "fft.adapters",
    "tune": "fft.api",
    "restore": "fft.run.restored",
    "Run": "fft.run.claim",
    "Data": "fft.experiment",
    "Experiment": "fft.experiment",
    "Optim": "fft.experiment",
    "Retention": "fft.experiment",
    "Texts": "fft.experiment",
    "AGEM": "fft.methods",
    "Distill": "fft.methods",
    "EWC": "fft.methods",
    "Freeze": "fft.methods",
    "Full": "fft.methods",
    "GPM": "fft.methods",
    "KL": "fft.methods",
    "BitFit": "fft.methods",
    "DoRA": "fft.methods",
    "IA3": "fft.methods",
    "L2SP": "fft.methods",
    "LPFT": "fft.methods",
    "Layerwise": "fft.methods",
    "LoRA": "fft.methods",
    "LwF": "fft.methods",
    "MAS": "fft.methods",
    "Sparse": "fft.methods",
    "Unfreeze": "fft.methods",
    "Wise": "fft.methods",
    "Method": "fft.methods",
    "OGD": "fft.methods",
    "Replay": "fft.methods",
    "NormTuning": "fft.methods",
    "PrefixTuning": "fft.methods",
    "PromptTuning": "fft.methods",
    "Pseudo": "fft.methods",
    "RsLoRA": "fft.methods",
    "SAM": "fft.methods",
    "SI": "fft.methods",
    "FFTError": "fft.core.errors",
    "InputError": "fft.core.errors",
    "MachineError": "fft.core.errors",
    "diagonal_fisher": "fft.fisher.diagonal",
    "make_train_step": "fft.training.step",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'fft' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return __all__
