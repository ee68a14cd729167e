"""Who does what: draws noun phrases, times and clauses that make sense together, from the lexicon's tables."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from random import Random

from memtrans.corpora.demo.grammar import PRONOUN, Clause, Phrase, both, name, noun_phrase, titled
from memtrans.corpora.demo.lexicon import FAMILIES, MEN, WOMEN
from memtrans.corpora.demo.words import (
    ADJECTIVES,
    DAYS,
    FRAMES,
    MONTHS,
    NOUNS_OF,
    NUMERALS,
    PLACES,
    TIMES,
    UNITS,
    VERB,
    Adjective,
    Frame,
    Words,
)

NAMES = [name(word, True) for word in WOMEN] + [name(word, False) for word in MEN]
TITLED = [titled(family, woman) for family in FAMILIES for woman in (True, False)]
ANYBODY = "I we he she they"
OTHERS = "we he she they"  # keeps the verb forms after "ich" few: it has perfects and modals
NEEDS_PLACE = ("live", "go", "travel")
TENSES = {"h": ("habit",), "g": ("going",), "f": ("future", "will"), "p": ("past",), "s": ("state",), "i": ("state",)}
TENSES["m"] = ("can", "must", "want", "should")


def person(rng: Random, plural: float = 0.3) -> Phrase:
    """A name, a title or a noun. Of children there are always several, unless `plural` is 0: no pronoun fits one."""
    draw = rng.random()
    if draw < 0.4:
        return rng.choice(NAMES)
    if draw < 0.5:
        return rng.choice(TITLED)
    if draw < 0.6 and plural:
        return both(*rng.sample(NAMES, 2))
    if draw < 0.75:
        noun = rng.choice(NOUNS_OF["kin"])
        many = noun.german_plural != "-" and rng.random() < plural
        return noun_phrase(noun, rng.choice(("my", "our")), plural=many)
    noun = rng.choice(NOUNS_OF["person"])
    many = rng.random() < plural or (plural > 0 and noun.gender == "n")
    return noun_phrase(noun, "the", some_adjective(rng, noun.kinds), many)


def subject(rng: Random, pronouns: str = ANYBODY) -> Phrase:
    if pronouns and rng.random() < 0.3:
        return PRONOUN[rng.choice(pronouns.split())]
    return person(rng)


@cache
def suiting(kinds: tuple[str, ...], use: str) -> list[Adjective]:
    """Adjectives for such a thing; use "a" before the noun, "p" after the verb."""
    return [each for each in ADJECTIVES if use in each.uses and set(kinds) & set(each.kinds)]


def some_adjective(rng: Random, kinds: tuple[str, ...]) -> Adjective | None:
    fitting = suiting(kinds, "a")
    return rng.choice(fitting) if fitting and rng.random() < 0.3 else None


def other(rng: Random, who: Phrase, own: bool = False) -> Phrase:
    """Somebody else, perhaps a relative of one's `own`: no word of the subject comes again."""
    taken = {*who.english[0].split()} - {"the", "and", "my", "our", "Mr", "Mrs"}
    while True:
        if own and who.agreement != "3p" and rng.random() < 0.3:
            phrase = noun_phrase(rng.choice(NOUNS_OF["kin"]), who.possessive)
        else:
            phrase = person(rng, plural=0.15)
        if not taken & {*phrase.english[0].split()}:
            return phrase


def thing(rng: Random, kinds: tuple[str, ...], determiners: str, who: Phrase, negated: bool = False) -> Phrase:
    noun = rng.choice([noun for kind in kinds for noun in NOUNS_OF[kind]])
    letter = rng.choice(determiners)
    many = noun.german_plural != "-"
    each_their_own = "clothes" in noun.kinds and who.agreement.endswith("p")
    adjective = some_adjective(rng, noun.kinds)
    if letter == "d":
        return noun_phrase(noun, "the", adjective, many and (each_their_own or rng.random() < 0.15))
    if letter == "p":
        return noun_phrase(noun, who.possessive, adjective, each_their_own)
    if letter == "0" or (letter == "n" and not many):
        return noun_phrase(noun, "")
    if negated:
        return noun_phrase(noun, "no", adjective, letter == "n")
    if letter == "i":
        return noun_phrase(noun, "a", adjective)
    return noun_phrase(noun, rng.choice(NUMERALS)[1] if rng.random() < 0.7 else "", adjective, plural=True)


def date(rng: Random) -> Words:
    german, english = rng.choice(MONTHS)
    day = rng.randint(1, 30)
    return f"{day}. {german}", f"{day} {english}"


def counted(rng: Random, units: list[Words] = UNITS) -> Words:
    number, unit = rng.choice(NUMERALS), rng.choice(units)
    return f"{number[0]} {unit[0]}", f"{number[1]} {unit[1]}"


def when(rng: Random, tense: str, uses: str = "") -> Words:
    """A time of the past, the future or a habit. A weekday or a date may be either: only the verb tells."""
    if "l" in uses and tense != "habit" and rng.random() < 0.5:
        return _far(rng, tense)
    day, (german_on, english_on) = rng.choice(DAYS), ("jeden", "every") if tense == "habit" else ("am", "on")
    on_a_day = f"{german_on} {day[0]}", f"{english_on} {day[1]}"
    german, english = rng.choice([*TIMES[tense], on_a_day][: -1 if "o" in uses else None])
    if "C" in uses and "evening" in english:  # nobody gets up then
        german, english = on_a_day
    if "C" in uses or ("c" in uses and rng.random() < 0.5):
        hour = rng.choice(NUMERALS[4:])  # six to ten suit mornings and evenings
        return f"{german} um {hour[0]} Uhr", f"at {hour[1]} o'clock {english}"
    return german, english


