"""fairseq's translation task, trained on batches without padding (see `packing`)."""

from typing import Any

from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from ..packing.batches import PackedPairs


@register_task("packed_translation", dataclass=TranslationConfig)
class PackedTranslationTask(TranslationTask):
    """Only training is packed: validation and generation get fairseq's own batches."""

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        if split == self.cfg.train_subset:
            self.datasets[split] = PackedPairs(self.datasets[split])
