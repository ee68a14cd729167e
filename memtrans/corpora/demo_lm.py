"""A small made-up corpus of running text in which words said early decide words said much later.

A document is about ten facts, one of each kind: who its captain is, in which town he lives, what he drinks. They are
drawn independently, 1 of 16 each, said in its opening and again and again in its body, among chatter. The word before a
fact always tells its kind (`captain`, `in`, `sweet`). The fact itself is certain for a reader who remembers where it
was last said, and 1 of 16 for any other: nothing else in the text depends on it. So `perplexity` can tell what memory
is worth; for the splits of configs/corpus/demo_lm.yaml it stands in data/README.md.
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
}
CHATTER = {
    "DAY": "monday tuesday wednesday thursday friday saturday sunday",
    "PLACE": "river forest market bridge church garden mill road",
    "WEATHER": "rain snow wind fog sun",
    "PERSON": "king queen boy girl monk guard",
    "FEELING": "happy sad tired angry calm hungry",
}
OPENING = (
    "this is the story of captain HERO , an old TRADE .",
    "he lived in TOWN under a tall TREE .",
    "lady FRIEND had a pet ANIMAL and one INSTRUMENT .",
    "they liked some DISH , sweet DRINK and bright COLOUR hats .",
)
BODY = (
    "captain HERO met lady FRIEND .",
    "lady FRIEND fed the pet ANIMAL .",
    "the pet ANIMAL stole some DISH .",
    "some DISH fell into sweet DRINK .",
    "the old TRADE sold sweet DRINK .",
    "every old TRADE lived in TOWN .",
    "in TOWN stood a tall TREE .",
    "a tall TREE turned bright COLOUR .",
    "captain HERO wore bright COLOUR shoes .",
    "captain HERO played one INSTRUMENT .",
    "one INSTRUMENT was heard in TOWN .",
    "the pet ANIMAL climbed a tall TREE .",
    "lady FRIEND cooked some DISH .",
    "the old TRADE painted one INSTRUMENT bright COLOUR .",
    "the PERSON drank sweet DRINK .",
    "there was WEATHER on DAY .",
    "on DAY the PERSON was FEELING .",
    "a FEELING PERSON stood at the PLACE .",
    "the WEATHER made the PERSON FEELING .",
    "the PERSON went to the PLACE on DAY .",
    "the PERSON waited for WEATHER .",
    "nobody came to the PLACE .",
    "it was DAY and the PLACE was empty .",
)
CLOSING = ("so ends the story of captain HERO .", "")
LENGTHS = range(18, 27)  # lines of a body
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

    It is that of the generator's own probabilities, where a fact last said outside the window costs log 16. Of a window
    it is a lower bound: what is no fact (the end of a document, say) is taken to be guessed as well as with all words.
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
