"""Languages by their ISO 639-1 codes, with their English names."""

from __future__ import annotations

NAMES = """
af Afrikaans|sq Albanian|am Amharic|ar Arabic|hy Armenian|az Azerbaijani|eu Basque|be Belarusian
bn Bengali|bs Bosnian|br Breton|bg Bulgarian|my Burmese|ca Catalan|zh Chinese|hr Croatian|cs Czech
da Danish|nl Dutch|en English|eo Esperanto|et Estonian|fi Finnish|fr French|gl Galician
ka Georgian|de German|el Greek|gu Gujarati|ha Hausa|he Hebrew|hi Hindi|hu Hungarian|is Icelandic
ig Igbo|id Indonesian|ga Irish|it Italian|ja Japanese|jv Javanese|kn Kannada|kk Kazakh|km Khmer
rw Kinyarwanda|ko Korean|ku Kurdish|ky Kyrgyz|lo Lao|la Latin|lv Latvian|lt Lithuanian
lb Luxembourgish|mk Macedonian|mg Malagasy|ms Malay|ml Malayalam|mt Maltese|mi Maori|mr Marathi
mn Mongolian|ne Nepali|no Norwegian|nb Norwegian Bokmål|nn Norwegian Nynorsk|oc Occitan|or Odia
ps Pashto|fa Persian|pl Polish|pt Portuguese|pa Punjabi|qu Quechua|ro Romanian|ru Russian
sr Serbian|si Sinhala|sk Slovak|sl Slovenian|so Somali|es Spanish|su Sundanese|sw Swahili
sv Swedish|tl Tagalog|ta Tamil|tt Tatar|te Telugu|th Thai|bo Tibetan|tr Turkish|uk Ukrainian
ur Urdu|ug Uyghur|uz Uzbek|vi Vietnamese|cy Welsh|fy Western Frisian|wo Wolof|xh Xhosa|yi Yiddish
yo Yoruba|zu Zulu
"""
LANGUAGES: dict[str, str] = dict(
    entry.split(" ", 1)  # type: ignore[misc]
    for line in NAMES.split("\n")
    for entry in line.split("|")
    if entry
)
