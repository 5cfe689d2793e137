//! The gated MLP: `down(act(gate(x)) · up(x))` (Shazeer 2020).

use super::{
    Architecture, Pass, Sink,
    linear::{Backward, Linear, Narrow},
};
use midblock_kernels::{Accumulate, Activation, Backend};

/// The MLP half of a block on a device.
pub(super) struct GatedMlp<B: Backend> {
    activation: Activation,
    gate: Linear<B>,
    up: Linear<B>,
    down: Linear<B>,
}

/// What the MLP's backward reads.
pub(super) struct MlpState<B: Backend> {
    /// Before the activation, (rows, F); its backward overwrites it.
    gate: B::Buffer,
    /// (rows, F); its backward overwrites it.
    up: B::Buffer,
    /// Of gate, up and down.
    narrow: [Narrow<B>; 3],
}

impl<B: Backend> MlpState<B> {
    pub(super) fn new(backend: &B) -> Self {
        let empty = || backend.zeros(0);
        Self {
            gate: empty(),
            up: empty(),
            narrow: [empty(), empty(), empty()],
        }
    }

    /// Elements a row, without adapters.
    pub(super) fn width(architecture: &Architecture) -> usize {
        2 * architecture.ffn
    }
}

impl<B: Backend> GatedMlp<B> {
    pub(super) fn new(activation: Activation, [gate, up, down]: [Linear<B>; 3]) -> Self {
        Self {
            activation,
            gate,
            up,
            down,
        }
    }

    pub(super) fn linears_mut(&mut self) -> [&mut Linear<B>; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }

    /// `out (+)=` the MLP of x (rows, D). What is not kept is made in place; else `product` holds it, (rows, F).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn forward(
        &self,
        pass: &Pass<'_, B>,
        x: &B::Buffer,
        keep: bool,
        state: &mut MlpState<B>,
        product: &mut B::Buffer,
        mode: Accumulate,
        out: &mut B::Buffer,
    ) {
        let backend = pass.backend;
        let MlpState {
            gate,
            up,
            narrow: [narrow_gate, narrow_up, narrow_down],
        } = state;
        let mut layers = [(&self.gate, &mut *gate, narrow_gate), (&self.up, &mut *up, narrow_up)];
        Linear::forward_all(pass, x, &mut layers);
        let product = if keep {
            backend.resize(product, backend.len(gate));
            backend.gated_to(self.activation, gate, up, product);
            &*product
        } else {
            backend.gated(self.activation, gate, up);
            &*gate
        };
        self.down.forward(pass, product, mode, out, narrow_down);
    }

    /// Whether the sink wants any parameter of the MLP.
    pub(super) fn wanted(&self, sink: &impl Sink<B>) -> bool {
        [&self.gate, &self.up, &self.down].into_iter().any(|l| l.wanted(sink))
    }

    /// Whether the sink wants something that is made of x.
    pub(super) fn wants_input(&self, sink: &impl Sink<B>) -> bool {
        [&self.gate, &self.up].into_iter().any(|l| l.wants_input(sink))
    }

    /// `dx (+)=` the gradient with respect to x; dy (rows, D). `x` as in [`Linear::backward`]; `product` is scratch, (rows, F).
    #[allow(clippy::too_many_arguments)]
    pub(super) fn backward(
        &self,
        pass: &Pass<'_, B>,
        x: Option<&B::Buffer>,
        state: &mut MlpState<B>,
        dy: &B::Buffer,
        dx: Option<(Accumulate, &mut B::Buffer)>,
        [product, d_product]: [&mut B::Buffer; 2],
        sink: &mut impl Sink<B>,
    ) {
        let backend = pass.backend;
        let MlpState {
            gate,
            up,
            narrow: [narrow_gate, narrow_up, narrow_down],
        } = state;
        let input = self.down.wants_input(sink).then(|| {
            backend.resize(product, backend.len(gate));
            backend.gated_to(self.activation, gate, up, product);
            &*product
        });
        let output = Backward {
            layer: &self.down,
            narrow: narrow_down,
            dy,
        };
        let below = dx.is_some() || [&self.gate, &self.up].into_iter().any(|l| l.wanted(sink));
        let d_product = below.then_some(d_product);
        match d_product {
            None => Linear::backward(pass, &[output], input, None, sink),
            Some(d_product) => {
                Linear::backward(pass, &[output], input, Some((Accumulate::Write, &mut *d_product)), sink);
                backend.gated_backward(self.activation, d_product, gate, up);
                let layer = |layer, narrow, dy| Backward { layer, narrow, dy };
                let layers = [layer(&self.gate, narrow_gate, gate), layer(&self.up, narrow_up, up)];
                Linear::backward(pass, &layers, x, dx, sink);
            }
        }
    }
}
