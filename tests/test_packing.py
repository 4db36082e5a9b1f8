"""The check at load, and the attention function under it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from sightline.embedding import attention, packing
from sightline.embedding.packing import Positions, check_packing


def small(config_class, **more):
    torch.manual_seed(3)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 200}
    config = config_class(**{**sizes, "max_position_embeddings": 128, **more}, initializer_range=0.25)
    model = transformers.AutoModel.from_config(config)
    attention.register()
    return model.eval()


def test_model_whose_texts_see_each_other_is_padded():
    """MobileBERT can be set to our attention, calls it once a layer, and leaks all the same."""
    model = small(transformers.MobileBertConfig, embedding_size=16, intra_bottleneck_size=32)
    verdict = check_packing(model)
    assert not verdict.packs
    assert model.config._attn_implementation != attention.NAME


def test_model_with_fixed_attention_is_padded():
    """MPNet's relative positions live in an attention of its own."""
    assert "can't be replaced" in check_packing(small(transformers.MPNetConfig)).reason


def test_attention_that_gets_an_unknown_argument_refuses():
    """Gemma 2's soft cap changes the result; ignoring it would be a silent wrong answer."""
    model = small(transformers.Gemma2Config, num_key_value_heads=1, head_dim=16, pad_token_id=0)
    assert "softcap" in check_packing(model).reason


def test_wrong_window_is_found(monkeypatch):
    """A window off by one passes the leak test and fails against the text alone."""
    right = attention._seen

    def narrower(length, before, window, causal, device):
        return right(length, before, window - 1, causal, device)

    monkeypatch.setattr(attention, "_seen", narrower)
    model = small(transformers.MistralConfig, num_key_value_heads=1, sliding_window=8, pad_token_id=0)
    assert "differ" in check_packing(model).reason


def test_wrong_positions_are_found(monkeypatch):
    """RoBERTa counts from 2."""
    monkeypatch.setattr(packing, "_positions", lambda seen, ids, pad_id: Positions())
    assert "differ" in check_packing(small(transformers.RobertaConfig, pad_token_id=1)).reason


def test_roberta_counts_from_two_and_not_past_padding_ids():
    """Read off the model at load, not from a list of names."""
    assert check_packing(small(transformers.RobertaConfig, pad_token_id=1)).positions == Positions(first=2, still_id=1)


@pytest.mark.parametrize(
    ("config_class", "more"),
    [
        (transformers.LlamaConfig, {"num_key_value_heads": 1, "pad_token_id": 0}),
        (transformers.MistralConfig, {"num_key_value_heads": 1, "sliding_window": 8, "pad_token_id": 0}),
        (transformers.AlbertConfig, {"embedding_size": 16}),
        (transformers.ElectraConfig, {"embedding_size": 16}),
        (transformers.CamembertConfig, {"pad_token_id": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_more_families_pack(config_class, more):
    """Grouped heads, windows, shared layers, narrow embeddings."""
    assert check_packing(small(config_class, **more)).reason == "packed"


def test_bfloat16_passes_by_its_own_noise():
    """The yardstick is the distance of the model's two reference attentions in the loaded format."""
    assert check_packing(small(transformers.BertConfig).to(torch.bfloat16)).packs


def test_positions_begin_anew_with_each_text():
    """And a still id holds the count."""
    ids, lengths = np.array([5, 6, 7, 5, 1, 6]), np.array([3, 3])
    assert Positions().of(ids, lengths).tolist() == [0, 1, 2, 0, 1, 2]
    assert Positions(2, still_id=1).of(ids, lengths).tolist() == [2, 3, 4, 2, 1, 3]


def test_no_positions_are_shared_by_value():
    """A text's positions never depend on its neighbours."""
    ids = np.arange(100, 160)
    whole = Positions(2, still_id=110).of(ids, np.array([20, 40]))
    assert whole[20:].tolist() == Positions(2, still_id=110).of(ids[20:], np.array([40])).tolist()


def reference_attention(query, key, value, lengths, causal, window):
    """Plain softmax attention a text at a time, in float64."""
    rows, start = [], 0
    for length in lengths:
        q, k, v = (t[0, :, start : start + length].double() for t in (query, key, value))
        k, v = (t.repeat_interleave(q.shape[0] // t.shape[0], dim=0) for t in (k, v))
        distance = torch.arange(length)[:, None] - torch.arange(length)[None]
        hidden = torch.zeros(length, length, dtype=torch.bool)
        if causal:
            hidden |= distance < 0
        if window:
            hidden |= distance.abs() >= window
        weights = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden, float("-inf")).softmax(-1)
        rows.append((weights @ v).transpose(0, 1))
        start += length
    return torch.cat(rows)[None]


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)], ids=["own", "grouped"])
def test_packed_attention_equals_plain_softmax(causal, window, heads):
    """Over equal and different lengths, windows, and grouped heads."""
    lengths = [5, 5, 1, 9, 9, 9, 3]
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, count, sum(lengths), 8, generator=generator) for count in (heads[0], heads[1], heads[1]))
    cu_seq_lens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    result, _ = attention.packed_attention(
        torch.nn.Module(), query, key, value, None, is_causal=causal, sliding_window=window, cu_seq_lens_q=cu_seq_lens
    )
    assert (result - reference_attention(query, key, value, lengths, causal, window)).abs().max() < 1e-5


