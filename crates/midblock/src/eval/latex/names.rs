//! Which spellings mean the same: commands, Unicode signs, plain words, units.

/// Full-width forms, minus signs and digits of other scripts as ASCII.
pub(in crate::eval) fn fold(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '\u{3000}' => ' ',
        '−' | '–' | '‐' | '‑' | '﹣' => '-',
        '’' | '′' => '\'',
        '\u{660}'..='\u{669}' => digit(c, 0x660),
        '\u{6f0}'..='\u{6f9}' => digit(c, 0x6f0),
        '\u{966}'..='\u{96f}' => digit(c, 0x966),
        _ => c,
    }
}

fn digit(c: char, zero: u32) -> char {
    char::from_digit(c as u32 - zero, 10).unwrap_or(c)
}

/// Numerator and denominator of `½` and its like.
pub(super) fn vulgar_fraction(c: char) -> Option<(&'static str, &'static str)> {
    Some(match c {
        '½' => ("1", "2"),
        '⅓' => ("1", "3"),
        '⅔' => ("2", "3"),
        '¼' => ("1", "4"),
        '¾' => ("3", "4"),
        '⅕' => ("1", "5"),
        '⅖' => ("2", "5"),
        '⅗' => ("3", "5"),
        '⅘' => ("4", "5"),
        '⅙' => ("1", "6"),
        '⅚' => ("5", "6"),
        '⅛' => ("1", "8"),
        '⅜' => ("3", "8"),
        '⅝' => ("5", "8"),
        '⅞' => ("7", "8"),
        _ => return None,
    })
}

/// The digit of `²` and its like.
pub(super) fn superscript(c: char) -> Option<usize> {
    "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|s| s == c)
}

/// A Unicode sign as the command or character that means the same.
pub(super) fn symbol(c: char) -> Option<&'static str> {
    const GREEK: [&str; 25] = [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
        "xi", "omicron", "pi", "rho", "sigma", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
    ];
    Some(match c {
        'α'..='ω' => GREEK.get(c as usize - 'α' as usize)?,
        'Δ' => "Delta",
        'Ω' => "Omega",
        '·' | '×' | '⋅' | '∗' | '•' => "*",
        '÷' | '∕' => "/",
        '√' => "sqrt",
        '∞' => "infty",
        '≤' | '⩽' => "le",
        '≥' | '⩾' => "ge",
        '≠' => "ne",
        '≈' => "approx",
        '±' => "pm",
        '∓' => "mp",
        '∪' => "cup",
        '∩' => "cap",
        '∈' => "in",
        '∅' => "emptyset",
        '°' | 'º' => "degree",
        '⟨' => "langle",
        '⟩' => "rangle",
        '⌊' => "lfloor",
        '⌋' => "rfloor",
        '⌈' => "lceil",
        '⌉' => "rceil",
        'ℝ' => "mathbb R",
        _ => return None,
    })
}

/// The one spelling of commands that have several.
pub(super) fn unify(name: &str) -> Option<&'static str> {
    Some(match name {
        "dfrac" | "tfrac" | "cfrac" => "frac",
        "dbinom" | "tbinom" => "binom",
        "times" | "cdot" | "ast" => "*",
        "div" => "/",
        "leq" | "leqslant" | "le" => "le",
        "geq" | "geqslant" | "ge" => "ge",
        "lt" => "<",
        "gt" => ">",
        "neq" => "ne",
        "approx" | "approxeq" | "simeq" | "thickapprox" => "approx",
        "lvert" | "rvert" | "vert" | "mid" => "|",
        "lVert" | "rVert" => "Vert",
        "lbrack" => "[",
        "rbrack" => "]",
        "colon" => ":",
        "varnothing" => "emptyset",
        "degree" | "circ" => "degree",
        "arcsec" | "arccsc" | "arccot" => return None,
        "varepsilon" => "epsilon",
        "vartheta" => "theta",
        "varphi" => "phi",
        "land" | "lor" => "or",
        "union" => "cup",
        "dots" | "ldots" | "cdots" | "dotsc" => "ldots",
        "prime" => "'",
        "infin" => "infty",
        _ => return None,
    })
}

/// Commands that only move or size things.
pub(super) fn is_layout(name: &str) -> bool {
    const LAYOUT: [&str; 34] = [
        "left",
        "right",
        "middle",
        "big",
        "Big",
        "bigg",
        "Bigg",
        "bigl",
        "bigr",
        "Bigl",
        "Bigr",
        "biggl",
        "biggr",
        "Biggl",
        "Biggr",
        "quad",
        "qquad",
        "displaystyle",
        "textstyle",
        "scriptstyle",
        "limits",
        "nolimits",
        "boxed",
        "fbox",
        "mathbf",
        "boldsymbol",
        "mathit",
        "mathsf",
        "mathcal",
        "bm",
        "bf",
        "thinspace",
        "enspace",
        "allowbreak",
    ];
    LAYOUT.contains(&name)
}

