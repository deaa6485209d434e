"""PEFT's format: PEFT loads our files, we load PEFT's, and both compute the same logits."""

import json
import resource
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForSequenceClassification

from fft import models
from fft.adapters import load_adapter, save_adapter
from fft.adapters.adapter import Adapter
from fft.adapters.several import Adapters
from fft.core.errors import InputError, MachineError
from fft.core.tree import flatten, overlay, unflatten
from fft.methods import IA3, DoRA, Freeze, LoRA, NormTuning, PrefixTuning, PromptTuning, RsLoRA
from fft.training.optim import multipliers
from tests.helpers import torch_models as oracle
from tests.helpers.peft_adapters import adapted

FAMILIES = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{family: a folder with a random base of two classes}."""
    folder = tmp_path_factory.mktemp("bases")
    return {family: oracle.save(oracle.make(family), folder / family) for family in FAMILIES}


def trained(base, method, seed=0):
    """An Adapter like a run's: the base's head and one of three classes, every leaf changed from its start."""
    new = base.model.init_head(jax.random.key(seed), 3)
    base = base._replace(
        params=overlay(base.params, {"heads": {"new": new}}),
        heads={**base.heads, "new": models.Head("classification", ("cat", "dog", "bird"))},
        primary="new",
    )
    rng = np.random.default_rng(seed)
    leaves = flatten(method.init(base.params, jax.random.key(seed)))
    moves = {p: m != 0 for p, m in multipliers(method, leaves, base.model.depth, ("original",)).items()}
    theta = {p: x + jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype) if moves[p] else x for p, x in leaves.items()}
    return base, Adapter(method, unflatten(theta), base.heads, "new")


def logits(checkpoint, family, head=None):
    """Our logits on the oracle's batch."""
    return checkpoint.model.apply(checkpoint.params, oracle.batch(family))["logits"][head or checkpoint.primary]


def in_peft(base, adapter, family, classes):
    """PEFT's logits of an adapter folder on a base folder; what PEFT warns of is an error."""
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=classes, ignore_mismatched_sizes=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Unsupported layer type .*LayerNorm")  # it says so of its own LN_TUNING
        return oracle.logits(peft.PeftModel.from_pretrained(plain, adapter).eval(), family, oracle.batch(family))


# --- out ---


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", LoRA(rank=4, alpha=6.0)),
        ("distilbert", RsLoRA(rank=4, alpha=3.0, targets="all-linear")),
        ("roberta", DoRA(rank=2, targets="layers/1/.*")),
        ("bert", IA3(targets="key,value,out,down")),
        ("distilbert", IA3()),
        ("bert", PromptTuning(tokens=3)),
        ("distilbert", PromptTuning(tokens=4)),
        ("roberta", PrefixTuning(tokens=3)),
        ("bert", PrefixTuning(tokens=2)),
        *((family, NormTuning()) for family in FAMILIES),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_peft_loads_what_we_write_and_computes_the_same(method, family, bases, tmp_path):
    base, adapter = trained(models.load(bases[family]), method)
    save_adapter(adapter, base, tmp_path / "a", "some/base")
    ours = logits(adapter.on(base), family)
    oracle.close(ours, in_peft(bases[family], tmp_path / "a", family, classes=3))

    back = load_adapter(tmp_path / "a", models.load(bases[family]))
    assert (back.primary, back.heads) == ("new", {"new": base.heads["new"]})
    kept = flatten(adapter.theta)
    for path, leaf in flatten(back.theta).items():
        np.testing.assert_array_equal(leaf, kept[path] if path in kept else flatten(base.params)[path])
    np.testing.assert_array_equal(logits(back.on(models.load(bases[family])), family), ours)


def test_the_files_of_an_adapter(bases, tmp_path):
    base, adapter = trained(models.load(bases["bert"]), LoRA(rank=2, targets="value"))
    save_adapter(adapter, base, tmp_path / "a", "google/bert")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "fft_heads.json"]
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "SEQ_CLS", 2, 16.0)
    assert config["base_model_name_or_path"] == "google/bert"
    assert config["target_modules"] == [f"bert.encoder.layer.{i}.attention.self.value" for i in range(2)]
    assert config["modules_to_save"] == ["pooler", "classifier"]
    layers = [f"bert.encoder.layer.{i}.attention.self.value.lora_{m}.weight" for i in range(2) for m in "AB"]
    whole = [f"{module}.{leaf}" for module in ("bert.pooler.dense", "classifier") for leaf in ("weight", "bias")]
    assert set(load_file(tmp_path / "a" / "adapter_model.safetensors")) == {
        f"base_model.model.{n}" for n in layers + whole
    }


