use super::*;
use proptest::prelude::*;
use serde_json::json;

fn parse(id: &str, kwargs: Value) -> Result<Vec<Instruction>, String> {
    Instruction::parse(&json!({"reward_model": {"instructions": [{"instruction_id": id, "kwargs": kwargs}]}}))
}

/// Each text with its verdict, strict and loose.
#[track_caller]
fn assert_verdicts(id: &str, kwargs: Value, cases: &[(&str, bool, bool)]) {
    let instructions = parse(id, kwargs).unwrap();
    assert_eq!(instructions[0].id(), id);
    for (text, strict, loose) in cases {
        let expected = Followed {
            strict: vec![*strict],
            loose: vec![*loose],
        };
        assert_eq!(judge(&instructions, text), expected, "{id}: {text:?}");
    }
}

/// Each text with its verdict where no reading is more favourable than the text itself.
#[track_caller]
fn assert_follows(id: &str, kwargs: Value, cases: &[(&str, bool)]) {
    let cases: Vec<_> = cases
        .iter()
        .map(|(text, follows)| (*text, *follows, *follows))
        .collect();
    assert_verdicts(id, kwargs, &cases);
}

#[test]
fn case() {
    assert_follows(
        "change_case:capital_word_frequency",
        json!({"capital_frequency": 3.0, "capital_relation": "at least"}),
        &[
            ("A B C", true),
            ("A B c", false),
            ("NASA's U.S.-BASED AT&T", true), // NASA, AT, T; a hyphen does not separate
            ("WELL-KNOWN, A1 \"x\"", false),
            ("DON'T I", true), // DO, N'T, I
            ("CANNOT stop ÉTÉ", true),
            ("1 2 3 -- ? ÜB--ER ES", true),
            ("Ǆ ǅ A", false), // title case is not upper case
        ],
    );
    let capital = "THE WHOLE OF THIS TEXT IS IN ENGLISH, AND IT IS NOT A QUIET ONE WITH THE 2 OF YOU.";
    assert_follows(
        "change_case:english_capital",
        json!(null),
        &[
            (capital, true),
            ("THE WHOLE OF THIS TEXT IS IN ENGLISh, AND IT IS NOT A QUIET ONE", false),
            (
                "LE TEXTE ENTIER EST EN FRANÇAIS, ET IL N'EST PAS DU TOUT TRANQUILLE AUJOURD'HUI",
                false,
            ),
            ("123 !", false),
        ],
    );
    let small = capital.to_lowercase();
    let cases = [
        (small.as_str(), true),
        (capital, false),
        ("le texte entier est en français, et il est trop long", false),
    ];
    assert_follows("change_case:english_lowercase", json!({}), &cases);
    assert_verdicts(
        "change_case:english_lowercase",
        json!({}),
        &[(&format!("Sure!\n{small}"), false, true)],
    );
}

#[test]
fn combinations() {
    assert_verdicts(
        "combination:repeat_prompt",
        json!({"prompt_to_repeat": " Write a *poem*. "}),
        &[
            (" write A *POEM*. Here it is", true, true),
            ("Write a poem. Here it is", false, false),
            ("Sure:\nWrite a *poem*.\nRoses", false, true),
            ("Here: Write a *poem*.", false, false),
        ],
    );
    assert_follows(
        "combination:two_responses",
        json!({}),
        &[
            ("one\n******\ntwo", true),
            ("******one******two******", true),
            ("one******one", false),
            ("one ****** ", false),
            ("one******two******three", false),
            ("one************two", false),
            ("one", false),
        ],
    );
}

#[test]
fn content() {
    assert_follows(
        "detectable_content:number_placeholders",
        json!({"num_placeholders": 2}),
        &[
            ("[name] [address]", true),
            ("[] []", true),
            ("[name [x]", false),
            ("[a\n] [b]", false),
            ("[ä]x[ö]", true),
        ],
    );
    assert_follows(
        "detectable_content:postscript",
        json!({"postscript_marker": "P.P.S"}),
        &[
            ("Bye.\nP.P.S done", true),
            ("p. p. s it", true),
            ("P.S. it", false),
            ("pps", false),
        ],
    );
    assert_follows(
        "detectable_content:postscript",
        json!({"postscript_marker": "P.S."}),
        &[
            ("Bye. p.s. more", true),
            ("P. S. more", true),
            ("PS: more", false),
            ("P.S", false),
        ],
    );
    assert_follows(
        "detectable_content:postscript",
        json!({"postscript_marker": "Nachtrag"}),
        &[("nachtrag: x", true), ("x", false)],
    );
}

