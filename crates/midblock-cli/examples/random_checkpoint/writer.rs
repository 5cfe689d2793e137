//! A Llama-shaped checkpoint of random bf16 weights, sharded like those on the hub, of any size: nothing is held in memory
//! but one buffer, so a model larger than the machine can be made to see what working on it takes.

use serde_json::{Map, Value, json};
use std::{
    fs::{self, File},
    io::{BufWriter, Result, Write},
    path::Path,
};

/// Spread of the weights: uniform within ± this.
const HALF_WIDTH: f32 = 0.035; // standard deviation 0.02

/// 1.0 in bf16.
const ONE: u16 = 0x3f80;

/// What to write.
#[derive(Clone, Debug, clap::Args)]
pub struct Shape {
    /// D, hidden_size
    #[arg(long)]
    pub hidden: usize,
    /// F, intermediate_size
    #[arg(long)]
    pub ffn: usize,
    /// H, num_attention_heads
    #[arg(long)]
    pub heads: usize,
    /// K, num_key_value_heads [default: as many as heads]
    #[arg(long)]
    pub kv_heads: Option<usize>,
    /// V, vocab_size
    #[arg(long)]
    pub vocab: usize,
    /// L, num_hidden_layers
    #[arg(long)]
    pub blocks: usize,
    /// Files that the tensors are dealt to
    #[arg(long, default_value_t = 2)]
    pub shards: usize,
    /// Move half of the blocks' weights by one unit in the last place: a variant of the checkpoint without this flag
    #[arg(long)]
    pub nudged: bool,
}

/// Name, shape, and whether all is one (a norm).
type Tensor = (String, Vec<usize>, bool);

impl Shape {
    /// Writes config.json, the shards and their index into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.json"), self.config().to_string())?;
        let tensors = self.tensors();
        let per_shard = tensors.len().div_ceil(self.shards);
        let mut weight_map = Map::new();
        for (index, tensors) in tensors.chunks(per_shard).enumerate() {
            let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, self.shards);
            self.write_shard(&folder.join(&name), tensors)?;
            weight_map.extend(tensors.iter().map(|(tensor, ..)| (tensor.clone(), json!(name))));
        }
        let index = json!({"metadata": {}, "weight_map": weight_map});
        fs::write(folder.join("model.safetensors.index.json"), index.to_string())
    }

    fn config(&self) -> Value {
        json!({
            "model_type": "llama", "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads.unwrap_or(self.heads), "vocab_size": self.vocab,
            "num_hidden_layers": self.blocks, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
            "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": false,
        })
    }

    fn tensors(&self) -> Vec<Tensor> {
        let (d, f) = (self.hidden, self.ffn);
        let kv = d / self.heads * self.kv_heads.unwrap_or(self.heads);
        let block = |index: usize| {
            let matrix =
                move |part: &str, rows, cols| (format!("model.layers.{index}.{part}.weight"), vec![rows, cols], false);
            let norm = move |part: &str| (format!("model.layers.{index}.{part}.weight"), vec![d], true);
            [
                matrix("self_attn.q_proj", d, d),
                matrix("self_attn.k_proj", kv, d),
                matrix("self_attn.v_proj", kv, d),
                matrix("self_attn.o_proj", d, d),
                matrix("mlp.gate_proj", f, d),
                matrix("mlp.up_proj", f, d),
                matrix("mlp.down_proj", d, f),
                norm("input_layernorm"),
                norm("post_attention_layernorm"),
            ]
        };
        let table = |name: &str| (name.to_owned(), vec![self.vocab, d], false);
        let ends = [("model.norm.weight".to_owned(), vec![d], true), table("lm_head.weight")];
        let blocks = (0..self.blocks).flat_map(block);
        std::iter::once(table("model.embed_tokens.weight"))
            .chain(blocks)
            .chain(ends)
            .collect()
    }

    /// `u64` length, JSON header, then the data in the header's order.
    fn write_shard(&self, path: &Path, tensors: &[Tensor]) -> Result<()> {
        let mut header = Map::new();
        let mut end = 0;
        for (name, shape, _) in tensors {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            header.insert(
                name.clone(),
                json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}),
            );
        }
        let header = Value::Object(header).to_string();
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for (name, shape, all_one) in tensors {
            let len = shape.iter().product();
            if *all_one {
                out.write_all(&ONE.to_le_bytes().repeat(len))?;
            } else {
                write_random(&mut out, len, seed(name), self.nudged && name.contains(".layers."))?;
            }
        }
        out.flush()
    }
}

/// `len` random weights, a multiple of 4.
fn write_random(out: &mut impl Write, len: usize, seed: u64, nudged: bool) -> Result<()> {
    let value = |byte: usize| HALF_WIDTH * (byte as f32 / 127.5 - 1.0);
    let table: Vec<u16> = (0..256).map(|byte| (value(byte).to_bits() >> 16) as u16).collect();
    let mut state = seed;
    for _ in 0..len / 4 {
        // xorshift64 (Marsaglia 2003): four bytes choose the weights, four bits of the rest who is nudged
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (i, byte) in state.to_le_bytes().into_iter().take(4).enumerate() {
            let nudge = u16::from(nudged) & (state >> (48 + i)) as u16;
            out.write_all(&(table[usize::from(byte)] ^ nudge).to_le_bytes())?;
        }
    }
    Ok(())
}

/// A seed from a name (FNV-1a); never 0.
fn seed(name: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, step) | 1
}
