"""Agreement and word order: phrases and clauses that are said in German and in English.

A `Phrase` knows its cases, a `Clause` who does what, when and where. The functions at the end lay a clause out.
German puts the finite verb second (`main`), first (`ask`) or last (`last`); participles, infinitives and separated
particles wait at the end. English keeps subject, verb, object, and needs "do" for questions and for "not".
"""

from dataclasses import dataclass

from memtrans.corpora.demo.lexicon import AUXILIARIES, PRONOUNS
from memtrans.corpora.demo.words import NUMERALS, Adjective, Noun, Verb, Words

CASES = ("nom", "acc", "dat", "gen")
THE = {"m": "der den dem des", "f": "die die der der", "n": "das das dem des", "p": "die die den der"}
EIN = {"m": "- en em es", "f": "e e er er", "n": "- - em es", "p": "e e en er"}
EIN_WORDS = {"a": "ein", "no": "kein"} | {row.split()[8]: row.split()[7] for row in PRONOUNS.strip().splitlines()}
AFTER_THE = {"m": "e en en en", "f": "e e en en", "n": "e e en en", "p": "en en en en"}
AFTER_EIN = {"m": "er en en en", "f": "e e en en", "n": "es es en en", "p": "en en en en"}
BARE_PLURAL = "e e en er"
COUNT = {english: german for german, english in NUMERALS}

PRESENT = {"1s": 0, "3s": 1, "1p": 2, "3p": 2}
PERSON = {"1s": 0, "2s": 1, "3s": 2, "1p": 3, "3p": 3}
BE = {"1s": "am", "3s": "is"}


@dataclass(frozen=True)
class Phrase:
    """A noun phrase, a name or a pronoun. `pronoun` is the key of the pronoun that may stand for it, if any."""

    german: tuple[str, ...]  # by case, in the order of CASES
    english: tuple[str, str]  # as subject, as object
    agreement: str
    pronoun: str = ""
    kinds: tuple[str, ...] = ()
    is_pronoun: bool = False
    is_negative: bool = False

    def case(self, name: str) -> str:
        return self.german[CASES.index(name)]

    @property
    def is_human(self) -> bool:
        return not {"person", "kin", "human"}.isdisjoint(self.kinds)

    @property
    def possessive(self) -> str:
        """The English possessive of its pronoun: also the key of the German one."""
        return POSSESSIVE[self.pronoun]


def _pronoun(key: str, nom: str, acc: str, dat: str, subject: str, thing: str, agreement: str, *_: str) -> Phrase:
    return Phrase((nom, acc, dat), (subject, thing), agreement, key, is_pronoun=True)


_PRONOUN_ROWS = [row.split() for row in PRONOUNS.strip().splitlines()]
PRONOUN = {row[0]: _pronoun(*row) for row in _PRONOUN_ROWS}
POSSESSIVE = {row[0]: row[8] for row in _PRONOUN_ROWS}


def name(word: str, woman: bool) -> Phrase:
    return Phrase((word, word, word, word + "s"), (word, word), "3s", "she" if woman else "he", ("human",))


def titled(family: str, woman: bool) -> Phrase:
    """Frau Weber, or Herr Weber, who alone has cases."""
    if woman:
        return Phrase((f"Frau {family}",) * 3, (f"Mrs {family}",) * 2, "3s", "she", ("human",))
    cases = (f"Herr {family}", f"Herrn {family}", f"Herrn {family}")
    return Phrase(cases, (f"Mr {family}",) * 2, "3s", "he", ("human",))


def both(one: Phrase, other: Phrase) -> Phrase:
    german = tuple(f"{a} und {b}" for a, b in zip(one.german[:3], other.german[:3], strict=True))
    return Phrase(german, (f"{one.english[0]} and {other.english[0]}",) * 2, "3p", "they", ("human",))


def noun_phrase(noun: Noun, determiner: str, adjective: Adjective | None = None, plural: bool = False) -> Phrase:
    """`determiner` is English: "the", "a", "no", a possessive, a numeral, or "" for none."""
    gender = "p" if plural else noun.gender
    articles, endings = _declension(determiner, gender)
    german = []
    for case, article, ending in zip(CASES, articles, endings, strict=True):
        words = [article, adjective.german + ending if adjective else "", _noun_form(noun, case, plural)]
        german.append(" ".join(filter(None, words)))
    thing = noun.english_plural if plural else noun.english
    rest = f"{adjective.english} {thing}" if adjective else thing
    english = " ".join(filter(None, [_english_determiner(determiner, rest, plural), rest]))
    agreement = "3p" if plural else "3s"
    negative = determiner == "no"
    return Phrase(tuple(german), (english, english), agreement, _stands_for(noun, gender), noun.kinds, False, negative)


def _declension(determiner: str, gender: str) -> tuple[list[str], list[str]]:
    if determiner == "the":
        return THE[gender].split(), AFTER_THE[gender].split()
    if determiner in EIN_WORDS:
        return [EIN_WORDS[determiner] + end.strip("-") for end in EIN[gender].split()], AFTER_EIN[gender].split()
    return [COUNT.get(determiner, "")] * 4, BARE_PLURAL.split()


def _noun_form(noun: Noun, case: str, plural: bool) -> str:
    if plural:
        form = noun.german_plural
        return form + "n" if case == "dat" and form[-1] not in "ns" else form
    if noun.weak and case != "nom":
        return noun.german_plural
    if case == "gen" and noun.gender != "f":
        one_syllable = sum(letter in "aeiouäöü" for letter in noun.german.lower()) == 1
        return noun.german + ("es" if one_syllable else "s")
    return noun.german


