//! Names and row order of tensors: from llama.cpp's to Hugging Face's.

use super::config::Architecture;

/// The Hugging Face name of a tensor, or `None` if models of this architecture have none of that name.
pub(super) fn hugging_face(architecture: Architecture, name: &str) -> Option<String> {
    use Architecture::{Llama, Olmo2, Qwen2, Qwen3};
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (block, field) = name.strip_prefix("blk.")?.split_once('.')?;
    let block: u32 = block.parse().ok()?;
    let (module, kind) = field.rsplit_once('.')?;
    let module = match (module, architecture) {
        ("attn_q", _) => "self_attn.q_proj",
        ("attn_k", _) => "self_attn.k_proj",
        ("attn_v", _) => "self_attn.v_proj",
        ("attn_output", _) => "self_attn.o_proj",
        ("ffn_gate", _) => "mlp.gate_proj",
        ("ffn_up", _) => "mlp.up_proj",
        ("ffn_down", _) => "mlp.down_proj",
        ("attn_norm", Llama | Qwen2 | Qwen3) => "input_layernorm",
        ("ffn_norm", Llama | Qwen2 | Qwen3) => "post_attention_layernorm",
        ("attn_q_norm", Qwen3 | Olmo2) => "self_attn.q_norm",
        ("attn_k_norm", Qwen3 | Olmo2) => "self_attn.k_norm",
        ("post_attention_norm", Olmo2) => "post_attention_layernorm",
        ("post_ffw_norm", Olmo2) => "post_feedforward_layernorm",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("model.layers.{block}.{module}.{kind}"))
}

/// Undoes the row order that files of architecture `llama` have in the query and key projections.
///
/// Rotary embeddings turn pairs of rows of a head. Hugging Face pairs row `j` with `j + E/2`; those files store the two of
/// a pair next to each other: stored row `2 j + s` of a head is Hugging Face's row `s E/2 + j`, `s` in {0, 1}.
pub(super) fn undo_interleaving(stored: &[u8], heads: usize, rows: usize) -> Vec<u8> {
    let row_len = stored.len() / rows;
    let half = rows / heads / 2;
    let mut out = Vec::with_capacity(stored.len());
    for head in stored.chunks_exact(2 * half * row_len) {
        for s in 0..2 {
            for j in 0..half {
                out.extend_from_slice(&head[(2 * j + s) * row_len..][..row_len]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hugging_face() {
        for (architecture, stored, expected) in [
            (
                Architecture::Llama,
                "token_embd.weight",
                Some("model.embed_tokens.weight"),
            ),
            (
                Architecture::Llama,
                "blk.11.ffn_norm.weight",
                Some("model.layers.11.post_attention_layernorm.weight"),
            ),
            (
                Architecture::Qwen2,
                "blk.0.attn_q.bias",
                Some("model.layers.0.self_attn.q_proj.bias"),
            ),
            (
                Architecture::Qwen3,
                "blk.3.attn_k_norm.weight",
                Some("model.layers.3.self_attn.k_norm.weight"),
            ),
            (
                Architecture::Olmo2,
                "blk.3.post_ffw_norm.weight",
                Some("model.layers.3.post_feedforward_layernorm.weight"),
            ),
            (Architecture::Llama, "blk.3.attn_k_norm.weight", None),
            (Architecture::Olmo2, "blk.3.attn_norm.weight", None),
            (Architecture::Llama, "blk.x.attn_q.weight", None),
            (Architecture::Llama, "blk.0.attn_q.scale", None),
            (Architecture::Llama, "blk.0.ffn_gate_exps.weight", None),
        ] {
            assert_eq!(hugging_face(architecture, stored).as_deref(), expected, "{stored}");
        }
    }

    #[test]
    fn pairs_move_half_a_head_apart() {
        // Two heads of four rows of two bytes.
        let stored = b"a0b0a1b1c2d2c3d3";
        assert_eq!(undo_interleaving(stored, 2, 8), b"a0a1b0b1c2c3d2d3");
    }
}
