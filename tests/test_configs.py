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

from memtrans.configuration import CONFIGS, check_fit, compose
from memtrans.corpora import Prepared
from memtrans.errors import UserError
from memtrans.jobs import JOBS, task_of
from memtrans.runs import PRECISIONS, Run, plan_run, train_arguments
from memtrans.training import check_options

REPOSITORY = Path(__file__).resolve().parent.parent


def names(group: str, task: str | None = None) -> list[str]:
    """The choices of a config group, or those for a task."""
    return sorted(
        path.stem
        for path in (CONFIGS / group).glob("[!_]*.yaml")
        if task in (None, task_of(OmegaConf.load(path).get(group, {})))
    )


COMMON = {"corpus": "toy", "fingerprint": "0" * 64, "splits": {"train": {}, "valid": {}, "test": {}}}
MANIFESTS = {
    "translation": COMMON | {"source_lang": "de", "target_lang": "en"},
    "language_modeling": COMMON | {"task": "language_modeling"},
}
MODELS = [
    (task, variant, size, protocol)
    for task in JOBS
    for variant in names("variant", task)
    for size in names("size", task)
    for protocol in names("protocol", task)
]
LANGUAGE_MODEL = ("variant=transformer_xl", "size=lm_demo", "protocol=lm")


def planned(*overrides: str, task: str = "translation") -> Run:
    return plan_run(compose(["corpus=demo", *overrides]), Prepared(Path("prepared"), MANIFESTS[task]))


GROUPS = ("corpus", "size", "variant", "protocol", "sweep", "launcher")


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in names(group)])
def test_every_file_composes_with_the_defaults(choice):
    group, _, name = choice.partition("=")
    config = compose([choice])
    assert config[group].name == name
    if task_of(config[group]) == "language_modeling":
        fitting = [override for override in LANGUAGE_MODEL if not override.startswith(group)]
        config = compose([choice, *fitting])
    if config.corpus.kind != "local":  # whose languages and files the user gives
        OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("task", "variant", "size", "protocol"), MODELS)
def test_every_option_is_one_of_fairseq_and_arrives_unchanged(task, variant, size, protocol):
    run = planned(f"variant={variant}", f"size={size}", f"protocol={protocol}", task=task)
    arguments = train_arguments(run)
    args = options.parse_args_and_arch(options.get_training_parser(), arguments)  # exits on an unknown one
    config = convert_namespace_to_omegaconf(args)
    for key, value in run.identity["model"].items():
        assert getattr(config.model, key) == value, key
    train = dict(run.identity["train"])
    precision, packed = train.pop("precision"), train.pop("packed", False)
    if packed:
        train["criterion"] = f"packed_{train['criterion']}"
    for key, value in train.items():
        assert arrived(getattr(args, key), value), key
    assert [args.fp16, args.bf16, args.amp] == [precision == name for name in ("fp16", "bf16", "amp")]
    assert (args.arch, args.seed, args.save_dir) == (run.identity["arch"], 1, str(run.checkpoints))
    assert args.data == "prepared/bin"
    if task == "translation":
        name = "packed_translation" if packed else "translation"
        assert (args.task, args.source_lang, args.target_lang) == (name, "de", "en")
    else:
        assert args.task == "streaming_language_modeling"


def arrived(found: Any, value: Any) -> bool:
    """Whether fairseq has `value`: its lists hold one entry per epoch, and 0 is its "no limit"."""
    if value is None:
        return not found
    if isinstance(value, list):
        return OmegaConf.create(str(found)) == value
    if isinstance(found, str):  # fairseq leaves what may refer to another option (batch_size_valid) as text
        return found == str(value)
    return found == ([value] if isinstance(found, list) else value)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_precision_is_one_flag(precision):
    given = {"--fp16", "--bf16", "--amp"} & set(train_arguments(planned(f"train.precision={precision}")))
    assert given == ({f"--{precision}"} - {"--fp32"})


