"""The project's beam search against fairseq's: the same hypotheses with the same scores, for every model."""

from memtrans_fairseq.analysis.lesions import Lesion, lesioned
from memtrans_fairseq.search import BeamSearch, beam_search, generator_of, step, supports
from memtrans_fairseq.search.lanes import Lane, lanes
from memtrans_fairseq.variants import VARIANTS

import pytest
import torch
from fairseq import utils
from fairseq.dataclass.configs import GenerationConfig
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.fairseq_task import FairseqTask
from omegaconf import OmegaConf
from torch.fx.experimental.proxy_tensor import make_fx
from toy import DICTIONARY, EOS, PAD, batch, build, pair_dataset, sentences, shake

from memtrans import evaluation

M = 4
LENGTHS = [1 + i % 12 for i in range(24)]  # the shortest is eos alone
SOURCE = sentences(LENGTHS)
LONG = {"max_len_a": 1.0, "max_len_b": 30}
MODELS = {
    f"{variant}-{reads}": (f"{variant}_transformer", {"memory_tokens": M, "decoder_reads": reads})
    for variant in VARIANTS
    for reads in ("all", "sequence", "memory")
}
MODELS |= {
    "fairseq": ("transformer", {}),
    "no_memory": ("mem_transformer", {"memory_tokens": 0}),
    "prefix": ("mem_transformer", {"memory_tokens": M, "memory_positions": "prefix"}),
    "pre_ln": ("mem_transformer", {"encoder_normalize_before": True, "decoder_normalize_before": True}),
    "no_final_norm": ("mem_transformer", {"decoder_normalize_before": True, "no_decoder_final_norm": True}),
    "learned": ("mem_transformer", {"decoder_learned_pos": True, "max_target_positions": 50}),
    "no_positions": ("mem_transformer", {"no_token_positional_embeddings": True}),
    "layernorm_embedding": ("mem_transformer", {"layernorm_embedding": True, "no_scale_embedding": True}),
    "gelu": ("mem_transformer", {"activation_fn": "gelu"}),
    "own_embeddings": ("mem_transformer", {"share_all_embeddings": False}),
    "widths": ("mem_transformer", {"share_all_embeddings": False, "decoder_embed_dim": 24, "decoder_output_dim": 12}),
}


class Task:
    """What of fairseq's task a search needs."""

    source_dictionary = target_dictionary = DICTIONARY
    build_generator = FairseqTask.build_generator

    def inference_step(self, generator, models, sample):
        return generator.generate(models, sample)


def model_of(name, seed=1, **options):
    """A toy model that is sure of its words: near ties could be decided either way."""
    model = shake(build(name, **options), seed)
    model.decoder.output_projection.weight.data *= 2
    return model


def samples(source, size):
    data = pair_dataset(source)
    return [
        data.collater(list(map(data.__getitem__, range(i, min(i + size, len(source))))))
        for i in range(0, len(source), size)
    ]


def found(generator, model, size=24, source=SOURCE):
    """Hypotheses of every sentence, in order: their words, and their scores."""
    by_number = {}
    for sample in samples(source, size):
        by_number |= dict(zip(sample["id"].tolist(), generator.generate([model], sample), strict=True))
    beams = [by_number[i] for i in range(len(source))]
    words = [[hypothesis["tokens"].tolist() for hypothesis in beam] for beam in beams]
    return words, torch.tensor([[float(hypothesis["score"]) for hypothesis in beam] for beam in beams])


def check(model, config, size=24, source=SOURCE):
    """Ours finds what fairseq's does; returns its words."""
    assert supports(model, config)
    (theirs, their_scores), (ours, our_scores) = (
        found(generator, model, size, source)
        for generator in (Task().build_generator([model], config), BeamSearch(model, DICTIONARY, config))
    )
    assert ours == theirs
    torch.testing.assert_close(our_scores, their_scores, rtol=1e-4, atol=1e-5)
    return ours


def best(words):
    return [beam[0] for beam in words]


# --- the same as fairseq's


@pytest.mark.parametrize(("name", "options"), MODELS.values(), ids=list(MODELS))
def test_every_model_says_what_it_says_with_fairseqs_search(name, options):
    words = check(model_of(name, **options), GenerationConfig(beam=4, max_len_a=1.2, max_len_b=10))
    assert len({str(beam) for beam in words}) > 5, "a model that always says the same proves nothing"


