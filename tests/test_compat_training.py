"""Each cure of a step of training, or of its end: the failure is there without it, and gone with it."""

import signal
from types import SimpleNamespace

import memtrans_fairseq  # noqa: F401  (must come before fairseq)

import pytest
import torch
from fairseq import options
from fairseq.logging import progress_bar
from fairseq.models.transformer import TransformerConfig, TransformerEncoderBase
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from places import python

# the encoder's fast path

DEAD = [f"{kind}_{part}" for kind in ("in_proj", "out_proj", "fc1", "fc2") for part in ("weight", "bias")]


def encoder(seed: int = 0) -> TransformerEncoderBase:
    cfg = TransformerConfig()
    cfg.encoder.embed_dim = cfg.encoder.ffn_embed_dim = 16
    cfg.encoder.layers, cfg.encoder.attention_heads, cfg.dropout = 2, 2, 0.0
    torch.manual_seed(seed)
    words = SimpleNamespace(pad=lambda: 1)
    return TransformerEncoderBase(cfg, words, torch.nn.Embedding(9, 16, padding_idx=1))


PADDED = torch.tensor([[4, 5, 6, 7, 2], [1, 1, 4, 5, 2]])  # on the left, as fairseq's translation task pads


def encoded(model: TransformerEncoderBase) -> torch.Tensor:
    with torch.no_grad():
        return model(PADDED, torch.tensor([5, 3]))["encoder_out"][0]


@pytest.fixture
def stock_layers(monkeypatch):
    """Encoder layers as fairseq makes them."""
    monkeypatch.setattr(TransformerEncoderLayerBase, "__init__", TransformerEncoderLayerBase.__init__.__wrapped__)


def test_a_loaded_encoder_fails_in_eval_mode_without_the_cure(stock_layers):
    model = encoder()
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="Mask Type should be defined"):
        encoded(model.eval())


def test_a_stock_checkpoint_loads_strictly_and_encodes_as_before(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(TransformerEncoderLayerBase, "__init__", TransformerEncoderLayerBase.__init__.__wrapped__)
        stock = encoder(seed=1)
    expected = encoded(stock.eval())  # nothing was loaded into it, so even stock layers take the ordinary path
    cured = encoder(seed=2)
    assert list(cured.state_dict()) == list(stock.state_dict())
    cured.load_state_dict(stock.state_dict(), strict=True)
    real = ~PADDED.eq(1).T
    torch.testing.assert_close(encoded(cured.eval())[real], expected[real])


def test_every_parameter_that_is_trained_gets_a_gradient():
    model = encoder()
    model(PADDED, torch.tensor([5, 3]))["encoder_out"][0].pow(2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        assert parameter.requires_grad == (name.rpartition(".")[2] not in DEAD), name


def test_stock_layers_train_parameters_without_gradient(stock_layers):
    model = encoder()
    model(PADDED, torch.tensor([5, 3]))["encoder_out"][0].pow(2).sum().backward()
    without = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert without == set(DEAD)


# precision


def test_bf16_does_not_ask_for_a_tpu(tmp_path):
    arguments = [str(tmp_path), "--arch", "transformer", "--bf16"]
    parser = options.get_training_parser()
    assert not options.parse_args_and_arch(parser, arguments).tpu
    stock = options.parse_args_and_arch.__wrapped__(options.get_training_parser(), arguments)
    assert stock.bf16
    assert stock.tpu


# W&B


def test_wandb_begins_once(monkeypatch):
    begun = []

    class Wandb:
        run = None

        def init(self, **_: object) -> None:
            begun.append(1)
            self.run = object()

    bar = progress_bar.WandBProgressBarWrapper
    monkeypatch.setattr(progress_bar, "wandb", Wandb())
    assert [next(iter(bar([number], "project"))) for number in range(3)] == [0, 1, 2]
    assert len(begun) == 1
    monkeypatch.setattr(bar, "__init__", bar.__init__.__wrapped__)
    bar([], "project")
    assert len(begun) == 2


# ends of commands


READING_AHEAD = """
import atexit, sys, memtrans_fairseq, torch
from fairseq.data.iterators import BufferedIterator

class Batches:
    def __len__(self):
        return 10**6

    def __iter__(self):
        while True:
            yield torch.randn(1000, 1000) @ torch.ones(1000, 1)

batches = BufferedIterator({room}, Batches())
next(batches)
{before}
sys.exit(75)
"""


def test_fairseq_s_reading_ahead_kills_a_command_that_ends():
    done = python("-c", READING_AHEAD.format(room=10**5, before="atexit._clear()"))
    assert done.returncode == -signal.SIGABRT
    assert "terminate called" in done.stderr


@pytest.mark.parametrize("room", [1, 10**5], ids=["waiting for room", "reading"])
def test_a_command_that_ends_while_batches_are_read_keeps_its_exit_status(room):
    done = python("-c", READING_AHEAD.format(room=room, before=""))
    assert (done.returncode, done.stderr) == (75, "")
