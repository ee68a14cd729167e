"""Every config composes, every option in it is one of fairseq's, and what is mistyped is answered in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import memtrans_fairseq  # noqa: F401  (must come before fairseq)
from memtrans_fairseq.presets import PRESETS

import pytest
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf

from memtrans.configuration import CONFIGS, compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.runs import PRECISIONS, Run, plan_run, train_arguments
from memtrans.worker import check_options

REPOSITORY = Path(__file__).resolve().parent.parent


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIGS / group).glob("[!_]*.yaml"))


PREPARED = Prepared(
    path=Path("prepared"),
    manifest={
        "corpus": "toy",
        "fingerprint": "0" * 64,
        "source_lang": "de",
        "target_lang": "en",
        "splits": {"train": {}, "valid": {}, "test": {}},
    },
)
MODELS = [(variant, size) for variant in names("variant") for size in names("size")]


def planned(*overrides: str) -> Run:
    return plan_run(compose(["corpus=demo", *overrides]), PREPARED)


GROUPS = ("corpus", "size", "variant", "protocol", "sweep")


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in names(group)])
def test_every_file_composes_with_the_defaults(choice):
    group, _, name = choice.partition("=")
    config = compose([choice])
    assert config[group].name == name
    if config.corpus.name != "local":  # whose languages and files the user gives
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("variant", "size"), MODELS)
@pytest.mark.parametrize("protocol", names("protocol"))
def test_every_option_is_one_of_fairseq_and_arrives_unchanged(variant, size, protocol):
    run = planned(f"variant={variant}", f"size={size}", f"protocol={protocol}")
    arguments = train_arguments(run)
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)  # exits on an unknown one
    config = convert_namespace_to_omegaconf(args)
    for key, value in run.identity["model"].items():
        assert getattr(config.model, key) == value, key
    train = dict(run.identity["train"])
    precision = train.pop("precision")
    for key, value in train.items():
        assert arrived(getattr(args, key), value), key
    assert [args.fp16, args.bf16, args.amp] == [precision == name for name in ("fp16", "bf16", "amp")]
    assert (args.arch, args.seed, args.save_dir) == (run.identity["arch"], 1, str(run.checkpoints))
    assert (args.data, args.source_lang, args.target_lang) == ("prepared/bin", "de", "en")


def arrived(found: Any, value: Any) -> bool:
    """Whether fairseq has `value`: its lists hold one entry per epoch, and 0 is its "no limit"."""
    if value is None:
        return not found
    if isinstance(value, list):
        return OmegaConf.create(str(found)) == value
    return found == ([value] if isinstance(found, list) else value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_one_flag(precision):
    given = {"--fp16", "--bf16", "--amp"} & set(train_arguments(planned(f"train.precision={precision}")))
    assert given == ({f"--{precision}"} - {"--fp32"})


@pytest.mark.parametrize("size", names("size"))
def test_the_shape_of_a_size_is_the_plugin_s_preset(size):
    preset = PRESETS["iwslt_de_en" if size == "iwslt" else size]
    model = compose([f"size={size}", "variant=transformer"]).model
    assert {key: model[key] for key in preset} == preset


def test_every_preset_has_a_size():
    assert {name.removesuffix("_de_en") for name in PRESETS} == set(names("size"))


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+model.encoder_layrs=2", "model.encoder_layrs: .* did you mean encoder_layers"),
        ("+train.label_smooting=null", "train.label_smooting: .* did you mean label_smoothing"),
        ("+model.zzzzz=2", "model.zzzzz: fairseq has no such option for mem_transformer; see .*--help"),
    ],
)
def test_an_option_that_fairseq_does_not_know_is_refused_by_name(override, says):
    run = planned(override)
    with pytest.raises(UserError, match=says):
        check_options(run, train_arguments(run))


@pytest.mark.parametrize(
    "override", ["+model.layernorm_embedding=true", "+train.patience=3", "+model.max_source_positions=100"]
)
def test_a_further_option_of_fairseq_is_accepted(override):
    run = planned(override)
    check_options(run, train_arguments(run))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["train.lrr=1"], "train.lrr: no such setting; did you mean lr?"),
        (["sed=3"], "sed: no such setting; did you mean seed"),
        (["variant=mem_transfomer"], "variant=mem_transfomer: no such config; did you mean mem_transformer"),
        (["size=huge"], "size=huge: no such config; known: base, demo, iwslt, small"),
        (["train.lr=[1"], "no viable alternative at input '[1'"),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["corpus=local"], "corpus=local needs corpus.source_lang="),
        (
            ["corpus=local", "corpus.source_lang=de", "corpus.target_lang=en"]
            + [f"corpus.{split}=/nowhere/{split}" for split in ("train", "valid", "test")],
            "missing file: corpus.train=/nowhere/train",
        ),
    ],
)
def test_what_is_mistyped_is_answered_in_one_line(tmp_path, overrides, says):
    paths = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "results")]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.train", *overrides, *paths], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {says}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_composing_in_a_program_raises_the_same():
    with pytest.raises(UserError, match="did you mean lr?"):
        compose(["train.lrr=1"])
