"""A run's worker in a job with GPUs. If they are not seen it fails, where it would train on the CPU, for weeks.

MEMTRANS_WITHOUT_GPU, set to anything where jobs are submitted, lets it: tests have no GPU.
"""

import os
import socket

from memtrans import worker
from memtrans.errors import UserError, main_guard


@main_guard
def check() -> None:
    import torch

    if not torch.cuda.is_available() and not os.environ.get("MEMTRANS_WITHOUT_GPU"):
        raise UserError(
            f"torch {torch.__version__} sees no GPU on {socket.gethostname()}, though the job has one: look at "
            "`nvidia-smi` there, its driver and torch's CUDA, launcher.setup and, if it is a container, its --nv"
        )


if __name__ == "__main__":
    check()
    worker.main()
