use super::*;
use proptest::prelude::*;
use std::time::Instant;

/// Two spellings of one answer.
const SAME: [(&str, &str); 114] = [
    // layout
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\tfrac{\pi}{2})"),
    (r"\dfrac{17}{50}", r"\frac{17}{50}"),
    (r"$\frac{1}{2}$", r"\frac{1}{2}"),
    (r"\(\frac{1}{2}\)", r"\frac12"),
    (r"\boxed{7}", "7"),
    ("7.", "7"),
    ("-3", "\u{2212}3"),
    ("１２", "12"),
    (r"\mathbf{5}", "5"),
    (r"2\,\sqrt{5}", r"2 \sqrt 5"),
    // numbers
    ("0.5", r"\frac{1}{2}"),
    ("1/2", r"\frac12"),
    (".5", "0.50"),
    ("+2", "2"),
    ("½", "0.5"),
    ("1½", "1.5"),
    (r"1\frac{4}{5}", r"\frac{9}{5}"),
    (r"137 \frac{1}{2}", "137.5"),
    ("1 4/5", "1.8"),
    (r"-1\frac12", "-1.5"),
    (r"\frac 34", "0.75"),
    (r"\frac9{19}", "9/19"),
    (r"\frac{2}{4}", r"\frac{1}{2}"),
    ("-1./3", r"-\frac{1}{3}"),
    (r"\frac{-1}{3}", r"-\frac{1}{3}"),
    (r"0.\overline{3}", r"\frac13"),
    (r"0.1\overline{6}", "1/6"),
    ("10,000", "10000"),
    (r"10{,}000", "10000"),
    (r"11,\! 111,\! 111,\! 100", "11111111100"),
    (r"10\,080", r"10,\!080"),
    ("1,234.5", "1234.50"),
    (r"1.04 \times 10^{-3}", "1.04e-3"),
    ("3e8", r"3 \cdot 10^8"),
    ("2^{1009}", r"4^{504} \cdot 2"),
    (r"\frac{100!}{99!}", "100"),
    (r"\binom{5}{2}", "10"),
    (r"{5 \choose 2}", "10"),
    ("5!", "120"),
    ("2^3^2", "512"),
    (r"\frac{1}{2}^2", r"\frac14"),
    // money, units, percent, degrees
    (r"\$18.90", "18.9"),
    (r"\$36", "36"),
    (r"5.4 \text{ cents}", "5.4"),
    (r"864 \mbox{ inches}^2", "864"),
    (r"15\mbox{ cm}^2", r"15 \text{ cm}^{2}"),
    (r"\frac{270}7\text{ degrees}", r"\frac{270}{7}^\circ"),
    ("5 cm", r"5\,\mathrm{cm}"),
    (r"5 \text{ meters}", r"5 \mathrm{~m}"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90°"),
    (r"50\%", "50"),
    (r"50\%", "0.5"),
    ("17.5%", r"17.5 \%"),
    // irrational
    (r"\sqrt{12}", r"2\sqrt{3}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\sqrt[3]{8}", "2"),
    (r"\sqrt[3]{-8}", "-2"),
    (r"\sqrt2", "2^{1/2}"),
    ("√2", r"\sqrt{2}"),
    ("sqrt(2)", r"\sqrt{2}"),
    (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}"),
    (r"12\pi", "12 π"),
    (r"\frac{\pi}{6}", r"\pi/6"),
    (r"\cos 60^\circ", r"\frac{1}{2}"),
    (r"\sin \frac{\pi}{2}", "1"),
    (r"\log_2 8", "3"),
    (r"\log_{10} 100", "2"),
    (r"\ln e^2", "2"),
    ("np.arcsin(10/13)", r"\arcsin(10/13)"),
    (r"\sin^{-1}(1)", r"\frac{\pi}{2}"),
    (r"e^{i\pi}", "-1"),
    ("6 - 5i", "-5i+6"),
    (r"\frac{1}{1+i}", r"\frac{1-i}{2}"),
    (r"\sqrt{-4}", "2i"),
    (r"|{-3}|", "3"),
    (r"\lfloor 2.7 \rfloor", "2"),
    // variables
    ("(a+5)(b+2)", "ab+2a+5b+10"),
    ("x^3+3x-6", "-6+3x+x^{3}"),
    ("x(x+2)", "x^2+2x"),
    (r"\frac{11+9a}{20}", "0.55+0.45a"),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\tan x", r"\frac{\sin x}{\cos x}"),
    (r"\cot x", r"1/\tan x"),
    (r"\sqrt{4\pi G \rho_0 r_0^2}", r"2 r_0 \sqrt{\pi G \rho_0}"),
    ("2^{k-1}", r"\frac{2^k}{2}"),
    (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"),
    (r"\lceil n/2 \rceil", r"\lfloor (n+1)/2 \rfloor"),
    (r"\frac{1}{s+a}", r"(s+a)^{-1}"),
    (
        r"\lambda_{\text {red}} / \sqrt{2}",
        r"\frac{\sqrt{2}}{2}\lambda_{\text{red}}",
    ),
    (r"\exp{a*t}", "e^{at}"),
    // equations and inequalities
    ("x=5", "5"),
    ("f(x) = x+1", "x + 1"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    ("y = 2x + 3", "2x+3"),
    ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z=4"),
    (r"x \in [-2,7]", r"-2 \le x \leq 7"),
    (r"k \geqslant 2", r"[2, \infty)"),
    ("x > 3", "3 < x"),
    (r"x = \sqrt{2} \approx 1.414", r"\sqrt2"),
    // several
    ("1,-2", "-2, 1"),
    (r"x = 1 \text{ or } x = -2", "-2,1"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1-\sqrt5, 1+\sqrt5"),
    ("3, 5, 7", r"\{7,5,3\}"),
    ("$(1,1), (3,2)$", "(3,2),(1,1)"),
    (r"(2,12) \cup (12,102)", r"(12,102) \cup (2,12)"),
    (r"(-\infty, 0]", r"(-∞,0]"),
    (
        r"\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix}",
        r"\begin{bmatrix}-\frac13\\\frac23\end{bmatrix}",
    ),
    (r"\begin{pmatrix} -2 \\ -14 \\ -7 \end{pmatrix}", "(-2,-14,-7)"),
    // words
    (r"\text{(C)}", "C"),
    (r"\text{Evelyn}", "Evelyn"),
    (r"4210_{5}", "4210_5"),
];

/// Different answers, many of which a careless comparison takes for the same.
const DIFFERENT: [(&str, &str); 75] = [
    ("0.333", r"\frac{1}{3}"),
    ("0.333333333333", r"\frac{1}{3}"),
    ("3.14", r"\pi"),
    ("1.41421356", r"\sqrt{2}"),
    ("2^{1009}", "2^{1009}+1"),
    ("2^{2019}-1", "2^{2019}"),
    ("1.325e-27", "1.326e-27"),
    ("1e-27", "0"),
    ("9999!", "9998!"),
    ("10^{10^{10}}", "10^{10^{10}}+1"),
    ("", "5"),
    ("5", "-5"),
    ("12", "1,2"),
    ("1234", "1,2,3,4"),
    ("123,456", "456,123"),
    ("2516_8", "2516"),
    ("2516_8", "1358"),
    ("2516_8", "2516_7"),
    (r"2\frac{1}{2}", "1"),
    (r"\frac{1}{2}", "2"),
    ("1/2/3", "1/(2/3)"),
    ("-2^2", "(-2)^2"),
    ("5 cm", r"5 \text{ m}"),
    (r"15 \text{ cm}^2", r"15 \text{ cm}^3"),
    (r"50\%", "5"),
    (r"50\%", r"0.5\%"),
    (r"30^\circ", r"\frac{\pi}{6}"),
    (r"\sin 30", r"\frac12"),
    (r"\sqrt{2}", "2"),
    (r"\sqrt[3]{2}", r"3\sqrt{2}"),
    (r"\sqrt{x^2}", "x"),
    ("|x|", "x"),
    ("x", "y"),
    ("2k", "2n"),
    ("x+1", "x+2"),
    ("x^2", "x^2 + 10^{-12}"),
    ("x^2", "2x"),
    (r"\sin 2x", r"2 \sin x"),
    (r"\log x + \log y", r"\log(x+y)"),
    (r"\lfloor n/2 \rfloor", "n/2"),
    (r"\lfloor n/2 \rfloor", r"\lceil n/2 \rceil"),
    ("n!", "n^n"),
    ("2n-2", "2n"),
    ("6+9i", "6-9i"),
    ("I(0)", "V(0)"),
    ("I(0)", "0"),
    ("x_1", "x_2"),
    ("y'", "y"),
    (r"\dot{x}", "x"),
    ("x = 5", "y = 5"),
    ("x = 5", "6"),
    ("y = 2x + 3", "y = 2x - 3"),
    ("f(x) = x + 1", "g(x) = x + 1"),
    ("5 = 6", "5"),
    ("x < 5", r"x \le 5"),
    ("x < 5", "x > 5"),
    (r"x \ne 5", "x = 5"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    ("(1,2)", "[1,2]"),
    ("(1,2]", "[1,2)"),
    ("1,2", "1,2,3"),
    ("1,1,2", "1,2,2"),
    (r"1 \pm \sqrt{2}", r"1 + \sqrt{2}"),
    (r"(-\infty, 0]", r"(\infty, 0]"),
    (r"(0,1) \cup (1,2)", "(0,2)"),
    (
        r"\begin{pmatrix} 1 & 2 \end{pmatrix}",
        r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}",
    ),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}",
    ),
    (r"\text{east}", "seat"),
    (r"\text{(C)}", r"\text{(D)}"),
    (r"\text{C}", r"\text{c}"),
    (r"\frac{37}{4} m", "9.25 s"),
    ("x^2=4", "x=2"),
    ("12:30", "12:31"),
    (r"\frac{1}{0}", r"\frac{2}{0}"),
];

#[test]
fn spellings_of_one_answer_are_equivalent_both_ways() {
    let missed: Vec<_> = SAME
        .iter()
        .filter(|(a, b)| !equivalent(a, b) || !equivalent(b, a))
        .collect();
    assert_eq!(missed, Vec::<&(&str, &str)>::new());
}

#[test]
fn different_answers_are_not_equivalent_either_way() {
    let taken: Vec<_> = DIFFERENT
        .iter()
        .filter(|(a, b)| equivalent(a, b) || equivalent(b, a))
        .collect();
    assert_eq!(taken, Vec::<&(&str, &str)>::new());
}

#[test]
fn every_spelling_is_equivalent_to_itself_and_to_itself_in_dollars() {
    let all = SAME
        .iter()
        .chain(&DIFFERENT)
        .flat_map(|(a, b)| [*a, *b])
        .filter(|a| !a.is_empty());
    let odd: Vec<_> = all
        .filter(|a| !equivalent(a, a) || !equivalent(&format!("${a}$"), a))
        .collect();
    assert_eq!(odd, Vec::<&str>::new());
}

#[test]
fn a_tolerance_is_for_constants_only() {
    assert!(equivalent_within("3.1416", r"\pi", 1e-4));
    assert!(!equivalent_within("3.14", r"\pi", 1e-4));
    assert!(equivalent_within("(1.00001, 2)", "(1, 2)", 1e-4));
    assert!(!equivalent_within("1.00001x", "x", 1e-4));
}

#[test]
fn constants_have_values() {
    let values = [
        "1,234", r"\frac34", "½", r"2\pi", "1e3", "5 apples", "x", "1/0", "10^{999}", "",
    ]
    .map(value);
    let pi = std::f64::consts::PI;
    let expected = [
        Some(1234.0),
        Some(0.75),
        Some(0.5),
        Some(2.0 * pi),
        Some(1000.0),
        None,
        None,
        None,
        None,
        None,
    ];
    assert_eq!(values, expected);
}

#[test]
fn hostile_answers_get_a_verdict_quickly() {
    let start = Instant::now();
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let hostile = [
        nested("{", "}", 100_000),
        nested("(", ")", 1900),
        nested("\\{", "\\}", 600),
        nested("\\sqrt{", "}", 500),
        nested("\\frac{1}{", "}", 300),
        "\\sqrt".repeat(600),
        "sin ".repeat(900),
        "2^".repeat(1900) + "2",
        "-".repeat(3900) + "1",
        "!".repeat(3900),
        "x!".repeat(1900),
        "9999!".repeat(700),
        "10^10^10^10".to_owned(),
        "99999999999999999999!".to_owned(),
        r"\binom{20000}{10000}".to_owned(),
        r"\frac{1}{0}".to_owned(),
        "1e9999".to_owned(),
        "0^0".to_owned(),
        "1,".repeat(1900),
        "x,".repeat(60),
        "(x,y),".repeat(60),
        "\\pm 1".repeat(500),
        "=".repeat(3900),
        "1=".repeat(1900) + "1",
        "\\cup".repeat(900),
        "|x".repeat(1900),
        "\\begin{pmatrix}".repeat(250),
        "_".repeat(3900),
        "x_".repeat(1900),
        "\\text{".repeat(600),
        "9".repeat(1_000_000),
        "x+".repeat(1900) + "x",
        "\\".to_owned(),
    ];
    for a in &hostile {
        for b in [a.as_str(), "5", "x", "1,2", "x!"] {
            let _ = equivalent(a, b);
            let _ = equivalent(b, &format!(" {a} ."));
        }
        assert!(equivalent(a, a), "{}", &a[..a.len().min(40)]);
    }
    let seconds = start.elapsed().as_secs_f64();
    assert!(seconds < 60.0, "{seconds} s");
}

/// Pieces out of which mathematics, and nonsense that looks like it, is made.
const PIECES: [&str; 34] = [
    "1",
    "23",
    "0.5",
    "x",
    "y",
    "\\pi",
    "+",
    "-",
    "*",
    "/",
    "^",
    "_",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "\\{",
    "\\}",
    ",",
    "=",
    "\\frac",
    "\\sqrt",
    "\\sin ",
    "\\text{a}",
    "\\pm ",
    "\\cup ",
    "\\infty ",
    "!",
    "%",
    "|",
    "\\le ",
    "½",
];

proptest! {
    #[test]
    fn any_text_is_itself_and_none_panics(a in "\\PC{0,40}", b in "\\PC{0,40}") {
        prop_assert!(equivalent(&a, &a));
        prop_assert_eq!(equivalent(&a, &b), equivalent(&b, &a));
    }

    #[test]
    fn equivalence_is_symmetric(
        a in prop::collection::vec(0..PIECES.len(), 0..12),
        b in prop::collection::vec(0..PIECES.len(), 0..12),
    ) {
        let [a, b] = [a, b].map(|all| all.into_iter().map(|i| PIECES[i]).collect::<String>());
        prop_assert!(equivalent(&a, &a));
        prop_assert_eq!(equivalent(&a, &b), equivalent(&b, &a), "{} and {}", a, b);
    }

    #[test]
    fn fractions_are_equal_exactly_if_their_cross_products_are(a in -60..60_i64, b in 1..60_i64, c in -60..60_i64, d in 1..60_i64) {
        let same = equivalent(&format!("\\frac{{{a}}}{{{b}}}"), &format!("{c}/{d}"));
        prop_assert_eq!(same, a * d == b * c);
    }
}
