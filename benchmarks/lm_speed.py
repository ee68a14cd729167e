"""Speed of language models at the WikiText-103 setting: training through fairseq as the harness does it, evaluation,
and beside them the authors' code and fairseq's own transformer_lm.

    python benchmarks/lm_speed.py [--reference FOLDER] [--rows transformer xl ...] [--precision fp32 amp ...] [...]

Batches are 60 x 150 random words with the frequencies of a text; the models have 151 million parameters. Each
measurement is a process of its own, and the first quarter of its updates does not count. Evaluation is in float32
(in tf32 if that is asked for), without the harness' reading of checkpoints. Prints a Markdown table; --json keeps
the numbers. --cpu-toy does the same with tiny models, to see that everything works.
"""

import argparse
import gc
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lm_reference  # noqa: E402
import lm_setting  # noqa: E402
from lm_setting import EVALUATION_ROWS, ROWS, Setting  # noqa: E402

from memtrans.corpora import Prepared  # noqa: E402
from memtrans.errors import UserError, main_guard  # noqa: E402
from memtrans.files import write_json  # noqa: E402
from memtrans.runlog import last_error  # noqa: E402

RESULT = "lm_speed: result "
HEAD = "| model | code | precision | parameters | training tok/s | ms/update | evaluation tok/s |"
Step = Callable[[Any, Any], Any]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--precision", nargs="+", choices=["fp32", "tf32", "amp", "bf16", "fp16"], default=["fp32"])
    parser.add_argument("--updates", type=int, default=60, help="of each training, and segments of each evaluation")
    parser.add_argument(
        "--extra", type=shlex.split, default=[], help="further flags of fairseq's, not for its own model"
    )
    parser.add_argument("--reference", metavar="FOLDER", help="pytorch/ of LM-RMT, to be timed too")
    parser.add_argument(
        "--reference-precision", nargs="+", choices=["fp32", "tf32", "bf16"], default=["fp32", "tf32", "bf16"]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    parser.add_argument("--cpu-toy", action="store_true", help="tiny models on the CPU")
    options = parser.parse_args()
    if options.cpu_toy:
        options.reference_precision = ["fp32"]
    return options


@main_guard
def main() -> None:
    options = parse()
    setting = lm_setting.TOY if options.cpu_toy else lm_setting.WIKITEXT103
    if options.reference:
        lm_reference.load(options.reference)  # a wrong folder is noticed before the first measurement
    results = []
    with tempfile.TemporaryDirectory() as name:
        corpus = lm_setting.write_corpus(Path(name), setting, options.updates)
        print(f"{HEAD}\n|---|---|---|---:|---:|---:|---:|", flush=True)
        for task in tasks(options, setting, corpus):
            result = {key: task[key] for key in ("model", "code", "precision")} | measure(task, corpus.path)
            results.append(result)
            print(markdown(result, setting), flush=True)
            if options.json:
                about = {"setting": vars(setting), "updates": options.updates}
                write_json(options.json, about | {"results": results})
    if not options.reference:
        print("\nThe authors' code was not timed: give its folder with --reference.")
    if failed := sum("error" in result for result in results):
        raise UserError(f"{failed} of {len(results)} measurements failed")


def tasks(options: argparse.Namespace, setting: Setting, corpus: Prepared) -> list[dict[str, Any]]:
    """What to measure, in the order of the table."""
    found = []
    for name in options.rows:
        row, stock = ROWS[name], name == "stock"
        task = {"model": setting.fill(row.label), "setting": vars(setting), "updates": options.updates}
        task |= {"data": str(corpus.path / "bin"), "cpu": options.cpu_toy}
        for asked in options.precision:
            precision = "fp16" if stock and asked == "amp" else asked  # fairseq's adaptive input fails under autocast
            override = f"train.precision={'fp32' if precision == 'tf32' else precision}"
            arguments = lm_setting.our_arguments(row, setting, corpus, options.updates, override)
            arguments += [*([] if stock else options.extra), *(["--cpu"] if options.cpu_toy else [])]
            code = "fairseq" if stock else "ours"
            found.append(task | {"code": code, "precision": precision, "arguments": arguments})
        if options.reference and row.reference is not None:
            task |= {"code": "authors", "folder": str(Path(options.reference).resolve())}
            task |= {"options": lm_setting.reference_options(row, setting)}
            found += [task | {"precision": precision} for precision in options.reference_precision]
    return found


def measure(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run one measurement in a process of its own. Returns its numbers, or {"error": why there are none}."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    if task["precision"] == "tf32":
        environment["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"] = "1"
    if task["cpu"]:
        environment.setdefault("OMP_NUM_THREADS", "1")  # so little work is not worth dividing
    log, request = folder / "log.txt", folder / "task.json"
    write_json(request, task)
    with request.open() as given, log.open("w") as output:
        command = [sys.executable, __file__, "--child"]
        status = subprocess.run(
            command, stdin=given, stdout=output, stderr=output, env=environment, cwd=folder
        ).returncode
    if status:
        return {"error": last_error(log)}
    return read_result(log, RESULT)


def read_result(log: Path, mark: str) -> dict[str, Any]:
    """Numbers of one measurement, of which some are behind a mark in its log, or {"error": why there are none}."""
    said, _, result = log.read_text(errors="replace").rpartition(mark)
    found = read_training(said) | json.loads(result.splitlines()[0])
    return found if "training" in found else {"error": "it logged too few rates: let it make more --updates"}


def read_training(log: str) -> dict[str, Any]:
    """Rate and number of parameters from a log of fairseq's; nothing from another."""
    found = (line.partition(" | train_inner | ")[2] for line in log.splitlines())
    rates = [float(json.loads(text)["wps"]) for text in found if text.startswith("{")]
    counted = [rate for rate in rates[-(-len(rates) // 4) :] if rate]
    parameters = re.search(r"trained: ([\d,]+)", log)
    if not counted or not parameters:
        return {}
    return {"training": harmonic_mean(counted), "parameters": int(parameters[1].replace(",", ""))}


def markdown(result: dict[str, Any], setting: Setting) -> str:
    start = f"| {result['model']} | {result['code']} | {result['precision']} |"
    if "error" in result:
        return f"{start} failed: {result['error']} |"
    rate = result["training"]
    cells = [f"{result['parameters']:,}", f"{rate:,.0f}", f"{1000 * setting.rows * setting.length / rate:,.0f}"]
    cells.append(f"{result['evaluation']:,.0f}" if result["evaluation"] else "–")
    return f"{start} {' | '.join(cells)} |"


def child() -> None:
    """One measurement: the task comes on standard input, the result is the last line of the output."""
    task = json.load(sys.stdin)
    result = time_reference(task) if task["code"] == "authors" else time_ours(task)
    print(RESULT + json.dumps(result))


def time_ours(task: dict[str, Any]) -> dict[str, Any]:
    """Train, which tells its rate in its log; then evaluate, with a new model of the same kind."""
    import memtrans_fairseq.cli
    from memtrans_fairseq.streaming import token_losses

    import torch

    memtrans_fairseq.cli.main(["train", *task["arguments"]])
    gc.collect()  # the trained model's memory is for the next
    *_, model, _ = lm_setting.set_up(task["arguments"])
    model.eval().to("cpu" if task["cpu"] else "cuda")
    state = None

    @torch.no_grad()
    def evaluate(inputs: Any, targets: Any) -> None:
        nonlocal state
        _, state = token_losses(model, inputs, targets, state)

    return {"evaluation": clock(task, evaluate, "valid", EVALUATION_ROWS)}


def time_reference(task: dict[str, Any]) -> dict[str, Any]:
    import torch

    precision, options = task["precision"], task["options"]
    depth = options.pop("depth")
    model = lm_reference.build(lm_reference.load(task["folder"]), **options)
    lm_reference.initialise(model)
    model.crit.keep_order = False  # as its train.py has it
    model.to("cpu" if task["cpu"] else "cuda")
    training = lm_reference.Training(model, task["updates"], precision, depth)
    rate = clock(
        task, lambda *batch: training.update(*map(lm_reference.as_theirs, batch)), "train", task["setting"]["rows"]
    )
    model.eval()
    cache: Any = ()
    memory: Any = None

    @torch.no_grad()
    def evaluate(inputs: Any, targets: Any) -> None:
        nonlocal cache, memory
        inputs, targets = lm_reference.as_theirs(inputs), lm_reference.as_theirs(targets)
        _, cache, memory = lm_reference.segment(model, inputs, targets, cache, memory)

    evaluation = None if precision == "bf16" else clock(task, evaluate, "valid", EVALUATION_ROWS)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"training": rate, "evaluation": evaluation, "parameters": parameters}


def clock(task: dict[str, Any], step: Step, split: str, rows: int) -> float:
    """Tokens per second of `step` on the segments of a split; the first quarter does not count."""
    from memtrans_fairseq.streaming import StreamDataset, read_stream

    eos, pad = 2, 1  # of fairseq's dictionaries
    data = StreamDataset(read_stream(f"{task['data']}/{split}"), rows, task["setting"]["length"], eos, pad)
    samples = (data[i] for i in range(task["updates"]))
    device = "cpu" if task["cpu"] else "cuda"
    batches = [(sample["net_input"]["src_tokens"].to(device), sample["target"].to(device)) for sample in samples]
    start = 0.0
    for i, batch in enumerate(batches):
        if i == len(batches) // 4:
            start = now(device)
        step(*batch)
    return rows * task["setting"]["length"] * (len(batches) - len(batches) // 4) / (now(device) - start)


def now(device: str) -> float:
    """The time when the device has done its work."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    child() if sys.argv[1:] == ["--child"] else main()
