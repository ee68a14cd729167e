"""Prepare a corpus: `python -m scripts.prepare corpus=multi30k`. Run it again and it only shows what is there."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from memtrans.corpora import prepare, show
from memtrans.errors import main_guard

CONFIGS = str(Path(__file__).resolve().parent.parent / "configs")


@hydra.main(config_path=CONFIGS, config_name="config", version_base="1.3")
@main_guard
def main(config: DictConfig) -> None:
    show(prepare(config.corpus, Path(config.paths.data)))


if __name__ == "__main__":
    main()