@pytest.mark.parametrize("size", names("size"))
def test_the_shape_of_a_size_is_the_plugin_s_preset(size):
    preset = PRESETS["iwslt_de_en" if size == "iwslt" else size]
    model = compose(
        [f"size={size}", "variant=transformer_xl" if size.startswith("lm_") else "variant=transformer"]
    ).model
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
        (["size=huge"], "size=huge: no such config; known: base, demo, iwslt, lm_base, lm_demo, lm_small, small"),
        (["size=lm_demo"], "corpus=demo is for translation, size=lm_demo is not; give size=base|demo|iwslt|small\n"),
        (["model=base"], "model=base: model holds several settings; give model.NAME=VALUE; did you mean size=base?"),
        (["train=5"], "train=5: train holds several settings; give train.NAME=VALUE\n"),
        (["train.lr=[1"], "train.lr=[1: not understood; expected NAME=VALUE, the value in quotes"),
        (["runs/0123"], "runs/0123: not understood; expected NAME=VALUE"),
        (["variant=_memory"], "variant: a config was chosen that is only a part of others; known: mem_bottleneck, "),
        (["train.lr=x"], "train.lr=x: expected a number, such as 0.005\n"),
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


# translation and language modelling


def test_what_is_for_another_task_than_the_corpus_is_refused_with_what_fits():
    task = "+corpus.task=language_modeling"
    check_fit(compose([*LANGUAGE_MODEL, task]))
    check_fit(compose())
    with pytest.raises(UserError) as error:
        check_fit(compose([task]))
    said = str(error.value)
    assert said.startswith("corpus=demo is for language modeling, variant=mem_transformer and size=demo and protocol=")
    assert "variant=mem_bottleneck_lm|mem_ctrl_lm|mem_ctrl_shared_lm|mem_transformer_lm|transformer_lm|transf" in said
    assert said.endswith("size=lm_base|lm_demo|lm_small; protocol=lm")
    assert "\n" not in said


@pytest.mark.parametrize("group", ["variant", "size"])
def test_each_file_says_its_own_task(group):
    """`check_fit` lists the choices by what their files say, without composing each."""
    for name in names(group):
        assert ("lm" in name or "xl" in name) == (task_of(compose([f"{group}={name}"])[group]) == "language_modeling")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.batch_size=0", "train.batch_size=0: expected a whole number of at least 1"),
        ("train.tokens_per_sample=null", "train.tokens_per_sample=None: expected a whole number"),
        ("protocol.rows=1.5", "protocol.rows=1.5: expected a whole number"),
        ("protocol.perplexity=segment", r"protocol.perplexity=segment: expected a list such as \[segment,xl_eval,sl"),
        ("protocol.perplexity=[]", "expected a list"),
        ("protocol.perplexity=[slidin]", "protocol.perplexity: no such way 'slidin'; did you mean sliding?"),
        ("protocol.sliding.stride=33", "the stride is longer than the window"),
        ("protocol.xl_eval.memory=-1", "protocol.xl_eval.memory=-1: expected a whole number"),
        ("launcher.gpus=11", "launcher.gpus=11: each needs a row, and train.batch_size"),
        ("protocol.extra_splits=[news]", "corpus toy has no split 'news'; it has train, valid, test"),
        ("protocol.split=valid", r"'valid' would be scored twice: add protocol.extra_splits=\[\]"),
        ("protocol.extra_splits=[valid,valid]", r"add protocol.extra_splits=\[valid\]"),
        ("protocol.perplexity=[segment,segment]", r"perplexity=\[segment,segment\]: each way once"),
    ],
)
def test_a_setting_of_a_language_model_that_cannot_work_is_refused(override, says):
    with pytest.raises(UserError, match=says) as error:
        planned(*LANGUAGE_MODEL, override, task="language_modeling")
    assert "\n" not in str(error.value)


def test_a_long_cache_alone_cannot_score_a_model_without_cache():
    asked = ("protocol.perplexity=[xl_eval]",)
    planned(*LANGUAGE_MODEL, *asked, task="language_modeling")
    with pytest.raises(UserError, match=r"perplexity=\[xl_eval\]: it lengthens a model's cache, and this one has none"):
        planned(*LANGUAGE_MODEL, *asked, "model.mem_len=0", task="language_modeling")
