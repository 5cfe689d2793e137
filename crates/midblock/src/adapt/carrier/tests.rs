use super::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// D, F, H·E, K·E.
const SIZES: [usize; 8] = [4, 6, 4, 4, 8, 2, 2, 4];

/// Three blocks, of which the middle one has masks.
fn carrier() -> Carrier {
    let theta = |group: usize| {
        let channels = 0..SIZES[group];
        channels
            .map(|i| (i * 3 + group) as f32 % 7.0 - 3.0)
            .collect::<Vec<f32>>()
    };
    let files = vec![FileHash {
        path: "base/model.safetensors".into(),
        bytes: 7,
        blake3: "ab".into(),
    }];
    let origin = CarrierOrigin {
        base: CarrierModel {
            label: "./base".into(),
            files,
        },
        options: json!({"adapt": {"kind": "masked"}}),
        step: 12,
        lambda: 0.25,
        limit: Some(0.1),
        loss: Some(0.09),
        ..CarrierOrigin::default()
    };
    Carrier::new(vec![None, Some(std::array::from_fn(theta)), None], origin)
}

fn written() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("carrier");
    carrier().write(&path).unwrap();
    (dir, path)
}

#[test]
fn the_same_masks_are_the_same_bytes() {
    let bytes = || {
        let (_dir, path) = written();
        fs::read(path.join(TENSORS)).unwrap()
    };
    let first = bytes();
    assert!((0..20).all(|_| bytes() == first));
}

#[test]
fn what_is_written_reads_back() {
    let (_dir, path) = written();
    let carrier = carrier();
    let read = Carrier::open(&path).unwrap();
    assert_eq!(read, carrier);
    assert_eq!(read.masked_blocks(), [1]);
    // θ = (3i mod 7) − 3 for ffn_read
    assert_eq!(read.masks().group(1, MaskGroup::FfnRead), [false, false, true, false]);
    assert_eq!(read.theta(1, MaskGroup::FfnRead), Some(&[-3.0, 0.0, 3.0, -1.0][..]));
    assert_eq!(
        (
            read.theta(0, MaskGroup::Value),
            read.masks().active(0, MaskGroup::Value)
        ),
        (None, 0)
    );
    assert_eq!(read.sparsity(MaskGroup::FfnRead), 0.75);
    // ffn_write: −1, 2, −2, 1; attention_write: −3, 0, 3, −1
    assert_eq!(read.masks().written(1), [1, 2, 3]);
    let json: Value = serde_json::from_slice(&fs::read(path.join(DESCRIPTION)).unwrap()).unwrap();
    assert_eq!(json["masked"][0]["active"]["ffn_read"], json!([2]));
    assert_eq!(
        (&json["blocks"], &json["channels"]["ffn_hidden"]),
        (&json!(3), &json!(6))
    );
    assert_eq!(json["sparsity"]["groups"]["ffn_read"], json!(0.75));
    assert_eq!(json["base"]["label"], json!("./base"));
    let off = SIZES.iter().sum::<usize>() as f64 * read.sparsity_of_all();
    assert!((off - off.round()).abs() < 1e-9 && off > 0.0);
}

/// The message when a file was changed.
fn damaged(file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let (_dir, path) = written();
    let file = path.join(file);
    fs::write(&file, change(fs::read(&file).unwrap())).unwrap();
    Carrier::open(&path).unwrap_err().to_string()
}

fn with_key(pointer: &str, value: Value) -> String {
    damaged(DESCRIPTION, |text| {
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        *json.pointer_mut(pointer).unwrap() = value;
        serde_json::to_vec(&json).unwrap()
    })
}

#[test]
fn what_is_wrong_is_named() {
    let swapped = |bytes: Vec<u8>, from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    };
    let last = |mut bytes: Vec<u8>| {
        *bytes.last_mut().unwrap() ^= 1; // a mask
        bytes
    };
    for (message, parts) in [
        (
            with_key("/midblock_carrier_schema", json!(2)),
            ["carrier.json", "schema 2 is newer than 1"],
        ),
        (
            with_key("/midblock_carrier_schema", json!("x")),
            ["carrier.json", "`midblock_carrier_schema` is missing"],
        ),
        (with_key("/step", json!(-1)), ["carrier.json", "invalid value"]),
        (with_key("/blocks", json!(1)), ["carrier.json", "there is no block 1"]),
        (
            with_key("/masked", json!([])),
            ["masks.safetensors", "it has 16 tensors, expected 0"],
        ),
        (
            with_key("/masked/0/block", json!(2)),
            ["masks.safetensors", "tensor `model.layers.2.ffn_read` is missing"],
        ),
        (
            with_key("/masked/0/active/ffn_read", json!([1])),
            ["block 1, ffn_read", "not those of masks.safetensors"],
        ),
        (
            with_key("/channels/ffn_read", json!(5)),
            ["tensor `model.layers.1.ffn_read` is F32 [4]", "expected F32 [5]"],
        ),
        (
            damaged(TENSORS, |bytes| bytes[..40].to_vec()),
            ["masks.safetensors", "not a valid carrier's"],
        ),
        (
            damaged(TENSORS, last),
            [".mask` is not where `model.layers.1.", "is above 0"],
        ),
        (
            damaged(TENSORS, |bytes| {
                swapped(bytes, &(-2f32).to_le_bytes(), &f32::NAN.to_le_bytes())
            }),
            ["masks.safetensors", "is NaN at"],
        ),
        (damaged(DESCRIPTION, |_| b"{".to_vec()), ["carrier.json", "EOF"]),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let dir = TempDir::new().unwrap();
    let message = Carrier::open(dir.path()).unwrap_err().to_string();
    assert!(
        message.starts_with("cannot read ") && message.contains(DESCRIPTION),
        "{message}"
    );
}

#[test]
fn it_is_held_against_a_model() {
    let architecture = |kv_heads: usize| {
        crate::adapt::tests::architecture(json!({
            "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 4, "num_key_value_heads": kv_heads,
            "head_dim": 2, "num_hidden_layers": 3,
        }))
    };
    carrier().check(&architecture(1), "./base").unwrap();
    let message = carrier().check(&architecture(2), "./base").unwrap_err().to_string();
    assert!(message.contains("channels of key is 2 against 4"), "{message}");
    let mut deeper = architecture(1);
    deeper.blocks = 4;
    let message = carrier().check(&deeper, "./base").unwrap_err().to_string();
    assert!(message.contains("number of blocks is 3 against 4"), "{message}");
}