def test_another_head_can_be_the_classifier(bases, tmp_path):
    base, adapter = trained(models.load(bases["roberta"]), DoRA(rank=2))
    save_adapter(adapter, base, tmp_path / "a", "b", head="original")
    expected = in_peft(bases["roberta"], tmp_path / "a", "roberta", classes=2)
    oracle.close(logits(adapter.on(base), "roberta", "original"), expected)


def test_what_peft_cannot_express_is_refused_and_nothing_is_written(bases, tmp_path):
    base, adapter = trained(models.load(bases["bert"]), LoRA())
    with pytest.raises(
        InputError,
        match=r"freeze changes the base's own weights.*dora, ia3, lora, norm, prefix, prompt, rslora.*--to hf",
    ):
        save_adapter(adapter._replace(method=Freeze()), base, tmp_path / "a", "b")
    with pytest.raises(
        InputError, match=r"prefix on distilbert cannot .*: PEFT computes no PREFIX_TUNING on distilbert and modernbert"
    ):
        save_adapter(*trained(models.load(bases["distilbert"]), PrefixTuning())[::-1], tmp_path / "a", "b")
    prompted = trained(models.load(bases["bert"]), PromptTuning())
    with pytest.raises(InputError, match="reads a trained prompt or prefix, which no Hugging Face checkpoint holds"):
        models.save(prompted[1].on(prompted[0]), tmp_path / "a")
    with pytest.raises(InputError, match="no head 'old'; its heads are: original, new"):
        save_adapter(adapter, base, tmp_path / "a", "b", head="old")
    assert not list(tmp_path.iterdir())


def test_an_adapter_is_written_whole_or_not_at_all(bases, tmp_path):
    base, adapter = trained(models.load(bases["bert"]), LoRA())
    save_adapter(adapter, base, tmp_path / "a", "b")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        for name in ("a", "fresh"):
            with pytest.raises(MachineError, match="could not be written"):
                save_adapter(adapter, base, tmp_path / name, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        save_adapter(adapter, base, tmp_path / "mine", "b")


# --- in ---

LORA = {"task_type": "SEQ_CLS", "r": 3, "lora_alpha": 5}
NOT_NORMS = r".*(?<!LayerNorm)"
THEIRS = {
    "defaults": ("bert", peft.LoraConfig(task_type="SEQ_CLS")),
    "a regular expression": ("roberta", peft.LoraConfig(**LORA, target_modules=r".*\.layer\.1\..*(query|dense)")),
    "every linear layer": ("bert", peft.LoraConfig(**LORA, target_modules="all-linear")),
    "one block": ("distilbert", peft.LoraConfig(**LORA, target_modules=["q_lin", "lin1"], layers_to_transform=[1])),
    "excluded": ("bert", peft.LoraConfig(**LORA, target_modules=["dense"], exclude_modules=["pooler.dense"])),
    "rslora": ("distilbert", peft.LoraConfig(**LORA, target_modules=["v_lin"], use_rslora=True)),
    "dora": ("roberta", peft.LoraConfig(**LORA, use_dora=True)),
    "dora and rslora": ("bert", peft.LoraConfig(**LORA, use_dora=True, use_rslora=True, modules_to_save=["pooler"])),
    "prompt": ("roberta", peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)),
    "prefix": ("bert", peft.PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5)),
    "a projected prefix": (
        "bert",
        peft.PrefixTuningConfig(
            task_type="SEQ_CLS", num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=8
        ),
    ),
    "ranks and scales by pattern": (
        "bert",
        peft.LoraConfig(**LORA, target_modules="all-linear", rank_pattern={"query": 5}, alpha_pattern={"dense": 2}),
    ),
    "biases of its modules": ("roberta", peft.LoraConfig(**LORA, target_modules=["query", "dense"], bias="lora_only")),
    "all biases": ("bert", peft.LoraConfig(**LORA, bias="all")),
    "embeddings": ("bert", peft.LoraConfig(**LORA, target_modules=["query", "word_embeddings"])),
    "dora on embeddings": (
        "roberta",
        peft.LoraConfig(**LORA, use_dora=True, target_modules=["value", "word_embeddings", "position_embeddings"]),
    ),
    "token rows": (
        "distilbert",
        peft.LoraConfig(**LORA, target_modules=["q_lin"], trainable_token_indices=[8, 30]),
    ),
    "a computed prompt": (
        "roberta",
        peft.PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=5, encoder_hidden_size=8),
    ),
    "a prompt of an LSTM": (
        "bert",
        peft.PromptEncoderConfig(
            task_type="SEQ_CLS", num_virtual_tokens=3, encoder_hidden_size=8, encoder_reparameterization_type="LSTM"
        ),
    ),
    "no head": ("bert", peft.LoraConfig(r=2, target_modules=["query"])),
    "norms": ("bert", peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=["LayerNorm"])),
    "the norms of one block": (
        "roberta",
        peft.LNTuningConfig(task_type="SEQ_CLS", target_modules=r".*\.layer\.1\..*", exclude_modules=NOT_NORMS),
    ),
    "norms of distilbert, some excluded": (
        "distilbert",
        peft.LNTuningConfig(
            task_type="SEQ_CLS", target_modules=["sa_layer_norm", "LayerNorm"], exclude_modules=["embeddings.LayerNorm"]
        ),
    ),
    "norms without a head": ("bert", peft.LNTuningConfig(target_modules=["LayerNorm"])),
    "ia3": ("bert", peft.IA3Config(task_type="SEQ_CLS")),
    "ia3 of distilbert": (
        "distilbert",
        peft.IA3Config(task_type="SEQ_CLS", target_modules=["k_lin", "lin2"], feedforward_modules=["lin2"]),
    ),
}


