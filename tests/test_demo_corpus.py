"""The demo corpus: the same everywhere, no leaks between splits, one translation a sentence, and correct grammar."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sacrebleu

from memtrans.corpora.demo import MOST_PAIRS, generate
from memtrans.corpora.demo.lexicon import MEN, WOMEN
from memtrans.corpora.demo.words import ADJECTIVES, VERB
from memtrans.errors import UserError

SIZES = {"train": 20_000, "valid": 500, "test": 500}
Pairs = list[tuple[str, str]]


@pytest.fixture(scope="module")
def corpus() -> dict[str, Pairs]:
    return generate(1, SIZES)


@pytest.fixture(scope="module")
def pairs(corpus: dict[str, Pairs]) -> Pairs:
    return [pair for split in corpus.values() for pair in split]


@pytest.fixture(scope="module")
def pool(pairs: Pairs) -> Pairs:
    return pairs + [pair for seed in (2, 3) for pair in generate(seed, {"train": 20_000})["train"]]


def digest(corpus: dict[str, Pairs]) -> str:
    return hashlib.sha256(repr(corpus).encode()).hexdigest()


# The corpus itself


def test_sizes_and_splits_without_a_shared_or_repeated_sentence(corpus: dict[str, Pairs], pairs: Pairs) -> None:
    assert {split: len(of_split) for split, of_split in corpus.items()} == SIZES
    assert len({german for german, _ in pairs}) == len(pairs)


def test_the_same_arguments_give_the_same_pairs_and_another_seed_others() -> None:
    small = {"train": 300, "test": 20}
    assert generate(7, small) == generate(7, small)
    assert len({*generate(7, small)["train"]} & {*generate(8, small)["train"]}) < 60


@pytest.mark.parametrize("hash_seed", ["1", "4242"])
def test_a_fresh_process_gives_the_same_pairs(corpus: dict[str, Pairs], hash_seed: str) -> None:
    code = (
        "import hashlib; from memtrans.corpora.demo import generate;"
        f"print(hashlib.sha256(repr(generate(1, {SIZES})).encode()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    command, here = [sys.executable, "-c", code], Path(__file__).parents[1]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(corpus)


def test_every_python_version_gives_these_pairs() -> None:
    """A change here is a change of the corpus: numbers from before it cannot be compared with those after."""
    assert digest(generate(0, {"train": 1000})) == "cd631c22f32b0a32addd76145610994b14bcec3d1f28e9f5a87d79b39298686d"


def test_a_german_sentence_has_one_translation(pool: Pairs) -> None:
    english_of = dict(pool)
    assert len(english_of) < len(pool) - 1000  # many sentences come with several seeds
    assert all(english_of[german] == english for german, english in pool)


@pytest.mark.parametrize("sizes", [{"train": MOST_PAIRS, "test": 1}, {"train": -1}])
def test_impossible_sizes_are_refused_at_once(sizes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="demo corpus sizes") as refusal:
        generate(1, sizes)
    assert "\n" not in str(refusal.value)


def test_small_vocabulary_and_short_sentences(pairs: Pairs) -> None:
    for side in (0, 1):
        sentences = [re.findall(r"[^\W\d][\w']*", pair[side]) for pair in pairs]
        lengths = [len(pair[side].split()) for pair in pairs]
        assert 300 < len({word.lower() for words in sentences for word in words}) < 520
        assert 8 < sum(lengths) / len(lengths) < 10
        assert min(lengths) >= 2
        assert max(lengths) <= 24


def test_copying_the_source_is_no_translation(corpus: dict[str, Pairs]) -> None:
    german, english = zip(*corpus["test"], strict=True)
    assert sacrebleu.corpus_bleu(list(german), [list(english)]).score < 10


# Orthography


def test_only_expected_characters_and_well_formed_lines(pairs: Pairs) -> None:
    for german, english in pairs:
        assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüß0-9 ,.:?]*[.?!]", german), german
        assert re.fullmatch(r"[A-Z][A-Za-z0-9 ,.:?'ß]*[.?!]", english), english
        assert german[-1] == english[-1]
        assert not re.search(r"\b(\w+) \1\b", english), english
        for text in (german, english):
            assert not re.search(r"  | [,.?!]|,[^ ]|[.?!][A-Z]", text), text


def test_numbers_and_names_are_copied(pairs: Pairs) -> None:
    copied = re.compile(r"\d+|\b(?:Anna|Maria|Lena|Clara|Emma|Julia|Paul|Peter|Felix|Leon|Max|Weber|Becker|Hamburg)")
    for german, english in pairs:
        assert Counter(copied.findall(german)) == Counter(copied.findall(english))


# Agreement, against tables of its own

GENDERS = {
    "m": "Lehrer Arzt Nachbar Mann Koffer Schrank Computer Mantel Hut Brief Film Zug Bus Tisch Stuhl Schlüssel Apfel",
    "f": "Lehrerin Ärztin Nachbarin Frau Tür Lampe Jacke Zeitung Tasche Uhr Suppe Küche Bank Decke Birne",
    "n": "Kind Fenster Licht Radio Hemd Buch Auto Fahrrad Ei Zimmer Museum Schloss",
}
GENDER = {noun: gender for gender, nouns in GENDERS.items() for noun in nouns.split()}
ARTICLES = {"m": "der den dem des", "f": "die der", "n": "das dem des"}
ADJECTIVE = rf"(?:{'|'.join(each.german for each in ADJECTIVES)})([a-z]+)"
UNCHANGED = "Lehrer Koffer Computer Schlüssel Fenster Zimmer"  # plural like the singular


def test_articles_agree_with_gender(pairs: Pairs) -> None:
    article = re.compile(rf"\b([Dd](?:er|ie|as|en|em|es)) (?:{ADJECTIVE} )?(\w+)\b(?! [A-Z])")
    seen: set[str] = set()
    for german, _ in pairs:
        for word, _, noun in article.findall(german):
            if noun in GENDER:
                plural = ["die"] if noun in UNCHANGED.split() else []
                assert word.lower() in ARTICLES[GENDER[noun]].split() + plural, german
                seen.add(noun)
    assert len(seen) > 35


def adjective_ending(determiner: str, gender: str) -> str:
    """After "der" a feminine noun is dative or genitive; after a form in -e one that is not feminine is plural."""
    if re.fullmatch("k?ein|[mds]ein|ihr|unser", determiner):
        return {"m": "er", "n": "es"}[gender]
    if determiner == "der":
        return "en" if gender == "f" else "e"
    if determiner.endswith("e"):
        return "e" if gender == "f" else "en"
    return "e" if determiner == "das" else "en"


def test_adjective_endings_agree_with_article_and_gender(pool: Pairs) -> None:
    phrase = re.compile(rf"\b([Dd]\w\w|[Kk]?[Ee]in\w*|[MDSmds]ein\w*|[Ii]hr\w*|[Uu]nser\w*) {ADJECTIVE} ([A-ZÄÖÜ]\w+)")
    checked: Counter[str] = Counter()
    for german, _ in pool:
        for determiner, ending, noun in phrase.findall(german):
            if noun in GENDER:
                assert ending == adjective_ending(determiner.lower(), GENDER[noun]), german
                checked[ending] += 1
    assert all(checked[ending] > 30 for ending in ("e", "en", "er", "es")), checked


def test_english_articles_and_verbs_agree(pairs: Pairs) -> None:
    bases = {verb.base for verb in VERB.values()}
    changed = {form for verb in VERB.values() for form in (verb.third, verb.past, verb.ing)} - bases
    wrong = [
        r"\ba [aeio]",
        r"\ban [^aeio]",
        r"(^|that |because |before |but )([Hh]e|[Ss]he|[Ii]t) (have|do|are|were|want|like|go)\b",
        r"\b(I|[Ww]e|[Tt]hey) (has|does|is|wants|likes|goes|gets)\b",
        r"\b([Ww]e|[Tt]hey|and \w+) was\b",
        rf"\b(did|does|do|will|can|cannot|should|to) (not )?({'|'.join(sorted(changed))})\b",
    ]
    for _, english in pairs:
        for pattern in wrong:
            assert not re.search(pattern, english), english


def test_german_verbs_agree(pairs: Pairs) -> None:
    singular, plural = "hat|ist|wird|macht|ruft|kauft", "haben|sind|werden|machen|rufen|kaufen"
    wrong = rf"\b(Er|Wer|(?<!und )(Anna|Paul)) ({plural})\b|\b[Ww]ir ({singular})\b|\bIch ({singular}|{plural})\b"
    for german, _ in pairs:
        assert not re.search(wrong, german), german


# Difficulty: the same German word, and what only the rest of the sentence tells


@pytest.mark.parametrize(
    ("german", "english"),
    [
        (r"\bBank\b", (r"\bbench\b", r"\bbank\b")),
        (r"\bSchloss\b", (r"\bcastle\b", r"\block\b")),
        (r"\bDecke\b", (r"\bceiling\b", r"\bblanket\b")),
        (r"\bBirne\b", (r"\bpear\b", r"\bbulb\b")),
        (r"\bgroße", (r"\btall\b", r"\bbig\b")),
        (r"^Sie ", (r"^She ", r"^They ")),
        (r", dass sie ", (r"that she ", r"that they ")),
        (r"\bih(r|re|ren|rem|rer)\b", (r"\bher\b", r"\btheir\b")),
        (r", (aber|und) er ", (r"\b(but|and) he ", r"\b(but|and) it ")),
        (r"\? .* sie ", (r"\? .* her\b", r"\? .* it\b", r"\? .* them\b")),
        (r"^Mach .* (auf|zu|an|aus)!", (r"open", r"close", r"turn .* on", r"turn .* off")),
        (r"\bFrau\b", (r"\bMrs\b", r"\bwoman\b")),
        (r" am Montag ", (r"\bwill\b", r"^((?!will).)*$")),
    ],
)
def test_ambiguous_words_have_each_reading_often(pool: Pairs, german: str, english: tuple[str, ...]) -> None:
    readings = [target for source, target in pool if re.search(german, source)]
    for reading in english:
        assert sum(bool(re.search(reading, target)) for target in readings) >= 20, reading


@pytest.mark.parametrize(
    ("german", "english"),
    [
        ("Den [a-z ]*Hut hat NAME verloren.", "{0} lost the .*hat."),
        ("Wer hat .*?NAME eingeladen\\?", "Who invited (\\w+ and )?{0}.*\\?"),
        ("Wen hat NAME .*eingeladen\\?", "Who did {0} invite.*\\?"),
        ("Wem hat NAME .*geholfen\\?", "Who did {0} help.*\\?"),
        ("Weißt du, ob sie .*en haben\\?", "Do you know whether they .*\\?"),
        (".*, dass sie .*angerufen haben.", ".* that they (called|did not call) .*"),
        (".*, dass sie .*angerufen hat.", ".* that she (called|did not call) .*"),
        ("NAME hat nicht gearbeitet, weil er .*war.", "{0} did not work because he was .*"),
        ("Wenn NAME müde ist, sieht sie fern.", "When {0} is tired, she watches television."),
        ("Der .*, dem NAME .*geholfen hat, ist .*", "The .* whom {0} helped .*is .*"),
        ("Der .*, den NAME .*eingeladen hat, ist .*", "The .* whom {0} invited .*is .*"),
        ("Das .*, das NAME .*verkauft hat, ist .*", "The .* that {0} sold .*is .*"),
        ("NAME hat NAME angerufen, aber er hatte keine Zeit.", "{0} called {1}, but he had no time."),
        ("Wo ist die .*Tasche\\? NAME hat sie .*verloren.", "Where is the .*bag\\? {0} lost it.*"),
        ("Wo ist Anna\\? .* hat sie .*gesehen.", "Where is Anna\\? .* saw her.*"),
        ("Wo sind NAME und NAME\\? .* hat sie .*gesehen.", "Where are {0} and {1}\\? .* saw them.*"),
        ("NAME gefällt d.. .*Buch nicht.", "{0} does not like the .*book."),
        ("NAME haben die .* nicht gefallen.", "{0} did not like the .*s."),
        ("D.. .* meines Bruders ist .*", "My brother's .* is .*"),
        ("Der Zug nach Rom fährt um (\\d+:\\d+) Uhr ab.", "The train to Rome leaves at {0}."),
        ("NAME wohnt seit zwei Jahren in .*", "{0} has lived in .* for two years."),
        ("NAME wohnt in der Parkstraße (\\d+).", "{0} lives at {1} Parkstraße."),
        ("Mach bitte das Fenster zu!", "Please close the window!"),
        ("NAME ist .*nach Rom gefahren, um NAME zu besuchen.", "{0} went to Rome .*to visit {1}."),
    ],
)
def test_known_sentences(pool: Pairs, german: str, english: str) -> None:
    """Names and numbers in `german` stand for {0} and {1} in `english`."""
    pattern = re.compile(german.replace("NAME", f"({'|'.join(WOMEN + MEN)})"))
    matches = [(match, target) for source, target in pool if (match := pattern.fullmatch(source))]
    assert matches
    for match, target in matches:
        assert re.fullmatch(english.format(*match.groups()), target), (match.group(), target)