def _english_determiner(determiner: str, rest: str, plural: bool) -> str:
    if determiner == "no":  # the clause says "not"
        determiner = "any" if plural else "a"
    return "an" if determiner == "a" and rest[0] in "aeio" else determiner


def _stands_for(noun: Noun, gender: str) -> str:
    if gender == "p":
        return "they"
    if "person" in noun.kinds or "kin" in noun.kinds:
        return {"m": "he", "f": "she", "n": ""}[gender]
    return f"it-{gender}"


@dataclass(frozen=True)
class Clause:
    """Tenses: habit, going, future (said in the present), will, past, state, can, must, want, should."""

    subject: Phrase
    verb: Verb
    tense: str
    thing: Phrase | None = None  # the direct object
    receiver: Phrase | None = None  # the dative object
    time: Words | None = None
    adverb: Words | None = None  # oft, immer, nie: English puts them beside the verb
    place: Words | None = None
    manner: Words | None = None
    goal: Words | None = None
    negated: bool = False


def german_verbs(clause: Clause) -> tuple[str, str]:
    """The finite verb, and what waits at the end of a main clause."""
    verb, person = clause.verb, clause.subject.agreement
    if clause.tense == "past":
        return _auxiliary(verb.auxiliary, person), verb.participle
    if clause.tense in AUXILIARIES:
        return _auxiliary(clause.tense, person), verb.particle + verb.present[2]
    return verb.present[PRESENT[person]], verb.particle


def _auxiliary(word: str, person: str) -> str:
    return AUXILIARIES[word].split()[PERSON[person]]


def be(phrase: Phrase) -> Words:
    return ("sind", "are") if phrase.agreement[1] == "p" else ("ist", "is")


def sentence(german: str, english: str, mark: str = ".") -> Words:
    return german[0].upper() + german[1:] + mark, english[0].upper() + english[1:] + mark


def _join(*parts: str) -> str:
    return " ".join(filter(None, parts))


def german_middle(clause: Clause) -> str:
    """What stands between the verbs: light before heavy, then "nicht", then manner and goal."""
    things = [(clause.receiver, "dat"), (clause.thing, "acc")]
    light = [phrase.case(case) for phrase, case in things[::-1] if phrase and phrase.is_pronoun]
    heavy = [phrase.case(case) for phrase, case in things if phrase and not phrase.is_pronoun]
    no = clause.negated and not (clause.thing and clause.thing.is_negative)
    place = [clause.place[0]] if clause.place else []
    if clause.thing and clause.thing.is_human:
        heavy, place = heavy + place, []
    early = [spot[0] for spot in (clause.time, clause.adverb) if spot] + place
    late = [spot[0] for spot in (clause.manner, clause.goal) if spot]
    return _join(*light, *early, *heavy, "nicht" if no else "", *late)


def german_main(clause: Clause, front: str = "") -> str:
    """Verb second. `front`, if given, comes first and the subject after the verb."""
    finite, end = german_verbs(clause)
    subject = clause.subject.case("nom")
    return _join(*((front, finite, subject) if front else (subject, finite)), german_middle(clause), end)


def german_ask(clause: Clause, word: str = "") -> str:
    finite, end = german_verbs(clause)
    return _join(word, finite, clause.subject.case("nom"), german_middle(clause), end)


def german_last(clause: Clause, word: str) -> str:
    """Verb last, after a conjunction, a question word or a relative pronoun; the particle rejoins its verb."""
    finite, end = german_verbs(clause)
    verbs = end + finite if end == clause.verb.particle else f"{end} {finite}"
    return _join(word, clause.subject.case("nom"), german_middle(clause), verbs)


def english_verbs(clause: Clause) -> tuple[str, str, str]:
    """Auxiliary, what follows it, and the form that replaces both in a plain statement ("" if none does)."""
    verb, person, tense = clause.verb, clause.subject.agreement, clause.tense
    third = person == "3s"
    if tense == "past":
        return "did", verb.base, verb.past
    if tense == "going":
        return BE.get(person, "are"), verb.ing, ""
    if tense in ("will", "future"):
        return "will", verb.base, ""
    if tense in ("can", "should"):
        return tense, verb.base, ""
    do = "does" if third else "do"
    if tense == "must":
        return do, f"have to {verb.base}", f"{'has' if third else 'have'} to {verb.base}"
    if tense == "want":
        return do, f"want to {verb.base}", f"{'wants' if third else 'want'} to {verb.base}"
    return do, verb.base, verb.third if third else verb.base


def english_rest(clause: Clause) -> str:
    """All that follows the English verb: goal, manner, place, and time at the very end."""
    verb, thing = clause.verb, clause.thing.english[1] if clause.thing else ""
    receiver = clause.receiver.english[1] if clause.receiver else ""
    if receiver and verb.after:
        receiver, objects = "", [thing, verb.after, f"to {receiver}"]
    else:
        objects = [verb.before, receiver, thing, verb.after]
    spots = (clause.goal, clause.manner, clause.place, clause.time)
    return _join(*objects, *(spot[1] for spot in spots if spot))


def english_says(clause: Clause, front: str = "") -> str:
    auxiliary, bare, plain = english_verbs(clause)
    adverb = clause.adverb[1] if clause.adverb else ""
    if clause.negated:
        verbs = ["cannot" if auxiliary == "can" else f"{auxiliary} not", bare]
    else:
        verbs = [adverb, plain] if plain else [auxiliary, adverb, bare]
    return _join(front, clause.subject.english[0], *verbs, english_rest(clause))


def english_asks(clause: Clause, word: str = "") -> str:
    auxiliary, bare, _ = english_verbs(clause)
    adverb = clause.adverb[1] if clause.adverb else ""
    negation = "not" if clause.negated else ""
    return _join(word, auxiliary, clause.subject.english[0], negation, adverb, bare, english_rest(clause))
