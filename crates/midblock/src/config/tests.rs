use super::*;
use crate::{
    select::Layers,
    tokens::{Long, LossOn},
};

/// The smallest complete file.
const SMALL: &str = "[model]\nbase = \"./base\"\n[data]\ntrain = \"gsm8k=train.jsonl\"\n";

fn parse(text: &str, sets: &[&str]) -> Result<Config> {
    let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
    Config::parse("run.toml", text, &overrides)
}

/// What is said about a file that is the smallest one with more lines.
fn message(more: &str, sets: &[&str]) -> String {
    parse(&format!("{SMALL}{more}"), sets).unwrap_err().to_string()
}

#[test]
fn every_default_is_filled_in_and_a_resolved_file_reads_back_the_same() {
    let config = parse(SMALL, &[]).unwrap();
    assert_eq!(
        (config.adapt.rank, config.adapt.alpha, config.adapt.dropout),
        (Some(64), Some(128.0), Some(0.05))
    );
    let train = &config.train;
    assert_eq!(
        (train.epochs, train.steps, train.batch, train.warmup_steps),
        (Some(1), None, Some(4), Some(0))
    );
    let full = parse(SMALL, &["adapt.kind=full"]).unwrap();
    assert_eq!(
        (full.select.layers, full.select.modules, full.adapt.rank),
        (Some(Layers::All), None, None)
    );
    let text = config.to_toml();
    for key in [
        "rank = 64",
        "accumulation = 8",
        "memory = \"1 GiB\"",
        "loss_on = \"answers\"",
        "lr = 0.0001",
    ] {
        assert!(text.contains(key), "{key} in\n{text}");
    }
    assert_eq!(parse(&text, &[]).unwrap(), config);
    assert_eq!(config.differences(&parse(&text, &[]).unwrap()), []);
}

