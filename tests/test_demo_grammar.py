"""The demo corpus' grammar on clauses and noun phrases checked by hand."""

from dataclasses import replace

import pytest

from memtrans.corpora.demo import grammar as g
from memtrans.corpora.demo.words import ADJECTIVES, NOUNS, VERB, Adjective


def noun(german: str, sense: str = "") -> g.Noun:
    return next(each for each in NOUNS if each.german == german and sense in each.english)


def the(german: str, sense: str = "") -> g.Phrase:
    return g.noun_phrase(noun(german, sense), "the")


ANNA, PAUL = g.name("Anna", True), g.name("Paul", False)
YESTERDAY = ("gestern", "yesterday")


@pytest.mark.parametrize(
    ("clause", "german", "english"),
    [
        (g.Clause(ANNA, VERB["open"], "future", the("Tür")), "Anna macht die Tür auf", "Anna will open the door"),
        (g.Clause(ANNA, VERB["close"], "habit", the("Tür")), "Anna macht die Tür zu", "Anna closes the door"),
        (
            g.Clause(ANNA, VERB["turn-off"], "past", the("Licht"), time=YESTERDAY, negated=True),
            "Anna hat gestern das Licht nicht ausgemacht",
            "Anna did not turn the light off yesterday",
        ),
        (
            g.Clause(g.PRONOUN["they"], VERB["travel"], "past", goal=("nach Rom", "to Rome"), time=YESTERDAY),
            "sie sind gestern nach Rom gefahren",
            "they went to Rome yesterday",
        ),
        (
            g.Clause(PAUL, VERB["buy"], "must", g.noun_phrase(noun("Apfel"), "no"), negated=True),
            "Paul muss keinen Apfel kaufen",
            "Paul does not have to buy an apple",
        ),
        (
            g.Clause(PAUL, VERB["see"], "can", g.PRONOUN["she"], negated=True),
            "Paul kann sie nicht sehen",
            "Paul cannot see her",
        ),
        (
            g.Clause(the("Nachbar"), VERB["give"], "past", the("Uhr"), g.noun_phrase(noun("Kind"), "the", plural=True)),
            "der Nachbar hat den Kindern die Uhr gegeben",
            "the neighbour gave the children the watch",
        ),
        (
            g.Clause(g.PRONOUN["I"], VERB["give-back"], "want", the("Buch"), the("Nachbar")),
            "ich will dem Nachbarn das Buch zurückgeben",
            "I want to give the book back to the neighbour",
        ),
        (
            g.Clause(ANNA, VERB["read"], "going", the("Buch"), adverb=("gerade", "")),
            "Anna liest gerade das Buch",
            "Anna is reading the book",
        ),
        (
            g.Clause(PAUL, VERB["call"], "habit", the("Arzt"), adverb=("nie", "never")),
            "Paul ruft nie den Arzt an",
            "Paul never calls the doctor",
        ),
    ],
)
def test_known_statements(clause: g.Clause, german: str, english: str) -> None:
    assert (g.german_main(clause), g.english_says(clause)) == (german, english)


def test_one_clause_in_every_order() -> None:
    clause = g.Clause(PAUL, VERB["pick-up"], "past", g.noun_phrase(noun("Bruder"), "his"), time=YESTERDAY)
    assert g.german_main(clause) == "Paul hat gestern seinen Bruder abgeholt"
    fronted = replace(clause, time=None)
    assert g.german_main(fronted, "gestern") == "gestern hat Paul seinen Bruder abgeholt"
    assert g.german_ask(clause) == "hat Paul gestern seinen Bruder abgeholt"
    assert g.german_ask(clause, "warum") == "warum hat Paul gestern seinen Bruder abgeholt"
    assert g.german_last(clause, "weil") == "weil Paul gestern seinen Bruder abgeholt hat"
    assert g.german_last(replace(clause, tense="habit"), "wenn") == "wenn Paul gestern seinen Bruder abholt"
    assert g.english_asks(clause, "why") == "why did Paul pick his brother up yesterday"
    assert g.english_asks(replace(clause, tense="can", negated=True)) == "can Paul not pick his brother up yesterday"


OLD, NEW = ADJECTIVES[:2]


@pytest.mark.parametrize(
    ("german", "determiner", "adjective", "plural", "cases"),
    [
        (
            "Nachbar",
            "a",
            OLD,
            False,
            "ein alter Nachbar|einen alten Nachbarn|einem alten Nachbarn|eines alten Nachbarn",
        ),
        ("Mann", "the", None, False, "der Mann|den Mann|dem Mann|des Mannes"),
        ("Tür", "no", NEW, False, "keine neue Tür|keine neue Tür|keiner neuen Tür|keiner neuen Tür"),
        ("Auto", "my", NEW, False, "mein neues Auto|mein neues Auto|meinem neuen Auto|meines neuen Autos"),
        ("Uhr", "two", OLD, True, "zwei alte Uhren|zwei alte Uhren|zwei alten Uhren|zwei alter Uhren"),
        ("Arzt", "our", None, True, "unsere Ärzte|unsere Ärzte|unseren Ärzten|unserer Ärzte"),
        ("Auto", "the", None, True, "die Autos|die Autos|den Autos|der Autos"),
    ],
)
def test_known_declensions(german: str, determiner: str, adjective: Adjective | None, plural: bool, cases: str) -> None:
    assert g.noun_phrase(noun(german), determiner, adjective, plural).german == tuple(cases.split("|"))
