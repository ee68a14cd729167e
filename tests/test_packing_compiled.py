"""Packed batches by the kernels of a GPU, compiled and as CUDA graphs: what they compute and how often they compile."""

from argparse import Namespace
from enum import Enum
from typing import Any

from memtrans_fairseq.criterions.packed_cross_entropy import PackedCrossEntropy
from memtrans_fairseq.models.config import nested
from memtrans_fairseq.packing import forward
from memtrans_fairseq.packing.attention import attention
from memtrans_fairseq.packing.blocks import block_attention, block_mask
from memtrans_fairseq.packing.spans import Spans

import numpy as np
import pytest
import torch
import toy
from fairseq import models
from omegaconf import OmegaConf
from packed_pairs import MODELS, SMOOTHING, assert_learns_as_padded, collated, packed, packed_loss, padded_loss, pairs
from torch.nn.attention.flex_attention import create_block_mask

DRAWS = 200  # of dropout


@pytest.fixture
def blocks_alone(monkeypatch):
    """Attention by blocks, as on a GPU. On a CPU torch refuses its gradients, which its plain formula does have."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    monkeypatch.setattr("memtrans_fairseq.packing.attention.attention", block_attention)


@pytest.fixture
def compiles_anew():
    """Nothing compiled is left of other tests; torch would go on without compiling after eight models."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("reads", ["all", "sequence", "memory"])
@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_by_blocks_are_those_of_padded_batches(name, reads, blocks_alone):
    more = {} if name == "transformer" else {"memory_tokens": 3, "decoder_reads": reads}
    assert_learns_as_padded(toy.shake(toy.build(name, **more).double()))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in MODELS[1:]),
        ("mem_transformer", {"decoder_reads": "memory"}),
        ("mem_transformer", {"decoder_reads": "sequence", "memory_positions": "prefix"}),
    ],
    ids=str,
)
def test_one_compiled_graph_serves_all_batches(name, options, blocks_alone, compiles_anew):
    dataset, batches = packed(pairs(100))
    model = toy.shake(toy.build(name, memory_tokens=2, **options).double())
    forward.settle(model)
    compiled = torch.compile(forward.loss_of, backend="eager", fullgraph=True)
    with torch.compiler.set_stance("default"):
        losses = [compiled(model, collated(dataset, batches[0])["packed"], SMOOTHING)[0]]
    with torch.compiler.set_stance("fail_on_recompile"):
        losses += [compiled(model, collated(dataset, batch)["packed"], SMOOTHING)[0] for batch in batches[1:4]]
    for loss, batch in zip(losses, batches, strict=False):
        torch.testing.assert_close(loss, packed_loss(model, collated(dataset, batch))[0])


@pytest.mark.parametrize("of_command_line", [False, True])
def test_what_is_compiled_compares_plain_words(of_command_line):
    """torch 2.11 compiles an enumeration's `==` as false, which torch 2.13 does not: it would not show the mistake."""
    options = OmegaConf.structured(models.MODEL_DATACLASS_REGISTRY["mem_transformer"])
    assert isinstance(options.decoder_reads, Enum)
    if of_command_line:
        options = Namespace(**OmegaConf.to_container(options, resolve=True, throw_on_missing=False))
    config = nested(options)
    assert (config.decoder_reads, config.memory_positions) == ("all", "none")
    assert type(config.decoder_reads) is type(config.memory_positions) is str


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_are_those_that_torch_finds_by_looking_at_all_pairs(causal):
    rng = np.random.default_rng(0)
    queries, keys = (Spans.of(torch.from_numpy(rng.integers(1, 60, 40)), 60) for _ in range(2))
    keys = queries if causal else keys
    found = block_mask(queries, keys, causal)
    rows = queries.sentences.size(0), keys.sentences.size(0)
    expected = create_block_mask(found.mask_mod, None, None, *rows, device="cpu")
    assert 5 < found.kv_num_blocks.sum() < found.kv_num_blocks.numel() ** 2 / 2
    assert torch.equal(found.to_dense(), expected.to_dense())
    transposed = ordered_blocks(found.q_num_blocks, found.q_indices)
    assert torch.equal(transposed, expected.to_dense()[0, 0].T.bool())


def ordered_blocks(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Which blocks are listed, as a matrix."""
    dense = torch.zeros(indices.size(2), int(indices.max()) + 1, dtype=torch.bool)
    for row, count in enumerate(counts[0, 0]):
        dense[row, indices[0, 0, row, :count].long()] = True
    return dense


@pytest.mark.parametrize(("queries", "channels", "tiled"), [(128, 64, True), (256, 128, False), (64, 64, False)])
def test_tiles_are_for_whole_blocks_and_narrow_heads(queries, channels, tiled, monkeypatch):
    """Fewer queries go to another kernel of torch's, which would read beyond them."""
    asked: dict[str, Any] = {}

    def flex_attention(q, k, v, block_mask, kernel_options):
        asked.update(kernel_options or {})
        return q

    monkeypatch.setattr("memtrans_fairseq.packing.blocks.flex_attention", flex_attention)
    here, there = (Spans.of(torch.tensor([rows]), rows) for rows in (queries, 300))
    block_attention(*(torch.zeros(rows, 2, channels) for rows in (queries, 300, 300)), here, there)
    assert ("fwd_BLOCK_M" in asked) == tiled
    assert ("BLOCKS_ARE_CONTIGUOUS" in asked) == (queries >= 128)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [attention, torch.compile(block_attention)], ids=["flash", "blocks"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("channels", [16, 64, 128])
@pytest.mark.parametrize("lengths", [[5, 1, 0, 17, 130, 3, 60, 300, 2, 200, 41], [5, 1, 0, 17, 41]], ids=["many", "64"])
def test_a_kernel_of_the_gpu_sees_what_padded_attention_sees(causal, kernel, channels, lengths):
    """Outputs and gradients in half precision, against padded attention in float32. Some fill several blocks."""
    lengths = torch.tensor(lengths)
    spans = Spans.of(lengths, 300)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(int(lengths.sum()), 4, channels, generator=generator) for _ in range(4)]
    found = []
    for device, dtype, function in (("cpu", torch.float32, attention), ("cuda", torch.float16, kernel)):
        *inputs, upstream = (x.detach().to(device, dtype) for x in rows)
        inputs = [x.requires_grad_() for x in inputs]
        there = Spans.of(lengths.to(device), spans.longest)
        out = function(*inputs, there, there, causal)
        out.backward(upstream)
        found.append([x.float().cpu() for x in (out.detach(), *(x.grad for x in inputs))])
    for slow, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, atol=2e-2, rtol=2e-2)