@pytest.mark.parametrize("beam", [1, 4, 5])
@pytest.mark.parametrize("lenpen", [0.6, 1, 2])
@pytest.mark.parametrize("longest", [{"max_len_a": 0, "max_len_b": 2}, {"max_len_a": 1.2, "max_len_b": 1}, LONG])
def test_every_setting(beam, lenpen, longest):
    model = model_of("mem_transformer", memory_tokens=M)
    words = check(model, GenerationConfig(beam=beam, lenpen=lenpen, **longest))
    assert all(len(beams) == beam for beams in words)


@pytest.mark.parametrize("block", [2, 3])
def test_a_vocabulary_that_is_searched_in_blocks(block, monkeypatch):
    monkeypatch.setattr(step, "BLOCK", block)
    assert len(DICTIONARY) // block > 2 * 3  # blocks, candidates
    check(model_of("mem_transformer", memory_tokens=M), GenerationConfig(beam=3, **LONG))


@pytest.mark.parametrize("words", [1_280, 1_281, 31_997])
def test_the_best_words_are_those_of_topk(words):
    logits = torch.randn(3, 4, words, generator=torch.Generator().manual_seed(words))
    logits[0, :, :-1] = float("-inf")  # fewer than are asked for, and behind the last block
    found = logits.gather(-1, step._best(logits, 8))
    assert torch.equal(found.sort(dim=-1, descending=True).values, logits.topk(8).values)


@pytest.mark.parametrize("options", [{"min_len": 0}, {"min_len": 6}, {"unnormalized": True}, {"nbest": 4}])
def test_further_settings(options):
    check(model_of("mem_transformer", memory_tokens=M), GenerationConfig(beam=4, max_len_a=1, max_len_b=8, **options))


def test_a_sentence_as_long_as_the_models_positions():
    """With fairseq's own limit, 200 words more than none; here the model's positions are fewer."""
    model = model_of("mem_transformer", memory_tokens=M, max_target_positions=40)
    words = check(model, GenerationConfig(beam=4))
    assert max(map(len, best(words))) == 40


def test_sentences_that_end_at_many_times():
    """Whether they end early, late or never, and whether others of the batch are left."""
    torch.manual_seed(0)
    model = build("mem_transformer", memory_tokens=M)
    for name, parameter in model.decoder.layers.named_parameters():
        if "out_proj" in name or "fc2" in name:
            parameter.data *= 0.3  # the last word matters more than the sentence, so that not all is said or nothing
    model.decoder.output_projection = projection = torch.nn.Linear(16, len(DICTIONARY))
    torch.nn.init.normal_(projection.weight)
    projection.bias.data.zero_()[EOS] = 6.0
    source = sentences([2 + i % 20 for i in range(150)], seed=3)
    words = check(model, GenerationConfig(beam=4, **LONG), size=150, source=source)
    lengths = [len(tokens) for tokens in best(words)]
    assert len(set(lengths)) > 8
    assert 10 < sorted(lengths)[75] < 50


@pytest.mark.parametrize("seed", range(2, 8))
def test_other_weights(seed):
    model = model_of("mem_ctrl_transformer", seed, memory_tokens=M)
    check(model, GenerationConfig(beam=5, lenpen=0.6, max_len_a=1, max_len_b=15))


def test_a_trained_model_of_the_task():
    """Copying: a few hundred updates of a model that then is sure of what it says."""
    torch.manual_seed(0)
    model = build("mem_transformer", memory_tokens=2, encoder_layers=1, decoder_layers=1, dropout=0.0)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    for seed in range(150):
        words = sentences([2 + (seed + i) % 4 for i in range(32)], seed)
        target = batch(words, left=False)
        before = torch.cat([torch.full((32, 1), EOS), target[:, :-1]], dim=1).masked_fill(target == PAD, PAD)
        logits = model(batch(words), None, before)[0]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
        adam.zero_grad()
        loss.backward()
        adam.step()
    check(model, GenerationConfig(beam=4, max_len_a=1.2, max_len_b=10), source=sentences([2, 4, 3, 5] * 6, seed=999))


# --- what must not matter


@pytest.mark.parametrize("beam", [1, 4])
def test_the_batch_does_not_matter(beam):
    """The longest hypothesis allowed follows from the longest source of the batch, so it must not bind here."""
    model = model_of("mem_transformer", memory_tokens=M)
    search = BeamSearch(model, DICTIONARY, GenerationConfig(beam=beam, max_len_a=0, max_len_b=25))
    one, some, all_at_once = (found(search, model, size) for size in (1, 7, 24))
    assert one[0] == some[0] == all_at_once[0]
    torch.testing.assert_close(one[1], all_at_once[1], rtol=1e-4, atol=1e-5)


