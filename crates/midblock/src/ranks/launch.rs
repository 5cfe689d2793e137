//! What a launcher says of itself in the environment, before MPI is asked: whether there are other processes at all.

use crate::{Error, Result};

/// Set to 1, each process that a launcher starts works alone.
const ALONE: &str = "MIDBLOCK_ALONE";

/// The launcher, and its variables of how many processes there are and which this is. Slurm's `SLURM_NTASKS` is set in a batch script too,
/// where one process runs; only srun sets that of the step.
const LAUNCHERS: [(&str, &str, &str); 4] = [
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("mpirun", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
];

/// A job of several processes, as its launcher describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Who started them.
    pub by: &'static str,
    /// How many; at least 2.
    pub size: usize,
    /// Which this one is.
    pub rank: usize,
}

/// The job that this process is one of several of, by the environment; `None` if it works alone.
pub fn launch(variable: impl Fn(&str) -> Option<String>) -> Option<Launch> {
    if variable(ALONE).is_some_and(|value| !value.is_empty() && value != "0") {
        return None;
    }
    let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
    let found = LAUNCHERS
        .iter()
        .find_map(|&(by, size, rank)| Some((by, number(size)?, number(rank)?)));
    let (by, size, rank) = found?;
    (size > 1).then_some(Launch { by, size, rank })
}

impl Launch {
    /// That this program, or this command of it, is of no use to several processes.
    ///
    /// # Errors
    /// Always, with `problem`.
    pub fn refuse<T>(&self, problem: &str, help: &str) -> Result<T> {
        Err(Error::Argument {
            what: "started by".into(),
            value: format!("{} as {} processes", self.by, self.size),
            problem: problem.into(),
            help: format!("{help}; if each is to work alone, in a folder of its own, set {ALONE}=1"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<(&'static str, usize, usize)> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        launch(variable).map(|launch| (launch.by, launch.size, launch.rank))
    }

    #[test]
    fn launchers_are_known_by_what_they_set() {
        let open_mpi = [("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3")];
        assert_eq!(found(&open_mpi), Some(("mpirun", 4, 3)));
        assert_eq!(found(&[("PMI_SIZE", "2"), ("PMI_RANK", "0")]), Some(("mpirun", 2, 0)));
        let srun = [
            ("SLURM_STEP_NUM_TASKS", "8"),
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "8"),
        ];
        assert_eq!(found(&srun), Some(("srun", 8, 5)));
        // mpirun inside of an allocation, whose one step starts mpirun's helpers
        let both = [
            open_mpi.as_slice(),
            &[("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_PROCID", "1")],
        ]
        .concat();
        assert_eq!(found(&both), Some(("mpirun", 4, 3)));
    }

    #[test]
    fn one_process_is_no_job() {
        assert_eq!(found(&[]), None);
        assert_eq!(
            found(&[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0")]),
            None
        );
        // a batch script without srun
        assert_eq!(found(&[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0")]), None);
        assert_eq!(found(&[("PMI_SIZE", "many"), ("PMI_RANK", "0")]), None);
        let alone = [("PMI_SIZE", "2"), ("PMI_RANK", "0"), (ALONE, "1")];
        assert_eq!(found(&alone), None);
        assert_eq!(found(&[alone[0], alone[1], (ALONE, "0")]), Some(("mpirun", 2, 0)));
    }
}
