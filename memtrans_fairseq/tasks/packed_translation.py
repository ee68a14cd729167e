"""fairseq's translation task, trained on batches without padding (see `packing`)."""

from typing import Any

from fairseq.benchmark.dummy_mt import DummyMTTask
from fairseq.data import LanguagePairDataset
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from ..criterions.packed_cross_entropy import PackedCrossEntropy
from ..packing.batches import PackedPairs
from ..packing.forward import check


@register_task("packed_translation", dataclass=TranslationConfig)
class PackedTranslationTask(TranslationTask):
    """Only training is packed, with the criterion for it: validation and generation get fairseq's own batches."""

    packs = False
    model: Any = None  # the one that was built last

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        self.model = super().build_model(cfg, from_checkpoint)
        return self.model

    def build_criterion(self, cfg: Any) -> Any:
        """Only a training builds one: after its model, before it loads its data. Raises SettingError."""
        criterion = super().build_criterion(cfg)
        self.packs = isinstance(criterion, PackedCrossEntropy)
        if self.packs and self.model is not None:
            check(self.model)
        return criterion

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        if self.packs and split == self.cfg.train_subset:
            self.datasets[split] = PackedPairs(self.datasets[split])


@register_task("packed_dummy_mt")
class PackedDummyMTTask(DummyMTTask):
    """fairseq's made-up sentence pairs, to see how fast a model trains: BATCHES full batches of one pair."""

    BATCHES = 64

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:
        number = self.BATCHES * self.args.max_tokens // max(len(self.dummy_src), len(self.dummy_tgt))
        sides = ([words] * number for words in (self.dummy_src, self.dummy_tgt))
        source, target = ((side, [len(side[0])] * number, self.dictionary) for side in sides)
        self.datasets[split] = PackedPairs(LanguagePairDataset(*source, *target))
