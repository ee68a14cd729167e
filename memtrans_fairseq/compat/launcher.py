"""What our launcher does for the whole process, and a library must not."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def no_cudnn_attention() -> None:
    """Symptom: attention on batches of ragged shapes takes 10 ms a call: cuDNN plans anew for every shape.

    Since torch 2.5, on CUDA. Scope: the whole process, hence for launchers only. Nothing changes without CUDA.
    """
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


KNOWN_WARNINGS = (
    r"Distributed is already initialized",
    r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated",
    r"Support for mismatched key_padding_mask and attn_mask is deprecated",
    r"amp_C fused kernels unavailable",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"hydra\.experimental\.\w+\(\) is no longer experimental",
    r"\s*The strict flag in the compose API is deprecated",
    r"\s*The version_base parameter is not specified",
    r'\s*version_base="1\.1" selects Hydra 1\.1 compatibility behavior',
    r"Future Hydra versions will no longer change working directory",
    r"In '.*': Usage of deprecated keyword in package header",
    r"\s*'config' is validated against ConfigStore schema with the same name",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Symptom: fairseq's old calls draw warnings that its user can do nothing about.

    Since torch 2.4 and hydra 1.1. Scope: these messages, while this context (one fairseq command) is open.
    """
    with warnings.catch_warnings():
        for message in KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield
