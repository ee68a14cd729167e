"""A small made-up German-English corpus, for demonstrations and tests that must not wait for a download.

A tiny Transformer learns it in a minute, yet word for word it cannot be translated. One German sentence always has
the same English one, so a perfect model scores 100 BLEU. What only the rest of the sentence tells, and where:

| construction | what makes it hard |
|---|---|
| statement, object_first | a particle, participle or infinitive at the end; tense by the time; case tells who did it |
| yes_no, wh_question, indirect | inversion against "do"; wer, wen and wem; the verb last after ob, wo, warum |
| reported | "sie" is she or they by the verb at the end |
| because, whenever, before | verb last in either clause, inversion after the first, pronouns for the subject |
| relative | the verb comes after all that hangs on it; the case of the relative pronoun |
| antecedent, where_is | er, sie and es are it, he, she, they, him, her or them by the noun before |
| likes, owned | subject and object trade places; the genitive turns round |
| described | adjective endings, agreement in gender and number |
| price, timetable, born, address, since | numbers, names and dates to copy and to move |
| command, purpose | the particle decides the verb (auf, zu, an, aus); um ... zu |

Ambiguous words (Bank, Schloss, Decke, Birne; groß, Frau, ihr) occur throughout, each with what settles it.
"""

from collections.abc import Callable, Iterator
from random import Random

from memtrans.corpora.demo import compound, simple
from memtrans.corpora.demo.words import Words
from memtrans.errors import UserError

MOST_PAIRS = 200_000  # beyond this, more than every fifth draw is a repeat and short sentences run out

# How often each is drawn, out of about a hundred.
CONSTRUCTIONS: dict[Callable[[Random], Words], int] = {
    simple.statement: 26,
    simple.object_first: 4,
    simple.yes_no: 8,
    simple.wh_question: 8,
    simple.likes: 4,
    simple.owned: 3,
    simple.described: 2,
    simple.price: 2,
    simple.timetable: 2,
    simple.born: 1,
    simple.address: 1,
    simple.since: 2,
    simple.command: 3,
    compound.indirect: 6,
    compound.reported: 8,
    compound.because: 7,
    compound.whenever: 4,
    compound.before: 2,
    compound.relative: 8,
    compound.antecedent: 5,
    compound.where_is: 3,
    compound.purpose: 3,
}


def generate(seed: int, sizes: dict[str, int]) -> dict[str, list[tuple[str, str]]]:
    """German-English sentence pairs for each split, e.g. `{"train": 20000, "valid": 500, "test": 500}`.

    No German sentence occurs twice, within a split or across splits. The same arguments give the same pairs,
    on every machine. Raises `UserError` for a negative size or more than `MOST_PAIRS` pairs in all.
    """
    total = sum(sizes.values())
    if min(sizes.values(), default=0) < 0 or total > MOST_PAIRS:
        wanted = f"expected 0 or more pairs a split, at most {MOST_PAIRS} in all; ask for fewer"
        raise UserError(f"demo corpus sizes {sizes}: {wanted}")
    rng = Random(seed)
    pairs: dict[str, str] = {}
    for german, english in _sentences(rng):
        if len(pairs) == total:
            break
        pairs.setdefault(german, english)
    drawn = list(pairs.items())
    rng.shuffle(drawn)  # else later splits would hold fewer of the short, frequent sentences
    remaining = iter(drawn)
    return {split: [next(remaining) for _ in range(size)] for split, size in sizes.items()}


def _sentences(rng: Random) -> Iterator[Words]:
    kinds, weights = list(CONSTRUCTIONS), list(CONSTRUCTIONS.values())
    while True:
        for construct in rng.choices(kinds, weights, k=1000):
            yield construct(rng)
