"""Sentences of two clauses: German puts the second one's verb last, or turns the main clause round after it."""

from dataclasses import replace
from random import Random

from memtrans.corpora.demo import grammar as g
from memtrans.corpora.demo.events import NAMES, OTHERS, clause, fitting_clause, other, predicate, subject
from memtrans.corpora.demo.simple import WARES, asked
from memtrans.corpora.demo.words import NOUNS_OF, PLACES, VERB, Words

RELATIVE = {"m": "der den dem", "f": "die die der", "n": "das das dem", "p": "die die denen"}


def indirect(rng: Random) -> Words:
    openings = [
        ("Weißt du", "Do you know", "?"),
        ("Ich weiß nicht", "I do not know", "."),
        ("Niemand weiß", "Nobody knows", "."),
    ]
    german, english, mark = rng.choice(openings)
    who = subject(rng, "he she they")
    word, event = (("ob", "whether"), clause(rng, who, negated=0)) if rng.random() < 0.3 else asked(rng, who)
    return g.sentence(f"{german}, {g.german_last(event, word[0])}", f"{english} {g.english_says(event, word[1])}", mark)


def reported(rng: Random) -> Words:
    speaker = rng.choice(NAMES)
    openings = [("Ich weiß", "I know", "hgfpms"), ("Ich glaube", "I think", "hgfpms"), ("Wir hoffen", "We hope", "fp")]
    says = (f"{speaker.german[0]} sagt", f"{speaker.english[0]} says", "hgfpms")
    german, english, uses = rng.choice([*openings, says])
    who = g.PRONOUN[rng.choice(("she", "they", "he"))] if rng.random() < 0.5 else other(rng, speaker)
    event = clause(rng, who, uses)
    return g.sentence(f"{german}, {g.german_last(event, 'dass')}", f"{english} that {g.english_says(event)}")


def _reason(rng: Random, who: g.Phrase) -> Words:
    were = ("war", "was") if who.agreement[1] == "s" else ("waren", "were")
    had = "hatte" if who.agreement[1] == "s" else "hatten"
    reasons = [
        (f"müde {were[0]}", f"{were[1]} tired"),
        (f"krank {were[0]}", f"{were[1]} ill"),
        (f"keine Zeit {had}", "had no time"),
        (f"viel Arbeit {had}", "had a lot of work"),
    ]
    german, english = rng.choice(reasons)
    return f"{who.case('nom')} {german}", f"{who.english[0]} {english}"


def because(rng: Random) -> Words:
    """What was not done because of something, or was done in spite of it; either clause may come first."""
    who = subject(rng)
    pronoun = g.PRONOUN[who.pronoun]
    keys = "open close tidy call pick-up invite shop buy repair wash paint visit read help work go travel"
    first = rng.random() < 0.3
    event = clause(rng, pronoun if first else who, "p", keys, negated=0.5)
    german, english = ("weil", "because") if event.negated else ("obwohl", "although")
    reason = _reason(rng, who if first else pronoun)
    if first:
        return g.sentence(
            f"{german} {reason[0]}, {g.german_ask(event)}", f"{english} {reason[1]}, {g.english_says(event)}"
        )
    return g.sentence(f"{g.german_main(event)}, {german} {reason[0]}", f"{g.english_says(event)} {english} {reason[1]}")


def whenever(rng: Random) -> Words:
    who = subject(rng, OTHERS)
    many = who.agreement[1] == "p"
    nominative, english = who.case("nom"), who.english[0]
    conditions = [
        ("es regnet", "it rains", "close turn-on watch-tv read drink"),
        (
            f"{nominative} Zeit {'haben' if many else 'hat'}",
            f"{english} {'have' if many else 'has'} time",
            "call tidy watch-tv shop visit read help",
        ),
        (f"{nominative} müde {g.be(who)[0]}", f"{english} {g.be(who)[1]} tired", "turn-off watch-tv drink go"),
    ]
    draw = rng.randrange(3)
    german, english, keys = conditions[draw]
    event = clause(rng, g.PRONOUN[who.pronoun] if draw else who, "h", keys, negated=0, timed=False)
    if event.verb is VERB["go"]:
        event = replace(event, goal=("nach Hause", "home"))
    event = replace(event, place=None)
    return g.sentence(f"wenn {german}, {g.german_ask(event)}", f"when {english}, {g.english_says(event)}")


def before(rng: Random) -> Words:
    who = subject(rng, OTHERS)
    event = clause(rng, who, "h", "open close turn-on turn-off call tidy read drink help", negated=0)
    leaving = g.Clause(g.PRONOUN[who.pronoun], VERB["go"], "habit", goal=rng.choice(PLACES["goal"]))
    return g.sentence(
        f"{g.german_main(event)}, {g.german_last(leaving, 'bevor')}",
        f"{g.english_says(event)} before {g.english_says(leaving)}",
    )


def relative(rng: Random) -> Words:
    return rng.choice((_who_did, _which_was_done, _known))(rng)


def _head(rng: Random, determiner: str) -> tuple[g.Phrase, g.Phrase]:
    """A person, and the relative pronoun for it as a subject."""
    noun = rng.choice([noun for noun in NOUNS_OF["person"] if noun.gender != "n"])
    plural = determiner == "the" and rng.random() < 0.3
    head = g.noun_phrase(noun, determiner, plural=plural)
    forms = tuple(RELATIVE["p" if plural else noun.gender].split())
    return head, g.Phrase(forms, ("who", "whom"), head.agreement, head.pronoun)