#[test]
fn formats() {
    assert_follows(
        "detectable_format:constrained_response",
        json!({}),
        &[
            ("My answer is yes.", true),
            ("Well. My answer is maybe. Or not", true),
            ("My answer is yes", false),
        ],
    );
    assert_verdicts(
        "detectable_format:json_format",
        json!({}),
        &[
            ("{\"a\": [1, 2.5e3, null]}", true, true),
            ("```json\n{\"a\": 1e999, \"b\": \"\\ud800\"}\n```", true, true),
            ("``` \"x\" ```", true, true),
            ("Here it is:\n{}", false, true),
            ("{'a': 1}", false, false),
            ("{\"a\": 1,}", false, false),
            ("{} {}", false, false),
            ("NaN", false, false),
        ],
    );
    assert_follows(
        "detectable_format:multiple_sections",
        json!({"section_spliter": "SECTION", "num_sections": 2}),
        &[
            ("SECTION 1\nx\nSECTION 2\ny", true),
            ("SECTION1SECTION 22", true),
            ("Section 1 Section 2", false),
            ("SECTION 1", false),
        ],
    );
    assert_verdicts(
        "detectable_format:number_bullet_lists",
        json!({"num_bullets": 2}),
        &[
            ("* one\n* two", true, true),
            ("  - one\n\n* two", true, true),
            ("* one\n* two\n- three", false, true),
            ("**one**\n* two", false, false),
            ("-\n--- x", true, true),
            ("one", false, false),
        ],
    );
    assert_follows(
        "detectable_format:number_highlighted_sections",
        json!({"num_highlights": 2}),
        &[
            ("*a* and *b*", true),
            ("**a**", false),
            ("**a** **b**", true),
            ("*a* **b**", true),
            ("** ** * * **", false),
            ("*a\nb* *c*", false),
        ],
    );
    let titles = [
        ("<<Joy>>\nx", true),
        ("x <<<a>>>", true),
        ("<<>>", false),
        ("<< >>", false),
        ("<<a\nb>>", false),
        ("<a>", false),
    ];
    assert_follows("detectable_format:title", json!({}), &titles);
}

#[test]
fn keywords() {
    assert_follows(
        "keywords:existence",
        json!({"keywords": ["cat", "straße"]}),
        &[("CATALOGUE der STRAßE", true), ("cat", false), ("ca t Straße", false)],
    );
    assert_verdicts(
        "keywords:forbidden_words",
        json!({"forbidden_words": ["cat", "dog's"]}),
        &[
            ("catalogue", true, true),
            ("a Cat.", false, false),
            ("no cat\nhere", false, true),
            ("the dog's", false, false),
            ("dogs", true, true),
        ],
    );
    assert_follows(
        "keywords:frequency",
        json!({"keyword": "a.c", "frequency": 2.0, "relation": "at least"}), // a regular expression, as released
        &[("abc AXC", true), ("aac", false), ("abcabcabc", true)],
    );
    assert_verdicts(
        "keywords:frequency",
        json!({"keyword": "ab", "frequency": 2, "relation": "less than"}),
        &[
            ("ab", true, true),
            ("ab AB", false, false),
            ("none", true, true),
            ("ab\nab", false, true),
        ],
    );
    assert_follows(
        "keywords:letter_frequency",
        json!({"letter": "É", "let_frequency": 2, "let_relation": "at least"}),
        &[("Éé", true), ("ee É", false)],
    );
    assert_follows(
        "keywords:letter_frequency",
        json!({"letter": "!", "let_frequency": 2, "let_relation": "less than"}),
        &[("Oh!", true), ("Oh!!", false)],
    );
}

