//! What of a trainer must survive a restart, by name.

use super::{Trainer, optimizer::values_mut};
use crate::model::ParameterId;
use midblock_kernels::Backend;

impl<B: Backend> Trainer<'_, B> {
    /// Everything that must survive a restart, with shapes: each trained parameter under its name, and its two moments
    /// under `exp_avg.` and `exp_avg_sq.` before it, as torch calls them. Of masked matrices the tuned ones under `tuned.` before their
    /// names, θ of the masks and the numbers of the dual controller.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let architecture = self.decoder.architecture();
        let mut all = Vec::new();
        for (id, moments) in &self.moments {
            let name = id.name(architecture);
            let own = self.masked.is_none().then(|| name.clone());
            let names = own
                .into_iter()
                .chain(["exp_avg", "exp_avg_sq"].map(|kind| format!("{kind}.{name}")));
            all.extend(names.map(|name| (name, moments.shape.clone())));
        }
        if let Some(masked) = &self.masked {
            all.extend(masked.tensors(self.backend, architecture));
        }
        all
    }

    /// The values of one of [`tensors`](Self::tensors), or of a parameter of the model that can change.
    ///
    /// # Panics
    /// If there is none of that name.
    pub fn read(&mut self, name: &str) -> Vec<f32> {
        let backend = self.backend;
        let masked = self.masked.as_ref();
        if let Some(values) = masked.and_then(|masked| masked.read(backend, self.decoder.architecture(), name)) {
            return values;
        }
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
        let masked = self.masked.as_mut();
        if masked.is_some_and(|masked| masked.write(backend, &mut self.decoder, name, values)) {
            return;
        }
        let buffer = self.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(backend.len(buffer), values.len(), "{name}");
        backend.write(buffer, 0, values);
    }

    /// The values of a parameter that is trained; of a masked matrix what masks let through.
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
        match kind {
            "exp_avg" => Some(&mut self.moments.get_mut(&id)?.first),
            "exp_avg_sq" => Some(&mut self.moments.get_mut(&id)?.second),
            _ => values_mut(self.backend, &mut self.decoder, id),
        }
    }
}
