"""A small made-up corpus of running text in which words said early decide words said much later.

A document is about twelve facts, one of each kind: who its captain is, in which town he lives, what he drinks. They are
drawn independently, 1 of 16 each, said once in its opening and again and again in its body, among chatter. A recalled
word is certain for a reader who remembers where it was last said, and 1 of 16 for any other: nothing else in the text
depends on it. So `perplexity` is exact, and tells what memory is worth (the splits of configs/corpus/demo_lm.yaml are
in data/README.md). The cue before a fact (`captain`, `in`, `sweet`) always tells its kind.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, log
from random import Random

from memtrans.errors import UserError

FACTS = {
    "HERO": "adam bruno carlo david emil fabio georg henry ivan jakob karl leon marco nico oscar paul",
    "FRIEND": "ada berta clara dora emma flora greta hanna ida julia kira lena maria nora olga rosa",
    "TRADE": "baker carpenter doctor farmer hunter judge lawyer miller painter pilot potter sailor singer smith tailor "
    "weaver",
    "TOWN": "athens basel cairo dublin essen geneva izmir krakow lisbon madrid naples oslo prague riga utrecht vienna",
    "ANIMAL": "camel cat cow dog donkey fox goat goose hare hen horse mule parrot pig rabbit raven",
    "INSTRUMENT": "banjo bell cello drum fiddle flute guitar harp horn lute oboe organ piano pipe tuba violin",
    "COLOUR": "amber azure black blue bronze brown crimson golden green grey ivory orange pink red white yellow",
    "DISH": "beans bread cabbage cake cheese fish ham honey jam noodles onions pears rice salad soup toast",
    "DRINK": "ale beer brandy cider cocoa coffee juice lemonade mead milk punch rum sherry tea water wine",
    "TREE": "alder ash beech birch cedar chestnut elm fir hazel larch linden maple oak pine poplar willow",
    "FLOWERS": "asters clover daisies dahlias heather irises lilac lilies orchids pansies poppies primroses roses "
    "thistles tulips violets",
    "GARMENT": "apron belt cap cape cloak coat dress gown hat hood jacket scarf shawl shirt skirt vest",
}
CHATTER = {
    "DAY": "monday tuesday wednesday thursday friday saturday sunday",
    "PLACE": "river forest market bridge church garden mill road",
    "WEATHER": "rain snow wind fog sun",
    "PERSON": "king queen boy girl monk guard",
    "FEELING": "happy sad tired angry calm hungry",
}
OPENING = (
    "this is the story of captain HERO , an old TRADE in TOWN .",
    "lady FRIEND and he had a pet ANIMAL , one INSTRUMENT and a bright COLOUR door .",
    "they grew fresh FLOWERS under a tall TREE .",
    "she wore a warm GARMENT and made some DISH with sweet DRINK .",
)
BODY = (
    "captain HERO rode the pet ANIMAL to the PLACE .",
    "lady FRIEND cooked some DISH for captain HERO .",
    "a tall TREE grew in TOWN .",
    "on DAY lady FRIEND sold fresh FLOWERS in TOWN .",
    "the old TRADE drank sweet DRINK with captain HERO .",
    "the pet ANIMAL slept under the tall TREE .",
    "lady FRIEND had one INSTRUMENT and a warm GARMENT .",
    "the PERSON painted the PLACE bright COLOUR .",
    "the warm GARMENT smelled of fresh FLOWERS .",
    "every old TRADE in TOWN liked one INSTRUMENT .",
    "the PERSON came for some DISH and sweet DRINK .",
    "a bright COLOUR bird sat on the tall TREE .",
    "the pet ANIMAL stole some DISH from the PERSON .",
    "the warm GARMENT was bright COLOUR again .",
    "captain HERO broke one INSTRUMENT at the PLACE .",
    "the old TRADE smelled of sweet DRINK and fresh FLOWERS .",
    "there was WEATHER over the PLACE on DAY .",
    "on DAY the PERSON was FEELING .",
    "a FEELING PERSON stood at the PLACE .",
    "the WEATHER made the PERSON FEELING .",
)
CLOSING = ("so ends the story of captain HERO , the old TRADE in TOWN .", "")
LENGTHS = range(12, 21)  # lines of a body
OPTIONS = {kind: tuple(words.split()) for kind, words in (FACTS | CHATTER).items()}


@dataclass(frozen=True)
class Document:
    """A document, and how likely it was."""

    lines: tuple[str, ...]
    nats: float  # minus the log-probability of the text: what it costs a reader who forgets nothing
    recalls: tuple[tuple[int, int], ...]  # of each recalled word: how many words before it was last said, of how many

    @property
    def words(self) -> int:
        """With one end-of-line a line."""
        return sum(len(line.split()) + 1 for line in self.lines)


def generate(seed: int, sizes: dict[str, int]) -> dict[str, list[Document]]:
    """So many documents for each split, e.g. `{"train": 520, "valid": 35, "test": 35}`; the same on every machine.

    Raises `UserError` for a split without documents.
    """
    if min(sizes.values(), default=0) < 1:
        raise UserError(f"demo corpus sizes {sizes}: expected 1 or more documents a split")
    rng = Random(seed)
    return {split: [_document(rng) for _ in range(size)] for split, size in sizes.items()}


def perplexity(documents: Iterable[Document], window: int | None = None) -> float:
    """The lowest perplexity per word that can be expected of a model which sees the last `window` words (None: all).

    Of a window it is a lower bound: all but the facts (the end of a document, say) is taken to be known as well as can
    be. It is that of the generator's own probabilities, where a fact last said outside the window costs log 16.
    """
    nats, words = 0.0, 0
    for document in documents:
        forgotten = (options for distance, options in document.recalls if window is not None and distance > window)
        nats += document.nats + sum(map(log, forgotten))
        words += document.words
    return exp(nats / words)


def recalled(documents: Iterable[Document], beyond: int = 0) -> float:
    """The share of words that repeat a fact of their document, last said more than `beyond` words before."""
    texts = list(documents)
    far = sum(distance > beyond for document in texts for distance, _ in document.recalls)
    return far / sum(document.words for document in texts)


def _document(rng: Random) -> Document:
    facts = {kind: rng.choice(OPTIONS[kind]) for kind in FACTS}
    body = [rng.choice(BODY) for _ in range(rng.choice(LENGTHS))]
    nats = log(len(LENGTHS)) + len(body) * log(len(BODY))
    lines, recalls, place = [], [], 0  # place: words so far
    said: dict[str, int] = {}  # where a fact was last said
    for pattern in (*OPENING, *body, *CLOSING):
        words = pattern.split()
        for i, kind in enumerate(words):
            if kind in said:
                recalls.append((place + i - said[kind], len(OPTIONS[kind])))
            elif kind in OPTIONS:
                nats += log(len(OPTIONS[kind]))
            if kind in FACTS:
                said[kind] = place + i
                words[i] = facts[kind]
            elif kind in CHATTER:
                words[i] = rng.choice(OPTIONS[kind])
        lines.append(" ".join(words))
        place += len(words) + 1
    return Document(tuple(lines), nats, tuple(recalls))
