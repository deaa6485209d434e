"""Adapters of other programs: newer and older versions, of the encoder alone, saved in another way."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from fft import models
from fft.adapters import load_adapter
from fft.core.errors import InputError
from fft.core.tree import flatten
from tests.helpers import torch_models as oracle
from tests.helpers.peft_adapters import adapted
from tests.helpers.tiny_runs import fft

FAMILIES = ("bert", "roberta", "distilbert")
LORA = {"r": 3, "lora_alpha": 5}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """{family: a folder with a random base of two classes}."""
    folder = tmp_path_factory.mktemp("bases")
    return {family: oracle.save(oracle.make(family), folder / family) for family in FAMILIES}


def classifier(base):
    return AutoModelForSequenceClassification.from_pretrained(base)


def logits(checkpoint, family):
    return checkpoint.model.apply(checkpoint.params, oracle.batch(family))["logits"]["original"]


# --- PEFT on the encoder alone ---

BARE = {
    "lora": ("bert", peft.LoraConfig(task_type="FEATURE_EXTRACTION", **LORA, target_modules=["query", "dense"])),
    "lora by pattern": ("bert", peft.LoraConfig(**LORA, target_modules=r"encoder\.layer\.\d+\.attention\.self\.query")),
    "one block": ("bert", peft.LoraConfig(**LORA, target_modules=["key"], layers_to_transform=[1])),
    "pooler whole": ("bert", peft.LoraConfig(**LORA, target_modules=["value"], modules_to_save=["pooler"])),
    "norms": ("bert", peft.LNTuningConfig(task_type="FEATURE_EXTRACTION", target_modules=["LayerNorm"])),
    "ia3": ("distilbert", peft.IA3Config(target_modules=["k_lin", "lin2"], feedforward_modules=["lin2"])),
    "dora": ("distilbert", peft.LoraConfig(**LORA, target_modules=["q_lin", "lin1"], use_dora=True)),
    "roberta": ("roberta", peft.LoraConfig(task_type="FEATURE_EXTRACTION", **LORA, target_modules=["query"])),
    "roberta with its pooler": ("roberta", peft.LoraConfig(**LORA, target_modules="all-linear")),
    "roberta, pooler whole": ("roberta", peft.LoraConfig(**LORA, target_modules=["key"], modules_to_save=["pooler"])),
}


@pytest.mark.parametrize("case", BARE)
def test_an_adapter_of_the_bare_encoder_is_put_on_a_base_with_and_without_classifier(case, bases, tmp_path):
    family, config = BARE[case]
    adapted(AutoModel.from_pretrained(bases[family]), config).save_pretrained(tmp_path / "a")
    encoder = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(bases[family]), tmp_path / "a")
    theirs = classifier(bases[family]).eval()
    theirs.base_model.load_state_dict(encoder.merge_and_unload().state_dict(), strict=False)
    expected = oracle.logits(theirs, family, oracle.batch(family))
    base = models.load(bases[family])
    adapter = load_adapter(tmp_path / "a", base)
    assert np.abs(expected - logits(base, family)).max() > 0.01
    oracle.close(logits(adapter.on(base), family), expected)
    assert adapter.heads == {} and adapter.primary is None
    assert bool(adapter.notes) == ("pooler" in case and family == "roberta"), adapter.notes
    AutoModel.from_pretrained(bases[family]).save_pretrained(tmp_path / "bare")
    headless = models.load(tmp_path / "bare")
    ours, both = (flatten(load_adapter(tmp_path / "a", one).on(one).params) for one in (headless, base))
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, both[path], err_msg=path)


# --- fields ---


def changed(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture
def sound(bases, tmp_path):
    """An adapter of PEFT's on the BERT base, which a test may spoil."""
    config = peft.LoraConfig(task_type="SEQ_CLS", **LORA, target_modules=["query"])
    adapted(classifier(bases["bert"]), config).save_pretrained(tmp_path / "sound")
    return tmp_path / "sound"


