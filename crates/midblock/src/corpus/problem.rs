//! Word problems of one or two steps: a story, a question, the steps of the solution and a sentence with the result.

use super::{
    Split,
    calculation::Calculation,
    pick, pick_two,
    sentence::{NAMES, PLACES},
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

const THINGS: [&str; 14] = [
    "apples", "pencils", "books", "coins", "shells", "stamps", "marbles", "oranges", "stickers", "cards", "buttons",
    "eggs", "flowers", "stones",
];
const HOLDERS: [&str; 5] = ["boxes", "bags", "baskets", "jars", "rows"];

/// One problem.
pub(super) struct Problem {
    story: String,
    question: String,
    steps: Vec<Calculation>,
    /// Everything but the result, which stands where `{}` is.
    closing: String,
}

impl Problem {
    /// A problem of which every step is a calculation of `split`.
    pub fn draw(rng: &mut ChaCha8Rng, split: Split) -> Self {
        loop {
            let problem = Self::any(rng);
            if problem.steps.iter().all(|step| split.has(step)) {
                return problem;
            }
        }
    }

    fn any(rng: &mut ChaCha8Rng) -> Self {
        let [who, other] = pick_two(rng, &NAMES);
        let (things, place, holders) = (pick(rng, &THINGS), pick(rng, &PLACES), pick(rng, &HOLDERS));
        let (a, b) = (rng.random_range(5..=50), rng.random_range(2..=30));
        let (each, few) = (rng.random_range(2..=12), rng.random_range(2..=9));
        let (story, question, steps, closing);
        match rng.random_range(0..8) {
            0 => {
                story = format!("{who} has {a} {things}. {other} gives {who} {b} more at the {place}.");
                question = format!("How many {things} does {who} have now?");
                steps = vec![Calculation::plus(a, b)];
                closing = format!("{who} has {{}} {things} now.");
            }
            1 => {
                story = format!("{who} finds {a} {things} in the {place}. {other} finds {b}.");
                question = "How many do they find together?".to_owned();
                steps = vec![Calculation::plus(a, b)];
                closing = format!("They find {{}} {things} together.");
            }
            2 => {
                story = format!("{who} takes {} {things} to the {place} and sells {b} of them.", a + b);
                question = format!("How many {things} are left?");
                steps = vec![Calculation::minus(a + b, b)];
                closing = format!("There are {{}} {things} left.");
            }
            3 => {
                story = format!("{who} has {} {things}. {other} has {b}.", a + b);
                question = format!("How many more {things} does {who} have than {other}?");
                steps = vec![Calculation::minus(a + b, b)];
                closing = format!("{who} has {{}} more than {other}.");
            }
            4 => {
                story = format!("There are {few} {holders} in the {place}. {each} {things} are in each.");
                question = format!("How many {things} are there?");
                steps = vec![Calculation::times(few, each)];
                closing = format!("There are {{}} {things}.");
            }
            5 => {
                story = format!("{who} buys {few} {holders} of {each} {things}. {a} more are at home.");
                question = format!("How many {things} does {who} have in all?");
                steps = vec![Calculation::times(few, each), Calculation::plus(few * each, a)];
                closing = format!("{who} has {{}} {things} in all.");
            }
            6 => {
                let sold = rng.random_range(2..a + b);
                story = format!(
                    "{who} has {a} {things} and gets {b} from {other}. Then {who} loses {sold} in the {place}."
                );
                question = format!("How many {things} are left?");
                steps = vec![Calculation::plus(a, b), Calculation::minus(a + b, sold)];
                closing = format!("There are {{}} {things} left.");
            }
            _ => {
                let given = rng.random_range(1..few * each);
                story = format!("{who} fills {few} {holders} with {each} {things} each and gives {given} to {other}.");
                question = format!("How many {things} does {who} keep?");
                steps = vec![Calculation::times(few, each), Calculation::minus(few * each, given)];
                closing = format!("{who} keeps {{}} {things}.");
            }
        }
        Self {
            story,
            question,
            steps,
            closing,
        }
    }

    /// The story and what is asked.
    pub fn question(&self) -> String {
        format!("{} {}", self.story, self.question)
    }

    /// One line for each step, then `#### N`.
    pub fn answer(&self) -> String {
        let steps = self.steps.iter().map(|step| format!("{step}\n"));
        format!("{}#### {}", steps.collect::<String>(), self.result())
    }

    /// The story, told to its end.
    pub fn story_with_end(&self) -> String {
        format!("{} {}", self.story, self.end())
    }

    /// The question and the sentence with the result, without steps.
    pub fn with_short_answer(&self) -> String {
        format!("Question: {}\nAnswer: {}", self.question(), self.end())
    }

    /// The sentence with the result.
    pub fn end(&self) -> String {
        self.closing.replace("{}", &self.result().to_string())
    }

    /// The number asked for.
    pub fn result(&self) -> u32 {
        self.steps.last().map_or(0, Calculation::value)
    }
}