def _who_did(rng: Random) -> Words:
    head, who = _head(rng, "the")
    event = clause(rng, who, "gfpm")
    german, english = _says_of(rng, head)
    return g.sentence(
        f"{head.german[0]}, {g.german_last(event, '')}, {german}",
        f"{head.english[0]} {g.english_says(event)} {english}",
    )


def _says_of(rng: Random, head: g.Phrase) -> Words:
    if rng.random() < 0.5:
        home = g.Clause(head, VERB["live"], "state", goal=rng.choice(PLACES["city"]))
        verb = g.english_verbs(home)[2]
        return f"{g.german_verbs(home)[0]} {g.german_middle(home)}", f"{verb} {g.english_rest(home)}"
    words = predicate(rng, head)
    assert words
    return f"{g.be(head)[0]} {words[0]}", f"{g.be(head)[1]} {words[1]}"


def _known(rng: Random) -> Words:
    head, who = _head(rng, rng.choice(("the", "a")))
    event = clause(rng, who, "hgfps")
    german, english = rng.choice([("Ich kenne", "I know"), ("Wir kennen", "We know")])
    return g.sentence(
        f"{german} {head.case('acc')}, {g.german_last(event, '')}",
        f"{english} {head.english[1]} {g.english_says(event)}",
    )


def _which_was_done(rng: Random) -> Words:
    """About a thing, or about a man: his relative pronoun tells who did it, "den" or "dem" against "der"."""
    event = fitting_clause(rng, _has_a_head, uses="fp")
    head = event.thing or event.receiver
    assert head
    words = predicate(rng, head)
    if not words:
        return _which_was_done(rng)
    gender = "p" if head.agreement == "3p" else "m" if head.pronoun == "he" else head.pronoun[-1]
    pronoun = RELATIVE[gender].split()[1 if event.thing else 2]
    word = "whom" if head.is_human else "that"
    event = replace(event, thing=None) if event.thing else replace(event, receiver=None)
    return g.sentence(
        f"{head.german[0]}, {g.german_last(event, pronoun)}, {g.be(head)[0]} {words[0]}",
        f"{head.english[0]} {g.english_says(event, word)} {g.be(head)[1]} {words[1]}",
    )


def _has_a_head(event: g.Clause) -> bool:
    head = event.thing or event.receiver
    return bool(head and head.english[0].startswith("the ") and (head.pronoun == "he" or not head.is_human))


def antecedent(rng: Random) -> Words:
    if rng.random() < 0.5:
        return _person_again(rng)
    event = fitting_clause(
        rng, lambda event: not event.thing or not event.thing.is_human, uses="p", keys="buy read see visit"
    )
    assert event.thing
    words = predicate(rng, event.thing)
    if not words:
        return antecedent(rng)
    pronoun = g.PRONOUN[event.thing.pronoun]
    but = ("aber", "but") if words[0].startswith(("zu ", "nicht ", "kaputt")) else ("und", "and")
    return g.sentence(
        f"{g.german_main(event)}, {but[0]} {pronoun.german[0]} {g.be(pronoun)[0]} {words[0]}",
        f"{g.english_says(event)}, {but[1]} {pronoun.english[0]} {g.be(pronoun)[1]} {words[1]}",
    )


def _person_again(rng: Random) -> Words:
    event = fitting_clause(rng, lambda event: bool(event.thing and event.thing.is_human), uses="p", keys="call")
    assert event.thing
    pronoun = g.PRONOUN[event.thing.pronoun]
    german, english = rng.choice([("war nicht zu Hause", "was not at home"), ("hatte keine Zeit", "had no time")])
    if pronoun.agreement == "3p":
        german = german.replace("war ", "waren ").replace("hatte ", "hatten ")
        english = english.replace("was ", "were ")
    return g.sentence(
        f"{g.german_main(event)}, aber {pronoun.german[0]} {german}",
        f"{g.english_says(event)}, but {pronoun.english[0]} {english}",
    )


def where_is(rng: Random) -> Words:
    """Two sentences; the noun of the first decides what "ihn", "sie" or "es" in the second is."""
    keys = "see call pick-up visit sell lose look-for"
    event = fitting_clause(rng, _leaves_one_asking, subject(rng, "I we"), "p", keys)
    what = event.thing
    assert what
    event = replace(event, thing=g.PRONOUN[what.pronoun])
    be = g.be(what)
    first = g.sentence(f"wo {be[0]} {what.german[0]}", f"where {be[1]} {what.english[0]}", "?")
    second = g.sentence(g.german_main(event), g.english_says(event))
    return f"{first[0]} {second[0]}", f"{first[1]} {second[1]}"


def _leaves_one_asking(event: g.Clause) -> bool:
    what = event.thing
    if not what or what.english[0].startswith(("a ", "an ", "his ", "her ", "their ")):
        return False
    return what.is_human or any(kind in (*WARES, "small") for kind in what.kinds)


def purpose(rng: Random) -> Words:
    who = subject(rng)
    goals = [("buy", ("in die Stadt", "into town")), ("pick-up", ("zum Bahnhof", "to the station"))]
    key, goal = rng.choice([*goals, ("visit", rng.choice(PLACES["trip"]))])
    going = replace(clause(rng, who, "pm", "travel", negated=0), goal=goal)
    if key != "visit":
        going = replace(going, manner=None)
    aim = replace(clause(rng, who, "p", key, negated=0, timed=False), place=None)
    middle, infinitive = g.german_middle(aim), aim.verb.present[2]
    to = f"{aim.verb.particle}zu{infinitive}" if aim.verb.particle else f"zu {infinitive}"
    return g.sentence(
        f"{g.german_main(going)}, um {middle} {to}", f"{g.english_says(going)} to {aim.verb.base} {g.english_rest(aim)}"
    )