/// Commands whose braces hold words.
pub(super) fn is_text(name: &str) -> bool {
    const TEXT: [&str; 10] = [
        "text",
        "textbf",
        "textit",
        "textrm",
        "textsf",
        "texttt",
        "mbox",
        "hbox",
        "textnormal",
        "mathtt",
    ];
    TEXT.contains(&name)
}

/// Names that are one variable or constant.
pub(super) fn is_greek(name: &str) -> bool {
    const GREEK: [&str; 38] = [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu",
        "xi", "omicron", "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta",
        "Theta", "Lambda", "Xi", "Pi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "hbar", "ell", "mathbb R",
    ];
    GREEK.contains(&name)
}

const FUNCTIONS: [&str; 24] = [
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "asin", "acos", "atan", "sinh", "cosh",
    "tanh", "log", "ln", "exp", "sqrt", "lg", "max", "min", "gcd", "lcm",
];

/// A run of plain letters that is not a product of variables.
pub(super) fn plain_word(run: &str) -> Option<&'static str> {
    if let Some(function) = FUNCTIONS.iter().find(|name| **name == run) {
        return Some(match *function {
            "asin" => "arcsin",
            "acos" => "arccos",
            "atan" => "arctan",
            other => other,
        });
    }
    Some(match run {
        "pi" | "Pi" => "pi",
        "infinity" | "inf" | "oo" | "Infinity" => "infty",
        "and" | "or" => "or",
        "degrees" | "degree" | "deg" => "degree",
        "percent" => "%",
        "union" => "cup",
        "theta" => "theta",
        "alpha" => "alpha",
        "beta" => "beta",
        "omega" => "omega",
        "lambda" => "lambda",
        "sigma" => "sigma",
        _ => return None,
    })
}

/// `sinx` as `sin` of `x`.
pub(super) fn function_and_letter(run: &str) -> Option<(&'static str, char)> {
    let letter = run.chars().last()?;
    let head = run.strip_suffix(letter)?;
    let known = ["sin", "cos", "tan", "cot", "log", "ln"];
    known.into_iter().find(|name| *name == head).map(|name| (name, letter))
}

/// Spellings of units; those of one row are one unit.
const UNITS: [&[&str]; 30] = [
    &["mm", "millimeter", "millimeters", "millimetre", "millimetres"],
    &["cm", "centimeter", "centimeters", "centimetre", "centimetres"],
    &["m", "meter", "meters", "metre", "metres"],
    &["km", "kilometer", "kilometers", "kilometre", "kilometres"],
    &["in", "inch", "inches"],
    &["ft", "foot", "feet"],
    &["yd", "yard", "yards"],
    &["mi", "mile", "miles"],
    &["ms", "millisecond", "milliseconds"],
    &["s", "sec", "second", "seconds"],
    &["min", "minute", "minutes"],
    &["h", "hr", "hrs", "hour", "hours"],
    &["day", "days"],
    &["week", "weeks"],
    &["month", "months"],
    &["year", "years", "yr", "yrs"],
    &["mg", "milligram", "milligrams"],
    &["g", "gram", "grams"],
    &["kg", "kilogram", "kilograms"],
    &["lb", "lbs", "pound", "pounds"],
    &["mph", "miles per hour"],
    &["cent", "cents"],
    &["dollar", "dollars", "usd"],
    &["ml", "milliliter", "milliliters"],
    &["l", "liter", "liters", "litre", "litres"],
    &["radian", "radians", "rad"],
    &["unit", "units"],
    &["hz"],
    &["nm", "nanometer", "nanometers"],
    &["ev"],
];

/// Whether `word` is the name of a unit.
pub(super) fn is_unit(word: &str) -> bool {
    unit(word).is_some()
}

/// The one spelling of a unit, its powers kept; `None` if it is not known.
pub(super) fn unit(text: &str) -> Option<&'static str> {
    let lower = text.to_lowercase();
    UNITS.iter().find(|row| row.contains(&lower.as_str())).map(|row| row[0])
}

/// Whether `word` names degrees of an angle or a temperature.
pub(super) fn is_degree(word: &str) -> bool {
    ["degrees", "degree", "deg", "°"].contains(&word)
}