def test_unknown_fields_that_say_nothing_are_one_note(sound, bases):
    idle = {"use_hyper_lora": False, "hyper_config": None, "enable_lora": None, "merge_weights": False}
    idle |= {"empty": "", "none": [], "nothing": {}, "tables": {"a": {}, "b": None}}
    base = models.load(bases["bert"])
    before = load_adapter(sound, base)
    changed(sound, **idle)
    after = load_adapter(sound, base)
    (note,) = after.notes
    assert note.startswith(
        f"{sound / 'adapter_config.json'}: the unknown field(s) {', '.join(sorted(idle))} are null, false or empty"
    )
    assert before.notes == () and flatten(after.theta).keys() == flatten(before.theta).keys()
    assert after.on(base).notes == (note,)


def test_fields_that_are_set_and_not_computed_are_refused_in_one_message_by_name(sound, bases):
    changed(sound, use_hyper_lora=True, depth=0, note="x", lora_bias=True, layer_replication=[[0, 1]])
    changed(sound, hyper_config={"a": 1}, task_type="TOKEN_CLS", init_lora_weights="olora")
    with pytest.raises(InputError) as caught:
        load_adapter(sound, models.load(bases["bert"]))
    said = str(caught.value)
    assert said.startswith(f"{sound / 'adapter_config.json'}: ") and said.count("\n") == 0
    for part in (
        'depth is 0: not known; hyper_config is {"a": 1}: not known; note is "x": not known; use_hyper_lora is true: ',
        "lora_bias is set; fft does not support it",
        "layer_replication is set; fft does not support it",
        'init_lora_weights is "olora": it changes the base\'s own weights too',
        'task_type is "TOKEN_CLS": only SEQ_CLS, CAUSAL_LM and FEATURE_EXTRACTION are read',
        "merge_and_unload().save_pretrained(DIR)",
    ):
        assert part in said, said


def test_fields_of_a_wrong_type_are_told_once_each(sound, bases):
    changed(sound, target_modules=5, r="8")
    with pytest.raises(InputError) as caught:
        load_adapter(sound, models.load(bases["bert"]))
    said = str(caught.value)
    assert "adapter_config.json.target_modules: input should be a valid string or a valid array, got 5" in said
    assert "adapter_config.json.r: input should be a valid integer, got '8'" in said and "[" not in said


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_to_transform": [1], "layers_pattern": "layer"},
        {"layers_to_transform": 0, "layers_pattern": ["block", "layer"]},
        {"layers_to_transform": [1], "layers_pattern": []},
    ],
)
def test_a_pattern_of_layers_selects_what_peft_selects(settings, bases, tmp_path):
    config = peft.LoraConfig(task_type="SEQ_CLS", **LORA, target_modules=["query", "dense"], **settings)
    theirs = adapted(classifier(bases["bert"]), config)
    theirs.save_pretrained(tmp_path / "a")
    base = models.load(bases["bert"])
    found = logits(load_adapter(tmp_path / "a", base).on(base), "bert")
    oracle.close(found, oracle.logits(theirs, "bert", oracle.batch("bert")))
    changed(tmp_path / "a", layers_pattern="block")
    with pytest.raises(InputError, match="name no linear layer or embedding of this base"):
        load_adapter(tmp_path / "a", base)


def test_a_whole_name_is_a_target_in_whichever_layer(bases, tmp_path):
    """PEFT checks the layer number only for names that match by their ending."""
    whole = "bert.encoder.layer.0.attention.self.query"
    config = peft.LoraConfig(task_type="SEQ_CLS", **LORA, target_modules=[whole, "key"], layers_to_transform=[1])
    theirs = adapted(classifier(bases["bert"]), config)
    theirs.save_pretrained(tmp_path / "a")
    base = models.load(bases["bert"])
    found = logits(load_adapter(tmp_path / "a", base).on(base), "bert")
    oracle.close(found, oracle.logits(theirs, "bert", oracle.batch("bert")))


