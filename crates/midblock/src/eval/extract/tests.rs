use super::*;
use proptest::prelude::*;
use std::{collections::BTreeMap, time::Instant};

fn extracted(extractor: &str, text: &str, choices: usize) -> Option<String> {
    extractor.parse::<Extractor>().unwrap().extract(text, choices)
}

/// Every case whose extraction is not the expected one.
fn wrong<'a>(extractor: &str, choices: usize, cases: &[(&'a str, Option<&str>)]) -> Vec<(&'a str, Option<String>)> {
    let read = cases
        .iter()
        .map(|(text, expected)| (*text, extracted(extractor, text, choices), *expected));
    read.filter(|(_, got, expected)| got.as_deref() != *expected)
        .map(|(text, got, _)| (text, got))
        .collect()
}

#[test]
fn the_strict_number_follows_the_hashes() {
    let cases = [
        ("so 9 * 2 = 18.\n#### 18", Some("18")),
        ("#### 1,234,567.", Some("1234567")),
        ("#### -3.50", Some("-3.50")),
        ("#### 5\n#### 6", Some("5")),
        ("#### NUMBER\n#### 7", Some("7")),
        ("#### ", None),
        ("#### $18", None),
        ("####18", None),
        ("#### .", None),
        ("The answer is 18.", None),
        ("", None),
    ];
    assert_eq!(wrong("gsm-strict", 0, &cases), []);
}

#[test]
fn the_last_number_is_read_with_sign_and_separators() {
    let cases = [
        ("It costs $1,234.50.", Some("1234.50")),
        ("the change is -3", Some("-3")),
        ("the change is \u{2212}3", Some("-3")),
        ("he owes -$5", Some("-5")),
        ("he owes $-5", Some("-5")),
        ("$5", Some("5")),
        ("3.", Some("3")),
        ("50%", Some("50")),
        (".5", Some("0.5")),
        ("1.5e3 metres", Some("1.5e3")),
        ("7-3", Some("3")),
        ("it is a 3-egg omelet", Some("3")),
        ("from 2020-2021", Some("2021")),
        ("1,2,3", Some("3")),
        ("x2 and H2O", None),
        ("５４ 個、答えは１２", Some("12")),
        ("الجواب ٤٢", Some("42")),
        ("答案是15。", Some("15")),
        ("**42**", Some("42")),
        (r"\boxed{42}", Some("42")),
        ("NaN, inf", None),
        ("twelve", None),
        ("<think>7</think> It is 8", Some("8")),
        ("<think>maybe 7", None),
        ("", None),
        ("\n \t", None),
    ];
    assert_eq!(wrong("last-number", 0, &cases), []);
}

#[test]
fn the_papers_number_takes_every_hyphen_for_a_sign() {
    let cases = [
        ("7-3", Some("-3")),
        ("1,234", Some("1234")),
        ("x2", Some("2")),
        ("3.", Some("3")),
        ("1, 2", Some("2")),
        ("none", None),
    ];
    assert_eq!(wrong("paper-number", 0, &cases), []);
}

