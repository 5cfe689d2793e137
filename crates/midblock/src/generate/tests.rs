//! Text that grows, and where it ends.

use super::text::Text;
use crate::{
    checkpoint::TokenizerSource,
    tokens::{SMALLEST_VOCABULARY, Tokenizer, train_bpe},
};

/// One token a byte.
fn tokenizer() -> Tokenizer {
    let json = train_bpe(&["a".to_owned()], SMALLEST_VOCABULARY).unwrap();
    Tokenizer::load(&TokenizerSource::Embedded {
        path: "bytes".into(),
        json,
    })
    .unwrap()
}

/// The pieces given out after each byte of `text`, and the text and the rest at the end.
fn pieces(text: &[u8], stops: &[&str]) -> (Vec<String>, String, String, bool) {
    let tokenizer = tokenizer();
    let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
    let mut growing = Text::new(&tokenizer, &stops);
    let mut pieces = Vec::new();
    for byte in text {
        // a byte that begins a character is not encoded alone: its token is found by its written form
        let id = byte_token(&tokenizer, *byte);
        growing.push(id).unwrap();
        pieces.push(growing.piece().to_owned());
        if growing.has_stopped() {
            break;
        }
    }
    let stopped = growing.has_stopped();
    let (text, rest) = growing.finish().unwrap();
    assert_eq!(pieces.concat() + &rest, text);
    (pieces, text, rest, stopped)
}

/// The token of a byte: byte-level BPE writes bytes that are printable as they are, and others as characters from U+0100 on.
fn byte_token(tokenizer: &Tokenizer, byte: u8) -> u32 {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let written = match printable(byte) {
        true => char::from(byte),
        false => {
            let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
            char::from_u32(256 + before).unwrap()
        }
    };
    tokenizer.id_of(&written.to_string()).unwrap()
}

#[test]
fn text_is_given_out_by_characters() {
    let (pieces, text, rest, stopped) = pieces("aé€b".as_bytes(), &[]);
    assert_eq!(pieces, ["a", "", "é", "", "", "€", "b"]);
    assert_eq!((text.as_str(), rest.as_str(), stopped), ("aé€b", "", false));
}

#[test]
fn what_may_become_a_stop_string_is_held_back() {
    let (pieces, text, rest, stopped) = pieces(b"one\n#\n##x", &["\n##", "zz"]);
    assert_eq!(pieces, ["o", "n", "e", "", "", "\n#", "", ""]);
    assert_eq!((text.as_str(), rest.as_str(), stopped), ("one\n#", "", true));
    // held back, but never completed
    let (pieces, text, rest, stopped) = self::pieces(b"ab\n#", &["\n##"]);
    assert_eq!(pieces, ["a", "b", "", ""]);
    assert_eq!((text.as_str(), rest.as_str(), stopped), ("ab\n#", "\n#", false));
}

#[test]
fn the_earliest_stop_string_ends_it() {
    let (_, text, _, stopped) = pieces("xäöyz".as_bytes(), &["yz", "ö"]);
    assert_eq!((text.as_str(), stopped), ("xä", true));
    let (_, text, _, stopped) = pieces(b"abc", &["bc", "c", "abc"]);
    assert_eq!((text.as_str(), stopped), ("", true));
}

#[test]
fn bytes_that_are_no_character_come_at_the_end() {
    let (pieces, text, rest, _) = pieces(b"a\xE2\x82", &[]);
    assert_eq!(pieces, ["a", "", ""]);
    assert_eq!(text, format!("a{rest}"));
    assert!(rest.contains('\u{FFFD}') && !rest.contains('a'), "{rest:?}");
}