def test_how_eva_began_does_not_matter(sound, bases):
    base = models.load(bases["bert"])
    changed(sound, init_lora_weights="eva", eva_config={"rho": 2.0, "tau": 0.99})
    assert load_adapter(sound, base).notes == ()


# --- tensors ---


def rewritten(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(dict(change(tensors)), folder / "adapter_model.safetensors")


STATE_DICTS = {
    "of all": lambda model: model.state_dict(),
    "of what is trained": lambda model: {n: p.data for n, p in model.named_parameters() if p.requires_grad},
    "of the model inside": lambda model: {
        name.removeprefix("base_model.model."): value for name, value in peft.get_peft_model_state_dict(model).items()
    },
}
KINDS = {
    "lora": peft.LoraConfig(task_type="SEQ_CLS", **LORA, target_modules=["query"]),
    "dora": peft.LoraConfig(**LORA, target_modules=["query"], use_dora=True),
    "ia3": peft.IA3Config(task_type="SEQ_CLS"),
    "norms": peft.LNTuningConfig(target_modules=["LayerNorm"]),
    "prompt": peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", STATE_DICTS)
def test_a_state_dict_is_called_one(kind, saved, bases, tmp_path):
    model = adapted(classifier(bases["bert"]), KINDS[kind])
    model.save_pretrained(tmp_path / "a")
    base = models.load(bases["bert"])
    load_adapter(tmp_path / "a", base)
    if kind == "prompt" and saved == "of the model inside":
        return  # a prompt has no modules inside the model
    tensors = {name: value.detach().clone().numpy() for name, value in STATE_DICTS[saved](model).items()}
    rewritten(tmp_path / "a", lambda _: tensors)
    with pytest.raises(
        InputError, match=r"this is a model's state dict, not an adapter: it holds .*save_pretrained\(DIR\)"
    ):
        load_adapter(tmp_path / "a", base)


def test_a_vocabulary_of_another_size_is_told_as_that(bases, tmp_path):
    model = classifier(bases["bert"])
    model.resize_token_embeddings(70, mean_resizing=False)
    theirs = adapted(model, KINDS["lora"])
    theirs.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    base = models.load(bases["bert"])
    with pytest.raises(
        InputError, match=r"trained on a vocabulary of 70, the base .* has 61.*resize_token_embeddings\(70"
    ):
        load_adapter(tmp_path / "a", base)
    changed(tmp_path / "a", modules_to_save=["word_embeddings", "classifier"])
    with pytest.raises(InputError, match=r"trained on a vocabulary of 70, the base .* has 61"):
        load_adapter(tmp_path / "a", base)


@pytest.mark.parametrize("family", FAMILIES)
def test_word_embeddings_that_an_adapter_brings_are_its_own(family, bases, tmp_path):
    model = classifier(bases[family])
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.3)
    targets = ["q_lin"] if family == "distilbert" else ["query"]
    theirs = adapted(model, peft.LoraConfig(task_type="SEQ_CLS", **LORA, target_modules=targets))
    theirs.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    loaded = peft.PeftModel.from_pretrained(classifier(bases[family]), tmp_path / "a").eval()
    base = models.load(bases[family])
    found = logits(load_adapter(tmp_path / "a", base).on(base), family)
    oracle.close(found, oracle.logits(loaded, family, oracle.batch(family)))


def test_a_base_without_a_classifier_is_exported_with_the_adapter_merged_in(bases, tmp_path):
    AutoModel.from_pretrained(bases["bert"]).save_pretrained(tmp_path / "bare")
    adapted(AutoModel.from_pretrained(tmp_path / "bare"), BARE["lora"][1]).save_pretrained(tmp_path / "a")
    answer = fft("export", tmp_path / "bare", "--adapter", tmp_path / "a", "--out", tmp_path / "merged")
    assert answer.code == 0 and "merged with no head" in answer.out
    encoder = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "bare"), tmp_path / "a")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, value in encoder.merge_and_unload().state_dict().items():
        np.testing.assert_allclose(merged[name], value.numpy(), atol=1e-6, err_msg=name)
