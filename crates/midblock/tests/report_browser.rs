//! The report in a real browser: it loads, nothing is logged, every chart has its series, hostile names stay text.
//!
//! Needs Chromium or Chrome (`MIDBLOCK_CHROMIUM`, or on `PATH`). Without one the tests say so and pass, unless
//! `MIDBLOCK_REQUIRE_BROWSER` is set.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

mod synthetic;

use midblock::{
    drift::{MatrixDrift, Turn},
    hub::HubOptions,
    progress::Silent,
    report,
    run::{self, Run},
    study::{
        battery::{Kind, StudyFile, StudyFolder, study},
        sweep::Means,
    },
    train::{
        DataCount, DriftMetrics, Ending, Evaluation, Line, Purpose, StepMetrics, TrainedBlock, Training, TrainingInfo,
        TrainingRun,
    },
};
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const HOSTILE: &str = "</script><script>console.error('injected')</script><img src=x onerror=alert(1)>\"'&";

fn browser() -> Option<PathBuf> {
    if let Some(path) = env::var_os("MIDBLOCK_CHROMIUM") {
        return Some(path.into());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

/// The page's document after its scripts ran, or `None` (and a note) where there is no browser.
fn dump_dom(page: &Path, flags: &[&str]) -> Option<String> {
    let Some(browser) = browser() else {
        assert!(
            env::var_os("MIDBLOCK_REQUIRE_BROWSER").is_none(),
            "MIDBLOCK_REQUIRE_BROWSER is set, but no browser was found"
        );
        eprintln!("skipped: no browser found; set MIDBLOCK_CHROMIUM to one");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(&browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
        ])
        .args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=10000", "--dump-dom"])
        .args(flags)
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", browser.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Renders `run` into a file and opens it; the document, or `None` where there is no browser.
fn open(run: &Run, flags: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    run::write(&dir, run, "", false).unwrap();
    report::write(&dir).unwrap();
    let page = dir.join("report.html");
    assert!(fs::metadata(&page).unwrap().len() > 0);
    dump_dom(&page, flags)
}

/// The attributes of every `<tag …>` whose text contains `marker`, outside of scripts.
fn tags<'a>(dom: &'a str, tag: &str, marker: &str) -> Vec<BTreeMap<&'a str, &'a str>> {
    dom.split(&format!("<{tag} "))
        .skip(1)
        .filter_map(|rest| rest.split_once('>'))
        .filter(|(attributes, _)| attributes.contains(marker))
        .map(|(attributes, _)| {
            let parts: Vec<&str> = attributes.split('"').collect();
            parts
                .chunks_exact(2)
                .map(|pair| (pair[0].trim().trim_end_matches('='), pair[1]))
                .collect()
        })
        .collect()
}

fn assert_every_chart_is_drawn(dom: &str, run: &Run, dataset: &str) {
    let root = &tags(dom, "html", "lang")[0];
    assert_eq!(root.get("data-midblock-errors"), None, "the page logged errors");
    let cards = tags(dom, "article", "class=\"card");
    let metrics: std::collections::BTreeSet<&str> = run.records.iter().map(|record| record.metric.as_str()).collect();
    assert_eq!(
        cards.len(),
        metrics.len() + 1,
        "a card for each metric and the heat map"
    );
    assert_eq!(root["data-midblock-charts"], cards.len().to_string());
    for card in &cards {
        let Some(metric) = card.get("data-metric") else {
            assert_eq!(card["data-heatmaps"], "1");
            continue;
        };
        let of_metric = run.records.iter().filter(|record| record.metric == *metric);
        let shown: Vec<_> = of_metric
            .filter(|record| record.dataset.is_empty() || record.dataset == dataset)
            .collect();
        let curves = |keep: fn(&run::Record) -> bool| {
            let names = shown
                .iter()
                .filter(|record| keep(record))
                .map(|record| (&record.model, &record.reference));
            names.collect::<std::collections::BTreeSet<_>>().len().to_string()
        };
        assert_eq!(card["data-lines"], curves(|_| true), "{metric}");
        assert_eq!(card["data-bands"], curves(|record| record.lo.is_some()), "{metric}");
        assert_eq!(card["data-floors"], curves(|record| record.floor.is_some()), "{metric}");
    }
    // A card that was counted but not drawn would have no picture: the charts are SVG, as are the strips of the summary.
    let strips = dom.matches("<figure class=\"strip\">").count();
    assert_eq!(dom.matches("<svg ").count(), cards.len() + strips);
    assert!(dom.matches("<path ").count() > 10 * cards.len());
}

#[test]
fn every_chart_has_its_series_and_nothing_is_logged() {
    let run = synthetic::run(&["sft", "dpo"], &["gsm8k", "wikitext"]);
    for flags in [
        &["--window-size=1280,900"][..],
        &["--window-size=390,844", "--blink-settings=preferredColorScheme=0"],
    ] {
        if let Some(dom) = open(&run, flags) {
            assert_every_chart_is_drawn(&dom, &run, "gsm8k");
        }
    }
}

/// Clicks the export buttons of the first chart and of the heat map, and puts what they would save into the document.
const SAVE: &str = r#"<script>
  const keep = (name, text) => {
    const made = document.createElement("pre");
    made.className = "saved";
    made.textContent = `${name}\n${text}`;
    document.body.append(made);
  };
  const link = URL.createObjectURL;
  URL.createObjectURL = (blob) => { blob.text().then((text) => keep("svg", text)); return link(blob); };
  HTMLAnchorElement.prototype.click = function () {
    keep("name", this.download);
    if (this.href.startsWith("data:image/png;base64,")) keep("png", this.href.length);
  };
  for (const card of [document.querySelector(".card"), document.querySelector("[data-heatmap]")]) {
    for (const button of card.querySelectorAll("[data-export]")) button.click();
  }
  console.error("seen");
</script></body>"#;

#[test]
fn pictures_can_be_saved_and_errors_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("report.html");
    let html = report::html::render(&synthetic::run(&["sft <&>"], &["gsm8k"]));
    fs::write(&page, html.replace("</body>", SAVE)).unwrap();
    let Some(dom) = dump_dom(&page, &[]) else { return };
    let saved: Vec<&str> = dom.split("<pre class=\"saved\">").skip(1).collect();
    let names: Vec<&str> = saved
        .iter()
        .filter_map(|text| text.strip_prefix("name\n")?.split('<').next())
        .collect();
    assert_eq!(names[..2], ["cka-debiased-gsm8k.png", "cka-debiased-gsm8k.svg"]);
    let pictures: Vec<&&str> = saved.iter().filter(|text| text.starts_with("svg\n")).collect();
    assert_eq!(pictures.len(), 2);
    for (picture, words) in pictures.iter().zip(["CKA, debiased", "self_attn.q_proj"]) {
        assert!(picture.contains("&lt;svg ") && picture.contains(words), "{words}");
        // Escaped once by the picture and once more by the document around it.
        assert!(
            picture.contains("sft &amp;lt;&amp;amp;&amp;gt;"),
            "the legend or title names the model"
        );
    }
    let sizes = saved
        .iter()
        .filter_map(|text| text.strip_prefix("png\n")?.split('<').next()?.parse::<usize>().ok());
    assert!(
        sizes.clone().count() == 2 && sizes.clone().all(|size| size > 20_000),
        "{:?}",
        sizes.collect::<Vec<_>>()
    );
    // The check that other tests rely on can fail.
    assert_eq!(tags(&dom, "html", "lang")[0].get("data-midblock-errors"), Some(&"seen"));
    if let Some(folder) = env::var_os("MIDBLOCK_KEEP_PICTURES") {
        for (index, picture) in pictures.iter().enumerate() {
            let svg = picture["svg\n".len()..].split("</pre>").next().unwrap();
            let svg = svg.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            fs::write(Path::new(&folder).join(format!("{index}.svg")), svg).unwrap();
        }
    }
}

#[test]
fn a_narrow_phone_needs_no_horizontal_scrolling() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a-name-without-any-place-to-break-it-that-is-wider-than-the-screen-of-a-telephone";
    let html = report::html::render(&synthetic::run(&["sft", long], &["gsm8k", long]));
    let tell = "<script>const { scrollWidth, clientWidth } = document.documentElement;\
        parent.postMessage(`${scrollWidth} of ${clientWidth}`, '*')</script></body>";
    fs::write(folder.path().join("report.html"), html.replace("</body>", tell)).unwrap();
    let frame = "<body><iframe src=\"report.html\" style=\"width:360px;height:800px;border:0\"></iframe>\
        <script>onmessage = (event) => { document.body.dataset.width = event.data }</script>";
    let page = folder.path().join("frame.html");
    fs::write(&page, frame).unwrap();
    if let Some(dom) = dump_dom(&page, &["--hide-scrollbars"]) {
        assert_eq!(tags(&dom, "body", "data-width")[0]["data-width"], "360 of 360");
    }
}

