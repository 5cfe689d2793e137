//! How a trigger is trained: `[eraser]`.

use super::Channels;
use crate::config::ByteSize;
use serde::{Deserialize, Serialize};

/// `[eraser]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eraser {
    /// Vectors of the trigger, T; 20 by default, as in the paper. They take as many positions.
    pub tokens: usize,
    /// Channels of each block's output that are drawn to the base's: `carrier` (default if there is a carrier), `ffn` or `attention` alone of
    /// it, `random`: as many drawn from all, `residual` (default without a carrier): all, `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Weight of the activation term; 1 by default.
    pub activation: f64,
    /// Weight of the divergence; 0.7 by default, as in the paper. With 0 it is not computed.
    pub divergence: f64,
    /// Weight of the vectors' mean squared norm; 0.1 by default, as in the paper.
    pub norm: f64,
    /// Tokens at the end of each prompt whose next-token distributions are compared; 8 by default, as in the paper. Of a shorter prompt all.
    pub tail: usize,
    /// Largest norm of a vector: a longer one is scaled down after each step; 1 by default, as in the paper.
    pub max_norm: f64,
    /// Prompts, drawn without replacement; 200 by default, as in the paper.
    pub samples: usize,
    /// Prompts in a step; 16 by default, as in the paper.
    pub batch: usize,
    /// Steps; 2000 by default, as in the paper.
    pub steps: u64,
    /// Learning rate of Adam; 0.003 by default, as in the paper.
    pub lr: f64,
    /// Adam's decay rates of the two moments; `[0.9, 0.999]` by default.
    pub betas: [f64; 2],
    /// Adam's ε; 1e-8 by default.
    pub eps: f64,
    /// Norm to which a larger gradient is scaled down; 1 by default, as in the paper; 0 for no clipping.
    pub clip: f64,
    /// Seed of the prompts, of their order, of the vectors at the start and of `random` channels; 42 by default.
    pub seed: u64,
    /// Steps between evaluations of the loss on all prompts at once; 50 by default. Before the first step and after the last it is evaluated
    /// too, and the vectors with the lowest such loss are the result.
    pub eval_every: u64,
    /// Steps between checkpoints; 100 by default.
    pub save_every: u64,
    /// Checkpoints kept, from the newest, besides the best; 2 by default.
    pub keep_checkpoints: usize,
    /// Memory for what a step keeps, such as `"2 GiB"`: less memory means more is computed twice. Unlimited by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
}

impl Default for Eraser {
    fn default() -> Self {
        Self {
            tokens: 20,
            channels: None,
            activation: 1.0,
            divergence: 0.7,
            norm: 0.1,
            tail: 8,
            max_norm: 1.0,
            samples: 200,
            batch: 16,
            steps: 2000,
            lr: 0.003,
            betas: [0.9, 0.999],
            eps: 1e-8,
            clip: 1.0,
            seed: 42,
            eval_every: 50,
            save_every: 100,
            keep_checkpoints: 2,
            memory: None,
        }
    }
}

impl Eraser {
    /// The channels, with the default where none are given.
    pub fn channels(&self, carrier: bool) -> Channels {
        self.channels.unwrap_or(match carrier {
            true => Channels::Carrier,
            false => Channels::Residual,
        })
    }

    /// Everything that is wrong: key of the table, problem, help.
    pub fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut found = Vec::new();
        let counts = [
            ("tokens", self.tokens as u64),
            ("tail", self.tail as u64),
            ("samples", self.samples as u64),
            ("batch", self.batch as u64),
            ("steps", self.steps),
            ("eval_every", self.eval_every),
            ("save_every", self.save_every),
            ("keep_checkpoints", self.keep_checkpoints as u64),
        ];
        for (key, _) in counts.into_iter().filter(|(_, value)| *value == 0) {
            found.push((key, "it is 0, expected 1 or more".to_owned(), ""));
        }
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let or_zero = |value: f64| value >= 0.0 && value.is_finite();
        let [first, second] = self.betas;
        let below_one = |beta: f64| (0.0..1.0).contains(&beta);
        let ranges = [
            ("activation", self.activation, or_zero(self.activation), "0 or more"),
            ("divergence", self.divergence, or_zero(self.divergence), "0 or more"),
            ("norm", self.norm, or_zero(self.norm), "0 or more"),
            ("max_norm", self.max_norm, positive(self.max_norm), "above 0"),
            ("lr", self.lr, positive(self.lr), "above 0"),
            ("betas", first, below_one(first), "0 or more and below 1"),
            ("betas", second, below_one(second), "0 or more and below 1"),
            ("eps", self.eps, positive(self.eps), "above 0"),
            ("clip", self.clip, or_zero(self.clip), "0 or more"),
        ];
        for (key, value, _, expected) in ranges.into_iter().filter(|(_, _, good, _)| !good) {
            found.push((key, format!("it is {value}, expected {expected}"), ""));
        }
        let silent = self.activation == 0.0 || self.channels == Some(Channels::None);
        if silent && self.divergence == 0.0 {
            let help = "give it a weight, or choose channels with a weight for `activation`";
            found.push((
                "divergence",
                "nothing of the loss says what the model is to do".to_owned(),
                help,
            ));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        assert!(Eraser::default().problems().is_empty());
        let keys = |text: &str| -> Vec<&str> {
            let eraser: Eraser = toml::from_str(text).unwrap();
            eraser.problems().into_iter().map(|(key, ..)| key).collect()
        };
        assert_eq!(keys("tokens = 0\nsteps = 0"), ["tokens", "steps"]);
        assert_eq!(
            keys("lr = 0\nbetas = [0.9, 1.0]\nmax_norm = -1\neps = nan"),
            ["max_norm", "lr", "betas", "eps"]
        );
        assert_eq!(keys("channels = \"none\"\ndivergence = 0"), ["divergence"]);
        assert_eq!(keys("activation = 0\ndivergence = 0"), ["divergence"]);
        assert!(keys("activation = 0").is_empty());
    }
}
