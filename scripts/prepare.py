"""Prepare a corpus: `python -m scripts.prepare corpus=multi30k`. Run it again and it only shows what is there."""

from pathlib import Path

from omegaconf import DictConfig

from memtrans.configuration import command
from memtrans.corpora import prepare, show


@command
def main(config: DictConfig) -> None:
    show(prepare(config.corpus, Path(config.paths.data)))


if __name__ == "__main__":
    main()
