//! 200 clients at once: good, bad, huge, slow and impatient ones. It stands alone, because it counts
//! the process's threads and files.

#![expect(clippy::unwrap_used, reason = "all of this is tests, helpers included")]

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use common::{
    Answer, ByColor, Running, exchange, get, numbered, post, post_bytes, post_head, wait_until,
};
use retinanet_service::ServiceConfig;

const CLIENTS: u16 = 200;

const MAX_BODY: usize = 64 << 10;

/// What a client got.
enum Outcome {
    Answered(u16),
    Left,
}

fn config() -> ServiceConfig {
    ServiceConfig {
        batch: 8.try_into().unwrap(),
        max_body_bytes: MAX_BODY.try_into().unwrap(),
        max_waiting: 48.try_into().unwrap(),
        // Long enough for a good client on a busy machine.
        timeout_seconds: 2.0,
        ..ServiceConfig::default()
    }
}

/// One of the clients; refusals for lack of room are fine, wrong answers are not.
fn client(address: SocketAddr, number: u16) -> Outcome {
    let (answer, expected) = match number % 8 {
        0 => (post(address, "/detect", b"not an image"), 415),
        1 => (post(address, "/detect", &vec![1; 8 * MAX_BODY]), 413),
        2 => {
            let whole = numbered(number);
            (post(address, "/detect", &whole[..whole.len() - 16]), 422)
        }
        3 => (slow(address), 408),
        4 => {
            leave(address, number);
            return Outcome::Left;
        }
        _ => {
            let answer = post(address, "/detect", &numbered(number));
            if answer.status == 200 {
                let told = &answer.json()["detections"][0]["bbox"][2];
                assert_eq!(*told, f64::from(number), "another's answer");
            }
            (answer, 200)
        }
    };
    let status = answer.status;
    assert!(status == expected || status == 503, "{number}: {answer:?}");
    assert!(
        status != 503 || answer.head.contains("retry-after"),
        "{answer:?}"
    );
    Outcome::Answered(status)
}

/// Sends less than it says.
fn slow(address: SocketAddr) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&post_head("/detect", 1000)).unwrap();
    // The service may have refused it by now.
    let _ = (0..10).try_for_each(|_| stream.write_all(b"drip"));
    Answer::read(&mut stream).expect("an answer")
}

/// Goes away without waiting for the answer.
fn leave(address: SocketAddr, number: u16) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(&post_bytes("/detect", &numbered(number)))
        .unwrap();
}

fn open_files() -> usize {
    fs_err::read_dir("/proc/self/fd").unwrap().count()
}

fn threads() -> usize {
    fs_err::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn clients_of_all_kinds_at_once_are_answered_and_leave_nothing_behind() {
    let (files_before, threads_before) = (open_files(), threads());
    let service = Running::start(&config(), ByColor);
    let address = service.address;
    let files_idle = open_files();

    let mut outcomes = Vec::new();
    for _ in 0..2 {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| thread::spawn(move || client(address, number)))
            .collect();
        outcomes.extend(clients.into_iter().map(|client| client.join().unwrap()));
    }

    // The connection that asks is one.
    service.wait_for_metric("retinanet_connections", 1.0);
    for gauge in ["retinanet_in_flight", "retinanet_queue_length"] {
        service.wait_for_metric(gauge, 0.0);
    }
    wait_until("the clients' connections are closed", || {
        open_files() == files_idle
    });
    the_metrics_add_up(&service, &outcomes);
    assert_eq!(get(address, "/health").status, 200);
    let head = exchange(address, &post_bytes("/detect", &numbered(9))).unwrap();
    assert_eq!(head.status, 200);

    service.stop().unwrap();
    wait_until("all threads have ended", || threads() == threads_before);
    assert_eq!(open_files(), files_before);
}

fn the_metrics_add_up(service: &Running, outcomes: &[Outcome]) {
    let requests = r#"retinanet_requests_total{path="/detect""#;
    let of_status = |status| service.metric(&format!("{requests},status=\"{status}\"}}"));
    // A client that leaves is answered before it is gone, refused, or never.
    let count = |wanted| {
        let same = |outcome: &&Outcome| matches!(outcome, Outcome::Answered(got) if *got == wanted);
        outcomes.iter().filter(same).count() as f64
    };
    for status in [408, 413, 415, 422] {
        assert_eq!(of_status(status), count(status), "status {status}");
    }
    assert!(count(200) > 0.0);
    assert!(of_status(200) >= count(200));
    let left = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Left));
    let all = service.metric(requests);
    // One that leaves before its request is read is not a request.
    assert!(all <= outcomes.len() as f64, "{all}");
    assert!(all >= (outcomes.len() - left.count()) as f64, "{all}");

    let answered = service.metric(r#"retinanet_detect_seconds_count{phase="total"}"#);
    assert_eq!(answered, of_status(200));
    for quantile in ["0.5", "0.95", "0.99"] {
        let name = format!("retinanet_recent_detect_seconds{{quantile=\"{quantile}\"}}");
        assert!(service.metric(&name) > 0.0, "{name}");
    }
    assert!(service.metric("retinanet_batch_size_sum") >= answered);
}
