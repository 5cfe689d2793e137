//! A task's data → the items that are asked, and the examples before them.

use super::{
    EvalConfig, Grader, Method, Protocol, Task, TaskSpec,
    ifeval::Instruction,
    prompt::Example,
    record::Counts,
    sandbox::{Limits, Sandbox},
    shape::{Asked, Item, Shape, letter_of},
};
use crate::{
    Error, Result,
    checkpoint::FileHash,
    hub::{HubOptions, OnTransfer},
    rng,
    tokens::{
        Selection,
        data::{DataFile, Row, read_rows, resolve},
    },
};
use std::{collections::BTreeSet, path::PathBuf};

/// A task with everything that its data decides.
pub(super) struct Prepared {
    pub name: String,
    pub task: Task,
    pub shape: Shape,
    pub items: Vec<Item>,
    pub examples: Vec<Example>,
    /// Items that were asked for, or pieces of a joined text; all if not given.
    pub samples: Option<usize>,
    pub counts: Counts,
    pub source: String,
    pub files: Vec<FileHash>,
    /// Where programs that the model writes run, if the task has it.
    pub sandbox: Option<Sandbox>,
}

impl Prepared {
    /// Reads a task and its data.
    pub fn load(spec: &TaskSpec, config: &EvalConfig, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Self> {
        let (name, task, samples) = adjusted(spec, config)?;
        let shape = Shape::new(&task.item, &task.few_shot).map_err(|(key, problem)| refuse(&name, key, problem, ""))?;
        let source = spec.data.clone().or_else(|| task.data.clone()).ok_or_else(|| {
            let help = format!("name it: --task {}=FILE", spec.task);
            refuse(&name, "data", "the task names none".to_owned(), &help)
        })?;
        let files = resolve(&source, hub, on_transfer)?;
        let mut hashes = hash(&files)?;
        let mut counts = Counts::default();
        let mut reader = Reader {
            task: &task,
            shape: &shape,
            counts: &mut counts,
        };
        let mut items = reader.items(&files)?;
        let examples = match task.few_shot.count {
            0 => Vec::new(),
            count => {
                let (examples, read) =
                    reader.examples(spec, config.seed, count, &mut items, hub, on_transfer, &name)?;
                hashes.extend(read);
                examples
            }
        };
        if items.is_empty() {
            return Err(no_items(&name, files[0].path.clone(), &counts));
        }
        let joined = task.method == Method::Perplexity && task.window.join.is_some();
        if let Some(samples) = samples.filter(|_| !joined) {
            let mut selection = Selection::new(samples, config.seed);
            items.into_iter().for_each(|item| selection.offer(item));
            items = selection.finish();
        }
        let sandbox = task
            .runs_programs()
            .then(|| Sandbox::new(Limits::default()))
            .transpose()?;
        Ok(Self {
            name,
            sandbox,
            task,
            shape,
            items,
            examples,
            samples,
            counts,
            source,
            files: hashes,
        })
    }
}

/// The task with what the configuration changes, and how many items are asked for.
fn adjusted(spec: &TaskSpec, config: &EvalConfig) -> Result<(String, Task, Option<usize>)> {
    let (name, mut task) = spec.resolve()?;
    let mut samples = spec.samples.or(config.samples);
    if config.protocol == Protocol::Paper {
        let number = task.paper.as_ref().and_then(|paper| paper.samples);
        samples = samples.or(number);
        let help = "leave --protocol paper out, or choose a task that the paper has, such as gsm8k or mmlu";
        let problem = "the task has no [paper] table".to_owned();
        task = task
            .for_paper()
            .ok_or_else(|| refuse(&name, "--protocol paper", problem, help))?;
    }
    if let Some(method) = spec.method.or(config.method) {
        let possible = |task: &Task| match method {
            Method::Perplexity => task.item.text.is_some(),
            Method::Letters | Method::Choices => task.item.choices.is_some(),
            Method::Generate => !task.metrics.is_empty(),
        };
        if !possible(&task) {
            let problem = format!("its method is `{}`", task.method.name());
            return Err(refuse(&name, &format!("method = {}", method.name()), problem, ""));
        }
        task.method = method;
    }
    task.few_shot.count = config.few_shot.unwrap_or(task.few_shot.count);
    task.generation.max_new = spec.max_new.or(config.max_new).unwrap_or(task.generation.max_new);
    if task.runs_programs() && !config.run_programs {
        let problem = "it would run programs that the model writes".to_owned();
        let help = "pass --run-programs to let it, with limits on time and memory but no other protection; \
                    better inside of a container";
        return Err(refuse(&name, "judge = \"program\"", problem, help));
    }
    Ok((name, task, samples))
}

fn refuse(task: &str, what: &str, problem: String, help: &str) -> Error {
    Error::Argument {
        what: format!("task {task}:"),
        value: what.to_owned(),
        problem,
        help: help.to_owned(),
    }
}

fn hash(files: &[DataFile]) -> Result<Vec<FileHash>> {
    files.iter().map(|file| FileHash::of(&file.path)).collect()
}

/// Says which field is to blame, by the reason most rows have.
fn no_items(name: &str, path: PathBuf, counts: &Counts) -> Error {
    let most = counts.rows_unusable.iter().max_by_key(|(_, rows)| **rows);
    let problem = most.map_or("it has no rows".to_owned(), |(reason, rows)| {
        format!(
            "none of its {} rows is an item of it; {rows} times: {reason}",
            counts.rows
        )
    });
    Error::Malformed {
        path,
        format: "task data",
        problem: format!("task {name}: {problem}"),
    }
}

/// Reads rows.
struct Reader<'a> {
    task: &'a Task,
    shape: &'a Shape,
    counts: &'a mut Counts,
}