#[test]
fn data_sets_are_written_in_three_ways() {
    let one = parse(SMALL, &[]).unwrap().data.train;
    for data in [
        "train = [\"gsm8k=train.jsonl\"]",
        "train = { name = \"gsm8k\", source = \"train.jsonl\" }",
        "train = [{ name = \"gsm8k\", source = \"train.jsonl\" }]",
    ] {
        let text = format!("[model]\nbase = \"b\"\n[data]\n{data}\n");
        assert_eq!(parse(&text, &[]).unwrap().data.train, one, "{data}");
    }
    let message = parse("[model]\nbase = \"b\"\n[data]\ntrain = [\"a=x\", \"noname\"]\n", &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("run.toml:4: `data.train`") && message.contains("no `=`"),
        "{message}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_its_neighbour() {
    let text = message("[train]\nlr = 1e-4\nepoch = 3\n", &[]);
    assert!(text.starts_with("run.toml:7: `train.epoch`: unknown key"), "{text}");
    assert!(text.contains("did you mean `epochs`?"), "{text}");
    let text = message("[tran]\nlr = 1e-4\n", &[]);
    assert!(
        text.contains("run.toml:5: `tran`: unknown key") && text.contains("did you mean `train`?"),
        "{text}"
    );
    let text = message("", &["train.prefix_cache.memry=1"]);
    assert!(
        text.starts_with("--set train.prefix_cache.memry=1: `train.prefix_cache.memry`: unknown key"),
        "{text}"
    );
    assert!(text.contains("did you mean `memory`?"), "{text}");
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    let text = message("[train]\nlr = \"high\"\n", &[]);
    assert!(
        text.contains("run.toml:6: `train.lr`") && text.contains("invalid type: string"),
        "{text}"
    );
    let text = message("[adapt]\nkind = \"lorra\"\n", &[]);
    assert!(
        text.contains("run.toml:6: `adapt.kind`: `lorra` is not one of lora, full"),
        "{text}"
    );
    assert!(text.contains("did you mean `lora`?"), "{text}");
    let text = message("[train]\nbetas = [0.9]\n", &[]);
    assert!(text.contains("run.toml:6: `train.betas`"), "{text}");
    let text = message("[train\n", &[]);
    assert!(text.starts_with("run.toml:5"), "{text}");
    let text = message("", &["objective.kind=dpo"]);
    assert!(text.contains("`objective.kind`: `dpo` is not one of sft"), "{text}");
}

#[test]
fn all_problems_are_reported_together() {
    let text = message(
        "[train]\nlr = 2.0\nepochs = 0\nsteps = 5\n[adapt]\nkind = \"full\"\nrank = 8\n",
        &[],
    );
    for part in [
        "run.toml:6: `train.lr`: it is 2, expected above 0 and at most 1",
        "run.toml:7: `train.epochs`: it contradicts `train.steps`",
        "run.toml:7: `train.epochs`: it is 0, expected 1 or more",
        "run.toml:11: `adapt.rank`: it is LoRA's",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn every_range_has_an_end() {
    for (set, key) in [
        ("data.max_length=1", "data.max_length"),
        ("data.samples=0", "data.samples"),
        ("data.eval_share=1", "data.eval_share"),
        ("adapt.rank=0", "adapt.rank"),
        ("adapt.alpha=0", "adapt.alpha"),
        ("adapt.dropout=1.0", "adapt.dropout"),
        ("train.lr=nan", "train.lr"),
        ("train.batch=0", "train.batch"),
        ("train.batch_tokens=0", "train.batch_tokens"),
        ("train.accumulation=0", "train.accumulation"),
        ("train.warmup_ratio=1", "train.warmup_ratio"),
        ("train.min_lr_ratio=1.5", "train.min_lr_ratio"),
        ("train.weight_decay=-0.1", "train.weight_decay"),
        ("train.betas=[0.9, 1.0]", "train.betas"),
        ("train.eps=0.0", "train.eps"),
        ("train.clip=-1", "train.clip"),
        ("train.eval_every=5", "train.eval_every"),
        ("train.patience=2", "train.patience"),
        ("train.keep_best=true", "train.keep_best"),
        ("train.save_every=0", "train.save_every"),
        ("train.keep_checkpoints=0", "train.keep_checkpoints"),
        ("train.memory=\"2 gb\"", "train.memory"),
    ] {
        let text = message("", &[set]);
        assert!(text.contains(&format!("--set {set}: `{key}`: ")), "{set}: {text}");
    }
    let text = message("[train]\nsteps = 5\nwarmup_steps = 5\n", &[]);
    assert!(text.contains("expected less than the 5"), "{text}");
    let text = message("[train]\nschedule = \"constant\"\nmin_lr_ratio = 0.1\n", &[]);
    assert!(text.contains("does not end lower"), "{text}");
    for (sets, part) in [
        (
            ["select.layers=stable", "data.samples=3"],
            "`select.layers`: it reads an analysis",
        ),
        (
            ["select.layers=mid", "select.from=run"],
            "`select.from`: this choice of blocks reads no",
        ),
        (
            ["select.layers=mid", "select.extra=[\"model.norm.weight\"]"],
            "`select.extra`: an adapter",
        ),
        (["select.layers=middle", "data.samples=3"], "`select.layers`"),
    ] {
        let text = message("", &sets);
        assert!(text.contains(part), "{text}");
    }
    let text = message("", &["data.eval_share=0.1", "train.patience=2"]);
    assert!(text.contains("give `train.eval_every`"), "{text}");
    let text = parse("", &[]).unwrap_err().to_string();
    assert!(
        text.contains("`model.base`: it is missing") && text.contains("`data.train`: it is missing"),
        "{text}"
    );
}

/// What makes the smallest file one of masks.
const MASKED: [&str; 2] = ["adapt.kind=masked", "adapt.tuned=./tuned"];

#[test]
fn masks_have_an_objective_of_their_own() {
    let config = parse(SMALL, &MASKED).unwrap();
    assert_eq!(
        (config.objective.kind, config.select.layers.clone()),
        (ObjectiveKind::Lcdd, Some(Layers::All))
    );
    assert_eq!(config.select.modules, None);
    let (own, adapt) = (&config.objective, &config.adapt);
    assert_eq!(
        (
            own.lambda,
            own.lambda_min,
            own.lambda_max,
            own.warmup,
            own.budget,
            own.budget_nats,
            own.ema
        ),
        (
            Some(0.01),
            Some(1e-6),
            Some(10.0),
            Some(300),
            Some(0.25),
            Some(0.0),
            Some(0.95)
        )
    );
    assert_eq!(
        (
            own.rate,
            own.growth_rate,
            own.clip,
            own.stop_window,
            own.stop_factor,
            own.target
        ),
        (
            Some(0.1),
            Some(0.1),
            Some(1.0),
            Some(100),
            Some(1.35),
            Some(Target::Answers)
        )
    );
    assert_eq!(
        (
            adapt.train_weights,
            adapt.mask_lr,
            adapt.mask_momentum,
            adapt.mask_mean,
            adapt.mask_std,
            adapt.rank
        ),
        (Some(true), Some(0.1), Some(0.0), Some(1.5), Some(0.5), None)
    );
    let text = config.to_toml();
    assert_eq!(parse(&text, &[]).unwrap(), config);
    let slow = parse(
        SMALL,
        &[MASKED[0], MASKED[1], "objective.rate=0.3", "objective.target=tuned"],
    )
    .unwrap();
    assert_eq!(
        (slow.objective.growth_rate, slow.objective.target),
        (Some(0.3), Some(Target::Tuned))
    );

    for (sets, part) in [
        (&[MASKED[0]][..], "`adapt.tuned`: it is missing"),
        (
            &["adapt.tuned=./tuned"],
            "`adapt.tuned`: it is that of masks, and `adapt.kind` is \"lora\"",
        ),
        (
            &["objective.kind=lcdd"],
            "`objective.kind`: lcdd trains masks, and there are none",
        ),
        (
            &["objective.warmup=3"],
            "`objective.warmup`: it is lcdd's, and `objective.kind` is \"sft\"",
        ),
        (&["objective.lambda=3"], "`objective.lambda`: it is rpsft's and lcdd's"),
    ] {
        let text = message("", sets);
        assert!(text.contains(part), "{part} in\n{text}");
    }
    for (set, part) in [
        (
            "objective.kind=sft",
            "`objective.kind`: masks are trained by lcdd, and not by sft",
        ),
        (
            "adapt.rank=8",
            "`adapt.rank`: it is LoRA's, and `adapt.kind` is \"masked\"",
        ),
        ("select.modules=mlp", "`select.modules`: all seven matrices"),
        (
            "select.extra=[\"model.norm.weight\"]",
            "`select.extra`: only the matrices of blocks",
        ),
        ("adapt.mask_lr=0", "`adapt.mask_lr`: it is 0, expected above 0"),
        ("adapt.mask_momentum=1", "`adapt.mask_momentum`: it is 1"),
        ("adapt.mask_mean=nan", "`adapt.mask_mean`: it is NaN, expected a number"),
        ("adapt.mask_std=-1", "`adapt.mask_std`: it is -1, expected 0 or more"),
        (
            "objective.lambda=20",
            "`objective.lambda`: it is 20, expected from `lambda_min` (0.000001) to `lambda_max` (10)",
        ),
        (
            "objective.lambda_min=0",
            "`objective.lambda_min`: it is 0, expected above 0",
        ),
        (
            "objective.lambda_max=0.001",
            "`objective.lambda`: it is 0.01, expected from",
        ),
        ("objective.warmup=0", "`objective.warmup`: it is 0"),
        ("objective.budget=-0.1", "`objective.budget`: it is -0.1"),
        ("objective.budget_nats=inf", "`objective.budget_nats`: it is inf"),
        (
            "objective.ema=1",
            "`objective.ema`: it is 1, expected 0 or more and below 1",
        ),
        ("objective.rate=-1", "`objective.rate`: it is -1"),
        ("objective.growth_rate=inf", "`objective.growth_rate`: it is inf"),
        ("objective.clip=0", "`objective.clip`: it is 0, expected above 0"),
        (
            "objective.stop_window=1",
            "`objective.stop_window`: it is 1, expected 0 or 2 and more",
        ),
        (
            "objective.stop_factor=0.9",
            "`objective.stop_factor`: it is 0.9, expected 1 or more",
        ),
        ("objective.target=base", "`base` is not one of answers, tuned"),
        ("objective.beta=1", "`objective.beta`: it is kl's"),
    ] {
        let text = message("", &[MASKED[0], MASKED[1], set]);
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn overrides_take_toml_values_and_text() {
    let sets = [
        "train.lr=3e-4",
        "select.layers=range:6..24",
        "train.betas=[0.8, 0.95]",
        "train.memory=2 GiB",
        "model.base=7",
        "select.modules=q_proj,v_proj",
        "data.train=b=elsewhere.jsonl",
        "train.lr=5e-4",
    ];
    let config = parse(SMALL, &sets).unwrap();
    assert_eq!((config.train.lr, config.train.betas), (5e-4, [0.8, 0.95]));
    assert_eq!(
        (
            config.select.layers.unwrap().to_string().as_str(),
            config.model.base.as_str()
        ),
        ("range:6..24", "7")
    );
    assert_eq!(config.train.memory, Some(ByteSize(2 << 30)));
    assert_eq!(config.data.train[0].0.source, "elsewhere.jsonl");
    for (bad, part) in [
        ("train.lr", "no `=`"),
        ("lr=1", "a table and a name"),
        (".lr=1", "a table and a name"),
    ] {
        let text = bad.parse::<Override>().unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    let text = message("", &["train.lr.peak=1", "train.lrr=2"]);
    assert!(text.contains("`train.lrr`: unknown key"), "{text}");
    assert!(text.contains("`train.lr.peak`"), "{text}");
}

#[test]
fn an_override_drops_the_files_alternative() {
    let file = format!("{SMALL}[train]\nepochs = 3\nbatch = 2\nwarmup_ratio = 0.1\n");
    let config = parse(
        &file,
        &["train.steps=7", "train.batch_tokens=512", "train.warmup_steps=1"],
    )
    .unwrap();
    let train = config.train;
    assert_eq!((train.epochs, train.steps), (None, Some(7)));
    assert_eq!((train.batch, train.batch_tokens), (None, Some(512)));
    assert_eq!((train.warmup_ratio, train.warmup_steps), (None, Some(1)));
    let text = message("", &["train.steps=7", "train.epochs=2"]);
    assert!(text.contains("it contradicts"), "{text}");
}

#[test]
fn differences_name_the_keys() {
    let left = parse(SMALL, &[]).unwrap();
    let right = parse(SMALL, &["train.lr=0.5", "data.samples=3"]).unwrap();
    let triple = |key: &str, left: &str, right: &str| (key.to_owned(), left.to_owned(), right.to_owned());
    assert_eq!(
        left.differences(&right),
        [triple("data.samples", "–", "3"), triple("train.lr", "0.0001", "0.5")]
    );
}

/// The smallest complete file of a new model.
const NEW: &str =
    "[model.new]\nhidden = 32\nffn = 64\nblocks = 3\nheads = 4\nvocab = 300\n[data]\ntrain = \"text=t.txt\"\n";

#[test]
fn a_new_model_is_trained_as_a_whole() {
    let config = parse(NEW, &[]).unwrap();
    assert_eq!(
        (config.adapt.kind, config.data.loss_on, config.data.long),
        (AdaptKind::Full, LossOn::All, Long::Split)
    );
    let new = config.model.new.clone().unwrap();
    assert_eq!(
        (new.kv_heads, new.head_dim, new.max_positions, new.tied),
        (Some(4), Some(8), Some(512), true)
    );
    assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    let partial = parse(NEW, &["adapt.kind=lora", "select.layers=mid", "model.base=x"]).unwrap_err();
    let text = partial.to_string();
    for part in [
        "`adapt.kind`: all of a new model is trained",
        "`select.layers`: all of a new model",
        "`model.base`: it contradicts `model.new`",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn shapes_that_do_not_work_are_refused() {
    for (set, expected) in [
        (
            "model.new.kv_heads=3",
            "`model.new.kv_heads`: it is 3, expected a divisor of `heads` (4)",
        ),
        (
            "model.new.heads=5",
            "`model.new.heads`: it is 5, expected a divisor of `hidden` (32)",
        ),
        (
            "model.new.head_dim=7",
            "`model.new.head_dim`: it is 7, expected an even number",
        ),
        ("model.new.blocks=0", "`model.new.blocks`: it is 0"),
        (
            "model.new.vocab=256",
            "`model.new.vocab`: it is 256, expected 257 or more",
        ),
        (
            "model.new.max_positions=511",
            "`model.new.max_positions`: it is 511, expected `data.max_length` (512) or more",
        ),
        ("model.new.rope_theta=0", "`model.new.rope_theta`: it is 0"),
        ("model.new.depth=3", "unknown key"),
    ] {
        let text = parse(NEW, &[set]).unwrap_err().to_string();
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let text = parse(&NEW.replace("blocks = 3\n", ""), &[]).unwrap_err().to_string();
    assert!(text.contains("missing field `blocks`"), "{text}");
}
