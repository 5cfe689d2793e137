//! Gradients of the trained parameters, accumulated over micro-batches.

use crate::{
    Result,
    model::{ParameterId, Sink},
    ranks::Ranks,
};
use bytemuck::Pod;
use midblock_kernels::{Accumulate, Backend, Real};
use std::collections::BTreeMap;

/// Values that are gathered before ranks sum them: of small parameters many, of a large one a part.
const SUMMED: usize = 4 << 20;

/// A gradient for each trained parameter.
pub struct Gradients<B: Backend> {
    slots: BTreeMap<ParameterId, Slot>,
    buffers: Vec<B::Buffer>,
}

struct Slot {
    buffer: usize,
    /// Whether anything has been added since it was last [taken](Gradients::take).
    written: bool,
    /// Whether anything was ever added.
    heard: bool,
}

impl<B: Backend> Gradients<B> {
    /// For parameters of the given lengths. With `shared`, the same parameter of different blocks uses the same memory:
    /// then a block's gradients must be taken before the next block's are made.
    pub fn new(backend: &B, parameters: &[(ParameterId, usize)], shared: bool) -> Self {
        let mut gradients = Self {
            slots: BTreeMap::new(),
            buffers: Vec::new(),
        };
        let mut places = BTreeMap::new();
        for &(id, len) in parameters {
            let place = match id {
                ParameterId::Block { part, kind, .. } if shared => ParameterId::Block { block: 0, part, kind },
                other => other,
            };
            let buffer = *places.entry((place, len)).or_insert_with(|| {
                gradients.buffers.push(backend.zeros(len));
                gradients.buffers.len() - 1
            });
            gradients.slots.insert(
                id,
                Slot {
                    buffer,
                    written: false,
                    heard: false,
                },
            );
        }
        gradients
    }

    /// The trained parameters, in order.
    pub fn ids(&self) -> impl Iterator<Item = ParameterId> {
        self.slots.keys().copied()
    }

    /// The parameters of which nothing was heard so far.
    pub fn missing(&self) -> Vec<ParameterId> {
        let missing = self.slots.iter().filter(|(_, slot)| !slot.heard);
        missing.map(|(id, _)| *id).collect()
    }

    /// The gradient; `None` if nothing was added to it.
    pub fn get(&self, id: ParameterId) -> Option<&B::Buffer> {
        let slot = self.slots.get(&id).filter(|slot| slot.written)?;
        Some(&self.buffers[slot.buffer])
    }

    /// The gradient, which starts from zero again afterwards; `None` if nothing was added to it.
    pub fn take(&mut self, id: ParameterId) -> Option<&B::Buffer> {
        let slot = self.slots.get_mut(&id)?;
        std::mem::take(&mut slot.written).then(|| &self.buffers[slot.buffer])
    }

    /// Makes each gradient the sum of all ranks'; one that only some ranks have heard of is zero on the others. Parameters have memory of
    /// their own, not shared among blocks. Values go between ranks as `R`.
    ///
    /// # Errors
    /// A rank has failed.
    pub fn reduce<R: Real + Pod>(&mut self, backend: &B, ranks: &Ranks) -> Result<()> {
        if ranks.size() == 1 {
            return Ok(());
        }
        let written: Vec<u8> = self.slots.values().map(|slot| u8::from(slot.written)).collect();
        let all = ranks.all(&written)?;
        let heard = |place: usize| all.iter().any(|rank| rank[place] == 1);
        let mut parts = Vec::new(); // (buffer, first value, values)
        for (place, slot) in self.slots.values_mut().enumerate().filter(|(place, _)| heard(*place)) {
            if written[place] == 0 {
                backend.clear(&mut self.buffers[slot.buffer]);
            }
            (slot.written, slot.heard) = (true, true);
            let len = backend.len(&self.buffers[slot.buffer]);
            parts.extend(
                (0..len)
                    .step_by(SUMMED)
                    .map(|start| (slot.buffer, start, SUMMED.min(len - start))),
            );
        }
        let mut values = Vec::new();
        while !parts.is_empty() {
            let mut total = 0;
            let mut fits = |&(_, _, len): &(usize, usize, usize)| {
                total += len;
                total <= SUMMED
            };
            let together: Vec<_> = parts
                .drain(..parts.iter().take_while(|part| fits(part)).count())
                .collect();
            values.resize(together.iter().map(|(.., len)| len).sum(), R::default());
            let mut rest = values.as_mut_slice();
            for &(buffer, start, len) in &together {
                let (own, others) = rest.split_at_mut(len);
                backend.read(&self.buffers[buffer], start, own);
                rest = others;
            }
            ranks.sum(&mut values)?;
            let mut rest = values.as_slice();
            for (buffer, start, len) in together {
                let (own, others) = rest.split_at(len);
                backend.write(&mut self.buffers[buffer], start, own);
                rest = others;
            }
        }
        Ok(())
    }

    fn slot(&mut self, id: ParameterId) -> (&mut Slot, &mut B::Buffer) {
        let slot = self
            .slots
            .get_mut(&id)
            .expect("invariant: only wanted gradients arrive");
        let buffer = &mut self.buffers[slot.buffer];
        (slot, buffer)
    }
}

impl<B: Backend> Sink<B> for Gradients<B> {
    fn wants(&self, id: ParameterId) -> bool {
        self.slots.contains_key(&id)
    }

    fn product(&mut self, backend: &B, id: ParameterId, x: &B::Buffer, dy: &B::Buffer, rows: usize) {
        let (slot, buffer) = self.slot(id);
        let mode = if slot.written {
            Accumulate::Add
        } else {
            Accumulate::Write
        };
        (slot.written, slot.heard) = (true, true);
        backend.linear_dw(dy, x, rows, mode, buffer);
    }

    fn sum(&mut self, backend: &B, id: ParameterId) -> &mut B::Buffer {
        let (slot, buffer) = self.slot(id);
        slot.heard = true;
        if !std::mem::replace(&mut slot.written, true) {
            backend.clear(buffer);
        }
        buffer
    }
}
