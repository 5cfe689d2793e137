use super::*;
use std::time::{Duration, Instant};

fn limits() -> Limits {
    Limits {
        cpu_seconds: 2,
        wall_seconds: 20,
        memory_bytes: 512 << 20,
        output_bytes: 256 << 10,
    }
}

fn sandbox(limits: Limits) -> Sandbox {
    Sandbox::new(limits).expect("these tests need python3 in the PATH")
}

fn run(program: &str) -> Outcome {
    sandbox(limits()).run(program).unwrap()
}

fn holds(sandbox: &Sandbox, what: &str) -> bool {
    !sandbox.unenforced().iter().any(|other| other == what)
}

/// It failed, and the last line of what it wrote begins with this.
#[track_caller]
fn assert_fails(program: &str, last: &str) {
    match run(program) {
        Outcome::Failed { stderr } => assert!(stderr.lines().next_back().unwrap().starts_with(last), "{stderr}"),
        other => panic!("{program}: {other:?}"),
    }
}

#[test]
fn programs_pass_or_fail_by_their_assertions() {
    assert_eq!(run("assert 1 + 1 == 2"), Outcome::Passed);
    assert_eq!(
        run("print('é' * 5000)\nimport sys\nsys.stderr.write('noise')"),
        Outcome::Passed
    );
    assert_eq!(run(""), Outcome::Passed);
    assert_fails("assert 1 + 1 == 3, 'two'", "AssertionError: two");
    assert_fails("def f(:\n", "SyntaxError: ");
    assert_fails("raise SystemExit('no')", "no");
    assert_fails("def f(): f()\nf()", "RecursionError: ");
}

#[test]
fn ending_early_is_not_passing() {
    for program in [
        "import sys\nsys.exit(0)\nassert False",
        "exit()\nassert False",
        "import os\nos._exit(0)",
        "import sys\nsys.exit = lambda *a: None\nimport os\nos._exit(0)",
        "import atexit, os\natexit.register(lambda: os._exit(0))\nassert False",
        "print('0' * 32)\nraise SystemExit",
    ] {
        assert_eq!(run(program), Outcome::EndedEarly, "{program}");
    }
}

#[test]
fn replaced_builtins_neither_help_nor_hurt() {
    let quiet = "import sys, io, builtins\nsys.stdout = io.StringIO()\nbuiltins.print = None\nsys.exit = None\n";
    assert_eq!(run(&format!("{quiet}assert True")), Outcome::Passed);
    assert_fails(&format!("{quiet}assert False, 'wrong'"), "AssertionError: wrong");
}

#[test]
fn endless_loops_end_at_the_cpu_limit() {
    let start = Instant::now();
    let limits = Limits {
        cpu_seconds: 1,
        ..limits()
    };
    assert_eq!(
        sandbox(limits).run("while True: pass").unwrap(),
        Outcome::OverLimit { limit: Limit::Cpu }
    );
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn sleepers_end_at_the_wall_clock() {
    let limits = Limits {
        wall_seconds: 1,
        ..limits()
    };
    let start = Instant::now();
    assert_eq!(
        sandbox(limits).run("import time\ntime.sleep(60)").unwrap(),
        Outcome::TimedOut
    );
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[test]
fn memory_is_bounded() {
    let sandbox = sandbox(limits());
    if holds(&sandbox, "address space") {
        let hog = "a = []\nwhile True: a.append(bytearray(1 << 24))";
        assert_eq!(sandbox.run(hog).unwrap(), Outcome::OverLimit { limit: Limit::Memory });
    }
}

#[test]
fn output_is_bounded() {
    for stream in ["stdout", "stderr"] {
        let program = format!("import sys\nwhile True: sys.{stream}.write('x' * 1000)");
        assert_eq!(run(&program), Outcome::OverLimit { limit: Limit::Output }, "{stream}");
    }
}

#[test]
fn files_are_bounded() {
    assert_fails(
        "f = open('big', 'wb', buffering=0)\nfor _ in range(1000): assert f.write(bytes(1 << 16))",
        "OSError: [Errno 27] File too large",
    );
}

/// Children that outlive a parent would go on writing to `beat` after `run` has returned.
#[track_caller]
fn assert_children_die(sandbox: &Sandbox, leave: &str) {
    let folder = tempfile::tempdir().unwrap();
    let beat = folder.path().join("beat");
    let program = format!(
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        {leave}\n        while True:\n            \
         open({beat:?}, 'a').write('x')\n            time.sleep(0.01)\ntime.sleep(60)"
    );
    let outcome = sandbox.run(&program).unwrap();
    if holds(sandbox, "new processes") {
        let Outcome::Failed { stderr } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(stderr.contains("BlockingIOError"), "{stderr}");
    } else {
        assert_eq!(outcome, Outcome::TimedOut);
        let len = || std::fs::metadata(&beat).unwrap().len();
        std::thread::sleep(Duration::from_millis(100)); // the system ends what has left the group a moment later
        let before = len();
        assert!(before > 0);
        std::thread::sleep(Duration::from_millis(200));
        if leave == "pass" || holds(sandbox, "processes that leave their group") {
            assert_eq!(len(), before);
        }
    }
}

fn one_second() -> Limits {
    Limits {
        wall_seconds: 1,
        ..limits()
    }
}

#[test]
fn children_die_with_the_program() {
    assert_children_die(&sandbox(one_second()), "pass");
}

#[test]
fn children_in_a_session_of_their_own_die_too() {
    assert_children_die(&sandbox(one_second()), "os.setsid()");
}

#[test]
fn without_namespaces_the_rest_holds_and_what_does_not_is_told() {
    let bare = Sandbox::with(&interpreter("python3").unwrap(), &one_second(), &[]).unwrap();
    assert!(!holds(&bare, "processes that leave their group"));
    assert_children_die(&bare, "pass");
    assert_eq!(bare.run("assert True").unwrap(), Outcome::Passed);
    assert_eq!(bare.run("import time\ntime.sleep(60)").unwrap(), Outcome::TimedOut);
    let missing = Sandbox::with(&bare.interpreter, &limits(), &["no-such-program"])
        .unwrap_err()
        .to_string();
    assert!(missing.starts_with("cannot run no-such-program: "), "{missing}");
}

#[test]
fn the_surroundings_are_bare() {
    let program = "import os, sys\n\
        assert os.listdir('.') == [], os.listdir('.')\n\
        assert sys.stdin.read() == ''\n\
        allowed = {'PWD', 'OLDPWD', 'SHLVL', '_', 'LC_CTYPE', '__CF_USER_TEXT_ENCODING'}\n\
        assert set(os.environ) <= allowed, os.environ\n\
        assert sys.flags.isolated";
    assert!(std::env::var_os("PATH").is_some());
    assert_eq!(run(program), Outcome::Passed);
}

#[test]
fn there_is_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sandbox = sandbox(limits());
    let connect = format!(
        "import socket\nsocket.create_connection({:?}, 2)",
        ("127.0.0.1", listener.local_addr().unwrap().port())
    );
    let outcome = sandbox.run(&connect).unwrap();
    assert_eq!(
        holds(&sandbox, "network"),
        matches!(outcome, Outcome::Failed { .. }),
        "{outcome:?}"
    );
}

#[test]
fn folders_are_cleaned_up() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("place");
    assert_eq!(
        run(&format!("import os\nopen({place:?}, 'w').write(os.getcwd())")),
        Outcome::Passed
    );
    let cwd = PathBuf::from(std::fs::read_to_string(&place).unwrap());
    assert!(cwd.ends_with("work") && !cwd.parent().unwrap().exists(), "{cwd:?}");
}

