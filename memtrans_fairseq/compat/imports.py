"""Cures without which fairseq cannot be imported, or speaks of what nobody asked."""

import dataclasses
import functools
import importlib
import importlib.metadata
import logging
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hashable_dataclasses() -> Iterator[None]:
    """Symptom: `import fairseq` fails, "mutable default <class '...CommonConfig'> for field common is not allowed".

    Since Python 3.11, which refuses a default whose class has no `__hash__` (upstream issues 5012, 5634).
    Scope: dataclasses of fairseq's own modules, while this context is open, are hashed by identity. The defaults stay
    instances (no `default_factory`), because fairseq's `hydra_init` reads `field.default`.
    """
    original = dataclasses.dataclass

    @functools.wraps(original)
    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> type:
            made: Any = original(cls, **options)
            if made.__hash__ is None and made.__module__.startswith("fairseq."):
                made.__hash__ = object.__hash__
            return made

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass  # type: ignore[assignment]
    try:
        yield
    finally:
        dataclasses.dataclass = original


@contextmanager
def no_tensorboardx_notice() -> Iterator[None]:
    """Symptom: every start logs "Please install tensorboardX", although fairseq prefers torch's own TensorBoard writer.

    Scope: the logger of fairseq's text-to-speech task, while this context is open.
    """
    logger = logging.getLogger("fairseq.tasks.text_to_speech")
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(logging.NOTSET)


@contextmanager
def wandb_waits_to_be_asked() -> Iterator[None]:
    """Symptom: every start takes most of a second longer where wandb is installed, though nobody logs to it.

    Scope: fairseq does not see wandb while this context is open. Its progress bar for W&B imports it when it is made:
    `training.wandb_begins_once`.
    """
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    try:
        yield
    finally:
        del sys.modules["wandb"]


@functools.cache
def numpy_names() -> None:
    """Symptom: "module 'numpy' has no attribute ...": `compat` (language models), `int` (span masking), `float` (CRF).

    Since numpy 1.24, `compat` since 2.0. Scope: the four modules of fairseq that use these names see a copy of numpy's
    namespace with them.
    """
    import numpy

    old_names = {"int": int, "float": float, "compat": types.SimpleNamespace(long=int)}
    namespace = types.ModuleType("numpy")
    vars(namespace).update(vars(numpy) | old_names)
    users = ("data.data_utils", "data.language_pair_dataset", "data.token_block_dataset", "modules.dynamic_crf_layer")
    for user in users:
        importlib.import_module(f"fairseq.{user}").np = namespace  # type: ignore[attr-defined]


@functools.cache
def own_hydra_version() -> None:
    """Symptom: fairseq's options fail, "hydra.experimental.initialize() is no longer experimental".

    In a process that has composed a config with Hydra's `version_base` at 1.2 or later, which Hydra keeps globally.
    Scope: fairseq's conversion of its options asks for version 1.1, under which it was written.
    """
    import hydra
    from fairseq.dataclass import utils

    utils.initialize = functools.partial(hydra.initialize, version_base="1.1")
    utils.compose = hydra.compose
