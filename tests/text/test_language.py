"""Languages are told apart on plain sentences; short texts are not guessed at."""

from lmwright.text.language import count_languages, language_of

HUMAN_RIGHTS = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
}


def test_article_one_of_the_declaration_in_five_languages():
    assert {code: language_of(text) for code, text in HUMAN_RIGHTS.items()} == {
        code: code for code in HUMAN_RIGHTS
    }


def test_restricted_choice_is_kept():
    found = {language_of(text, ("de", "fr")) for text in HUMAN_RIGHTS.values()}
    assert found == {"de", "fr"}


def test_few_letters_say_nothing():
    assert count_languages(["ok", "10/10 !!!", HUMAN_RIGHTS["en"]]) == {"?": 2, "en": 1}
