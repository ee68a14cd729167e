"""What every memory variant must meet in the encoder-decoder host, whatever its update rule."""

import copy

from memtrans_fairseq.variants import VARIANTS, SettingError

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from toy import DICTIONARY, batch, build, pair_dataset, sentences, shake

MEMORY = 4
CASES = [pytest.param(f"{name}_transformer", {}, id=name) for name in VARIANTS]
CASES += [
    pytest.param(f"{name}_transformer", {"encoder_normalize_before": True}, id=f"{name}-pre_ln") for name in VARIANTS
]
CASES += [
    pytest.param("mem_ctrl_transformer", {"share_memory_layers": True}, id="mem_ctrl-shared"),
    pytest.param("mem_transformer", {"memory_positions": "prefix"}, id="mem-prefix"),
    pytest.param("mem_transformer", {"decoder_reads": "sequence"}, id="mem-reads_sequence"),
    pytest.param("mem_transformer", {"decoder_reads": "memory"}, id="mem-reads_memory"),
]
every_variant = pytest.mark.parametrize(("name", "options"), CASES)


@pytest.fixture
def model(name, options):
    return shake(build(name, memory_tokens=MEMORY, **options))


def logits(model, source, target):
    return model(source, None, target)[0]


@every_variant
def test_padding_changes_no_real_position(model):
    source, target = sentences([5, 9]), batch(sentences([6, 6], seed=1))
    plain, padded = batch(source), batch(source, width=14)
    torch.testing.assert_close(logits(model, plain, target), logits(model, padded, target), atol=2e-5, rtol=1e-4)
    out = model.encoder(plain)["encoder_out"][0], model.encoder(padded)["encoder_out"][0]
    torch.testing.assert_close(out[0][:MEMORY], out[1][:MEMORY], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(out[0][-5:, 0], out[1][-5:, 0], atol=2e-5, rtol=1e-4)
    right = batch(source, width=14, left=False)
    torch.testing.assert_close(logits(model, plain, target), logits(model, right, target), atol=2e-5, rtol=1e-4)


@every_variant
def test_a_row_does_not_depend_on_its_batch(model):
    source, target = sentences([4, 9, 7]), batch(sentences([6, 6, 6], seed=1))
    together = logits(model, batch(source), target)
    for row, sentence in enumerate(source):
        alone = logits(model, batch([sentence]), target[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=1e-4)


@every_variant
def test_every_parameter_gets_a_gradient(model):
    model.train()
    logits(model, batch(sentences([5, 9])), batch(sentences([6, 6], seed=1))).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # a key's bias shifts all scores of a query alike, which softmax ignores
    assert [n for n in idle if "k_proj.bias" not in n] == []
    assert model.encoder.memory.weight.grad.any(dim=1).all()


@every_variant
def test_output_survives_a_checkpoint(model, name, options, tmp_path):
    source, target = batch(sentences([5, 9])), batch(sentences([6, 6], seed=1))
    before = logits(model, source, target)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = build(name, seed=9, memory_tokens=MEMORY, **options)
    other.load_state_dict(torch.load(tmp_path / "model.pt"), strict=True)
    with torch.no_grad():  # where fairseq's encoder would switch to its fast path
        after = logits(other.eval(), source, target)
    torch.testing.assert_close(before, after, atol=1e-6, rtol=1e-5)


@every_variant
def test_incremental_decoding_equals_full_decoding(model):
    encoder_out = model.encoder(batch(sentences([5, 9])))
    target = batch(sentences([7, 7], seed=1))
    full = model.decoder(target, encoder_out)[0]
    state: dict = {}
    steps = [
        model.decoder(target[:, : t + 1], encoder_out, incremental_state=state)[0][:, -1] for t in range(target.size(1))
    ]
    torch.testing.assert_close(full, torch.stack(steps, dim=1), atol=2e-5, rtol=1e-4)


def translate(models, source, batch_size, beam=4):
    generator = SequenceGenerator(models, DICTIONARY, beam_size=beam, max_len_b=12)
    data, hypotheses = pair_dataset(source), []
    for start in range(0, len(source), batch_size):
        order = range(start, min(start + batch_size, len(source)))
        sample = data.collater([data[i] for i in order])
        found = generator.generate(models, sample)
        beams = ([best["tokens"].tolist() for best in sentence] for sentence in found)
        hypotheses += sorted(zip(sample["id"].tolist(), beams, strict=True))
    return [beam for _, beam in hypotheses]


@every_variant
def test_beam_search_does_not_depend_on_the_batch_size(model):
    source = sentences([3 + i % 9 for i in range(24)])
    one, some, all_at_once = (translate([model], source, size) for size in (1, 10, 100))
    assert one == some == all_at_once
    assert len({str(beam) for beam in one}) > 5, "a model that always says the same proves nothing"


@every_variant
def test_source_reaches_the_output_and_memory_rows_lead(model):
    source = batch(sentences([9]))
    out = model.encoder(source)
    assert out["encoder_out"][0].shape == (MEMORY + 9, 1, 16)
    assert out["encoder_padding_mask"][0].shape == (1, MEMORY + 9)
    changed = source.clone()
    changed[0, 2] = 4 if source[0, 2] != 4 else 5
    target = batch(sentences([6], seed=1))
    assert (logits(model, source, target) - logits(model, changed, target)).abs().max() > 1e-3


@every_variant
def test_reordering_the_encoder_output_reorders_everything(model):
    out = model.encoder(batch(sentences([5, 9])))
    order = torch.tensor([1, 0, 1])
    new = model.encoder.reorder_encoder_out(out, order)
    torch.testing.assert_close(new["encoder_out"][0], out["encoder_out"][0][:, order])
    assert torch.equal(new["encoder_padding_mask"][0], out["encoder_padding_mask"][0][order])


@pytest.mark.parametrize("name", [f"{v}_transformer" for v in VARIANTS])
@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_activations": True},
        {"encoder_layerdrop": 0.5},
        {"layernorm_embedding": True, "encoder_learned_pos": True},
        {"no_token_positional_embeddings": True, "no_scale_embedding": True},
        {"quant_noise_pq": 0.1, "quant_noise_pq_block_size": 4},
        {"cross_self_attention": True, "no_cross_attention": True},
        {"activation_fn": "gelu", "activation_dropout": 0.1, "attention_dropout": 0.1},
    ],
    ids=lambda options: "+".join(options),
)
def test_options_of_fairseqs_transformer_train(name, options):
    model = build(name, memory_tokens=MEMORY, **options).train()
    logits(model, batch(sentences([5, 9])), batch(sentences([6, 6], seed=1))).logsumexp(-1).sum().backward()
    gradient = model.encoder.memory.weight.grad
    assert gradient.isfinite().all()
    assert gradient.any()


