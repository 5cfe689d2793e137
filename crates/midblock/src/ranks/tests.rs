use super::*;

/// What each of `size` ranks returns, by rank; each closes as a program does.
pub(crate) fn on_ranks<T: Send>(size: usize, work: impl Fn(&Ranks) -> Result<T> + Sync) -> Vec<Result<T>> {
    std::thread::scope(|scope| {
        let start = |thread: Thread| {
            let work = &work;
            scope.spawn(move || {
                let ranks = Ranks::over(thread);
                let result = work(&ranks);
                let problem = result.as_ref().err().map(|error| match error {
                    Error::Interrupted => String::new(),
                    error => error.to_string(),
                });
                ranks.close(problem.as_deref()).and(result)
            })
        };
        let handles: Vec<_> = threads(size).into_iter().map(start).collect();
        let join = |handle: std::thread::ScopedJoinHandle<'_, Result<T>>| match handle.join() {
            Ok(result) => result,
            Err(_) => Err(Error::Interrupted), // a panic, as some tests want it
        };
        handles.into_iter().map(join).collect()
    })
}

fn values(rank: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 37 + rank * 101) % 1009) as f32 * 1e-3 - 0.5)
        .collect()
}

#[test]
fn a_sum_is_that_of_the_ranks_in_order_on_all_of_them() {
    for size in [1, 2, 3, 4] {
        for len in [0, 1, 2, 3, 1000] {
            let mut expected = vec![0.0f64; len];
            for rank in 0..size {
                let own = values(rank, len);
                expected.iter_mut().zip(own).for_each(|(sum, v)| *sum += f64::from(v));
            }
            let expected: Vec<f32> = expected.into_iter().map(|sum| sum as f32).collect();
            let results = on_ranks(size, |ranks| {
                let mut own = values(ranks.rank(), len);
                ranks.sum(&mut own)?;
                Ok((own, ranks.sent_bytes()))
            });
            for (rank, result) in results.into_iter().enumerate() {
                let (sums, sent) = result.unwrap();
                assert_eq!(sums, expected, "{size} ranks, {len} values");
                let own = values_of(len, rank, size).len();
                // all but its own part to the others, and that part to each of them
                assert_eq!(sent, 4 * ((len - own) + (size - 1) * own) as u64 * u64::from(size > 1));
            }
        }
    }
}

#[test]
fn a_long_buffer_is_summed_in_pieces() {
    let len = PIECE / 8 + 3;
    for result in on_ranks(2, |ranks| {
        let mut own = vec![1.0 + ranks.rank() as f64; len];
        ranks.sum(&mut own).map(|()| own)
    }) {
        assert_eq!(result.unwrap(), vec![3.0; len]);
    }
}

#[test]
fn words_go_from_one_to_all_and_from_all_to_one() {
    for result in on_ranks(3, |ranks| {
        let own = vec![ranks.rank() as u8; ranks.rank() + 1];
        let gathered = ranks.gather(&own)?;
        let expected = if ranks.is_first() {
            vec![vec![0], vec![1; 2], vec![2; 3]]
        } else {
            vec![]
        };
        assert_eq!(gathered, expected);
        assert_eq!(ranks.all(&own)?[2], [2, 2, 2]);
        assert_eq!(ranks.broadcast(&own)?, [0]);
        assert_eq!(ranks.share(|| Ok(format!("of {}", ranks.rank())))?, "of 0");
        assert!(ranks.any(ranks.rank() == 2)? && !ranks.any(false)?);
        ranks.same("words", b"the same", "")
    }) {
        result.unwrap();
    }
}

#[test]
fn rank_0_goes_first() {
    let place = std::sync::Mutex::new(Vec::new());
    let results = on_ranks(3, |ranks| {
        ranks.first(|| {
            place.lock().unwrap().push(ranks.rank());
            Ok(())
        })
    });
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(place.lock().unwrap()[0], 0);
}

#[test]
fn what_differs_is_named() {
    let results = on_ranks(3, |ranks| {
        ranks.same("the data", if ranks.rank() == 1 { b"a" } else { b"b" }, "look")
    });
    for result in results {
        let message = result.unwrap_err().to_string();
        assert!(
            message.starts_with("rank 0 and rank 1 do not match: the hash of the data is "),
            "{message}"
        );
    }
}

#[test]
fn a_rank_that_fails_ends_all_wherever_they_are() {
    let results = on_ranks(3, |ranks| {
        let mut own = values(ranks.rank(), 10);
        if ranks.rank() == 2 {
            return Err(Error::NoGradient { parameters: "w".into() });
        }
        ranks.sum(&mut own)?;
        ranks.barrier()
    });
    let messages: Vec<String> = results.into_iter().map(|r| r.unwrap_err().to_string()).collect();
    assert!(messages[2].starts_with("no gradient arrived at w"), "{messages:?}");
    for message in &messages[..2] {
        assert!(message.starts_with("rank 2: no gradient arrived at w"), "{message}");
    }
}

#[test]
fn a_rank_that_fails_at_its_end_is_heard_by_those_that_are_done() {
    let results = on_ranks(2, |ranks| {
        ranks.barrier()?;
        match ranks.rank() {
            0 => Err(Error::Interrupted),
            _ => Ok(()),
        }
    });
    assert!(results.iter().all(|result| matches!(result, Err(Error::Interrupted))));
}

#[test]
fn a_rank_that_is_gone_is_named() {
    let results = on_ranks(3, |ranks| {
        if ranks.rank() == 1 {
            std::panic::resume_unwind(Box::new(())); // as a panic, without its words
        }
        ranks.barrier()
    });
    for rank in [0, 2] {
        let message = results[rank].as_ref().unwrap_err().to_string();
        assert_eq!(message, "rank 1: it ended without a word");
    }
}