#[test]
fn hostile_names_stay_text() {
    let mut run = synthetic::run(&[HOSTILE], &[HOSTILE]);
    for record in run
        .records
        .iter_mut()
        .filter(|record| record.metric == "gradient_surprise")
    {
        record.metric = HOSTILE.into();
    }
    for record in &mut run.weights {
        record.parameter = record.parameter.replace("mlp", HOSTILE);
    }
    run.info.warnings = vec![HOSTILE.into()];
    run.info.config = serde_json::json!({HOSTILE: HOSTILE});
    run.info.command_line = vec![HOSTILE.into()];
    run.info.timings[0].phase = HOSTILE.into();
    run.info.datasets[0].skipped[0].reason = HOSTILE.into();

    let page = report::html::render(&run);
    assert!(!page.contains("<img"), "markup from a name");
    assert_eq!(
        page.matches("</script>").count(),
        3,
        "the data, the chart library and the page's own script"
    );
    if let Some(dom) = open(&run, &[]) {
        let root = &tags(&dom, "html", "lang")[0];
        assert_eq!(root.get("data-midblock-errors"), None);
        assert_eq!(root["data-midblock-charts"], "27");
        assert!(!dom.contains("<img"));
    }
}

#[test]
fn the_smallest_runs_have_a_page() {
    let alone = synthetic::run(&[], &["gsm8k"]);
    let mut unmeasured = alone.clone();
    unmeasured
        .records
        .iter_mut()
        .for_each(|record| (record.value, record.lo, record.hi) = (None, None, None));
    let empty = Run {
        records: Vec::new(),
        weights: Vec::new(),
        ..alone.clone()
    };
    for run in [alone, unmeasured, empty] {
        if let Some(dom) = open(&run, &[]) {
            assert_eq!(tags(&dom, "html", "lang")[0].get("data-midblock-errors"), None);
        }
    }
}

