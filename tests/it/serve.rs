//! `serve`, as a client sees it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use retinanet_tests::{Experiment, retinanet, run};
use serde_json::Value;

/// What the service shows Label Studio.
pub(crate) const TOKEN: &str = "0123456789abcdef";

/// A service that runs, and ends with the test.
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: String,
    said: BufReader<std::process::ChildStdout>,
}

impl Serving {
    pub(crate) fn start(run: &str, more: &[&str]) -> Self {
        let mut child = retinanet()
            .args(["serve", "--run", run, "--address", "127.0.0.1:0"])
            .args(more)
            .env("LABEL_STUDIO_API_KEY", TOKEN)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut serving = Self {
            address: String::new(),
            child,
            said,
        };
        let mut line = String::new();
        serving.said.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("serving on http://");
        serving.address = address.expect("its address").to_owned();
        serving
    }

    /// The most memory that it has held, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.child.id());
        let status = fs_err::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kibibytes = peak.unwrap().trim().trim_end_matches(" kB");
        kibibytes.parse::<u64>().unwrap() << 10
    }

    /// Status and body of the answer.
    pub(crate) fn ask(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_served_is_what_predict_finds() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let root = experiment.path("run");
    let photo = experiment.path("data/images/val_00000.png");
    let json = experiment.path("found.json");
    let arguments = ["predict", "--run", &root, "--score", "0.005", &photo];
    let quiet = ["--no-drawings", "--json", &json];
    run(&[&arguments[..], &quiet[..]].concat()).expect_success();
    let predicted = experiment.json("found.json");
    let predicted = predicted.as_array().unwrap();
    assert!(!predicted.is_empty());

    let mut serving = Serving::start(&root, &["--score", "0.005"]);
    let picture = fs_err::read(&photo).unwrap();
    let (status, body) = serving.ask("POST /detect", &picture);
    assert_eq!(status, 200, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let served = answer["detections"].as_array().unwrap();
    assert_eq!(served.len(), predicted.len());
    for (served, predicted) in served.iter().zip(predicted) {
        assert_eq!(served["category_id"], predicted["category_id"]);
        for side in 0..4 {
            let (a, b) = (&served["bbox"][side], &predicted["bbox"][side]);
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-3);
        }
    }

    let (status, body) = serving.ask("POST /detect", b"no picture");
    assert_eq!(status, 415, "{body}");
    let (status, body) = serving.ask("GET /health", b"");
    assert_eq!(status, 200, "{body}");
    let (status, page) = serving.ask("GET /", b"");
    assert!(status == 200 && page.contains("<html"), "{page}");

    #[cfg(unix)]
    {
        let id = serving.child.id().to_string();
        let signalled = std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status();
        assert!(signalled.unwrap().success());
        assert_eq!(serving.child.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        serving.said.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "stopped\n");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let root = experiment.path("run");
    let serving = Serving::start(&root, &[]);
    let taken = serving.address.clone();
    run(&["serve", "--run", &root, "--address", &taken]).expect_refusal(1, &[&taken]);
    run(&["serve", "--run", &root, "--batch", "2", "--score", "7"]).expect_refusal(2, &["score"]);
}