#[test]
fn languages() {
    let texts = [
        (
            "en",
            "The weather is nice today and I am going for a walk in the park with my dog.",
        ),
        (
            "de",
            "Das ist ein schöner Tag, und wir gehen heute zusammen in den Park, um Eis zu essen.",
        ),
        (
            "fr",
            "Aujourd'hui est une belle journée et nous allons tous ensemble au parc manger une glace.",
        ),
        (
            "ru",
            "Сегодня прекрасный день, и мы все вместе идём в парк есть мороженое.",
        ),
        ("hi", "आज का दिन बहुत सुंदर है और हम सब मिलकर पार्क में आइसक्रीम खाने जा रहे हैं।"),
        (
            "ko",
            "오늘은 날씨가 좋아서 우리 모두 함께 공원에 가서 아이스크림을 먹을 거예요.",
        ),
        (
            "sw",
            "Leo nimeamka mapema, kisha nikaenda sokoni kununua matunda na mboga kwa ajili ya familia yangu.",
        ),
        ("zh", "今天天气很好，我们大家一起去公园吃冰淇淋。"),
    ];
    for (code, _) in texts {
        let cases = texts.map(|(other, text)| (text, other == code));
        assert_follows("language:response_language", json!({"language": code}), &cases);
        assert_follows(
            "language:response_language",
            json!({"language": code}),
            &[("12 + 3!", true)],
        );
    }
    let again = "I mean, I can tell you to ride a bike like a kid. But what's that? ".repeat(8); // misleads trigrams
    assert_follows(
        "language:response_language",
        json!({"language": "en"}),
        &[(&again, true)],
    );
}

#[test]
fn paragraphs() {
    assert_follows(
        "length_constraints:nth_paragraph_first_word",
        json!({"num_paragraphs": 2.0, "nth_paragraph": 2.0, "first_word": "Summer"}),
        &[
            ("one\n\nSUMMER, it is", true),
            ("one\n\n\"'Summer's end", false), // only quotes in this order are taken off: ' then "
            ("one\n\n'\"summer's end", true),
            ("one\n\nsummertime", false),
            ("Summer\n\none", false),
            ("one\n\nsummer.\n\nthree\n\nfour", false),
            ("one\n\n \n\nsummer", false), // two paragraphs, but the second between empty lines is blank
            ("one\nsummer", false),
        ],
    );
    assert_verdicts(
        "length_constraints:number_paragraphs",
        json!({"num_paragraphs": 2}),
        &[
            ("one\n***\ntwo", true, true),
            ("***one *** two***", true, true),
            ("one *** *** two", false, false),
            ("one", false, false),
            ("one\n***\ntwo\n***\nthree", false, true),
        ],
    );
    assert_follows(
        "length_constraints:number_paragraphs",
        json!({"num_paragraphs": 1}),
        &[("one", true), ("***", false)],
    );
}

#[test]
fn lengths() {
    let words = |n: u32, relation: &str| json!({"num_words": n, "relation": relation});
    let least = [
        ("It's three", true),
        ("one_two 3", false),
        ("à-la-carte", true),
        ("... -- !", false),
    ];
    assert_follows("length_constraints:number_words", words(3, "at least"), &least);
    let less = [("one two", true), ("one two three", false)];
    assert_follows("length_constraints:number_words", words(3, "less than"), &less);
    let sentences = json!({"num_sentences": 2, "relation": "at least"});
    assert_follows(
        "length_constraints:number_sentences",
        sentences,
        &[
            ("One. Two.", true),
            ("One, two", false),
            ("Dr. Who met Mr. Hyde.", false),
            ("Really?! Yes", true),
        ],
    );
}

#[test]
fn sentences_are_counted_as_punkt_does() {
    for (text, expected) in [
        ("", 0),
        (" \n", 0),
        ("One", 1),
        ("One. Two! Three? Four", 4),
        ("One.Two", 1),
        ("A list\n- of\n- things", 1),
        ("He said \"Go.\" She went.", 2),
        ("(It was so.) It is.", 2),
        ("The end.)", 1),
        ("“Go.” She went.", 2),
        ("At 9 a.m. the bell rang. It is 3.5 m.", 2),
        ("The U.S. The people.", 2), // "the" often begins a sentence
        ("The U.S. Army came.", 1),
        ("Wait... what? No... This is it.", 3),
        ("e.g. this etc. that", 3), // neither is in the model
        ("1. First\n2. second", 2), // "1." ends a sentence, "2." before a small letter does not
        ("J. Bach and J. S. Bach.", 1),
        ("Wow!!! Great!!!", 3), // the last of several marks is taken for a token of its own
        ("x . . . y", 4),
        ("Hm. -- No.--", 2),
    ] {
        assert_eq!(sentences::count(text), expected, "{text:?}");
    }
}