def test_a_second_pass_says_the_same():
    model = model_of("mem_transformer", memory_tokens=M)
    search = BeamSearch(model, DICTIONARY, GenerationConfig(beam=4, **LONG))
    first, _ = found(search, model, 5)
    found(search, model, 24)
    assert found(search, model, 5)[0] == first


def test_no_dropout_as_in_fairseqs_search():
    model = model_of("mem_transformer", memory_tokens=M, dropout=0.5)
    config = GenerationConfig(beam=2, **LONG)
    first, second = (found(BeamSearch(model.train(), DICTIONARY, config), model) for _ in range(2))
    assert first[0] == second[0]
    model.prepare_for_inference_(OmegaConf.create({"generation": config}))  # as evaluations do
    assert check(model, config) == first[0]


def test_the_model_is_left_as_it_was():
    model = model_of("mem_transformer", memory_tokens=M)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found(BeamSearch(model, DICTIONARY, GenerationConfig(beam=4, **LONG)), model)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0, equal_nan=True)  # see test_lesions.py
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_half_precision():
    """Rounding decides among near ties, so not every sentence is the same; words that both say have like scores."""
    model = model_of("mem_transformer", memory_tokens=M).bfloat16()
    config = GenerationConfig(beam=4, max_len_a=1, max_len_b=3)
    theirs, their_scores = found(SequenceGenerator([model], DICTIONARY, beam_size=4, max_len_a=1, max_len_b=3), model)
    ours, our_scores = found(BeamSearch(model, DICTIONARY, config), model)
    same = [i for i in range(len(SOURCE)) if ours[i][0] == theirs[i][0]]
    assert len(same) > len(SOURCE) / 2
    torch.testing.assert_close(our_scores[same, 0], their_scores[same, 0], rtol=0.02, atol=0.02)
    assert our_scores.dtype == torch.float32


def test_a_model_whose_output_is_not_numbers_is_named():
    model = model_of("mem_transformer", memory_tokens=M)
    model.decoder.layers[0].fc2.bias.data[:] = float("nan")
    with pytest.raises(FloatingPointError, match="not numbers"):
        found(BeamSearch(model, DICTIONARY, GenerationConfig(beam=4)), model)


# --- what CUDA graphs need


class Traced:
    """Stands for a CUDA graph: the operations of a step as they were, on the same tensors, with no Python between."""

    def __init__(self, step, state):
        tensors = [t for value in vars(state).values() for t in (value if isinstance(value, list) else [value])]
        kept = {t: t.clone() for t in tensors if isinstance(t, torch.Tensor)}
        self.replay = make_fx(lambda: step(state))()
        for tensor, before in kept.items():  # unlike capturing, tracing has done the step
            tensor.copy_(before)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_step_is_the_same_operations_at_every_position(beam, monkeypatch):
    model, (sample,) = model_of("mem_transformer", memory_tokens=M), samples(SOURCE, 24)
    search = BeamSearch(model, DICTIONARY, GenerationConfig(beam=beam, min_len=3, max_len_a=1, max_len_b=70))
    expected, graphs = search.generate([model], sample), []
    (lane,) = lanes(search.device)
    monkeypatch.setattr(lane, "captures", True)
    monkeypatch.setattr(lane, "capture", lambda *its: graphs.append(Traced(*its)) or graphs[-1])
    monkeypatch.setattr(lane, "last", None)
    replayed = search.generate([model], sample)
    assert 1 < len(graphs) < 10, "one of each shape"
    for ours, theirs in zip(replayed, expected, strict=True):
        assert [h["tokens"].tolist() for h in ours] == [h["tokens"].tolist() for h in theirs]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_batches_at_once_do_not_disturb_each_other(number, monkeypatch):
    """Of several lengths, so that they begin and end at different times; more of them than there are lanes."""
    monkeypatch.setattr(beam_search, "lanes", lambda device: [Lane(device) for _ in range(number)])
    model = model_of("mem_transformer", memory_tokens=M)
    search = BeamSearch(model, DICTIONARY, GenerationConfig(beam=4, max_len_a=1.0, max_len_b=10))
    batches = samples(sorted(SOURCE, key=len), 5)
    found = {}
    for sample, hypotheses in search.generate_all(iter(batches)):
        found |= dict(zip(sample["id"].tolist(), hypotheses, strict=True))
    assert len(found) == len(SOURCE)
    for sample in batches:
        for place, beams in zip(sample["id"].tolist(), search.generate([model], sample), strict=True):
            assert [h["tokens"].tolist() for h in found[place]] == [h["tokens"].tolist() for h in beams]