def wide_enough(name: str, **options: Any) -> torch.nn.Module:
    """For the kernels of a GPU."""
    wide = {"encoder_embed_dim": 64, "decoder_embed_dim": 64, "decoder_output_dim": 64, "dropout": 0.0}
    return toy.build(name, **wide, **options).train()


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("transformer", {}),
        *((name, {"memory_tokens": 3}) for name in MODELS[1:]),
        *(("mem_transformer", {"memory_tokens": 3, "decoder_reads": reads}) for reads in ("sequence", "memory")),
        ("mem_transformer", {"memory_tokens": 3, "memory_positions": "prefix"}),
    ],
    ids=str,
)
def test_a_compiled_model_learns_what_a_padded_one_learns(name, options, cuda_graphs, compiles_anew):
    """Loss and gradients in half precision against fairseq's in float32, of three batches: a graph is recorded by then.

    Half precision moves these gradients by less than 2 %, a decoder that reads other rows, or memory without its
    positions, by more than 28 %.
    """
    model, data = wide_enough(name, **options).cuda(), pairs(100)
    dataset, batches = packed(data)
    task = type("Task", (), {"target_dictionary": toy.DICTIONARY})
    criterion = PackedCrossEntropy(task, False, SMOOTHING, 0, False, compile=True, cuda_graphs=cuda_graphs)

    def learned(loss: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    for batch in batches[:3]:
        expected, gradients = learned(padded_loss(model, data, batch)[0])
        with torch.autocast("cuda", torch.float16):
            loss, *_ = criterion(model, collated(dataset, batch))
        loss, of_compiled = learned(loss)
        assert loss == pytest.approx(expected, rel=1e-3)
        assert gradients.keys() == of_compiled.keys()
        of_memory = {name for name in gradients if "memory" in name}
        for names in (gradients.keys(), of_memory):
            error = sum((of_compiled[name] - gradients[name]).square().sum() for name in names)
            assert error <= 0.05**2 * sum(gradients[name].square().sum() for name in names)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_several_batches_add_up_where_one_graph_makes_them(name, compiles_anew):
    """A CUDA graph writes its gradients, and its losses, to the same places each time."""
    more = {} if name == "transformer" else {"memory_tokens": 3}
    model = toy.shake(wide_enough(name, **more)).cuda()
    task = type("Task", (), {"target_dictionary": toy.DICTIONARY})
    criterion = PackedCrossEntropy(task, False, SMOOTHING, 0, False, compile=True, cuda_graphs=True)
    dataset, batches = packed(pairs(300))

    def learned(batches: list[np.ndarray]) -> list[torch.Tensor]:
        model.zero_grad()
        losses = []
        for batch in batches:
            loss, _, log = criterion(model, collated(dataset, batch))
            loss.backward()
            losses.append(log["loss"])
        return [sum(losses), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    with torch.autocast("cuda", torch.bfloat16):
        for batch in batches[:3]:  # before the graph is recorded
            learned([batch])
        apart = [learned([batch]) for batch in batches[:4]]
        together = learned(batches[:4])
    for whole, *parts in zip(together, *apart, strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)
def test_dropout_of_a_compiled_model_is_as_strong_and_as_random(device, compiles_anew):
    """Means of many draws; seeded before each as fairseq's trainer does, which a CUDA graph must heed."""
    wide = {"encoder_embed_dim": 64, "decoder_embed_dim": 64, "decoder_output_dim": 64, "dropout": 0.5}
    model = toy.shake(toy.build("mem_transformer", memory_tokens=3, **wide)).to(device).train()
    forward.settle(model)
    dataset, batches = packed(pairs(100))
    sample = collated(dataset, batches[0])["packed"].to(torch.device(device))

    def draw(function: Any, seed: int = 0) -> float:
        model.zero_grad()
        torch.manual_seed(seed)
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "cuda"):
            loss, _ = function(model, sample, SMOOTHING)
        loss.backward()  # as in a training: a CUDA graph of a loss waits for that of its gradients
        return loss.item()

    functions = forward.loss_of, forward.compiled_loss(cuda_graphs=True)
    plain, fast = (np.array([draw(function, seed) for seed in range(DRAWS)]) for function in functions)
    error = np.sqrt((plain.var() + fast.var()) / DRAWS)
    assert abs(plain.mean() - fast.mean()) < 4 * error
    assert fast.std() > 0.8 * plain.std()
    model.eval()
    assert plain.mean() - draw(forward.loss_of) > 8 * error  # it would be seen
