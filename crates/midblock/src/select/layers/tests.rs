use super::{Amount, Layers};
use proptest::prelude::*;

fn layers(text: &str) -> Layers {
    text.parse().unwrap()
}

fn active(text: &str, blocks: usize) -> Vec<usize> {
    layers(text).active(blocks, 42, None).unwrap()
}

fn refused(text: &str, blocks: usize) -> String {
    let message = match text.parse::<Layers>() {
        Err(error) => error.to_string(),
        Ok(layers) => layers.ranks(blocks, 8, 42, None).unwrap_err().to_string(),
    };
    assert!(message.starts_with(&format!("--layers `{text}`: ")), "{message}");
    message
}

#[test]
fn every_form_means_what_it_says() {
    let range = |from, to| (from..to).collect::<Vec<usize>>();
    for (text, expected) in [
        ("mid", range(6, 24)),
        ("all", range(0, 30)),
        ("segments:-1,13,13,13,-1", range(6, 24)),
        ("segments:0,5", range(15, 30)),
        ("segments:4", range(0, 30)),
        ("band:0.2-0.8", range(6, 24)),
        ("band:0-1", range(0, 30)),
        ("band:0.29-0.3", vec![8]),
        ("range:6..24", range(6, 24)),
        ("list:7,3,5", vec![3, 5, 7]),
        ("first:4", range(0, 4)),
        ("last:4", range(26, 30)),
        ("freeze-first:0.33", range(9, 30)),
        ("freeze-first:0", range(0, 30)),
        ("freeze-first:0.7", range(21, 30)),
    ] {
        assert_eq!(active(text, 30), expected, "{text}");
    }
}

#[test]
fn tiny_models_have_a_middle_or_say_that_they_have_none() {
    assert_eq!(active("mid", 2), [0]);
    assert_eq!(active("mid", 3), [0, 1]);
    assert_eq!(active("freeze-first:0.5", 1), [0]);
    assert_eq!(active("random:100%", 1), [0]);
    assert!(refused("mid", 1).contains("it selects no block of 1"));
    assert!(refused("band:0.2-0.8", 1).contains("it selects no block of 1"));
    assert!(refused("freeze-first:1", 30).contains("it selects no block of 30"));
    assert!(refused("segments:-1,8,8,8,-1", 2).contains("segment 2 of 5 holds none of the 2 blocks"));
}

