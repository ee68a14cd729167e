"""The lexicon's rows as values, read once at import."""

from dataclasses import dataclass

from memtrans.corpora.demo import lexicon

Words = tuple[str, str]  # German, English


@dataclass(frozen=True)
class Noun:
    german: str
    gender: str
    weak: bool
    german_plural: str
    english: str
    english_plural: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Adjective:
    german: str
    english: str
    quality: str
    uses: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Verb:
    """German forms without the particle; `after` stands behind the English object, `before` in front of it."""

    particle: str
    present: tuple[str, str, str]
    participle: str
    auxiliary: str
    base: str
    third: str
    past: str
    ing: str
    after: str
    before: str


@dataclass(frozen=True)
class Frame:
    verb: Verb
    key: str
    subject: str
    case: str
    receiver: bool
    kinds: tuple[str, ...]
    determiners: str
    places: str
    uses: str


def _rows(table: str) -> list[list[str]]:
    return [line.split() for line in table.strip().splitlines()]


def _groups(table: str) -> dict[str, list[Words]]:
    lines = (line.split("|") for line in table.strip().splitlines())
    return {name.strip(): [_words(pair, " = ") for pair in pairs.split(";")] for name, pairs in lines}


def _words(pair: str, sign: str = "=") -> Words:
    german, english = pair.strip().split(sign)
    return german, english


def _noun(german: str, gender: str, plural: str, english: str, english_plural: str, kinds: str) -> Noun:
    return Noun(
        german, gender.replace("w", "m"), gender == "w", plural, english, english_plural, tuple(kinds.split(","))
    )


def _adjective(german: str, english: str, quality: str, uses: str, kinds: str) -> Adjective:
    return Adjective(german, english, quality, uses, tuple(kinds.split(",")))


def _verb(line: str) -> tuple[str, Verb]:
    left, right = line.split("|")
    key, particle, ich, er, wir, participle, auxiliary = left.split()
    base, third, past, ing, *extra = right.split()
    word = extra[0] if extra else ""
    after, before = (word[1:], "") if word.startswith("+") else ("", word)
    particle = particle.strip("-")
    return key, Verb(particle, (ich, er, wir), particle + participle, auxiliary, base, third, past, ing, after, before)


def _frame(verb: str, subject: str, case: str, kinds: str, determiners: str, places: str, uses: str) -> Frame:
    receiver, _, things = kinds.rpartition(">")
    wanted = tuple(things.strip("-").split(","))
    return Frame(VERB[verb], verb, subject, case, bool(receiver), wanted, determiners, places, uses)


VERB = dict(_verb(line) for line in lexicon.VERBS.strip().splitlines())
FRAMES = [_frame(*row) for row in _rows(lexicon.FRAMES)]
ADJECTIVES = [_adjective(*row) for row in _rows(lexicon.ADJECTIVES)]
NOUNS = [_noun(*row) for row in _rows(lexicon.NOUNS)]
NOUNS_OF = {
    kind: [noun for noun in NOUNS if kind in noun.kinds] for kind in sorted({k for n in NOUNS for k in n.kinds})
}
PLACES, TIMES = _groups(lexicon.PLACES), _groups(lexicon.TIMES)
DAYS, MONTHS, NUMERALS, UNITS = (
    [_words(pair) for pair in table.split()]
    for table in (lexicon.DAYS, lexicon.MONTHS, lexicon.NUMERALS, lexicon.UNITS)
)
