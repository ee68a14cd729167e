"""Settings of a wrong kind: what may stand where a number, a word or a list stands in configs/."""

import re
import shlex

import pytest
from places import REPOSITORY

from memtrans.configuration import check_values, compose
from memtrans.errors import UserError

DEMO = ["corpus=demo"]
TEXT = ["corpus=wikitext2", "size=lm_small", "variant=mem_transformer_lm", "protocol=lm"]


def check(choices: list[str], *overrides: str) -> None:
    check_values(compose([*choices, *overrides]), [*choices, *overrides])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.memory_tokens=abc", "model.memory_tokens=abc: expected a whole number, such as 10"),
        ("model.memory_tokens=2.5", "model.memory_tokens=2.5: expected a whole number"),
        ("model.memory_tokens=true", "model.memory_tokens=True: expected a whole number"),
        ("model.memory_tokens='7'", "model.memory_tokens=7: expected a whole number"),
        ("train.lr=x", "train.lr=x: expected a number, such as 0.005"),
        ("train.lr=[1,x]", r"train.lr=\[1, 'x'\]: expected a number"),
        ("tracking.tensorboard=null", "tracking.tensorboard=None: expected true or false"),
        ("train.adam_betas=0.9", r"train.adam_betas=0.9: expected a list, such as \[0.9,0.98\]"),
        ("train.adam_betas=[0.9,x]", "expected a list, such as"),
        ("tracking.tensorboard=maybe", "tracking.tensorboard=maybe: expected true or false"),
        ("tracking.tensorboard=1", "expected true or false"),
        ("corpus.vocabulary.size=abc", "corpus.vocabulary.size=abc: expected a whole number, such as 1000"),
        ("corpus.seed=null", "corpus.seed=None: expected a whole number"),
        ("corpus.sizes=3", "corpus.sizes=3: expected several settings: train, valid, test"),
        ("corpus.seed={a:1}", "corpus.seed={'a': 1}: expected a whole number"),
        ("corpus.extra_splits=x", "extra_splits=x: expected a list"),
        ("paths.runs=7", "paths.runs=7: expected text, such as runs"),
        ("paths.runs=null", "paths.runs=None: expected text"),
        ("+beam=4", r"\+beam: no such setting, nobody would read it"),
        ("+protocol.beams=4", r"\+protocol.beams: no such setting, nobody would read it; did you mean beam"),
        ("+paths.run=x", "did you mean runs"),
        ("+launcher.gpu=4", "did you mean gpus"),
        ("+corpus.sead=4", "did you mean seed"),
        *(
            (name, f"{name}: a setting cannot be deleted")
            for name in ("~seed", "~train.precision", "~tracking", "~paths")
        ),
    ],
)
def test_another_kind_is_refused(override, says):
    with pytest.raises(UserError, match=says) as error:
        check(DEMO, override)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.memory_tokens=3", "model.dropout=0", "train.lr=1", "train.weight_decay=1e-2"],
        ["train.lr=[1e-3,5e-4]", "protocol=paper", "protocol.sentences=null"],
        ["train.max_epoch=null", "train.max_update=7", "+train.patience=many"],
        ["protocol.sentences=5", "label=7", "tracking.wandb=offline", "paths.runs=a b"],
        ["train.adam_betas=[0,1]", "corpus.extra_splits=[newstest]", "train.criterion=cross_entropy"],
        ["launcher=slurm", "+launcher.additional.nice=10", "+model.layernorm_embedding=true"],
    ],
)
def test_the_same_kind_and_what_is_open_pass(overrides):
    check(DEMO, *overrides)


def test_null_is_no_count_and_no_option():
    check(TEXT, "corpus.splits.train.lines=null", "train.clip_norm=null", "model.adaptive_softmax_cutoff=20000")


def test_choices_that_do_not_go_together_are_for_others_to_refuse():
    check(["variant=mem_transformer_lm", "size=demo"], "train.lr=x")


@pytest.mark.parametrize("page", ["README.md", "CLUSTER.md", "CONTRIBUTING.md"])
def test_commands_of_the_documents_are_not_refused(page):
    text = (REPOSITORY / page).read_text().replace("\\\n", " ")
    commands = re.findall(r"scripts\.(?:train|sweep|status|cancel|prepare) ([^`#\n]*)", text)
    given = [shlex.split(command) for command in commands]
    assert given
    for overrides in given:  # placeholders are left out, and of a list for -m all but the first
        check([], *(o.partition(",")[0] for o in overrides if re.fullmatch(r"[\w.]+=[\w/][^\[\]]*", o)))