#[test]
fn a_letter_counts_only_where_it_is_stated() {
    let cases = [
        (r"\boxed{C}", Some("C")),
        (r"so it is $\boxed{\text{(C)}}$.", Some("C")),
        (r"\boxed{\textbf{C. department store}}", Some("C")),
        (r"\boxed{c}", Some("C")),
        ("The answer is (C)", Some("C")),
        ("The correct answer is: **C**", Some("C")),
        ("The correct answer is C. department store", Some("C")),
        ("Answer: C", Some("C")),
        ("answer: c", Some("C")),
        ("Answer:\n\n(D)", Some("D")),
        ("The answer is option B because it is", Some("B")),
        ("The best choice is D", Some("D")),
        ("The answer is A", Some("A")),
        ("The answer is A, since iron rusts", Some("A")),
        ("The answer is A because iron rusts", Some("A")),
        ("B is the correct answer.", Some("B")),
        ("(B) bank is the best option", Some("B")),
        ("I would choose B", Some("B")),
        ("I'll go with (c)", Some("C")),
        ("答案是C", Some("C")),
        ("答案：Ｃ", Some("C")),
        ("C.", Some("C")),
        ("**C**", Some("C")),
        ("(c)", Some("C")),
        ("C", Some("C")),
        ("C. department store", Some("C")),
        ("Because it is heavy, (B) fits", Some("B")),
        ("The answer is B. Wait. The answer is C.", Some("C")),
        (r"\boxed{B}, no, the answer is \boxed{D}", Some("D")),
        ("The answer is B.\nA. is wrong\nC. is wrong", Some("B")),
        ("<think>The answer is A.</think>The answer is B.", Some("B")),
        // nothing is stated
        ("<think>The answer is A.", None),
        ("A good answer is a department store", None),
        ("The answer is a combination of both", None),
        ("The answer is A combination of both", None),
        ("The answer is I think unclear", None),
        ("department store", None),
        ("The answer is department store", None),
        ("The answer is Cell membrane", None),
        ("The answer is not known", None),
        ("The answer is A or B", None),
        ("The answer is (A) and (C)", None),
        (r"\boxed{A, B}", None),
        (r"\boxed{", None),
        (r"\boxed{}", None),
        ("The answer is E", None),
        (r"\boxed{F}", None),
        ("A. bank\nB. library\nC. department store\nD. mall", None),
        ("Please answer with the single correct option letter (e.g., A).", None),
        ("A dog is an animal. A cat is one too.", None),
        ("A. Proof that his claim is correct\nB. Proof that it is wrong", None),
        ("It is (D)-glucose, and (E)-but-2-ene", None),
        ("A.\nbank\nB.\nlibrary\nC.\nmall", None),
        ("A is not the correct answer", None),
        ("", None),
        ("....", None),
    ];
    assert_eq!(wrong("letter", 4, &cases), []);
    assert_eq!(extracted("letter", "The answer is J", 10).as_deref(), Some("J"));
    assert_eq!(extracted("letter", "The answer is J", 9), None);
    assert_eq!(extracted("letter", "The answer is A", 0), None);
}

#[test]
fn the_papers_letter_is_the_first_after_the_word() {
    let cases = [
        (" C\n\nQuestion: next\nAnswer: B", Some("B")),
        ("Answer: C. or B", Some("C")),
        (" (B)", Some("B")),
        ("Because it is D", Some("D")),
        ("E", None),
        ("because", None),
    ];
    assert_eq!(wrong("paper-letter", 4, &cases), []);
}

#[test]
fn boxes_are_balanced_complete_and_the_last() {
    let cases = [
        (r"\boxed{\frac{1}{2}}", Some(r"\frac{1}{2}")),
        (r"\boxed{1} then \boxed{2}", Some("2")),
        (r"\boxed{12} \boxed{12} \boxed{1", Some("12")),
        (r"\fbox{7}", Some("7")),
        (r"$\boxed 5$", Some("5")),
        (r"\boxed 5.", Some("5")),
        (r"\boxed {5}", Some("5")),
        (r"\boxed{\boxed{5}}", Some("5")),
        (r"\boxed{\{1, 2\}}", Some(r"\{1, 2\}")),
        (r"\boxed{\left\{x\right.}", Some(r"\left\{x\right.")),
        (r"{ \boxed{3}", Some("3")),
        (r"} \boxed{3}", Some("3")),
        (r"\boxed{é√}", Some("é√")),
        (r"\é \boxed{3}", Some("3")),
        (r"<think>\boxed{3}</think> \boxed{4}", Some("4")),
        (r"<think>\boxed{3}", None),
        (r"put your final answer within \boxed{}.", None),
        (r"\boxed{", None),
        (r"\boxed", None),
        (r"\boxedfoo", None),
        ("\\", None),
        ("", None),
    ];
    assert_eq!(wrong("boxed", 0, &cases), []);
}

