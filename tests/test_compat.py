"""Each cure of fairseq: the failure is there without it, gone with it, and nothing outside fairseq has changed."""

import dataclasses
import os
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import memtrans_fairseq
from memtrans_fairseq import compat

import hydra.experimental
import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.data import data_utils, token_block_dataset
from fairseq.dataclass import utils as dataclass_utils
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.distributed import utils as distributed_utils
from fairseq.logging import meters
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from fairseq.optim.amp_optimizer import AMPOptimizer
from places import python

# importing fairseq


def test_fairseq_alone_does_not_import():
    done = python("-c", "import fairseq")
    assert done.returncode != 0
    assert "mutable default" in done.stderr


def test_the_plugin_makes_fairseq_import_silently_and_leaves_the_rest_alone():
    done = python(
        "-c",
        "import dataclasses, warnings, logging\n"
        "dataclass, filters = dataclasses.dataclass, list(warnings.filters)\n"
        "import memtrans_fairseq, fairseq.trainer, numpy, torch\n"
        "assert dataclasses.dataclass is dataclass\n"
        "assert not {'int', 'float', 'compat'} & set(vars(numpy))\n"
        "assert not set(memtrans_fairseq.compat.checkpoint_types()) & set(torch.serialization.get_safe_globals())\n"
        "assert not [f for f in warnings.filters if f[1] and 'key_padding_mask' in f[1].pattern]\n"
        "assert logging.getLogger('fairseq.tasks.text_to_speech').level == logging.NOTSET\n"
        "from fairseq.models import ARCH_MODEL_REGISTRY as known\n"
        "assert {'mem_transformer', 'transformer'} <= set(known)\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("cured", [True, False])
def test_wandb_is_imported_by_who_logs_to_it_alone(cured):
    done = python(
        "-c",
        "import contextlib, sys\n"
        "sys.argv = ['memtrans-fairseq', '--help']\n"  # imports nothing of fairseq yet
        "from memtrans_fairseq import compat\n"
        f"if not {cured}: compat.wandb_waits_to_be_asked = contextlib.nullcontext\n"
        "compat.apply()\n"
        "print('wandb' in sys.modules)\n"
        "import wandb\n"  # nothing keeps others from it
        "print(wandb.__name__)\n",
    )
    assert done.stdout.split() == [str(not cured), "wandb"], done.stderr


def test_only_dataclasses_of_fairseq_become_hashable():
    def default_of(module: str) -> type:
        plain = dataclasses.dataclass(type("Plain", (), {"__module__": module}))
        return dataclasses.dataclass(type("Holder", (), {"held": plain(), "__annotations__": {"held": plain}}))

    with compat.hashable_dataclasses():
        assert default_of("fairseq.somewhere")().held is not None
        for elsewhere in ("hydra.somewhere", "fairseq2.somewhere", __name__):
            with pytest.raises(ValueError, match="mutable default"):
                default_of(elsewhere)
    with pytest.raises(ValueError, match="mutable default"):
        default_of("fairseq.somewhere")


@pytest.mark.parametrize(("found", "says"), [(None, "is not installed"), ("0.10.0", "fairseq 0.10.0 is installed")])
def test_a_missing_or_other_fairseq_is_named_with_the_remedy(monkeypatch, found, says):
    def version(name):
        if found is None:
            raise compat.importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(compat.importlib.metadata, "version", version)
    with pytest.raises(ImportError, match=says) as failure:
        compat.apply()
    assert "pip install --no-deps fairseq==0.12.2" in str(failure.value)
    assert "\n" not in str(failure.value)


def test_applying_the_cures_again_changes_nothing():
    def patched():
        loader, layer = checkpoint_utils.load_checkpoint_to_cpu, TransformerEncoderLayerBase.__init__
        return loader, layer, options.parse_args_and_arch, distributed_utils.distributed_main, AMPOptimizer.step

    before = patched()
    compat.apply()
    assert patched() == before


def test_as_user_dir_the_plugin_registers_nothing_twice():
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.utils import import_user_module

    before = dict(ARCH_MODEL_REGISTRY)
    import_user_module(Namespace(user_dir=str(Path(memtrans_fairseq.__file__).parent)))
    assert dict(ARCH_MODEL_REGISTRY) == before


# numpy


def masks_of_spans():
    return data_utils.compute_mask_indices((2, 60), None, 0.3, 5, no_overlap=True, min_masks=1)


def sentences():
    tokens = [torch.tensor([4, 5, 2]), torch.tensor([6, 2])]
    return token_block_dataset.TokenBlockDataset(tokens, [3, 2], None, pad=1, eos=2, break_mode="eos")


@pytest.mark.parametrize(
    ("module", "use", "missing"), [(data_utils, masks_of_spans, "int"), (token_block_dataset, sentences, "compat")]
)
def test_old_names_of_numpy_are_known_within_fairseq(monkeypatch, module, use, missing):
    assert len(use()) == 2
    monkeypatch.setattr(module, "np", np)
    with pytest.raises(AttributeError, match=f"'{missing}'"):
        use()


# checkpoints


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def old_checkpoint(tmp_path: Path) -> Path:
    """What fairseq 0.9 wrote: all options in `args`, meters as objects; and numpy values, as logged by a task."""
    meters.AverageMeter.__module__, home = "fairseq.meters", meters.AverageMeter.__module__
    try:
        state = {
            "args": Namespace(arch="transformer", task="translation", criterion="cross_entropy", data="d", seed=1),
            "model": OrderedDict(weight=torch.ones(2)),
            "optimizer_history": [{"criterion_name": "C", "optimizer_name": "O", "lr_scheduler_state": {"best": None}}],
            "extra_state": {
                "train_meters": OrderedDict(train_loss=meters.AverageMeter()),
                "train_iterator": {"epoch": 1},
                "val_loss": np.float64(2.5),
                "counts": np.array([1, 2]),
            },
            "last_optimizer_state": None,
        }
        torch.save(state, tmp_path / "old.pt")
    finally:
        meters.AverageMeter.__module__ = home
    return tmp_path / "old.pt"


def test_an_old_checkpoint_loads_within_fairseq_only(old_checkpoint):
    state = checkpoint_utils.load_checkpoint_to_cpu(str(old_checkpoint), {"data": "elsewhere"})
    assert state["cfg"]["task"]["data"] == "elsewhere"
    assert state["extra_state"]["val_loss"] == 2.5
    assert state["extra_state"]["counts"].tolist() == [1, 2]
    assert isinstance(state["extra_state"]["train_meters"]["train_loss"], meters.AverageMeter)

    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(old_checkpoint)
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint_utils.load_checkpoint_to_cpu.__wrapped__(str(old_checkpoint))


def test_numpy_1_named_the_module_of_its_arrays_differently(tmp_path):
    torch.save({"counts": np.array([1, 2]), "score": np.float64(2.5)}, tmp_path / "numpy2.pt")
    with zipfile.ZipFile(tmp_path / "numpy2.pt") as new, zipfile.ZipFile(tmp_path / "numpy1.pt", "w") as old:
        for entry in new.namelist():
            old.writestr(entry, new.read(entry).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    with pytest.raises(Exception, match="GLOBAL numpy.core.multiarray"):
        torch.load(tmp_path / "numpy1.pt")
    with torch.serialization.safe_globals(list(compat.checkpoint_types())):
        state = torch.load(tmp_path / "numpy1.pt")
    assert (state["counts"].tolist(), state["score"]) == ([1, 2], 2.5)


@pytest.mark.parametrize("load", ["load_checkpoint_to_cpu", "load_ema_from_checkpoint"])
def test_a_checkpoint_that_would_run_code_is_refused_in_one_line(tmp_path, load):
    path, folder = tmp_path / "evil.pt", tmp_path / "made-by-the-pickle"
    torch.save({"args": Namespace(), "model": Evil(folder)}, path)
    with pytest.raises(compat.UnsafeCheckpoint) as refusal:
        getattr(checkpoint_utils, load)(str(path))
    message = str(refusal.value)
    assert str(path) in message
    assert "mkdir" in message
    assert "\n" not in message
    assert not folder.exists()
    torch.load(path, weights_only=False)
    assert folder.exists(), "the pickle does run code where nothing stops it"


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path):
    (tmp_path / "text.pt").write_text("not a checkpoint\n")
    with pytest.raises(compat.UnsafeCheckpoint, match="text.pt is refused: it is damaged") as refusal:
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "text.pt"))
    assert "\n" not in str(refusal.value)


