"""Sentences of one clause: statements, questions, commands; liking, owning, describing, counting."""

from dataclasses import replace
from random import Random

from memtrans.corpora.demo import grammar as g
from memtrans.corpora.demo.events import (
    NAMES,
    OTHERS,
    TITLED,
    clause,
    counted,
    date,
    fitting_clause,
    person,
    predicate,
    some_adjective,
    subject,
    thing,
)
from memtrans.corpora.demo.lexicon import AUXILIARIES
from memtrans.corpora.demo.words import NOUNS_OF, PLACES, UNITS, VERB, Words

WARES = ("clothes", "furniture", "device", "vehicle", "luggage")
MASCULINE = ("den ", "Herrn ")
QUESTIONS = ("wer", "was", "wen", "wem", "wo", "wohin", "wann", "warum")
WHO = g.Phrase(("wer", "wen", "wem"), ("who", "who"), "3s", "he")


def statement(rng: Random) -> Words:
    event = clause(rng)
    if event.time and rng.random() < 0.35:
        later = replace(event, time=None)
        return g.sentence(g.german_main(later, event.time[0]), g.english_says(later, event.time[1]))
    return g.sentence(g.german_main(event), g.english_says(event))


def object_first(rng: Random) -> Words:
    """Only masculine objects: their article shows that they are no subject."""
    event = fitting_clause(rng, lambda event: event.thing is not None and event.thing.case("acc").startswith(MASCULINE))
    assert event.thing
    return g.sentence(g.german_main(replace(event, thing=None), event.thing.case("acc")), g.english_says(event))


def yes_no(rng: Random) -> Words:
    you = rng.random() < 0.35
    event = clause(rng, g.PRONOUN["you"], "pm", negated=0) if you else clause(rng, uses="hgfppm", negated=0)
    return g.sentence(g.german_ask(event), g.english_asks(event), "?")


def asked(rng: Random, who: g.Phrase) -> tuple[Words, g.Clause]:
    """A question word and the clause that lacks what it asks for."""
    word = rng.choice(QUESTIONS)
    if word == "wer":
        return ("", ""), clause(rng, WHO, "pmf", negated=0)
    if word == "warum":
        return ("warum", "why"), clause(rng, who, "hgfpm")
    if word == "wann":
        return ("wann", "when"), replace(clause(rng, who, "fp", negated=0), time=None)
    if word == "wohin":
        event = clause(rng, who, "fpm", "go travel", negated=0)
        return ("wohin", "where"), replace(event, goal=None)
    if word == "wo":
        event = clause(rng, who, "fps", "live work shop watch-tv read buy see drink", negated=0)
        return ("wo", "where"), replace(event, place=None, goal=None)
    if word == "was":
        keys = "open close turn-on turn-off buy sell repair wash paint read eat give find look-for"
        return ("was", "what"), replace(clause(rng, who, "fpm", keys, negated=0), thing=None)
    if word == "wen":
        event = clause(rng, who, "fpm", "pick-up invite", negated=0)
        return ("wen", "who"), replace(event, thing=None)
    event = clause(rng, who, "fpm", "help listen-to give give-back", negated=0)
    return ("wem", "who"), replace(event, receiver=None, goal=("", "to") if event.thing else None)


def wh_question(rng: Random) -> Words:
    (german, english), event = asked(rng, subject(rng, OTHERS))
    if not german:
        return g.sentence(g.german_main(event), g.english_says(event), "?")
    return g.sentence(g.german_ask(event, german), g.english_asks(event, english), "?")


def likes(rng: Random) -> Words:
    """Wem etwas gefällt: the German dative is the English subject."""
    who = subject(rng)
    what = thing(rng, ("film", "text", "clothes", "vehicle", "castle", "furniture"), "d", g.PRONOUN["he"])
    tense, negated = rng.choice(("state", "past")), rng.random() < 0.4
    german = g.Clause(what, VERB["like"], tense, receiver=who, negated=negated)
    english = g.Clause(who, VERB["like"], tense, thing=what, negated=negated)
    if rng.random() < 0.5:
        first = g.german_main(replace(german, receiver=None), who.case("dat"))
        return g.sentence(first, g.english_says(english))
    return g.sentence(g.german_main(german), g.english_says(english))


