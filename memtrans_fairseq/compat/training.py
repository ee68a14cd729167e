"""Cures of single steps of training."""

import atexit
import contextlib
import functools
import importlib
import inspect
import queue
import threading
import time
from typing import Any

from .hooks import replaced


@functools.cache
def no_encoder_fast_path() -> None:
    """Symptom: generation fails in `torch._transformer_encoder_layer_fwd`, "Mask Type should be defined".

    Since torch 2.1; also, layers in eval mode get nested, batch-first tensors. Scope: fairseq's transformer encoder
    layers never take that path. The zero parameters that only it reads (`in_proj_weight` ... `fc2_bias`) stay in the
    state dict, whose keys are stock fairseq's, but need no gradient: neither counted as trained nor optimised.
    """
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    original = TransformerEncoderLayerBase.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.can_use_fastpath = False
        for kind in ("in_proj", "out_proj", "fc1", "fc2"):
            getattr(self, f"{kind}_weight").requires_grad_(False)
            getattr(self, f"{kind}_bias").requires_grad_(False)

    TransformerEncoderLayerBase.__init__ = init


@functools.cache
def bf16_without_tpu() -> None:
    """Symptom: `--bf16` fails, "'NoneType' object has no attribute 'xla_device'", because it switches `--tpu` on.

    Since fairseq 0.10 (upstream issue 4696). Scope: fairseq's parsed options, where torch_xla is not installed.
    """
    from fairseq import options, utils

    original = options.parse_args_and_arch

    @functools.wraps(original)
    def parse_args_and_arch(*args: Any, **kwargs: Any) -> Any:
        parsed = original(*args, **kwargs)
        namespace = parsed[0] if isinstance(parsed, tuple) else parsed
        if getattr(namespace, "bf16", False):
            namespace.tpu = False
        return parsed

    if utils.xm is None:
        options.parse_args_and_arch = parse_args_and_arch


@functools.cache
def amp_unscales_once() -> None:
    """Symptom: with `--amp` the gradients are divided by the loss scale twice, so they sink towards Adam's epsilon.

    In fairseq 0.12.2 with any torch: gradients are unscaled for the inner optimiser before clipping, but the step is
    made with its wrapper, which the gradient scaler takes for another optimiser. Scope: fairseq's AMP optimiser.
    """
    from fairseq.optim.amp_optimizer import AMPOptimizer

    @functools.wraps(AMPOptimizer.step)
    def step(self: Any) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    AMPOptimizer.step = step


@functools.cache
def amp_scales_as_its_optimizer() -> None:
    """Symptom: with `--amp` an optimiser's own way to multiply all gradients is not used, only a slow one for each.

    In fairseq 0.12.2 with any torch: its AMP optimiser hands on everything else. Scope: fairseq's AMP optimiser.
    """
    from fairseq.optim.amp_optimizer import AMPOptimizer

    AMPOptimizer.multiply_grads = lambda self, c: self.fp32_optimizer.multiply_grads(c)


@functools.cache
def amp_waits_for_no_number() -> None:
    """Symptom: with `--amp` the GPU stands still for a sixth of the time, asked three times an update for a number.

    In fairseq 0.12.2 with any torch. Scope: fairseq's AMP optimiser around one of torch's fused ones, which leave out
    an update by themselves: see `optim.deferred_amp` for what is logged, and what becomes of gradients that overflow.
    """
    from fairseq import optim
    from fairseq.optim.amp_optimizer import AMPOptimizer

    def build_optimizer(cls: Any, cfg: Any, params: Any, **kwargs: Any) -> Any:
        fp32_optimizer = optim.build_optimizer(cfg.optimizer, params)
        if getattr(fp32_optimizer.optimizer, "_step_supports_amp_scaling", False) and params[0].is_cuda:
            from ..optim.deferred_amp import AMPOptimizer as cls
        return cls(cfg, params, fp32_optimizer, **kwargs)

    AMPOptimizer.build_optimizer = classmethod(build_optimizer)


@functools.cache
def no_numbers_that_nobody_reads() -> None:
    """Symptom: after every update the CPU waits for the GPU to round what is logged every `--log-interval` updates.

    In fairseq 0.12.2 with any torch: the trainer returns smoothed metrics of each update, of which its caller only asks
    whether there are any. Scope: what `Trainer.train_step` returns, now an empty dict; nothing that is logged.
    """
    from fairseq.logging.meters import MetersDict
    from fairseq.trainer import Trainer

    original = Trainer._reduce_and_log_stats

    @functools.wraps(original)
    def reduce_and_log_stats(self: Any, logging_outputs: Any, sample_size: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # a validation
            return original(self, logging_outputs, sample_size)
        with replaced(MetersDict, "get_smoothed_values", lambda _: lambda meters: {}):
            return original(self, logging_outputs, sample_size, grad_norm)

    Trainer._reduce_and_log_stats = reduce_and_log_stats


@functools.cache
def optimizers_leave_the_compiler_alone() -> None:
    """Symptom: a training's first optimiser takes a second, on a slow disk four: it imports torch's compiler.

    Since torch 2.1, to keep some of its methods out of compiled code. Scope: these methods of every optimiser in the
    process, so that whoever compiles a whole step compiles them too; nothing here does. (torch's own optimisers import
    it in `step` as well: see `optim.fused_adam`.)
    """
    from torch.optim import Optimizer

    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        setattr(Optimizer, name, inspect.unwrap(getattr(Optimizer, name)))


@functools.cache
def batches_end_with_their_command() -> None:
    """Symptom: a training that fails, or is asked to stop, ends with "terminate called without an active exception".

    It is killed by SIGABRT then, whatever its exit status was to say: fairseq 0.12.2 reads ahead in a daemon thread,
    and Python ends such a thread within torch's C++. Scope: these threads, at the end of the process. Each stops after
    the batch in hand, for which they are all given `patience` seconds.
    """
    from fairseq.data.iterators import BackgroundConsumer

    @atexit.register
    def stop(patience: float = 10.0) -> None:
        consumers = [thread for thread in threading.enumerate() if isinstance(thread, BackgroundConsumer)]
        for consumer in consumers:
            consumer._max_len = 0
        end = time.monotonic() + patience
        while any(consumer.is_alive() for consumer in consumers) and time.monotonic() < end:
            for consumer in consumers:
                with contextlib.suppress(queue.Empty):  # it waits for room in its queue
                    consumer._queue.get(timeout=0.01)


@functools.cache
def wandb_begins_once() -> None:
    """Symptom: with `--wandb-project` every epoch and every validation leaves an empty run folder of W&B.

    fairseq 0.12.2 calls `wandb.init` for each of them and relies on getting the same run. It does get it, but wandb
    (seen with 0.31) makes the folder of a new run first. Scope: fairseq's W&B progress bar, once a run has begun.
    It also imports wandb, which fairseq was kept from (`imports.wandb_waits_to_be_asked`).
    """
    from fairseq.logging import progress_bar

    original = progress_bar.WandBProgressBarWrapper.__init__

    @functools.wraps(original)
    def init(self: Any, wrapped_bar: Any, *args: Any, **kwargs: Any) -> None:
        if progress_bar.wandb is None:
            with contextlib.suppress(ImportError):
                progress_bar.wandb = importlib.import_module("wandb")
        if getattr(progress_bar.wandb, "run", None) is None:
            original(self, wrapped_bar, *args, **kwargs)
        else:
            self.wrapped_bar = wrapped_bar

    progress_bar.WandBProgressBarWrapper.__init__ = init