#[test]
fn a_missing_interpreter_is_named() {
    let error = interpreter("python-of-another-world").unwrap_err().to_string();
    assert!(
        error.starts_with("cannot run programs with python-of-another-world in the PATH: No such file"),
        "{error}"
    );
    let tight = Limits {
        memory_bytes: 1 << 20,
        ..limits()
    };
    if holds(&sandbox(limits()), "address space") {
        let error = Sandbox::new(tight).unwrap_err().to_string();
        assert!(error.contains("does not start under the limits"), "{error}");
    }
}

#[test]
fn outcomes_are_readable_in_records() {
    let json = |outcome: &Outcome| serde_json::to_string(outcome).unwrap();
    assert_eq!(json(&Outcome::Passed), r#"{"outcome":"passed"}"#);
    let limit = Outcome::OverLimit { limit: Limit::Memory };
    assert_eq!(json(&limit), r#"{"outcome":"over_limit","limit":"memory"}"#);
    assert_eq!(serde_json::from_str::<Outcome>(&json(&limit)).unwrap(), limit);
}

const PROMPT: &str = "from typing import List\n\n\ndef helper(x):\n    return x\n\n\ndef solve(xs: List[int]) -> int:\n    \"\"\"Sum.\"\"\"\n";
const TEST: &str = "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n";

#[test]
fn completions_of_every_form_become_programs() {
    let right = [
        "    return sum(helper(x) for x in xs)\n",
        "return sum(xs)",
        "\n    return sum(xs)\n",
        "total = 0\n    for x in xs:\n        total += x\n    return total",
        "total = 0\nfor x in xs:\n    total += x\nreturn total\n",
        "for i in [0]:\n        t = sum(xs)\n    return t",
        "for i in [0]:\n    t = sum(xs)\nreturn t",
        "if True:\n    return sum(xs)",
        "def solve(xs: List[int]) -> int:\n    return sum(helper(x) for x in xs)\n",
        "import math\n\ndef other(xs):\n    return math.fsum(xs)\n\ndef solve (xs):\n    return other(xs)",
    ];
    let sandbox = sandbox(limits());
    for completion in right {
        let program = humaneval::program(PROMPT, completion, TEST, "solve");
        assert_eq!(sandbox.run(&program).unwrap(), Outcome::Passed, "{program}");
    }
    for completion in [
        "    return 0",
        "",
        "I cannot",
        "def solve(xs):\n    return 4",
        "    exit(0)",
        "def solver(xs):\n    return 3",
    ] {
        let program = humaneval::program(PROMPT, completion, TEST, "solve");
        assert_ne!(sandbox.run(&program).unwrap(), Outcome::Passed, "{program}");
    }
}
