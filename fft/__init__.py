"""fft: forgetting-free fine-tuning in JAX.

    import fft
    run = fft.tune(model="base/", new="new.csv", original="old.csv", method=fft.EWC(strength=1e3), out="runs/ewc")
    run.record["original"], run.record["verdict"]
    model, params = fft.restore("runs/ewc")[:2]

Names are imported on first use, so `import fft` is fast.
"""

from typing import TYPE_CHECKING

from fft.core.lazy import lazily

__all__ = [
    "AGEM",
    "EWC",
    "GPM",
    "IA3",
    "KL",
    "L2SP",
    "LPFT",
    "MAS",
    "OGD",
    "SAM",
    "SI",
    "Adapter",
    "Adapters",
    "BitFit",
    "Computation",
    "Context",
    "Data",
    "Distill",
    "DoRA",
    "Experiment",
    "FFTError",
    "Freeze",
    "Full",
    "InputError",
    "Job",
    "Layerwise",
    "LoRA",
    "LwF",
    "MachineError",
    "Method",
    "Mixout",
    "NormTuning",
    "Optim",
    "Parts",
    "PrefixTuning",
    "PromptTuning",
    "Pseudo",
    "RecAdam",
    "Replay",
    "Retention",
    "RsLoRA",
    "Run",
    "Scorer",
    "Sparse",
    "StepContext",
    "Texts",
    "Tree",
    "Unfreeze",
    "Wise",
    "assemble",
    "diagonal_fisher",
    "generate",
    "load",
    "load_adapter",
    "make_train_step",
    "restore",
    "save",
    "save_adapter",
    "tune",
    "weighted_sum",
]

if TYPE_CHECKING:
    from fft.adapters import save_adapter
    from fft.adapters.adapter import Adapter
    from fft.adapters.several import Adapters, weighted_sum
    from fft.api import assemble, generate, tune
    from fft.core.computation import Computation
    from fft.core.errors import FFTError, InputError, MachineError
    from fft.experiment import Data, Experiment, Optim, Retention, Texts
    from fft.fisher.diagonal import diagonal_fisher
    from fft.methods import (
        AGEM,
        EWC,
        GPM,
        IA3,
        KL,
        L2SP,
        LPFT,
        MAS,
        OGD,
        SAM,
        SI,
        BitFit,
        Context,
        Distill,
        DoRA,
        Freeze,
        Full,
        Layerwise,
        LoRA,
        LwF,
        Method,
        Mixout,
        NormTuning,
        Parts,
        PrefixTuning,
        PromptTuning,
        Pseudo,
        RecAdam,
        Replay,
        RsLoRA,
        Sparse,
        StepContext,
        Tree,
        Unfreeze,
        Wise,
    )
    from fft.models import load, save
    from fft.run.adapted import load_adapter
    from fft.run.claim import Run
    from fft.run.job import Job
    from fft.run.restored import restore
    from fft.run.scoring import Scorer
    from fft.training.step import make_train_step

else:
    _HOMES = {  # the modules of the names that are not in fft.methods
        "Adapter": "fft.adapters.adapter",
        "Adapters": "fft.adapters.several",
        "weighted_sum": "fft.adapters.several",
        "load_adapter": "fft.run.adapted",
        "save_adapter": "fft.adapters",
        "load": "fft.models",
        "save": "fft.models",
        "assemble": "fft.api",
        "generate": "fft.api",
        "tune": "fft.api",
        "restore": "fft.run.restored",
        "Run": "fft.run.claim",
        "Job": "fft.run.job",
        "Scorer": "fft.run.scoring",
        "Computation": "fft.core.computation",
        "Data": "fft.experiment",
        "Experiment": "fft.experiment",
        "Optim": "fft.experiment",
        "Retention": "fft.experiment",
        "Texts": "fft.experiment",
        "FFTError": "fft.core.errors",
        "InputError": "fft.core.errors",
        "MachineError": "fft.core.errors",
        "diagonal_fisher": "fft.fisher.diagonal",
        "make_train_step": "fft.training.step",
    }
    __getattr__ = lazily(__name__, dict.fromkeys(__all__, "fft.methods") | _HOMES)


def __dir__() -> list[str]:
    return __all__