@pytest.mark.parametrize(
    "wrong", [{"softcap": 30.0}, {"s_aux": torch.ones(1)}, {"position_bias": torch.ones(1)}, {"output_attentions": True}]
)
def test_arguments_that_change_the_result_are_refused(wrong):
    """By name."""
    tensor = torch.zeros(1, 1, 2, 4)
    with pytest.raises(ValueError, match="packed attention"):
        attention.packed_attention(
            torch.nn.Module(), tensor, tensor, tensor, None, is_causal=False, cu_seq_lens_q=torch.tensor([0, 2]), **wrong
        )


def varlen_double(with_gqa: bool, with_scale: bool, seen: dict):
    """What `varlen_attn` computes, in the signature of one torch release; this machine has no CUDA to run the real one."""

    def run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, options):
        seen.update(options)
        scale = options.get("scale")
        query = query if scale is None else query * (scale * query.shape[-1] ** 0.5)
        left, right = options["window_size"]
        window = None if left < 0 else left + 1
        lengths = (cu_seq_q[1:] - cu_seq_q[:-1]).tolist()
        parts = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
        return reference_attention(*parts, lengths, right == 0, window)[0].float()

    if with_gqa and with_scale:

        def attend(
            query, key, value, cu_seq_q, cu_seq_k, max_q, max_k,
            *, scale=None, window_size=(-1, -1), enable_gqa=False, num_splits=None,
        ):  # fmt: skip
            options = {"scale": scale, "window_size": window_size, "enable_gqa": enable_gqa, "num_splits": num_splits}
            return run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, options)

    else:

        def attend(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
            assert query.shape[1] == key.shape[1], "this release has no grouped heads"
            return run(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, {"window_size": window_size})

    return attend


@pytest.mark.parametrize("release", ["2.12", "2.11"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("window", [None, 4])
def test_cuda_path_speaks_each_releases_signature(monkeypatch, release, causal, window):
    """Scale, window, causality and grouped heads reach variable-length attention whichever keywords it has."""
    from torch.nn.attention import varlen

    seen: dict = {}
    monkeypatch.setattr(varlen, "varlen_attn", varlen_double(release == "2.12", release == "2.12", seen))
    attention._varlen_arguments.cache_clear()
    lengths = [5, 2, 9]
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, count, sum(lengths), 8, generator=generator) for count in (4, 2, 2))
    cu_seq_lens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    scaling = 0.3
    first = [tensor.transpose(1, 2)[0] for tensor in (query, key, value)]
    result = attention._varlen(*first, cu_seq_lens, 9, scaling, causal, window)[None]
    attention._varlen_arguments.cache_clear()
    expected = reference_attention(query * (scaling * 8**0.5), key, value, lengths, causal, window)
    assert (result - expected).abs().max() < 1e-5
    assert seen.get("num_splits", 1) == 1


def test_varlen_attention_is_tried_before_it_is_trusted(monkeypatch, caplog):
    """One that gives something else, or that the device refuses, is told once and done without."""
    from torch.nn.attention import varlen

    right = varlen_double(True, True, {})

    def wrong(*args, **options):
        return 1.1 * right(*args, **options)

    def refused(*args, **options):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer")

    monkeypatch.setattr(attention, "_varlen_arguments", lambda: frozenset({"scale", "window_size", "enable_gqa", "num_splits"}))
    for run, trusted, told in ((right, True, ""), (wrong, False, "off float32"), (refused, False, "Ampere")):
        attention._varlen_is_right.cache_clear()
        caplog.clear()
        monkeypatch.setattr(varlen, "varlen_attn", run)
        for _ in range(2):
            assert attention._varlen_is_right(torch.device("cpu"), torch.bfloat16) is trusted
        assert len(caplog.records) == (not trusted)
        assert told in caplog.text
    attention._varlen_is_right.cache_clear()


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_cuda_path_puts_the_prefix_in_front_of_each_text(monkeypatch, causal):
    """Keys and values get rows of their own for it, and so longer texts than the queries."""
    from torch.nn.attention import varlen

    seen = {}

    def attend(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, **options):
        seen.update(key=key, value=value, starts=cu_seq_k.tolist(), longest=(max_q, max_k))
        return query

    monkeypatch.setattr(varlen, "varlen_attn", attend)
    key, value, prefix = torch.arange(6.0).view(6, 1, 1), -torch.arange(6.0).view(6, 1, 1), torch.tensor([[[70.0]], [[71.0]]])
    starts = torch.tensor([0, 1, 4, 6], dtype=torch.int32)
    attention._varlen(key, key, value, starts, 3, 1.0, causal, None, (prefix, -prefix))
    assert seen["key"].flatten().tolist() == [70, 71, 0, 70, 71, 1, 2, 3, 70, 71, 4, 5]
    assert torch.equal(seen["value"], -seen["key"])
    assert (seen["starts"], seen["longest"]) == ([0, 3, 8, 12], (3, 5))