# warnings and the process's switches


def test_known_warnings_are_silent_within_one_command_only():
    known = "Support for mismatched key_padding_mask and attn_mask is deprecated. Use same type for both instead."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with compat.quiet():
            warnings.warn(known, stacklevel=1)
            warnings.warn("something else", stacklevel=1)
        warnings.warn(known, stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["something else", known]


def test_cudnn_attention_is_switched_off_by_the_launcher_not_by_the_import():
    done = python(
        "-c",
        "import memtrans_fairseq, torch; from memtrans_fairseq import compat\n"
        "on = torch.backends.cuda.cudnn_sdp_enabled\n"
        "print(on()); compat.no_cudnn_attention(); print(on())",
    )
    assert done.stdout.split() == ["True", "False"]


# several processes

BROADCAST = """
import sys
import memtrans_fairseq, torch, torch.distributed, torch.multiprocessing
from argparse import Namespace
from fairseq.distributed import utils

class Anything:
    word = "kept"

def rank(number, how, meeting):
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=2)
    if how == "stock":
        utils._broadcast_object_slow = utils._broadcast_object_slow.__wrapped__
    sent = {"tensor": torch.arange(3), "options": Namespace(lr=1), "anything": Anything()}
    try:
        got = utils.broadcast_object(sent if number == 0 else None, 0, torch.distributed.group.WORLD)
        assert got["tensor"].tolist() == [0, 1, 2] and got["options"].lr == 1 and got["anything"].word == "kept"
    except Exception as error:  # before the other rank, which loses this one, can fail first
        print(error, file=sys.stderr, flush=True)
        raise
    finally:  # else its threads may abort a process that ends: see compat.ranks
        torch.distributed.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.spawn(rank, args=sys.argv[1:], nprocs=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "fails"), [("cured", False), ("stock", True)])
def test_ranks_of_one_job_broadcast_any_object(tmp_path, how, fails):
    program = tmp_path / "broadcast.py"
    program.write_text(BROADCAST)
    done = python(str(program), how, str(tmp_path / "meeting"))
    assert (done.returncode != 0) == fails, done.stderr
    assert ("Weights only load failed" in done.stderr) == fails


# Hydra


def test_options_are_converted_after_a_config_was_composed_with_a_later_version_base(monkeypatch, tmp_path):
    (tmp_path / "any.yaml").write_text("a: 1\n")
    arguments = ["data", "--arch", "mem_transformer", "--encoder-layers", "3"]
    args = options.parse_args_and_arch(options.get_training_parser("translation"), arguments)

    def layers() -> int:
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
            hydra.compose("any")
        return convert_namespace_to_omegaconf(args).model.encoder_layers

    assert layers() == 3
    monkeypatch.setattr(dataclass_utils, "initialize", hydra.experimental.initialize)
    with pytest.raises(ImportError, match="no longer experimental"):
        layers()
