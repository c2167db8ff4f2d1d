use std::io::Write;
use std::net::TcpStream;
use std::thread;

use image::{Rgb, RgbImage};
use retinanet_boxes::{BoundingBox, ClassId, Detection};
use retinanet_service::{Detect, ServiceConfig};
use serde_json::json;

use crate::common::{Answer, ByColor, Running, get, numbered, png, post, post_bytes};
use crate::gate::Gated;

/// Answers the same for every picture.
struct Always(Vec<Detection>);

impl Detect for Always {
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
        vec![Ok(self.0.clone()); pictures.len()]
    }
}

fn detection(x1: f32, class: u32, score: f32) -> Detection {
    Detection {
        bbox: BoundingBox::new(x1, 2.0, 12.5, 8.0),
        class: ClassId(class),
        score,
    }
}

#[test]
fn detections_come_best_first_with_category_ids_and_names() {
    let found = vec![
        detection(1.0, 0, 0.4),
        detection(2.5, 1, 0.9),
        detection(3.0, 0, 0.2),
    ];
    let service = Running::start(&ServiceConfig::default(), Always(found));
    let picture = png(&RgbImage::from_pixel(20, 10, Rgb([9, 9, 9])));

    let answer = post(service.address, "/detect", &picture);
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    assert_eq!(
        (&answer["width"], &answer["height"]),
        (&json!(20), &json!(10))
    );
    let expected = json!([
        { "category_id": 7, "name": "star", "bbox": [2.5, 2.0, 10.0, 6.0], "score": 0.9 },
        { "category_id": 1, "name": "circle", "bbox": [1.0, 2.0, 11.5, 6.0], "score": 0.4 },
    ]);
    // Scores of 32 bits are not exact in 64.
    assert_eq!(answer["detections"].to_string(), expected.to_string());
    for phase in ["decode", "wait", "detect"] {
        assert!(
            answer["milliseconds"][phase].as_f64().unwrap() >= 0.0,
            "{answer}"
        );
    }

    for (score, count) in [("0", 3), ("0.2", 3), ("0.5", 1), ("1", 0)] {
        let answer = post(service.address, &format!("/detect?score={score}"), &picture);
        let count_told = answer.json()["detections"].as_array().unwrap().len();
        assert_eq!(count_told, count, "score {score}");
    }
    service.stop().unwrap();
}

#[test]
fn waiting_pictures_go_through_the_detector_together() {
    let (detector, gate) = Gated::new();
    let config = ServiceConfig {
        batch: 3.try_into().unwrap(),
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, detector);
    let address = service.address;
    let ask = |number| thread::spawn(move || post(address, "/detect", &numbered(number)).json());

    let first = ask(500);
    assert_eq!(gate.next_batch(), 1);
    let others: Vec<_> = (501..506).map(|number| (number, ask(number))).collect();
    // Decoded, or ready to be as soon as there is a place.
    service.wait_for_metric("retinanet_queue_length", 5.0);
    gate.open();
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 5 {
        sizes.push(gate.next_batch());
        gate.open();
    }
    assert!(sizes.iter().all(|size| (1..=3).contains(size)), "{sizes:?}");
    assert!(sizes.len() < 5, "none came together: {sizes:?}");

    assert_eq!(first.join().unwrap()["detections"][0]["bbox"][2], 500.0);
    for (number, answer) in others {
        let answer = answer.join().unwrap();
        assert_eq!(answer["detections"][0]["bbox"][2], f64::from(number));
    }
    assert_eq!(service.metric("retinanet_batch_size_sum"), 6.0);
    assert_eq!(service.metric("retinanet_queue_length"), 0.0);
    service.stop().unwrap();
}

#[test]
fn work_for_a_client_that_left_is_not_begun() {
    let (detector, gate) = Gated::new();
    let service = Running::start(&ServiceConfig::default(), detector);
    let address = service.address;

    let first = thread::spawn(move || post(address, "/detect", &numbered(1)));
    assert_eq!(gate.next_batch(), 1);
    let mut leaver = TcpStream::connect(address).unwrap();
    leaver
        .write_all(&post_bytes("/detect", &numbered(2)))
        .unwrap();
    service.wait_for_metric("retinanet_queue_length", 1.0);
    drop(leaver);
    service.wait_for_metric("retinanet_in_flight", 1.0);
    gate.open();
    assert_eq!(first.join().unwrap().status, 200);

    let last = thread::spawn(move || post(address, "/detect", &numbered(3)));
    assert_eq!(gate.next_batch(), 1);
    gate.open();
    assert_eq!(last.join().unwrap().status, 200);
    assert_eq!(service.metric("retinanet_batch_size_sum"), 2.0);
    let left = r#"retinanet_requests_total{path="/detect",status="499"}"#;
    assert_eq!(service.metric(left), 1.0);
    service.stop().unwrap();
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let kept = |number| {
        let text = post_bytes("/detect", &numbered(number));
        let close = b"Connection: close\r\n";
        let place = text.windows(close.len()).position(|part| part == close);
        let place = place.unwrap();
        [&text[..place], &text[place + close.len()..]].concat()
    };
    let mut stream = TcpStream::connect(service.address).unwrap();
    stream.write_all(&kept(1)).unwrap();
    stream.write_all(&kept(2)).unwrap();
    stream
        .write_all(&post_bytes("/detect", &numbered(3)))
        .unwrap();
    let answers = Answer::read(&mut stream).unwrap();
    assert_eq!(answers.status, 200);
    assert_eq!(answers.text().matches("HTTP/1.1 200 OK").count(), 2);
    service.stop().unwrap();
}

#[test]
fn health_names_the_model_and_the_limits() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let answer = get(service.address, "/health");
    assert_eq!(answer.status, 200);
    let expected = json!({
        "status": "ok",
        "model": "shapes",
        "classes": [{ "category": 1, "name": "circle" }, { "category": 7, "name": "star" }],
        "details": { "run": "quickstart" },
        "score": answer.json()["score"],
        "max_body_bytes": 16 << 20,
        "max_pixels": 50_000_000,
    });
    assert_eq!(answer.json(), expected);
    service.stop().unwrap();
}

#[test]
fn metrics_are_in_the_text_format() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    post(service.address, "/detect", &numbered(1));
    let answer = get(service.address, "/metrics");
    assert!(
        answer
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{answer:?}"
    );
    let text = answer.text();
    for line in [
        "# TYPE retinanet_requests_total counter",
        r#"retinanet_requests_total{path="/detect",status="200"} 1"#,
        "# TYPE retinanet_detect_seconds histogram",
        r#"retinanet_detect_seconds_count{phase="total"} 1"#,
        "retinanet_in_flight 0",
        "retinanet_queue_length 0",
        "retinanet_batch_size_count 1",
    ] {
        assert!(
            text.lines().any(|told| told == line),
            "{line} is not in\n{text}"
        );
    }
    for quantile in ["0.5", "0.95", "0.99"] {
        let name = format!("retinanet_recent_detect_seconds{{quantile=\"{quantile}\"}}");
        assert!(service.metric(&name) > 0.0, "{text}");
    }
    assert!(service.metric("retinanet_uptime_seconds") > 0.0);
    // The connection that asks.
    service.wait_for_metric("retinanet_connections", 1.0);
    service.stop().unwrap();
}