def _far(rng: Random, tense: str) -> Words:
    draw = rng.random()
    if draw < 0.3:
        return ("letzte Woche", "last week") if tense == "past" else ("nächste Woche", "next week")
    if draw < 0.6:
        german, english = date(rng)
        return f"am {german}", f"on {english}"
    german, english = counted(rng, UNITS[:2])
    return (f"vor {german}", f"{english} ago") if tense == "past" else (f"in {german}", f"in {english}")


def clause(
    rng: Random,
    who: Phrase | None = None,
    uses: str = "hgfpms",
    keys: str = "",
    negated: float = 0.15,
    timed: bool = True,
) -> Clause:
    """One event, of a frame that allows one of the `uses` and whose verb is one of the `keys`, if any are given."""
    frame = rng.choice(_frames(uses, keys, who is None))
    use = rng.choice([use for use in uses if use in frame.uses])
    if frame.subject != "who":
        who = noun_phrase(rng.choice(NOUNS_OF[frame.subject]), "the")
    elif who is None:
        who = subject(rng, OTHERS if use in "hgf" else ANYBODY)
    no = use not in "gh" and frame.determiners != "0" and rng.random() < negated
    event = _with_objects(rng, Clause(who, frame.verb, rng.choice(TENSES[use]), negated=no), frame)
    if timed:
        event = _with_time(rng, event, frame.uses)
    return _with_place(rng, event, frame)


def fitting_clause(
    rng: Random, fits: Callable[[Clause], bool], who: Phrase | None = None, uses: str = "hgfpms", keys: str = ""
) -> Clause:
    """Clauses are drawn, none of them negated, until one `fits`."""
    while not fits(event := clause(rng, who, uses, keys, negated=0)):
        pass
    return event


@cache
def _frames(uses: str, keys: str, anything: bool) -> list[Frame]:
    wanted = keys.split() or list(VERB)
    assert {*wanted} <= {*VERB}, f"no such verb: {keys}"
    people = FRAMES if anything else [frame for frame in FRAMES if frame.subject == "who"]
    return [frame for frame in people if {*uses} & {*frame.uses} and frame.key in wanted]


def _with_objects(rng: Random, event: Clause, frame: Frame) -> Clause:
    who = event.subject
    if frame.receiver:
        event = replace(event, receiver=other(rng, who, own=True))
    if frame.case == "-":
        return event
    if "human" in frame.kinds and (len(frame.kinds) == 1 or rng.random() < 0.5):
        what = other(rng, who, own="p" in frame.determiners)
    else:
        kinds = tuple(kind for kind in frame.kinds if kind != "human")
        what = thing(rng, kinds, frame.determiners, who, event.negated)
    if frame.case == "auf":
        return replace(event, goal=(f"auf {what.case('acc')}", f"for {what.english[1]}"))
    return replace(event, receiver=what) if frame.case == "dat" else replace(event, thing=what)


def _with_time(rng: Random, event: Clause, uses: str) -> Clause:
    tense = event.tense
    if tense == "going":
        return replace(event, adverb=("gerade", ""))
    if tense == "state":
        return event
    if tense == "habit":
        if not event.negated and rng.random() < 0.4:
            return replace(event, adverb=rng.choice(TIMES["adverb"]))
        return replace(event, time=when(rng, "habit", uses))
    if tense in ("future", "will") or rng.random() < 0.55:
        return replace(event, time=when(rng, "past" if tense == "past" else "future", uses))
    return event


def _with_place(rng: Random, event: Clause, frame: Frame) -> Clause:
    """Beside an object, a place comes before it and is left out after "not"; without one, it belongs to the verb."""
    transitive = frame.case != "-"
    if frame.places == "-" or (transitive and event.negated):
        return event
    if frame.key not in NEEDS_PLACE and rng.random() < 0.5:
        return event
    place = rng.choice(PLACES[frame.places])
    if transitive:
        return replace(event, place=place)
    manner = rng.choice(PLACES["manner"]) if frame.places == "trip" and rng.random() < 0.5 else None
    return replace(event, goal=place, manner=manner)


def predicate(rng: Random, phrase: Phrase) -> Words | None:
    """What one can say of it after "ist": of another quality than the adjective it has already. None if nothing."""
    words = phrase.english[0].split()
    said = {each.quality for each in ADJECTIVES if each.english in words}
    fitting = [each for each in suiting(phrase.kinds, "p") if each.quality not in said]
    if not fitting:
        return None
    adjective = rng.choice(fitting)
    degrees = [("", ""), ("nicht ", "not ")]
    if adjective.quality not in ("state", "colour"):
        degrees = [("", ""), ("sehr ", "very "), ("nicht sehr ", "not very ")]
        if adjective.quality in ("size", "weight", "price") and not phrase.is_human:
            degrees.append(("zu ", "too "))
    german, english = rng.choice(degrees)
    return german + adjective.german, english + adjective.english
