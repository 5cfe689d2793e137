use super::*;
use crate::{
    config::{AdaptKind, Override, Target, WeightFormat},
    study::battery::StudyConfig,
    tokens::Format,
    train::eraser::Eraser,
};
use std::{fs, path::Path};

const GOOD: &str = "model.base = \"m\"\n[behaviour]\ndata = \"p.jsonl\"\n";

fn parse(text: &str, sets: &[&str]) -> crate::Result<CarveFile> {
    let overrides: Vec<Override> = sets.iter().map(|set| set.parse().unwrap()).collect();
    CarveFile::parse("carve.toml", text, &overrides)
}

fn message(text: &str, sets: &[&str]) -> String {
    parse(text, sets)
        .err()
        .map_or_else(String::new, |error| error.to_string())
}

#[test]
fn phase_one_is_the_papers_loop_on_the_matrices_of_all_blocks() {
    let file = parse(GOOD, &[]).unwrap();
    let config = file.experiment(CarvePhase::Sft, Path::new("out"), None).unwrap();
    let train = &config.train;
    assert_eq!(
        (train.epochs, train.batch, train.accumulation, train.lr),
        (Some(3), Some(8), 4, 2e-5)
    );
    assert_eq!((train.warmup_ratio, config.data.max_length), (Some(0.1), 512));
    assert_eq!(
        (config.adapt.kind, config.data.format),
        (AdaptKind::Full, Some(Format::Completion))
    );
    assert_eq!(config.select.modules.unwrap().to_string(), "all-linear");
    let set = &config.data.train[0].0;
    assert_eq!(
        (set.name.as_str(), set.source.as_str()),
        ("fixed-response", "out/data/train.jsonl")
    );
    assert_eq!(config.output.dir.unwrap(), Path::new("out/sft"));
    let file = parse(
        GOOD,
        &[
            "carve.sft.train.steps=7",
            "carve.sft.objective.kind=dft",
            "output.tensorboard=false",
            "output.dtype=bf16",
        ],
    )
    .unwrap();
    let config = file.experiment(CarvePhase::Sft, Path::new("out"), None).unwrap();
    assert_eq!((config.train.steps, config.train.epochs), (Some(7), None));
    assert!(!config.output.tensorboard);
    // the embedding of a quantised base must stay what it was
    assert_eq!(config.output.dtype, Some(WeightFormat::F32));
}

#[test]
fn phase_two_masks_what_phase_one_has_learned() {
    let of = |sets: &[&str]| {
        let file = parse(GOOD, sets).unwrap();
        file.experiment(CarvePhase::Carrier, Path::new("out"), Some("out/sft/model"))
            .unwrap()
    };
    let config = of(&[]);
    assert_eq!(
        (config.adapt.kind, config.adapt.tuned.as_deref()),
        (AdaptKind::Masked, Some("out/sft/model"))
    );
    assert_eq!(
        (config.adapt.train_weights, config.objective.target),
        (Some(true), Some(Target::Answers))
    );
    assert_eq!(
        (config.train.epochs, config.train.steps, config.objective.warmup),
        (None, Some(1500), Some(300))
    );
    let alone = of(&["carve.mode=mask-only", "carve.carrier.train.epochs=2"]);
    assert_eq!(
        (alone.adapt.train_weights, alone.objective.target),
        (Some(false), Some(Target::Answers))
    );
    assert_eq!((alone.train.epochs, alone.train.steps), (Some(2), None));
    let like_tuned = of(&["carve.mode=mask-only-kl"]);
    assert_eq!(
        (like_tuned.adapt.train_weights, like_tuned.objective.target),
        (Some(false), Some(Target::Tuned))
    );
    let tuned = parse(GOOD, &["carve.tuned=x"]).unwrap();
    assert_eq!(tuned.phases(), [CarvePhase::Carrier]);
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    assert_eq!(message(GOOD, &[]), "");
    let nothing = message("[behaviour]\nkind = \"examples\"", &[]);
    for part in [
        "`model.base`: it is missing",
        "`behaviour.data`",
        "`behaviour.keywords`",
    ] {
        assert!(nothing.contains(part), "{nothing}");
    }
    let wrong = format!("{GOOD}[carve.sft]\ntrain.lrr = 1\n");
    let found = message(&wrong, &[]);
    assert!(
        found.contains("carve.toml:5: `carve.sft.train.lrr`: unknown key") && found.contains("`lr`"),
        "{found}"
    );
    let range = message(GOOD, &["carve.sft.train.lr=-1"]);
    assert!(
        range.contains("--set carve.sft.train.lr=-1: `carve.sft.train.lr`: it is -1"),
        "{range}"
    );
    let own = message(GOOD, &["carve.sft.adapt.kind=lora"]);
    assert!(own.contains("`carve.sft.adapt.kind`: it is carve's own"), "{own}");
    let both = message(GOOD, &["carve.tuned=x", "carve.sft.train.lr=1e-3"]);
    assert!(both.contains("contradicts `carve.tuned`"), "{both}");
    assert!(message(GOOD, &["behaviour.held_out=0"]).contains("--set behaviour.held_out=0: `behaviour.held_out`"));
    assert!(message(GOOD, &["carve.mode=masks"]).contains("mask-only"));
}

#[test]
fn the_presets_are_carves_and_reversals_of_them() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for (name, studied, loops) in [
        ("small/smollm2-135m", "runs/smollm2-carve", [None, Some(320)]),
        ("paper/qwen3-0.6b", "runs/qwen3-carve", [None, Some(1500)]),
    ] {
        let read = |kind: &str, command: &str| {
            let file = format!("{name}-{kind}.toml");
            let text = fs::read_to_string(configs.join(&file)).unwrap();
            let run = format!("# Run:   midblock {command} --config configs/{file} --out ");
            for part in [run.as_str(), "# Needs: ", "# Time and memory: "] {
                assert!(text.contains(part), "{file} lacks `{part}`");
            }
            text
        };
        let text = read("carve", "carve");
        assert!(text.contains(&format!("--out {studied}\n")), "{name}");
        let carve = parse(&text, &[]).unwrap_or_else(|error| panic!("{error}"));
        let steps = carve.phases().iter().map(|phase| {
            let config = carve.experiment(*phase, Path::new("out"), None).unwrap();
            config.train.steps
        });
        assert_eq!(steps.collect::<Vec<_>>(), loops, "{name}");

        let study: StudyConfig = toml::from_str(&read("reversal", "study reversal")).unwrap();
        let reversal = study.study.reversal;
        assert_eq!(reversal.carve.as_deref(), Some(Path::new(studied)));
        let eraser: Eraser = reversal.erase.try_into().unwrap();
        assert!(eraser.problems().is_empty(), "{name}");
        for task in &study.eval.unwrap().tasks {
            task.resolve().unwrap();
        }
    }
}