def owned(rng: Random) -> Words:
    if rng.random() < 0.5:
        what = thing(rng, (*WARES, "small"), "d", g.PRONOUN["he"])
        event = g.Clause(what, VERB["belong"], "state", receiver=subject(rng), negated=rng.random() < 0.3)
        return g.sentence(g.german_main(event), g.english_says(event))
    noun = rng.choice([noun for kind in WARES for noun in NOUNS_OF[kind]])
    while len((owner := person(rng, plural=0)).german) < 4 or owner.german[3].endswith(("ss", "xs")):
        pass
    is_name = owner.kinds == ("human",)
    what = g.noun_phrase(noun, "" if is_name else "the", None if is_name else some_adjective(rng, noun.kinds))
    words = predicate(rng, what)
    german = f"{owner.german[3]} {noun.german}" if is_name else f"{what.german[0]} {owner.german[3]}"
    assert words
    return g.sentence(
        f"{german} ist {words[0]}", f"{owner.english[0]}'s {what.english[0].removeprefix('the ')} is {words[1]}"
    )


def described(rng: Random) -> Words:
    if rng.random() < 0.3:
        noun = rng.choice(NOUNS_OF["person"])
        what = g.noun_phrase(noun, "the", some_adjective(rng, noun.kinds), rng.random() < 0.3)
    else:
        what = thing(rng, (*WARES, "opening", "castle", "text", "film"), "dp", g.PRONOUN[rng.choice(("I", "we"))])
    words = predicate(rng, what)
    if not words:
        return described(rng)
    return g.sentence(f"{what.german[0]} {g.be(what)[0]} {words[0]}", f"{what.english[0]} {g.be(what)[1]} {words[1]}")


def price(rng: Random) -> Words:
    euros = rng.randint(11, 999)
    if rng.random() < 0.5:
        who = subject(rng)
        what = thing(rng, WARES, "dp", who)
        has = AUXILIARIES["haben"].split()[g.PERSON[who.agreement]]
        return g.sentence(
            f"{who.german[0]} {has} {euros} Euro für {what.case('acc')} bezahlt",
            f"{who.english[0]} paid {euros} euros for {what.english[1]}",
        )
    what = thing(rng, WARES, "d", g.PRONOUN["he"])
    costs = ("kosten", "cost") if what.agreement == "3p" else ("kostet", "costs")
    return g.sentence(f"{what.german[0]} {costs[0]} {euros} Euro", f"{what.english[0]} {costs[1]} {euros} euros")


def timetable(rng: Random) -> Words:
    noun, city = rng.choice(NOUNS_OF["transport"]), rng.choice(PLACES["city"])
    time = f"{rng.randint(6, 23)}:{rng.randrange(0, 60, 5):02d}"
    german, english = noun.german, noun.english
    if rng.random() < 0.5:
        return g.sentence(
            f"der {german} nach {city[0][3:]} fährt um {time} Uhr ab",
            f"the {english} to {city[1][3:]} leaves at {time}",
        )
    return g.sentence(
        f"der {german} aus {city[0][3:]} kommt um {time} Uhr an", f"the {english} from {city[1][3:]} arrives at {time}"
    )


def born(rng: Random) -> Words:
    who, day, year, city = rng.choice(NAMES + TITLED), date(rng), rng.randint(1950, 2009), rng.choice(PLACES["city"])
    return g.sentence(
        f"{who.german[0]} ist am {day[0]} {year} {city[0]} geboren",
        f"{who.english[0]} was born {city[1]} on {day[1]} {year}",
    )


def address(rng: Random) -> Words:
    who, number = person(rng, plural=0.2), rng.randint(2, 99)
    street = rng.choice(("Gartenstraße", "Schulstraße", "Parkstraße", "Bahnhofstraße"))
    home = g.Clause(who, VERB["live"], "state", goal=(f"in der {street} {number}", f"at {number} {street}"))
    return g.sentence(g.german_main(home), g.english_says(home))


def since(rng: Random) -> Words:
    """The German present for what began in the past."""
    who, span = subject(rng, OTHERS), counted(rng, UNITS[1:])
    verb, past, places = rng.choice([("live", "lived", "city"), ("work", "worked", "work")])
    place = rng.choice(PLACES[places][: 6 if verb == "live" else 2])
    german = g.german_main(g.Clause(who, VERB[verb], "state", time=(f"seit {span[0]}", ""), goal=place))
    have = "has" if who.agreement == "3s" else "have"
    return g.sentence(german, f"{who.english[0]} {have} {past} {place[1]} for {span[1]}")


def command(rng: Random) -> Words:
    event = clause(rng, g.PRONOUN["you"], "i", negated=0, timed=False)
    verb = event.verb
    german = f"{verb.present[0].removesuffix('e')} bitte {g.german_middle(event)} {verb.particle}"  # all "i" verbs part
    return g.sentence(german, f"please {verb.base} {g.english_rest(event)}", "!")
