"""How far each run is: `python -m scripts.status` for all in the folder `runs`, `... sweep=demo` for a table's rows.

A run is done, running (epoch, loss, speed, time left), waiting for the cluster, failed (the last line of its error),
stopped on the way, or new. Takes the overrides that `scripts.sweep` took; starts and changes nothing.
"""

from collections import Counter
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from memtrans.cluster.states import commands, distinct, queue_if_any, states
from memtrans.configuration import command
from memtrans.sweeping import runs_meant


@command
def main(config: DictConfig) -> None:
    top = Path(config.paths.runs)
    queue = queue_if_any(top)
    for line in commands(top, queue):
        print(line)
    found = states(runs_meant(config, HydraConfig.get().overrides.task), queue)
    names = distinct([state.run for state in found])
    widths = [max((len(text) for text in texts), default=0) for texts in (names, [state.job for state in found])]
    for name, state in zip(names, found, strict=True):
        columns = (name.ljust(widths[0]), state.word.ljust(7), state.job.ljust(widths[1]), state.text)
        print("  ".join(column for column in columns if column).rstrip())
    counts = Counter(state.word for state in found)
    print(", ".join([f"{len(found)} runs", *(f"{number} {word}" for word, number in counts.items())]))
    if not found and not top.is_dir():
        print(f"there is no folder {top} yet; where runs are elsewhere, name it: paths.runs=FOLDER")


if __name__ == "__main__":
    main()
