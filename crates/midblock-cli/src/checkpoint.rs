//! Opening checkpoints from the command line.

use crate::{args, progress::Terminal};
use midblock::{
    Result,
    checkpoint::{Checkpoint, Quantization},
    hub::HubOptions,
};

/// Opens `spec` with the hub settings of the environment and the flags, showing downloads.
pub fn open(spec: &str, common: &args::Common) -> Result<Checkpoint> {
    let terminal = Terminal::new(common.quiet);
    Checkpoint::open(spec, &hub(common), &|transfer| terminal.transfer(&transfer))
}

/// The same, with the matrices of the blocks quantised if a kind is given.
pub fn open_quantized(spec: &str, kind: Option<Quantization>, common: &args::Common) -> Result<Checkpoint> {
    let mut checkpoint = open(spec, common)?;
    if let Some(kind) = kind {
        checkpoint.quantize(kind, &[])?;
        checkpoint.make_quantized(&Terminal::new(common.quiet))?;
    }
    Ok(checkpoint)
}

/// Hub settings of the environment, with `--offline`.
pub fn hub(common: &args::Common) -> HubOptions {
    let mut hub = HubOptions::from_env();
    hub.offline |= common.offline;
    hub
}