def test_a_checkpoint_is_loaded_whatever_layers_are_dropped():
    model = build("mem_ctrl_transformer", memory_tokens=MEMORY, encoder_layerdrop=0.9).train()
    for _ in range(10):  # each with a chance of 0.7 that all three layers are dropped from what is iterated
        model.load_state_dict(model.state_dict())


def test_activation_checkpointing_changes_nothing():
    plain = shake(build("mem_ctrl_transformer", memory_tokens=MEMORY))
    saving = build("mem_ctrl_transformer", memory_tokens=MEMORY, checkpoint_activations=True)
    saving.load_state_dict(plain.state_dict())
    source, target = batch(sentences([5, 9])), batch(sentences([6, 6], seed=1))
    torch.testing.assert_close(logits(plain, source, target), logits(saving, source, target))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mem_ctrl_transformer", {"memory_tokens": 0}, "at least 1 memory token"),
        ("mem_bottleneck_transformer", {"memory_tokens": 0}, "at least 1 memory token"),
        ("mem_transformer", {"memory_tokens": -1}, "at least 0 memory token"),
        ("mem_transformer", {"memory_tokens": 0, "decoder_reads": "memory"}, "blind"),
        ("mem_transformer", {"encoder_attention_heads": 3}, "multiple of the 3 attention heads"),
        (
            "mem_transformer",
            {"memory_positions": "prefix", "memory_tokens": 8, "max_source_positions": 8},
            "no position",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(name, options, message):
    with pytest.raises(SettingError, match=message) as refused:
        build(name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [f"{v}_transformer" for v in VARIANTS])
@pytest.mark.parametrize("option", [{"encoder_layrs": 2}, {"memory_init": "noraml"}, {"memory_tokens": "many"}])
def test_misspelt_settings_are_refused_by_name(name, option):
    with pytest.raises(Exception, match=next(iter(option))):
        build(name, **option)


def test_alignments_are_to_source_tokens():
    model = shake(build("mem_transformer", memory_tokens=MEMORY))
    source = batch(sentences([7]))
    attention = model(source, None, batch(sentences([6], seed=1)))[1]["attn"][0]
    assert attention.shape == (1, 6, 7)
    assert (attention.sum(-1) < 1).all(), "the rest of the attention goes to memory"


def test_an_ensemble_of_variants_translates():
    members = [shake(build(f"{v}_transformer", memory_tokens=MEMORY), seed=i) for i, v in enumerate(VARIANTS)]
    source = sentences([5, 8, 6])
    assert translate(members, source, 1) == translate(members, source, 3)


def test_deepcopy_keeps_shared_memory_layers_shared():
    model = copy.deepcopy(build("mem_ctrl_transformer", memory_tokens=MEMORY, share_memory_layers=True))
    blocks = {id(layer.memory_block) for layer in model.encoder.layers}
    assert len(blocks) == 1
