//! A build without MPI that a launcher starts in several processes: one clear error instead of as many runs in one folder.

use crate::models::{base, midblock, problems};
use tempfile::TempDir;

fn started(variables: &[(&str, &str)]) -> assert_cmd::assert::Assert {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out");
    let mut command = midblock();
    command.args([
        "tune",
        "--model",
        &base(),
        "--data",
        &problems("p"),
        "--steps=1",
        "--accumulation=2",
        "--out",
    ]);
    let assert = command.arg(&out).envs(variables.iter().copied()).assert();
    assert!(out.exists() == assert.get_output().stdout.starts_with(b"training loss"));
    assert
}

#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_are_refused_by_the_first_and_the_others_say_nothing() {
    for (by, size, rank) in [
        ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
        ("mpirun", "PMI_SIZE", "PMI_RANK"),
        ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ] {
        let first = started(&[(size, "4"), (rank, "0")]).code(2);
        let message = String::from_utf8(first.get_output().stderr.clone()).unwrap();
        for part in [
            &format!("started by `{by} as 4 processes`"),
            "one process",
            "--features mpi",
            "MIDBLOCK_ALONE=1",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
        let other = started(&[(size, "4"), (rank, "3")]).success();
        assert!(other.get_output().stdout.is_empty() && other.get_output().stderr.is_empty());
    }
}

#[test]
fn a_process_that_is_to_work_alone_does_whoever_started_it() {
    let srun = [
        ("SLURM_STEP_NUM_TASKS", "4"),
        ("SLURM_PROCID", "2"),
        ("MIDBLOCK_ALONE", "1"),
    ];
    let trained = started(&srun).success();
    assert!(trained.get_output().stdout.starts_with(b"training loss"));
    started(&[("SLURM_NTASKS", "4"), ("SLURM_PROCID", "0")]).success(); // a batch script
}
