//! What of masked matrices must survive a restart, by name: `tuned.…weight` for each tuned matrix that is trained,
//! `theta.model.layers.{i}.{group}` and with momentum `theta_momentum.…`, and `lcdd`, the numbers of the dual controller.

use super::{Masked, weight};
use crate::{
    adapt::MaskGroup,
    model::{Architecture, Decoder, Kind, ParameterId, Part},
};
use midblock_kernels::Backend;

/// One of the names.
enum Place {
    Tuned(usize, Part),
    Theta(usize, MaskGroup),
    Momentum(usize, MaskGroup),
    Dual,
}

const DUAL: &str = "lcdd";

impl<B: Backend> Masked<B> {
    /// Names and shapes.
    pub fn tensors(&self, backend: &B, architecture: &Architecture) -> Vec<(String, Vec<usize>)> {
        let mut all = Vec::new();
        for (block, own) in &self.blocks {
            for (part, matrix) in Part::LINEARS.into_iter().zip(&own.matrices) {
                if backend.values(&matrix.tuned).is_some() {
                    let name = weight(*block, part).name(architecture);
                    all.push((format!("tuned.{name}"), backend.shape(&matrix.tuned).to_vec()));
                }
            }
            let kinds = [Some("theta"), own.velocities.as_ref().map(|_| "theta_momentum")];
            for kind in kinds.into_iter().flatten() {
                let of = |group: MaskGroup| {
                    let channels = backend.len(&own.thetas[group as usize]);
                    (format!("{kind}.model.layers.{block}.{group}"), vec![channels])
                };
                all.extend(MaskGroup::ALL.map(of));
            }
        }
        all.push((DUAL.to_owned(), vec![self.dual.len()]));
        all
    }

    /// The values of one of them; none if there is none of that name.
    pub fn read(&self, backend: &B, architecture: &Architecture, name: &str) -> Option<Vec<f32>> {
        let buffer = match self.place(architecture, name)? {
            Place::Dual => return Some(self.dual.state()),
            Place::Tuned(block, part) => backend.values(&self.blocks[&block].matrices[part as usize].tuned)?,
            Place::Theta(block, group) => &self.blocks[&block].thetas[group as usize],
            Place::Momentum(block, group) => &self.blocks[&block].velocities.as_ref()?[group as usize],
        };
        let mut values = vec![0.0; backend.len(buffer)];
        backend.read(buffer, 0, &mut values);
        Some(values)
    }

    /// Sets the values of one of them, and forms anew what depends on it. Says whether there is one of that name.
    ///
    /// # Panics
    /// If there is another number of values.
    pub fn write(&mut self, backend: &B, decoder: &mut Decoder<B>, name: &str, values: &[f32]) -> bool {
        let Some(place) = self.place(decoder.architecture(), name) else {
            return false;
        };
        let fits = |buffer: &B::Buffer| assert_eq!(backend.len(buffer), values.len(), "{name}");
        match place {
            Place::Dual => self.dual.restore(values),
            Place::Tuned(block, part) => {
                let own = self.blocks.get_mut(&block);
                let matrix = own.map(|own| &mut own.matrices[part as usize].tuned);
                let Some(buffer) = matrix.and_then(|matrix| backend.values_mut(matrix)) else {
                    return false;
                };
                fits(buffer);
                backend.write(buffer, 0, values);
                self.form(backend, decoder, block);
            }
            Place::Theta(block, group) => {
                fits(&self.blocks[&block].thetas[group as usize]);
                self.set_theta(backend, block, group, values);
                self.form(backend, decoder, block);
            }
            Place::Momentum(block, group) => {
                let own = self.blocks.get_mut(&block).and_then(|own| own.velocities.as_mut());
                let Some(velocities) = own else { return false };
                fits(&velocities[group as usize]);
                backend.write(&mut velocities[group as usize], 0, values);
            }
        }
        true
    }

    fn place(&self, architecture: &Architecture, name: &str) -> Option<Place> {
        if name == DUAL {
            return Some(Place::Dual);
        }
        let (kind, rest) = name.split_once('.')?;
        let place = match kind {
            "tuned" => match ParameterId::parse(rest, architecture)? {
                ParameterId::Block {
                    block,
                    part,
                    kind: Kind::Weight,
                } if Part::LINEARS.contains(&part) => Place::Tuned(block, part),
                _ => return None,
            },
            "theta" | "theta_momentum" => {
                let (block, group) = rest.strip_prefix("model.layers.")?.split_once('.')?;
                let (block, group) = (block.parse().ok()?, group.parse().ok()?);
                match kind {
                    "theta" => Place::Theta(block, group),
                    _ => Place::Momentum(block, group),
                }
            }
            _ => return None,
        };
        let (Place::Tuned(block, _) | Place::Theta(block, _) | Place::Momentum(block, _)) = place else {
            return Some(place);
        };
        self.blocks.contains_key(&block).then_some(place)
    }
}