def made_by_peft(base, folder, config, seed=3):
    """Write an adapter of random values with PEFT; return its model."""
    torch_model = AutoModelForSequenceClassification.from_pretrained(base)
    model = adapted(torch_model, config, seed, biases=getattr(config, "bias", "none") != "none")
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("case", THEIRS)
def test_we_load_what_peft_writes_and_compute_the_same(case, bases, tmp_path):
    family, config = THEIRS[case]
    theirs = made_by_peft(bases[family], tmp_path / "a", config)
    base = models.load(bases[family])
    adapter = load_adapter(tmp_path / "a", base)
    expected = oracle.logits(theirs, family, oracle.batch(family))
    assert np.abs(expected - logits(base, family)).max() > 0.01
    oracle.close(logits(adapter.on(base), family), expected)
    assert set(adapter.heads) == (set() if "no head" in case or "without a head" in case else {"original"})


def test_a_head_of_other_classes_is_new_and_has_the_labels_transformers_would_give_it(bases, tmp_path):
    wide = AutoModelForSequenceClassification.from_pretrained(bases["bert"], num_labels=4, ignore_mismatched_sizes=True)
    model = peft.get_peft_model(wide, peft.LoraConfig(task_type="SEQ_CLS")).eval()
    model.save_pretrained(tmp_path / "a")
    base = models.load(bases["bert"])
    on = load_adapter(tmp_path / "a", base).on(base)
    four = models.Head("classification", ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"))
    assert (on.primary, on.heads) == ("new", {**base.heads, "new": four})
    oracle.close(logits(on, "bert"), oracle.logits(model, "bert", oracle.batch("bert")))
    for path, leaf in flatten(base.params["heads"]).items():
        np.testing.assert_array_equal(leaf, flatten(on.params["heads"])[path], err_msg=path)
    assert set(load_adapter(tmp_path / "a", on).heads) == {"new"}, "as wide as the classifier there: trained further"


def test_a_head_of_ours_that_the_base_has_with_other_labels_stands_beside_it(bases, tmp_path):
    base, adapter = trained(models.load(bases["bert"]), LoRA(rank=2))
    save_adapter(adapter, base, tmp_path / "a", "base")
    other = base._replace(heads={**base.heads, "new": models.Head("classification", ("red", "green"))})
    assert set(load_adapter(tmp_path / "a", base).heads) == {"new"}
    again = load_adapter(tmp_path / "a", other)
    assert (again.primary, again.heads) == ("new_2", {"new_2": base.heads["new"]})


def test_adapters_on_one_base_one_active_and_off_is_the_base(bases, tmp_path):
    expected = {}
    for seed, (name, config) in enumerate(
        {"a": peft.LoraConfig(**LORA), "b": peft.IA3Config(task_type="SEQ_CLS")}.items()
    ):
        model = made_by_peft(bases["bert"], tmp_path / name, config, seed)
        expected[name] = oracle.logits(model, "bert", oracle.batch("bert"))
    base = models.load(bases["bert"])
    both = Adapters(base, {name: load_adapter(tmp_path / name, base) for name in expected})
    for name in ("a", "b", "a"):
        oracle.close(logits(both.active(name), "bert"), expected[name])
        fresh = flatten(models.load(bases["bert"]).params)
        for path, leaf in flatten(both.active().params).items():
            assert np.asarray(leaf).tobytes() == np.asarray(fresh[path]).tobytes(), path
    with pytest.raises(InputError, match="no adapter 'c'; loaded are: a, b"):
        both.active("c")


def config_with(**fields):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def tensors_with(change):
    def rewrite(folder):
        found = load_file(folder / "adapter_model.safetensors")
        change(found)
        save_file(found, folder / "adapter_model.safetensors")

    return rewrite


QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


def as_pickle(folder):
    torch.save(dict(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


BROKEN = {
    "an unknown key": (
        tensors_with(lambda t: t.update({f"{QUERY}.lora_C.weight": np.zeros((2, 2), np.float32)})),
        r"has no place for: .*query\.lora_C\.weight",
    ),
    "a missing key": (
        tensors_with(lambda t: t.pop(f"{QUERY}.lora_B.weight")),
        r"lacks tensors .*query\.lora_B\.weight",
    ),
    "a missing head": (tensors_with(lambda t: t.pop("base_model.model.classifier.bias")), r"lacks .*classifier\.bias"),
    "a shape": (
        tensors_with(lambda t: t.update({f"{QUERY}.lora_B.weight": np.zeros((7, 8), np.float32)})),
        r"does not fit the base .*lora_B\.weight is \[7, 8\], expected \[48, 8\]",
    ),
    "whole numbers": (
        tensors_with(lambda t: t.update({f"{QUERY}.lora_B.weight": np.zeros((48, 8), np.int32)})),
        "is int32, expected float32",
    ),
    "another rank": (config_with(r=4), r"lora_A\.weight is \[8, 48\], expected \[4, 48\]"),
    "an unknown peft_type": (
        config_with(peft_type="VERA"),
        "peft_type 'VERA' is not supported; supported are LORA, IA3, PROMPT",
    ),
    "another task": (
        config_with(task_type="CAUSAL_LM"),
        r"adapter_config\.json: task_type is CAUSAL_LM, but a bert model predicts no next token",
    ),
    "trained biases": (
        config_with(bias="all"),
        r"lacks tensors that its adapter_config\.json promises: .*bert\.embeddings\.LayerNorm\.bias",
    ),
    "a rank of its own": (config_with(rank_pattern={"query": 4}), r"lora_A\.weight is \[8, 48\], expected \[4, 48\]"),
    "a changed base": (
        config_with(init_lora_weights="pissa"),
        'init_lora_weights is "pissa": it changes the base\'s own weights',
    ),
    "an unknown field": (config_with(use_magic=True), r"adapter_config\.json: use_magic is true: not known"),
    "a rank of text": (config_with(r="8"), r"adapter_config\.json\.r: .*got '8'"),
    "a rank of 0": (config_with(r=0), "rank: input should be greater than or equal to 1, got 0"),
    "no target": (config_with(target_modules=["q_proj"]), r"target_modules \['q_proj'\] name no linear layer"),
    "a malformed pattern": (config_with(target_modules="("), "is not a regular expression"),
    "no type": (config_with(peft_type=None), "has no peft_type"),
    "a head named as a path": (
        lambda folder: (folder / "fft_heads.json").write_text(
            '{"primary": "a/b", "heads": {"a/b": {"kind": "classification", "labels": ["x", "y"]}}}'
        ),
        "a head cannot be called 'a/b'",
    ),
    "a head of other classes": (
        lambda folder: (folder / "fft_heads.json").write_text(
            '{"primary": "a", "heads": {"a": {"kind": "classification", "labels": ["x", "y", "z"]}}}'
        ),
        r"classifier\.weight is \[2, 48\], expected \[3, 48\]",
    ),
    "a pickle": (as_pickle, r"only as pickle \(adapter_model\.bin\).*never read; convert it"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no weights to load"),
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
}


@pytest.fixture(scope="module")
def sound(bases, tmp_path_factory):
    """An adapter of PEFT's on the BERT base."""
    folder = tmp_path_factory.mktemp("sound") / "a"
    made_by_peft(bases["bert"], folder, peft.LoraConfig(task_type="SEQ_CLS"))
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_an_adapter_that_is_not_what_it_says_is_refused(case, sound, bases, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    for path in sound.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    change, message = BROKEN[case]
    change(folder)
    with pytest.raises(InputError, match=message):
        load_adapter(folder, models.load(bases["bert"]))


BROKEN_NORMS = {
    "a missing norm": (
        tensors_with(lambda t: t.pop("base_model.model.bert.embeddings.LayerNorm.ln_tuning_layers.bias")),
        r"lacks tensors .*embeddings\.LayerNorm\.ln_tuning_layers\.bias",
    ),
    "a norm too many": (
        config_with(exclude_modules=["embeddings.LayerNorm"]),
        r"has no place for: .*embeddings\.Layer",
    ),
    "more than norms": (
        tensors_with(lambda t: t.update({f"{QUERY}.ln_tuning_layers.bias": np.zeros(48, np.float32)})),
        r"has no place for: .*query\.ln_tuning_layers\.bias",
    ),
    "a shape": (
        tensors_with(
            lambda t: t.update(
                {"base_model.model.bert.embeddings.LayerNorm.ln_tuning_layers.bias": np.zeros(47, np.float32)}
            )
        ),
        r"LayerNorm\.ln_tuning_layers\.bias is \[47\], expected \[48\]",
    ),
    "no target": (config_with(target_modules=["query"]), r"target_modules \['query'\] name no norm of"),
    "a field of others": (config_with(layers_to_transform=[0]), r"layers_to_transform is \[0\]: not known"),
}


@pytest.mark.parametrize("case", BROKEN_NORMS)
def test_norms_that_are_not_what_they_say_are_refused(case, bases, tmp_path):
    change, message = BROKEN_NORMS[case]
    made_by_peft(bases["bert"], tmp_path / "a", THEIRS["norms"][1])
    change(tmp_path / "a")
    with pytest.raises(InputError, match=message):
        load_adapter(tmp_path / "a", models.load(bases["bert"]))


def test_an_adapter_of_another_base_is_refused(sound, bases, tmp_path):
    """By the base that its file names, else by its tensors."""
    with pytest.raises(
        InputError, match=r"differs from .*distilbert in the family, bert: the adapter belongs to another"
    ):
        load_adapter(sound, models.load(bases["distilbert"]))
    sound = shutil.copytree(sound, tmp_path / "a")
    config_with(base_model_name_or_path=None)(sound)
    with pytest.raises(InputError, match="name no linear layer or embedding of this base"):
        load_adapter(sound, models.load(bases["distilbert"]))
    with pytest.raises(InputError, match=r"the base .*roberta has no place for: base_model\.model\.bert\."):
        load_adapter(sound, models.load(bases["roberta"]))
    wider = oracle.save(oracle.make("bert", hidden_size=60), tmp_path / "wider")
    with pytest.raises(
        InputError, match=r"does not fit the base .*wider: .*lora_A\.weight is \[8, 48\], expected \[8, 60\]"
    ):
        load_adapter(sound, models.load(wider))
    deeper = oracle.save(oracle.make("bert", num_hidden_layers=3), tmp_path / "deeper")
    with pytest.raises(InputError, match=r"lacks tensors .*layer\.2\."):
        load_adapter(sound, models.load(deeper))
    made_by_peft(bases["bert"], tmp_path / "p", peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=5))
    config_with(base_model_name_or_path=None)(tmp_path / "p")
    with pytest.raises(InputError, match=r"prompt_embeddings is \[5, 48\], expected \[5, 60\]"):
        load_adapter(tmp_path / "p", models.load(wider))
    with pytest.raises(InputError, match="does not exist"):
        load_adapter(tmp_path / "nowhere", models.load(bases["bert"]))