#[test]
fn the_page_asks_the_network_for_nothing() {
    let page = report::html::render(&synthetic::run(&["sft"], &["gsm8k"]));
    assert!(page.contains("default-src 'none'"));
    for forbidden in ["src=\"http", "<link", "@import", "url(http"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn the_terminal_table_holds_every_metric_and_no_control_characters() {
    let mut run = synthetic::run(&["sft"], &["gsm8k"]);
    run.records
        .iter_mut()
        .filter(|record| record.model == "sft")
        .for_each(|record| record.model = "s\u{1b}[2Jft".into());
    let table = report::table(&run);
    for record in &run.records {
        assert!(table.contains(&record.metric), "{}", record.metric);
    }
    assert!(table.contains("against base · gsm8k"));
    assert!(
        !table
            .chars()
            .any(|character| character.is_control() && character != '\n')
    );
    assert!(table.contains("The top blocks (25–30) change most"), "{table}");
}

/// A training run of `steps` steps of made-up numbers, with names as bad as they come.
fn training_run(steps: u64) -> TrainingRun {
    let step = |step: u64| {
        let x = step as f64;
        Line::Step(StepMetrics {
            step,
            epoch: x / 50.0,
            loss: 1.0 + 2.0 / x + 0.1 * (7.0 * x).sin(),
            objective: Some(1.2 + 2.0 / x),
            lr: 1e-4 * (1.0 - x / steps as f64),
            gradient_norm: 1.0 + 0.5 * (3.0 * x).cos(),
            samples: vec![vec!["data.jsonl:1".into()]],
            tokens: 4096,
            trained_tokens: 1000,
            seconds: 2.0,
            tokens_per_s: 2048.0,
            trained_tokens_per_s: 500.0,
            seconds_left: 0.0,
            private_bytes: Some(300 << 20),
            erasure: None,
            carrier: None,
            exchange: None,
        })
    };
    let evaluation = |step: u64| {
        Line::Evaluation(Evaluation {
            step,
            epoch: step as f64 / 50.0,
            loss: 1.2 + 1.0 / (1.0 + step as f64),
            trained_tokens: 400,
            best: true,
            seconds: 1.0,
        })
    };
    let drift = |step: u64| {
        let turn = Turn {
            largest_deg: 10.0,
            mean_deg: 1.0,
            rotation: step as f64 / 1e5,
        };
        let matrix = MatrixDrift {
            change: 0.1,
            left: turn,
            ..MatrixDrift::untouched(HOSTILE, [8, 8], &[1.0], 2)
        };
        Line::Drift(DriftMetrics {
            step,
            epoch: step as f64 / 50.0,
            matrices: vec![matrix],
            cka: vec![Some(1.0), Some(0.9), None],
            seconds: 1.0,
        })
    };
    let due = |at: &u64| at.is_multiple_of(20);
    // the short runs do without
    let drifts = |at: &u64| steps > 60 && *at > 0 && at.is_multiple_of(1000);
    let lines = (0..=steps).flat_map(|at| {
        let told = [(at > 0).then(|| step(at)), due(&at).then(|| evaluation(at))];
        told.into_iter().chain([drifts(&at).then(|| drift(at))])
    });
    let block = |rank: Option<usize>| TrainedBlock {
        rank,
        parts: rank.iter().map(|_| "self_attn.q_proj".to_owned()).collect(),
        parameters: rank.map_or(0, |rank| 1000 * rank as u64),
    };
    let mut run = synthetic::run(&["sft"], &["gsm8k"]).info;
    run.models.truncate(1);
    run.models[0].label = format!("models/{HOSTILE}");
    run.datasets[0].source = HOSTILE.to_owned();
    run.warnings.push(HOSTILE.to_owned());
    let training = Training {
        started_unix_s: 0,
        blocks: [None, Some(13), Some(13), None].map(block).to_vec(),
        outside: Vec::new(),
        trained_parameters: 26_000,
        first_block: 1,
        channels: Vec::new(),
        data: vec![DataCount {
            name: "gsm8k".into(),
            purpose: Purpose::Train,
            sequences: 100,
            tokens: 12_800,
            trained_tokens: 5_000,
            hash: "ab".into(),
        }],
        sequences: [90, 10],
        steps,
        planned_bytes: 1 << 28,
        ranks: None,
        position: None,
        ending: Some(Ending::Finished),
        result: "adapter".into(),
    };
    TrainingRun {
        info: TrainingInfo { run, training },
        lines: lines.flatten().collect(),
    }
}

#[test]
fn the_page_of_a_training_run_is_drawn_whole() {
    for (steps, curves) in [(60, 3), (1, 2), (30_000, 3)] {
        let folder = tempfile::tempdir().unwrap();
        let page = folder.path().join("report.html");
        let html = report::training::render(&training_run(steps), None);
        assert!(html.len() < 2_000_000, "{steps} steps: {} bytes", html.len());
        fs::write(&page, html).unwrap();
        let Some(dom) = dump_dom(&page, &["--window-size=1280,900"]) else {
            return;
        };
        let root = &tags(&dom, "html", "lang")[0];
        assert_eq!(
            root.get("data-midblock-errors"),
            None,
            "{steps} steps: the page logged errors"
        );
        let drift = usize::from(steps > 60);
        assert_eq!(root["data-midblock-charts"], (5 + drift).to_string());
        let drawn: BTreeMap<&str, &str> = tags(&dom, "article", "class=\"card")
            .iter()
            .map(|card| (card["data-chart"], card["data-lines"]))
            .collect();
        let curves = curves.to_string();
        let expected = [
            ("gradient", "1"),
            ("loss", curves.as_str()),
            ("lr", "1"),
            ("objective", "2"),
            ("speed", "2"),
        ];
        let expected = expected.into_iter().chain((drift == 1).then_some(("drift", "3")));
        assert_eq!(drawn, expected.collect(), "{steps} steps");
        assert_eq!(dom.matches("<svg ").count(), 5 + drift + 1);
        assert!(dom.matches("<path ").count() > 40);
        assert!(dom.contains("2 of 4 blocks train"));
    }
}

#[test]
fn a_training_run_says_in_numbers_how_it_went() {
    let run = training_run(60);
    let numbers: BTreeMap<&str, String> = report::training::key_numbers(&run).into_iter().collect();
    assert_eq!(
        numbers["evaluation loss, first and last"],
        "2.2 → 1.216 nats; best 1.216 at step 60"
    );
    assert_eq!(
        numbers["steps and tokens"].replace('\u{202f}', " "),
        "60; 245 760 tokens, 60 000 in the loss"
    );
    assert_eq!(numbers["speed of the steps"], "2048 tokens/s, 500 in the loss");
    let html = report::training::render(&run, None);
    assert!(html.contains("Loss on held-out data fell from 2.2 to 1.216 at step 60, by 44.7 %."));
    let nothing = TrainingRun {
        lines: Vec::new(),
        ..run
    };
    assert!(report::training::render(&nothing, None).contains("Nothing was evaluated"));
}

/// A study of the embedded pair, whatever of it needs no training; its page draws every panel and each choice of one.
#[test]
fn a_study_draws_every_panel() {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart");
    let path = |name: &str| assets.join(name).display().to_string();
    let text = format!(
        "model.base = \"{}\"\ndata.eval = \"q={}\"\n[study]\nvariants = [\"<i>sft={}\"]\nsamples = 12\nresamples = 20\n\
         token_samples = 6\nswap.samples = 4\nswap.block_samples = 2\nalphas.samples = 4\nsteer.samples = 4\nsteer.prompts = 2\n\
         steer.new_tokens = 4\nseeds.count = 2\n",
        path("base"),
        path("data.jsonl"),
        path("sft"),
    );
    let file = StudyFile::parse("study.toml", &text, &[]).unwrap();
    let dir = folder.path().join("out");
    let claimed = StudyFolder::claim(&dir, &file).unwrap();
    let hub = HubOptions::from_env();
    let means = Means {
        backend: &midblock_kernels::Cpu::new(),
        examiner: None,
        hub: &hub,
        on_transfer: &|_| {},
        progress: &Silent,
    };
    // a reversal needs a carve
    let kinds: Vec<Kind> = Kind::ALL
        .into_iter()
        .filter(|kind| !kind.trains() && *kind != Kind::Reversal)
        .collect();
    let found = study(&means, &file, &kinds, &claimed, &mut |_, _| {}).unwrap();
    assert_eq!(found.failures, []);
    let page = dir.join("report.html");
    let html = fs::read_to_string(&page).unwrap();
    // every option of every choice is shown once before the page is looked at
    let choose = "<script>for (const select of document.querySelectorAll('[data-choice]')) for (const option of select.options) \
                  { select.value = option.value; select.dispatchEvent(new Event('change')); }</script></body>";
    fs::write(&page, html.replace("</body>", choose)).unwrap();
    let Some(dom) = dump_dom(&page, &[]) else { return };
    let root = &tags(&dom, "html", "lang")[0];
    assert_eq!(root.get("data-midblock-errors"), None, "the page logged errors");
    let cards = tags(&dom, "article", "data-panel=");
    assert!(cards.len() >= 2 * kinds.len(), "{}", cards.len());
    assert_eq!(root["data-midblock-charts"], cards.len().to_string());
    assert!(!dom.contains("<i>sft") && dom.contains("&lt;i&gt;sft"));
    let with_chart = dom.matches("class=\"chart\"").count();
    assert!(
        dom.matches("<svg ").count() >= with_chart - 1 && with_chart > kinds.len(),
        "{with_chart}"
    );
}

/// Two ways of training the embedded base for two steps with two seeds: crosses, points of the seeds, the front and both tables.
#[test]
fn a_tradeoff_is_drawn_with_its_crosses_and_front() {
    let folder = tempfile::tempdir().unwrap();
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart");
    let path = |name: &str| assets.join(name).display().to_string();
    let texts = folder.path().join("texts.jsonl");
    let rows = [
        "A dog sleeps near the door.",
        "Rosa walks to the market.",
        "The moon is over the river.",
    ];
    let rows = rows.map(|text| format!("{{\"text\": \"{text}\"}}\n")).concat();
    fs::write(&texts, rows).unwrap();
    let text = format!(
        "model.base = \"{}\"\n[data]\ntrain = \"p={2}\"\nsamples = 20\neval = [\"q={2}\", \"s={1}\"]\n[adapt]\nrank = 2\n[train]\nsteps = 2\n\
         batch = 2\naccumulation = 1\n[study]\nsamples = 6\n[study.tradeoff]\nid = [\"loss:q\"]\nood = [\"loss:s\"]\nseeds = [1, 2]\n\
         methods = [{{ name = \"slow\" }}, {{ name = \"fast\", train = {{ lr = 1e-2 }} }}]\n",
        path("base"),
        texts.display(),
        path("data.jsonl"),
    );
    let file = StudyFile::parse("study.toml", &text, &[]).unwrap();
    let dir = folder.path().join("out");
    let claimed = StudyFolder::claim(&dir, &file).unwrap();
    let hub = HubOptions::from_env();
    let means = Means {
        backend: &midblock_kernels::Cpu::new(),
        examiner: None,
        hub: &hub,
        on_transfer: &|_| {},
        progress: &Silent,
    };
    let found = study(&means, &file, &[Kind::Tradeoff], &claimed, &mut |_, _| {}).unwrap();
    assert_eq!(found.failures, []);
    let Some(dom) = dump_dom(&dir.join("report.html"), &[]) else {
        return;
    };
    let root = &tags(&dom, "html", "lang")[0];
    assert_eq!(root.get("data-midblock-errors"), None, "the page logged errors");
    assert_eq!(root["data-midblock-charts"], "1");
    let cards = tags(&dom, "article", "data-panel=");
    // two zero lines, the front, the origin; of each method a cross, the points of its seeds and its mean
    assert_eq!(cards[0]["data-lines"], (4 + 3 * 2).to_string());
    assert_eq!(dom.matches("<table class=\"bands\">").count(), 2);
    // in the legend and, of a method, beside its mark
    for (name, times) in [("slow", 2), ("fast", 2), ("Pareto front", 1), ("untrained", 1)] {
        assert_eq!(dom.matches(&format!(">{name}</text>")).count(), times, "{name}");
    }
}