#[test]
fn the_final_answer_ends_with_the_hope() {
    let cases = [
        (
            "Final Answer: The final answer is $\\frac{1}{2}$. I hope it is correct.",
            Some(r"\frac{1}{2}"),
        ),
        (
            "The final answer is 3.5. I hope it is correct.\nThe final answer is 4.",
            Some("3.5"),
        ),
        ("the final answer is: 7", Some("7")),
        ("The final answer is", None),
        ("", None),
    ];
    assert_eq!(wrong("final-answer", 0, &cases), []);
    assert_eq!(extracted("boxed-or-last", r"2 \boxed{3} 4", 0).as_deref(), Some("3"));
    assert_eq!(
        extracted("boxed-or-last", "The final answer is x. 4", 0).as_deref(),
        Some("x. 4")
    );
    assert_eq!(extracted("boxed-or-last", "it is 4", 0).as_deref(), Some("4"));
}

#[test]
fn code_is_the_first_block_or_the_text() {
    let cases = [
        ("Here:\n```python\nx = 1\n```\n```\ny\n```", Some("x = 1\n")),
        ("```\nx = 1\n", Some("x = 1\n")),
        ("    return x\n", Some("    return x\n")),
        ("```python", None),
        (" \n", None),
    ];
    assert_eq!(wrong("code", 0, &cases), []);
}

#[test]
fn patterns_find_their_group_and_give_up_in_time() {
    assert_eq!(extracted(r"regex:(\d+)", "1 2 3", 0).as_deref(), Some("1"));
    assert_eq!(extracted(r"regex-last:(\d+)", "1 2 3", 0).as_deref(), Some("3"));
    assert_eq!(extracted(r"regex:(?<=is )(\w+)", "it is so", 0).as_deref(), Some("so"));
    assert_eq!(extracted(r"regex:^((?:a|a)*)\1$", &("a".repeat(40) + "b"), 0), None);
}

#[test]
fn names_read_back_and_errors_list_what_is_known() {
    let names = Extractor::NAMED.map(|(name, _)| name);
    for name in names.into_iter().chain([r"regex:a(b)", r"regex-last:(\d)"]) {
        let extractor: Extractor = name.parse().unwrap();
        assert_eq!(extractor.to_string(), name);
        let json = serde_json::to_string(&extractor).unwrap();
        assert_eq!(serde_json::from_str::<Extractor>(&json).unwrap(), extractor);
    }
    for name in [
        "exact",
        "ignore-case",
        "number",
        "letter",
        "latex",
        "relative",
        "relative:0.01",
    ] {
        let judge: Judge = name.parse().unwrap();
        assert_eq!(judge.to_string(), name);
        let json = serde_json::to_string(&judge).unwrap();
        assert_eq!(serde_json::from_str::<Judge>(&json).unwrap(), judge);
    }
    let error = "lettr".parse::<Extractor>().unwrap_err().to_string();
    assert!(names.iter().all(|name| error.contains(name)), "{error}");
    let error = "lettr".parse::<Judge>().unwrap_err().to_string();
    assert!(
        error.contains("ignore-case") && error.contains("relative:TOLERANCE"),
        "{error}"
    );
    for bad in ["regex:(", "regex:no group", "regex:(a)(b)", "regex", ""] {
        assert!(bad.parse::<Extractor>().is_err(), "{bad}");
    }
    for bad in ["relative:", "relative:2", "relative:NaN", "relative:-1", ""] {
        assert!(bad.parse::<Judge>().is_err(), "{bad}");
    }
}

