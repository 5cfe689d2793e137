//! What of a trainer must survive a restart, by name.

use super::{Trainer, optimizer::values_mut};
use crate::model::ParameterId;
use midblock_kernels::Backend;

impl<B: Backend> Trainer<'_, B> {
    /// Everything that must survive a restart, with shapes: each trained parameter under its name, and its two moments
    /// under `exp_avg.` and `exp_avg_sq.` before it, as torch calls them.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let named = self
            .moments
            .iter()
            .map(|(id, m)| (id.name(self.decoder.architecture()), &m.shape));
        let all = named.flat_map(|(name, shape)| {
            let names = [name.clone(), format!("exp_avg.{name}"), format!("exp_avg_sq.{name}")];
            names.map(|name| (name, shape.clone()))
        });
        all.collect()
    }

    /// The values of one of [`tensors`](Self::tensors).
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn read(&mut self, name: &str) -> Vec<f32> {
        let backend = self.backend;
        let buffer = self.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        let mut values = vec![0.0; backend.len(buffer)];
        backend.read(buffer, 0, &mut values);
        values
    }

    /// Overwrites one of [`tensors`](Self::tensors).
    ///
    /// # Panics
    /// If there is none of that name, or the number of values is another.
    pub fn write(&mut self, name: &str, values: &[f32]) {
        let backend = self.backend;
        let buffer = self.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(backend.len(buffer), values.len(), "{name}");
        backend.write(buffer, 0, values);
    }

    /// The values of a parameter that is trained.
    ///
    /// # Panics
    /// If it is not.
    pub fn parameter(&mut self, id: ParameterId) -> Vec<f32> {
        let name = id.name(self.decoder.architecture());
        self.read(&name)
    }

    fn tensor(&mut self, name: &str) -> Option<&mut B::Buffer> {
        let (kind, parameter) = match name.split_once('.') {
            Some((kind @ ("exp_avg" | "exp_avg_sq"), parameter)) => (kind, parameter),
            _ => ("", name),
        };
        let id = ParameterId::parse(parameter, self.decoder.architecture())?;
        let moments = self.moments.get_mut(&id)?;
        match kind {
            "exp_avg" => Some(&mut moments.first),
            "exp_avg_sq" => Some(&mut moments.second),
            _ => values_mut(self.backend, &mut self.decoder, id),
        }
    }
}
