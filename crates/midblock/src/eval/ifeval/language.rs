//! Which language a text is in: by its small words if it is Swahili or English, else by the trigrams and alphabets of
//! `whatlang`.
//!
//! Small words come first because `whatlang` lacks Swahili, alone of the 30 languages of the data set, and because English
//! that repeats itself, as small models write it, has too few trigrams for it. The released checker asks `langdetect`, a
//! Bayesian classifier that draws at random and knows 55 languages. The two agree on paragraphs; they may differ on a few
//! words, on mixtures and on closely related languages. A text without letters is of every language for both. Somali,
//! Albanian, and the two kinds of Chinese that `langdetect` tells apart are not supported: an error when a row is read.

use std::collections::HashSet;
use whatlang::Lang;

/// A language that can be recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// One that `whatlang` knows.
    Profiled(Lang),
    Swahili,
}

/// ISO 639-1 codes.
const CODES: [(&str, Lang); 51] = [
    ("af", Lang::Afr),
    ("ar", Lang::Ara),
    ("bg", Lang::Bul),
    ("bn", Lang::Ben),
    ("ca", Lang::Cat),
    ("cs", Lang::Ces),
    ("cy", Lang::Cym),
    ("da", Lang::Dan),
    ("de", Lang::Deu),
    ("el", Lang::Ell),
    ("en", Lang::Eng),
    ("es", Lang::Spa),
    ("et", Lang::Est),
    ("fa", Lang::Pes),
    ("fi", Lang::Fin),
    ("fr", Lang::Fra),
    ("gu", Lang::Guj),
    ("he", Lang::Heb),
    ("hi", Lang::Hin),
    ("hr", Lang::Hrv),
    ("hu", Lang::Hun),
    ("id", Lang::Ind),
    ("it", Lang::Ita),
    ("ja", Lang::Jpn),
    ("kn", Lang::Kan),
    ("ko", Lang::Kor),
    ("lt", Lang::Lit),
    ("lv", Lang::Lav),
    ("mk", Lang::Mkd),
    ("ml", Lang::Mal),
    ("mr", Lang::Mar),
    ("ne", Lang::Nep),
    ("nl", Lang::Nld),
    ("no", Lang::Nob),
    ("pa", Lang::Pan),
    ("pl", Lang::Pol),
    ("pt", Lang::Por),
    ("ro", Lang::Ron),
    ("ru", Lang::Rus),
    ("sk", Lang::Slk),
    ("sl", Lang::Slv),
    ("sv", Lang::Swe),
    ("ta", Lang::Tam),
    ("te", Lang::Tel),
    ("th", Lang::Tha),
    ("tl", Lang::Tgl),
    ("tr", Lang::Tur),
    ("uk", Lang::Ukr),
    ("ur", Lang::Urd),
    ("vi", Lang::Vie),
    ("zh", Lang::Cmn),
];

/// Small words of Swahili. Some occur in other languages too, hardly together.
const SWAHILI: &str = "
    na ya wa kwa ni katika za la cha vya kama hii huu hiyo hizo hizi yake yangu yako yetu yao wake wangu wako wetu wao
    lakini sana pia kuwa kuna ndani kwamba ambayo ambao kila baada kabla zaidi watu mimi wewe sisi kutoka hadi bila hivyo
    nini leo yule";

/// Small words of English that its neighbours do not have.
const ENGLISH: &str = "
    the and you that it with this are not your what they from would which but my there their when about could should
    been i'm it's don't can't";

impl Language {
    /// English.
    pub(super) const ENGLISH: Self = Self::Profiled(Lang::Eng);

    /// By its ISO 639-1 code.
    pub(super) fn from_code(code: &str) -> Option<Self> {
        let profiled = CODES.iter().find(|(known, _)| *known == code);
        profiled
            .map(|&(_, lang)| Self::Profiled(lang))
            .or_else(|| (code == "sw").then_some(Self::Swahili))
    }

    /// The codes of every language that can be recognised, in a line.
    pub(super) fn codes() -> String {
        CODES
            .iter()
            .map(|(code, _)| *code)
            .chain(["sw"])
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// The text is in this language, or has no letters.
    pub(super) fn is_of(self, text: &str) -> bool {
        if !text.chars().any(char::is_alphabetic) {
            return true;
        }
        let lowered = text.to_lowercase();
        if speaks(&lowered, SWAHILI) {
            self == Self::Swahili
        } else if speaks(&lowered, ENGLISH) {
            self == Self::ENGLISH
        } else {
            whatlang::detect_lang(text).is_some_and(|lang| self == Self::Profiled(lang))
        }
    }
}

/// At least three different ones of these small words occur, and one word in seven is one of them.
fn speaks(lowered: &str, small: &str) -> bool {
    let small: HashSet<&str> = small.split_whitespace().collect();
    let mut seen = HashSet::new();
    let (mut words, mut hits) = (0_usize, 0_usize);
    for word in lowered
        .split(|c: char| !c.is_alphabetic() && c != '\'')
        .filter(|word| !word.is_empty())
    {
        words += 1;
        if let Some(word) = small.get(word) {
            hits += 1;
            seen.insert(*word);
        }
    }
    seen.len() >= 3 && hits * 7 >= words
}