#[test]
fn judges_agree_with_hand_verdicts() {
    let cases = [
        ("exact", " a ", "a", true),
        ("exact", "A", "a", false),
        ("exact", "", "", false),
        ("ignore-case", "YES", "yes", true),
        ("number", "1,234", "1234.0", true),
        ("number", "$1,234.50", "1234.5", true),
        ("number", "3/4", "0.75", true),
        ("number", "½", "0.5", true),
        ("number", "1e3", "1000", true),
        ("number", "50%", "50", true),
        ("number", "50%", "0.5", true),
        ("number", "0.3333", "1/3", true),
        ("number", "18.", "18", true),
        ("number", "18.002", "18", false),
        ("number", "NaN", "NaN", false),
        ("number", "inf", "inf", false),
        ("number", "1e999", "1e999", false),
        ("number", "abc", "abc", false),
        ("number", "1/0", "1/0", false),
        ("letter", "(c)", "C", true),
        ("letter", "C", "D", false),
        ("letter", "CD", "CD", false),
        ("latex", r"\frac12", "0.5", true),
        ("latex", "3.14", r"\pi", false),
        ("relative", "3.14159", r"\pi", true),
        ("relative", "3.14", r"\pi", false),
        ("relative:0.01", "3.14", r"\pi", true),
        ("relative", r"1.04001 \times 10^{-3}", "1.04e-3", true),
        ("relative", r"2.04 \times 10^{-3}", "1.04e-3", false),
        ("relative", "x + 1.00001", "x + 1", false),
    ];
    for (judge, answer, gold, right) in cases {
        assert_eq!(
            judge.parse::<Judge>().unwrap().is_right(answer, gold),
            right,
            "{judge}: {answer} beside {gold}"
        );
    }
}

#[derive(serde::Deserialize)]
struct Transcript {
    completion: String,
    expected: BTreeMap<String, Option<String>>,
}

/// Completions of SmolLM2-135M-Instruct on GSM8K and ARC, greedy, 200 tokens; the answers were read by hand.
#[test]
fn real_transcripts_give_the_answers_that_a_person_reads() {
    let transcripts: Vec<Transcript> = serde_json::from_str(include_str!("transcripts.json")).unwrap();
    assert_eq!(transcripts.len(), 40);
    for (i, transcript) in transcripts.iter().enumerate() {
        for (extractor, expected) in &transcript.expected {
            assert_eq!(
                extracted(extractor, &transcript.completion, 4),
                *expected,
                "{extractor} of transcript {i}"
            );
        }
    }
}

#[test]
fn long_texts_take_no_time() {
    let start = Instant::now();
    let hostile = [
        "\\boxed{".repeat(15_000),
        "{".repeat(100_000),
        "#### ".repeat(20_000),
        "9".repeat(100_000),
        "1,".repeat(50_000),
        "answer is ".repeat(10_000),
        "The answer is (A) or ".repeat(5_000),
        "A. x\n".repeat(20_000),
        "A is ".repeat(20_000),
        "- ".repeat(50_000),
        " ".repeat(100_000),
        "```".repeat(30_000),
        "</think>".repeat(10_000),
        "é".repeat(50_000),
    ];
    for text in &hostile {
        for (_, extractor) in Extractor::NAMED {
            extractor.extract(text, 4);
        }
        for (_, judge) in judge::NAMED {
            judge.is_right(text, "5");
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 60.0, "{seconds} s"); // unoptimised builds too; quadratic work would take hours
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*", pieces in prop::collection::vec(0..12_usize, 0..30)) {
        let parts = ["\\boxed{", "}", "answer is ", "A", "\\", "#### ", "-", "$", "1,000", "é", "\n", "```"];
        let built: String = pieces.into_iter().map(|i| parts[i]).collect();
        for text in [&text, &built] {
            for (_, extractor) in Extractor::NAMED {
                let _ = extractor.extract(text, 5);
            }
        }
    }

    #[test]
    fn any_integer_is_read_back(n in any::<i64>()) {
        prop_assert_eq!(extracted("last-number", &format!("so the result is {n}."), 0), Some(n.to_string()));
        prop_assert_eq!(extracted("gsm-strict", &format!("#### {n}"), 0), Some(n.to_string()));
        prop_assert_eq!(extracted("boxed", &format!("\\boxed{{{n}}}"), 0), Some(n.to_string()));
    }
}