#[test]
fn what_is_not_there_is_refused() {
    for (text, problem) in [
        ("list:3,30", "there is no block 30, the model has 30"),
        ("range:6..31", "there is no block 30"),
        ("first:31", "the model has only 30 blocks"),
        ("last:31", "the model has only 30 blocks"),
        ("random:31", "the model has only 30 blocks"),
        ("first:0", "it selects no block"),
        ("random:1%", "it selects no block"),
        ("segments:-1,-1", "it selects no block"),
        ("stable:60%", "it reads an analysis, and none was named"),
        ("gradient:4", "it needs a gradient probe"),
    ] {
        let message = refused(text, 30);
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    for (text, problem) in [
        ("", "not a choice of blocks"),
        ("middle", "not a choice of blocks"),
        ("segments", "not a choice of blocks"),
        ("middle:3", "not a choice of blocks"),
        ("mid:3", "`mid` takes nothing after a colon"),
        ("segments:8,,8", "`` is not a whole number"),
        ("segments:8,-2", "`-2` is not a whole number"),
        ("band:0.8-0.2", "the band ends at 0.2, not above its start"),
        ("band:0.2", "a band is written A-B"),
        ("band:0.2-1.5", "`1.5` is not a number from 0 to 1"),
        ("band:nan-1", "`nan` is not a number from 0 to 1"),
        ("range:6-24", "a range is written A..B"),
        ("range:6..6", "the range 6..6 is empty"),
        ("list:3,x", "`x` is not a whole number"),
        ("list:3,5,3", "block 3 is named twice"),
        ("first:99999999999999999999", "is not a whole number from 0 to 2^20"),
        ("freeze-first:2", "`2` is not a number from 0 to 1"),
        ("random:120%", "`120%` is not from 0% to 100%"),
        ("cka:few", "`few` is not a whole number"),
    ] {
        let message = refused(text, 30);
        assert!(message.contains(problem), "{text}: {message}");
        assert!(message.contains("help: write mid, all, segments:"), "{message}");
    }
}

/// The table of arXiv 2604.11838 for 32 blocks and uniform rank 64, a budget of 2048.
#[test]
fn the_papers_ranks_follow_from_the_budget() {
    for (choice, pattern, rank) in [
        ("all", "segments:64,64,64,64,64", 64),
        ("mid", "segments:-1,107,107,107,-1", 107),
        ("range:12..19", "segments:-1,-1,292,-1,-1", 292),
        ("range:6..12", "segments:-1,341,-1,-1,-1", 341),
        ("range:19..25", "segments:-1,-1,-1,341,-1", 341),
        ("range:6..19", "segments:-1,157,157,-1,-1", 157),
        ("range:12..25", "segments:-1,-1,157,157,-1", 157),
        ("last:7", "segments:-1,-1,-1,-1,292", 292),
        ("first:6", "segments:341,-1,-1,-1,-1", 341),
    ] {
        let ranks = layers(choice).ranks(32, 64, 0, None).unwrap();
        assert_eq!(ranks, layers(pattern).ranks(32, 1, 0, None).unwrap(), "{choice}");
        assert_eq!(ranks.iter().max(), Some(&rank));
        assert!(ranks.iter().sum::<usize>() <= 2048);
    }
    let none = layers("all").ranks(32, 0, 0, None).unwrap_err().to_string();
    assert!(none.contains("a rank of 0 leaves none for its 32 blocks"), "{none}");
}

#[test]
fn random_blocks_follow_the_seed() {
    let drawn = |seed| layers("random:18").active(30, seed, None).unwrap();
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    assert!(drawn(1).is_sorted_by(|a, b| a < b) && drawn(1).len() == 18);
}

#[test]
fn the_best_blocks_are_those_of_the_highest_scores() {
    let scores = [0.5, 2.0, -1.0, 2.0, 0.5];
    let best = |text: &str| layers(text).active(5, 0, Some(&scores)).unwrap();
    assert_eq!(best("gradient:1"), [1]); // equal scores: the lower block
    assert_eq!(best("stable:60%"), [0, 1, 3]);
    assert_eq!(best("cka"), [0, 1, 3]);
    let error = |scores: &[f64]| layers("cka").active(5, 0, Some(scores)).unwrap_err().to_string();
    assert!(error(&scores[..4]).contains("it has 4 scores for 5 blocks"));
    assert!(error(&[0.0, f64::NAN, 0.0, 0.0, 0.0]).contains("the score of block 1 is NaN"));
}

#[test]
fn toml_and_json_hold_the_text() {
    let read: Layers = serde_json::from_str(r#""segments:-1, 13,0""#).unwrap();
    assert_eq!(read, Layers::Segments(vec![0, 13, 0]));
    assert_eq!(serde_json::to_string(&read).unwrap(), r#""segments:-1,13,-1""#);
    assert!(serde_json::from_str::<Layers>(r#""middle""#).is_err());
}

fn any_layers() -> impl Strategy<Value = Layers> {
    let ratio = || (0..=1000u32).prop_map(|n| f64::from(n) / 1000.0);
    let strategies = prop::sample::select(super::Strategy::ALL.to_vec());
    let amount = prop_oneof![
        (0usize..99).prop_map(Amount::Blocks),
        (0..=1000u32).prop_map(|n| Amount::Percent(f64::from(n) / 10.0)),
    ];
    prop_oneof![
        Just(Layers::Mid),
        Just(Layers::All),
        prop::collection::vec(0usize..400, 1..8).prop_map(Layers::Segments),
        (ratio(), ratio())
            .prop_filter("rising", |(a, b)| a < b)
            .prop_map(|(a, b)| Layers::Band(a, b)),
        (0usize..50, 1usize..50).prop_map(|(from, len)| Layers::Range(from..from + len)),
        prop::collection::btree_set(0usize..99, 1..8).prop_map(|set| Layers::List(set.into_iter().collect())),
        (0usize..99).prop_map(Layers::First),
        (0usize..99).prop_map(Layers::Last),
        ratio().prop_map(Layers::FreezeFirst),
        (strategies, amount).prop_map(|(strategy, amount)| Layers::Best(strategy, amount)),
    ]
}

proptest! {
    #[test]
    fn text_reads_back(layers in any_layers()) {
        prop_assert_eq!(layers.to_string().parse::<Layers>().unwrap(), layers);
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,30}", form in "(band|range|list|segments|cka|last):[0-9.,%-]{0,12}") {
        _ = text.parse::<Layers>();
        _ = form.parse::<Layers>().map(|layers| layers.ranks(12, 4, 0, None));
    }

    #[test]
    fn a_choice_never_exceeds_the_budget(layers in any_layers(), blocks in 1usize..60, rank in 1usize..80) {
        let scores: Vec<f64> = (0..blocks).map(|block| (block * 7 % 5) as f64).collect();
        if let Ok(ranks) = layers.ranks(blocks, rank, 3, Some(&scores)) {
            let active = layers.active(blocks, 3, Some(&scores)).unwrap();
            let with_rank: Vec<usize> = (0..blocks).filter(|&block| ranks[block] > 0).collect();
            prop_assert_eq!(&with_rank, &active);
            if !matches!(layers, Layers::Segments(_)) {
                let sum: usize = ranks.iter().sum();
                prop_assert!(sum <= rank * blocks && sum + active.len() > rank * blocks);
            }
        }
    }
}