def test_who_wants_no_more_batches_leaves_the_search_as_it_was():
    model = model_of("mem_transformer", memory_tokens=M)
    search = BeamSearch(model, DICTIONARY, GenerationConfig(beam=4, **LONG))
    batches = samples(SOURCE, 6)
    first, _ = next(search.generate_all(batches))
    again = list(search.generate_all(batches))
    assert first is batches[0]
    assert [sample["id"].tolist() for sample, _ in again] == [sample["id"].tolist() for sample in batches]


@pytest.mark.gpu
@pytest.mark.parametrize("beam", [1, 4])
def test_on_a_gpu(beam):
    """CUDA graphs, room made for longer hypotheses, finished sentences dropped, two batches at once; all that twice."""
    model, source = model_of("mem_transformer", memory_tokens=M), sentences([2 + i % 20 for i in range(300)], seed=3)
    config = GenerationConfig(beam=beam, max_len_a=1.0, max_len_b=60)
    expected, _ = found(BeamSearch(model, DICTIONARY, config), model, 60, source)
    search = BeamSearch(model.cuda(), DICTIONARY, config)
    before = [lane.last for lane in lanes(search.device)]
    for _ in range(2):
        words = []
        for sample, beams in search.generate_all(map(utils.move_to_cuda, samples(source, 60))):
            words += zip(sample["id"].tolist(), ([h["tokens"].tolist() for h in b] for b in beams), strict=True)
        same = [ours[0] == theirs[0] for (_, ours), theirs in zip(sorted(words), expected, strict=True)]
        assert sum(same) >= 0.98 * len(same)
    assert all(lane.last is not last for lane, last in zip(lanes(search.device), before, strict=True))


# --- what is left to fairseq's


@pytest.mark.parametrize(
    "options",
    [
        {"adaptive_softmax_cutoff": [20, 40], "share_all_embeddings": False},
        {"no_cross_attention": True},
        {"cross_self_attention": True},
        {"quant_noise_pq": 0.5, "quant_noise_pq_block_size": 4},
    ],
    ids=str,
)
def test_models_that_are_left_to_fairseq(options):
    model = build("mem_transformer", memory_tokens=M, **options)
    assert isinstance(generator_of(model, Task(), GenerationConfig(beam=4)), SequenceGenerator)


@pytest.mark.parametrize(
    "options",
    [{"sampling": True}, {"no_repeat_ngram_size": 2}, {"unkpen": 1.0}, {"temperature": 2.0}, {"beam": 40}],
    ids=str,
)
def test_settings_that_are_left_to_fairseq(options):
    model = build("mem_transformer", memory_tokens=M)
    assert isinstance(generator_of(model, Task(), GenerationConfig(**options)), SequenceGenerator)
    assert isinstance(generator_of(model, Task(), GenerationConfig()), BeamSearch)


def test_a_prefix_is_refused():
    model, (sample,) = build("mem_transformer", memory_tokens=M), samples(SOURCE[:2], 2)
    search = BeamSearch(model, DICTIONARY, GenerationConfig())
    with pytest.raises(ValueError, match="no prefix"):
        search.generate([model], sample, prefix_tokens=torch.full((2, 1), 5))


@pytest.mark.parametrize(
    ("lesion", "reads"),
    [
        (lesion, reads)
        for lesion in (Lesion("first", "", (1, 3)), Lesion("zeroed", "", layer=1), Lesion("more", "", tokens=2 * M))
        for reads in ("all", "sequence", "memory")
    ]
    + [(Lesion("blind", "", blind_to="memory"), "all")],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_lesion_is_seen(lesion, reads):
    """Whichever search it takes: one that passed by what a lesion changes would say what the intact model says."""
    model = model_of("mem_transformer", memory_tokens=M, decoder_reads=reads)
    protocol = {"beam": 4, "lenpen": 1.0, "max_len_a": 1, "max_len_b": 8}
    intact = evaluation.decode(model, Task(), samples(SOURCE, 24), protocol)
    with lesioned(model, lesion):
        ours = evaluation.decode(model, Task(), samples(SOURCE, 24), protocol)
        theirs, _ = found(Task().build_generator([model], GenerationConfig(beam=4, max_len_a=1, max_len_b=8)), model)
    strings = [DICTIONARY.string(tokens, "sentencepiece") for tokens in map(torch.tensor, best(theirs))]
    assert [ours[i] for i in range(len(SOURCE))] == strings
    assert ours != intact