#[test]
fn ends_and_punctuation() {
    assert_verdicts(
        "punctuation:no_comma",
        json!({}),
        &[
            ("a; b، c，", true, true),
            ("a, b", false, false),
            ("a,\nb", false, true),
        ],
    );
    assert_verdicts(
        "startend:end_checker",
        json!({"end_phrase": " Any Questions? "}),
        &[
            ("So. any questions?", true, true),
            ("\"So. Any questions?\" \n", true, true),
            ("So. Any questions? No", false, false),
            ("So. Any *questions?*", false, true),
            ("So. Any questions?\nP.S.", false, true),
        ],
    );
    assert_follows(
        "startend:quotation",
        json!({}),
        &[
            (" \"a\"\n", true),
            ("\"\"", true),
            ("\"", false),
            ("\"a", false),
            ("“a”", false),
        ],
    );
}

/// The instructions of every kind, without arguments that could be wrong.
fn every_kind() -> Vec<Instruction> {
    let kinds = [
        (
            "change_case:capital_word_frequency",
            json!({"capital_frequency": 1, "capital_relation": "less than"}),
        ),
        ("change_case:english_capital", json!({})),
        ("change_case:english_lowercase", json!({})),
        ("combination:repeat_prompt", json!({"prompt_to_repeat": "a"})),
        ("combination:two_responses", json!({})),
        ("detectable_content:number_placeholders", json!({"num_placeholders": 1})),
        ("detectable_content:postscript", json!({"postscript_marker": "P.S."})),
        ("detectable_format:constrained_response", json!({})),
        ("detectable_format:json_format", json!({})),
        (
            "detectable_format:multiple_sections",
            json!({"section_spliter": "S", "num_sections": 0}),
        ),
        ("detectable_format:number_bullet_lists", json!({"num_bullets": 0})),
        (
            "detectable_format:number_highlighted_sections",
            json!({"num_highlights": 0}),
        ),
        ("detectable_format:title", json!({})),
        ("keywords:existence", json!({"keywords": ["a"]})),
        ("keywords:forbidden_words", json!({"forbidden_words": ["b"]})),
        (
            "keywords:frequency",
            json!({"keyword": "a", "frequency": 2, "relation": "less than"}),
        ),
        (
            "keywords:letter_frequency",
            json!({"letter": "a", "let_frequency": 0, "let_relation": "at least"}),
        ),
        ("language:response_language", json!({"language": "en"})),
        (
            "length_constraints:nth_paragraph_first_word",
            json!({"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "a"}),
        ),
        ("length_constraints:number_paragraphs", json!({"num_paragraphs": 1})),
        (
            "length_constraints:number_sentences",
            json!({"num_sentences": 5, "relation": "less than"}),
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 0, "relation": "at least"}),
        ),
        ("punctuation:no_comma", json!({})),
        ("startend:end_checker", json!({"end_phrase": "a"})),
        ("startend:quotation", json!({})),
    ];
    kinds
        .iter()
        .flat_map(|(id, kwargs)| parse(id, kwargs.clone()).unwrap())
        .collect()
}

#[test]
fn empty_responses_follow_nothing() {
    let none = Followed {
        strict: vec![false; 25],
        loose: vec![false; 25],
    };
    for text in ["", " ", "\n\n\t", "\u{a0}\u{1f}"] {
        assert_eq!(judge(&every_kind(), text), none, "{text:?}");
    }
    let only_asterisks = judge(&parse("punctuation:no_comma", json!({})).unwrap(), "***");
    assert_eq!(
        only_asterisks,
        Followed {
            strict: vec![true],
            loose: vec![true]
        }
    );
}

#[test]
fn megabytes_are_judged_in_time() {
    for piece in [
        ".", "! ", "*", "[", "<<", "\n", "\n\n***", "a", "'S", "A ", "[]", "\"", "-- ", "é. ", "{\"a\":[", "Dr. ", ",:",
    ] {
        let text = piece.repeat((1 << 20) / piece.len());
        let start = std::time::Instant::now();
        judge(&every_kind(), &text);
        assert!(start.elapsed().as_secs() < 60, "{piece:?} took {:?}", start.elapsed());
    }
}

#[test]
fn both_shapes_of_rows_say_the_same() {
    let kwargs = json!({"num_words": 2, "relation": "at least", "letter": null});
    let original = json!({"instruction_id_list": ["length_constraints:number_words"], "kwargs": [kwargs]});
    let original = Instruction::parse(&original).unwrap();
    let chat = parse("length_constraints:number_words", kwargs).unwrap();
    assert_eq!(format!("{original:?}"), format!("{chat:?}"));
}

