//! What a training run moved, block by block.

use super::{html::escape, provenance::count};
use crate::train::{TrainedBlock, Training};

/// What was trained, as bars without JavaScript and as a table.
pub(super) fn section(training: &Training) -> String {
    let blocks = &training.blocks;
    let most = blocks.iter().map(|block| block.parameters).max().unwrap_or(0).max(1) as f64;
    let width = 300.0 / blocks.len().max(1) as f64;
    let bars: String = blocks
        .iter()
        .enumerate()
        .map(|(index, block)| {
            let height = (40.0 * block.parameters as f64 / most).max(0.8);
            let class = if block.parameters > 0 { "stable" } else { "rest" };
            format!(
                "<rect class=\"{class}\" x=\"{:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{height:.2}\"><title>block {index}: {}</title></rect>",
                width * (index as f64 + 0.1),
                40.0 - height,
                width * 0.8,
                escape(&block_words(block)),
            )
        })
        .collect();
    let rows: String = blocks
        .iter()
        .enumerate()
        .map(|(index, block)| {
            let rank = block.rank.map_or("–".to_owned(), |rank| rank.to_string());
            format!(
                "<tr><th scope=\"row\">{index}</th><td class=\"number\">{rank}</td><td class=\"number\">{}</td><td>{}</td></tr>",
                count(block.parameters),
                escape(&block.parts.join(", ")),
            )
        })
        .collect();
    let trained = blocks.iter().filter(|block| block.parameters > 0).count();
    let outside = match &training.outside[..] {
        [] => String::new(),
        names => format!(" Besides: {}.", escape(&names.join(", "))),
    };
    format!(
        "<section id=\"selection\"><h2>What was trained</h2><article class=\"finding\"><p class=\"verdict\">{trained} of {} blocks train; \
         backward ends at block {}.{outside}</p><figure class=\"strip\"><svg viewBox=\"0 0 300 40\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Trained parameters of each block\">{bars}</svg><figcaption><span>block 0</span><span>trained parameters</span>\
         <span>block {}</span></figcaption></figure><details><summary>Table</summary><div class=\"scroll\"><table><thead><tr><th scope=\"col\">block (0-based)</th>\
         <th scope=\"col\" class=\"number\">rank</th><th scope=\"col\" class=\"number\">parameters</th><th scope=\"col\">parts</th></tr></thead>\
         <tbody>{rows}</tbody></table></div></details></article></section>\n",
        blocks.len(),
        training.first_block,
        blocks.len().saturating_sub(1),
    )
}

/// "rank 13 on self_attn.q_proj, …", "frozen".
fn block_words(block: &TrainedBlock) -> String {
    match (block.parameters, block.rank) {
        (0, _) => "frozen".to_owned(),
        (_, Some(rank)) => format!("rank {rank} on {}", block.parts.join(", ")),
        _ => format!("{} parameters themselves", count(block.parameters)),
    }
}