impl Reader<'_> {
    fn items(&mut self, files: &[DataFile]) -> Result<Vec<Item>> {
        if self.task.method == Method::Perplexity {
            return self.texts(files);
        }
        let mut items = Vec::new();
        for file in files {
            read_rows(&file.path, &mut |_, row| {
                let index = self.counts.rows;
                self.counts.rows += 1;
                match item(self.task, self.shape, index, row) {
                    Ok(item) => items.push(item),
                    Err(reason) => *self.counts.rows_unusable.entry(reason).or_default() += 1,
                }
                Ok(())
            })?;
        }
        Ok(items)
    }

    /// Of perplexity: a text for each row, or one for all.
    fn texts(&mut self, files: &[DataFile]) -> Result<Vec<Item>> {
        let mut texts: Vec<(usize, Row, String)> = Vec::new();
        for file in files {
            read_rows(&file.path, &mut |_, row| {
                let index = self.counts.rows;
                self.counts.rows += 1;
                match self.shape.text(&row) {
                    // an empty line is a part of what is joined
                    Ok(text) if !text.trim().is_empty() || self.task.window.join.is_some() => {
                        texts.push((index, row, text))
                    }
                    Ok(_) => {
                        *self
                            .counts
                            .rows_unusable
                            .entry("its text is empty".to_owned())
                            .or_default() += 1
                    }
                    Err(reason) => *self.counts.rows_unusable.entry(reason).or_default() += 1,
                }
                Ok(())
            })?;
        }
        let item = |index: usize, row: Row, text: String| Item {
            index,
            id: format!("row {}", index + 1),
            asked: Asked::Text {
                system: None,
                user: String::new(),
                plain: text,
            },
            cloze: String::new(),
            choices: Vec::new(),
            gold: Vec::new(),
            row,
        };
        Ok(match &self.task.window.join {
            Some(between) if !texts.is_empty() => {
                let all: Vec<String> = texts.into_iter().map(|(_, _, text)| text).collect();
                vec![item(0, Row::new(), all.join(between))]
            }
            _ => texts
                .into_iter()
                .map(|(index, row, text)| item(index, row, text))
                .collect(),
        })
    }

    /// Fixed examples, or some drawn from data of their own, or from the items, which then lack them.
    #[allow(clippy::too_many_arguments)] // a private step of `load`
    fn examples(
        &mut self,
        spec: &TaskSpec,
        seed: u64,
        count: usize,
        items: &mut Vec<Item>,
        hub: &HubOptions,
        on_transfer: OnTransfer<'_>,
        name: &str,
    ) -> Result<(Vec<Example>, Vec<FileHash>)> {
        let few_shot = &self.task.few_shot;
        let (mut read, mut pool) = (Vec::new(), Vec::new());
        let own = spec.examples.as_ref().or(few_shot.data.as_ref());
        let fixed = !few_shot.rows.is_empty() && spec.examples.is_none();
        if fixed {
            for row in &few_shot.rows {
                let row = serde_json::to_value(row).ok().and_then(|row| row.as_object().cloned());
                let item = item(self.task, self.shape, 0, row.unwrap_or_default());
                pool.push(item.map_err(|reason| refuse(name, "few_shot.rows", reason, ""))?);
            }
        } else if let Some(source) = own {
            let files = resolve(source, hub, on_transfer)?;
            let mut elsewhere = Counts::default();
            let mut reader = Reader {
                task: self.task,
                shape: self.shape,
                counts: &mut elsewhere,
            };
            pool = reader.items(&files)?;
            read = hash(&files)?;
        }
        let available = if fixed || own.is_some() {
            pool.len()
        } else {
            items.len().saturating_sub(1)
        };
        if available < count {
            let problem = format!("{count} examples are asked for, and there are {available}");
            return Err(refuse(name, "few_shot", problem, "ask for fewer: --few-shot N"));
        }
        let draw = |from: usize| {
            let mut rng = rng::stream(seed, "examples", &[]);
            rand::seq::index::sample(&mut rng, from, count).into_vec()
        };
        let chosen: Vec<Item> = if fixed {
            pool.truncate(count);
            pool
        } else if own.is_some() {
            draw(pool.len()).into_iter().map(|i| pool[i].clone()).collect()
        } else {
            let drawn = draw(items.len());
            let chosen = drawn.iter().map(|&i| items[i].clone()).collect();
            let drawn: BTreeSet<usize> = drawn.into_iter().collect();
            let mut at = 0..;
            items.retain(|_| at.next().is_none_or(|at| !drawn.contains(&at)));
            chosen
        };
        let solved = |item: Item| {
            let solution = self
                .shape
                .solution(&item)
                .map_err(|reason| refuse(name, "few_shot.answer", reason, ""))?;
            Ok(Example {
                asked: item.asked,
                solution,
            })
        };
        Ok((chosen.into_iter().map(solved).collect::<Result<_>>()?, read))
    }
}

/// The item of a row, if it has all that the task's method needs.
fn item(task: &Task, shape: &Shape, index: usize, row: Row) -> Result<Item, String> {
    let compares = |judge: &Grader| matches!(judge, Grader::Answer(_));
    let needs_gold = match task.method {
        Method::Generate => task.metrics.iter().any(|metric| compares(&metric.judge)),
        Method::Letters | Method::Choices => true,
        Method::Perplexity => false,
    };
    let item = shape.item(index, row, needs_gold)?;
    if matches!(task.method, Method::Letters | Method::Choices) {
        if item.choices.len() < 2 {
            return Err("it lists no choices".to_owned());
        }
        let letters: Vec<char> = (0..item.choices.len()).filter_map(letter_of).collect();
        let is_letter = |gold: &String| letters.iter().any(|letter| gold.trim() == letter.to_string());
        if let Some(gold) = item.gold.iter().find(|gold| !is_letter(gold)) {
            return Err(format!("its answer `{gold}` is no letter of {} choices", letters.len()));
        }
    }
    if task
        .metrics
        .iter()
        .any(|metric| matches!(metric.judge, Grader::Instructions { .. }))
    {
        Instruction::parse(&item.row.clone().into())?;
    }
    Ok(item)
}