#[test]
fn errors_name_place_key_expected_and_got() {
    let first = "reward_model.instructions[0].kwargs of";
    let cases = [
        (
            "a:b",
            json!({}),
            format!("{first} a:b is not an instruction that is known (the 25 kinds of IFEval are)"),
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": null, "relation": "at least"}),
            format!(
                "{first} length_constraints:number_words: `num_words` is null, expected a whole number from 0 to 1e9"
            ),
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 1.5, "relation": "at least"}),
            format!(
                "{first} length_constraints:number_words: `num_words` is 1.5, expected a whole number from 0 to 1e9"
            ),
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 1, "relation": "at most"}),
            format!(
                "{first} length_constraints:number_words: `relation` is \"at most\", expected \"at least\" or \"less than\""
            ),
        ),
        (
            "startend:end_checker",
            json!(null),
            format!("{first} startend:end_checker: `end_phrase` is missing, expected a text that is not empty"),
        ),
        (
            "keywords:existence",
            json!({"keywords": ["a", 3]}),
            format!("{first} keywords:existence: `keywords` is [\"a\",3], expected a list of texts that are not empty"),
        ),
        (
            "keywords:letter_frequency",
            json!({"letter": "ab", "let_frequency": 1, "let_relation": "at least"}),
            format!("{first} keywords:letter_frequency: `letter` is \"ab\", expected one character"),
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            json!({"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
            format!(
                "{first} length_constraints:nth_paragraph_first_word: `nth_paragraph` is 3, expected from 1 to num_paragraphs, 2"
            ),
        ),
        (
            "punctuation:no_comma",
            json!(3),
            format!("{first} punctuation:no_comma is 3, expected an object"),
        ),
    ];
    for (id, kwargs, expected) in cases {
        assert_eq!(parse(id, kwargs).unwrap_err(), expected);
    }
    let unknown = parse("language:response_language", json!({"language": "so"})).unwrap_err();
    assert!(
        unknown.contains("`language` is \"so\", expected the code of a language that can be recognised: af ar"),
        "{unknown}"
    );
    for keyword in ["(", "(a+)+(?=b)", r"(a)\1", "a++"] {
        let refused = parse("keywords:existence", json!({"keywords": [keyword]})).unwrap_err();
        assert!(
            refused.ends_with("without look-around, back-references and possessive repeats"),
            "{refused}"
        );
    }
}

#[test]
fn errors_name_what_is_wrong_with_the_row() {
    for (row, expected) in [
        (
            json!({}),
            "expected `reward_model.instructions` or `instruction_id_list` with `kwargs`, got neither",
        ),
        (
            json!([]),
            "expected `reward_model.instructions` or `instruction_id_list` with `kwargs`, got neither",
        ),
        (
            json!({"reward_model": {"instructions": {}}}),
            "reward_model.instructions is {}, expected a list",
        ),
        (
            json!({"reward_model": {"instructions": []}}),
            "expected at least one instruction, got an empty list",
        ),
        (
            json!({"reward_model": {"instructions": [{}]}}),
            "reward_model.instructions[0].instruction_id is null, expected the name of an instruction",
        ),
        (json!({"instruction_id_list": ["a"]}), "kwargs is null, expected a list"),
        (
            json!({"instruction_id_list": ["a"], "kwargs": []}),
            "kwargs has 0 items, expected 1, one per instruction",
        ),
        (
            json!({"instruction_id_list": ["punctuation:no_comma", 7], "kwargs": [{}, {}]}),
            "instruction_id_list[1] is 7, expected the name of an instruction",
        ),
    ] {
        assert_eq!(Instruction::parse(&row).unwrap_err(), expected);
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_strict_implies_loose(text in "(?s).{0,80}|([\\*\\[\\]<>\"'.,!? \nA-Ca-c1É़-]|P\\.S|\\*\\*\\*|\n\n|```|n't|Dr\\.){0,40}") {
        let followed = judge(&every_kind(), &text);
        prop_assert_eq!(followed.strict.len(), 25);
        for (strict, loose) in followed.strict.iter().zip(&followed.loose) {
            prop_assert!(!strict || *loose);
        }
    }

    #[test]
    fn there_are_no_more_sentences_than_words(text in "([A-Za-z]{1,6}[.!?]? ){0,20}") {
        prop_assert!(sentences::count(&text) <= text.split_whitespace().count());
    }
}
