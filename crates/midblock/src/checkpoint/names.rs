//! One spelling of parameter names: those of Hugging Face's causal language models.
//!
//! Checkpoints saved from the model without its head lack the leading `model.` (`layers.0.…` for `model.layers.0.…`);
//! this is told from the set of names, not name by name.

/// Whether names lack the leading `model.`: none has it.
pub(crate) fn lack_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    !names.any(|name| name.starts_with("model."))
}

/// The name with its `model.`; `lm_head.…` stands outside of the inner model and keeps its name.
pub(crate) fn with_prefix(name: &str) -> String {
    if name.starts_with("lm_head.") {
        name.to_owned()
    } else {
        format!("model.{name}")
    }
}

/// The name nearest to `wanted`, if any is close enough to be a slip.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (edit_distance(wanted, name), name))
        .min()
        .filter(|&(distance, _)| distance <= wanted.len() / 3)
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_added_only_where_all_names_lack_it() {
        assert!(!lack_prefix(["model.norm.weight", "lm_head.weight"].into_iter()));
        assert!(lack_prefix(["norm.weight", "layers.0.mlp.up_proj.weight"].into_iter()));
        assert_eq!(with_prefix("norm.weight"), "model.norm.weight");
        assert_eq!(with_prefix("lm_head.weight"), "lm_head.weight");
    }

    #[test]
    fn edit_distances_are_the_textbook_ones() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("flaw", "lawn"), 2);
    }

    #[test]
    fn nearest_finds_slips_and_nothing_else() {
        let names = ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"];
        assert_eq!(nearest("model.layers.0.mlp.up.weight", names), Some(names[1]));
        assert_eq!(nearest("transformer.h.0.attn.c_attn.bias", names), None);
    }
}
