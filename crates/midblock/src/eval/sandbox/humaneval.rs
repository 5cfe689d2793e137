//! HumanEval: a prompt, what a model made of it and the tests, as one program.
//!
//! A prompt has imports, perhaps helper functions, and the signature of a function with its docstring. Completions come in
//! two forms: the body that continues the prompt, or the whole function again, as chat models write it.
//!
//! Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374), section 2.

/// What a body is indented by.
const INDENT: &str = "    ";

/// A program that ends without an error if the completion is right. `completion` is code alone, without a fence.
///
/// ```
/// use midblock::eval::sandbox::humaneval::program;
/// let prompt = "import math\n\ndef area(r):\n    \"\"\"Of a circle.\"\"\"\n";
/// let test = "def check(candidate):\n    assert candidate(0) == 0\n";
/// let whole = program(prompt, "def area(r):\n    return math.pi * r * r\n", test, "area");
/// assert!(whole.starts_with("import math\n\ndef area(r):\n    return math.pi"));
/// let body = program(prompt, "return math.pi * r * r", test, "area");
/// assert!(body.contains("\"\"\"\n    return math.pi"));
/// assert!(body.ends_with("\n\ncheck(area)\n"));
/// ```
pub fn program(prompt: &str, completion: &str, test: &str, entry_point: &str) -> String {
    let code = match definition(completion, entry_point) {
        Some(_) => {
            let before = definition(prompt, entry_point).map_or(prompt, |at| &prompt[..at]);
            format!("{before}{completion}")
        }
        None => format!("{}\n{}", prompt.trim_end(), indented(completion)),
    };
    format!("{code}\n\n{test}\n\ncheck({entry_point})\n")
}

/// Where a line begins that defines the function, the last if there are several.
fn definition(code: &str, entry_point: &str) -> Option<usize> {
    let mut starts = std::iter::once(0).chain(code.match_indices('\n').map(|(i, _)| i + 1));
    let defines = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let name = line
            .strip_prefix("def ")
            .map(str::trim_start)
            .and_then(|rest| rest.strip_prefix(entry_point));
        name.is_some_and(|rest| rest.trim_start().starts_with('('))
    };
    starts.rfind(|&at| defines(&code[at..]))
}

/// A body with the indentation it needs: as it is, or its first line alone (where white space at its ends was cut off), or
/// all of it (written without any).
fn indented(body: &str) -> String {
    let body = body.trim_start_matches(['\n', '\r']);
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = body.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default();
    if indent(first) > 0 {
        return body.to_owned();
    }
    let opens = first.trim_end().ends_with(':');
    let next = lines.clone().next().map_or(0, indent);
    let first_alone = lines.all(|line| indent(line) > 0) && (!opens || next > INDENT.len());
    if first_alone {
        return format!("{INDENT}{body}");
    }
    let shift = |line: &str| {
        if line.trim().is_empty() {
            String::new()
        } else {
            format!("{INDENT}{line}")
        }
    };
    body.lines().map(shift).collect::<Vec<_>>().join("\n")
}
