use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use image::RgbImage;
use retinanet_boxes::{BoundingBox, ClassId, Detection};
use retinanet_service::{Detect, ServiceConfig};

use crate::common::{
    Answer, ByColor, PATIENCE, Running, exchange, get, numbered, png, post, post_head,
};
use crate::gate::Gated;

fn refused(answer: &Answer, status: u16, words: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    let error = answer.json()["error"].as_str().unwrap().to_owned();
    assert!(error.contains(words), "{error}");
}

fn still_answers(address: SocketAddr) {
    assert_eq!(post(address, "/detect", &numbered(1)).status, 200);
}

#[test]
fn what_is_not_a_whole_image_is_refused() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let address = service.address;
    refused(&post(address, "/detect", b""), 400, "no body");
    refused(&post(address, "/detect", b"hello"), 415, "not an image");
    let form = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n";
    refused(&post(address, "/detect", form), 415, "not an image");
    let mut picture = numbered(1);
    picture.truncate(picture.len() - 20);
    refused(&post(address, "/detect", &picture), 422, "the image");
    picture.truncate(30);
    refused(
        &post(address, "/detect", &picture),
        422,
        "cannot be decoded",
    );
    still_answers(address);
    service.stop().unwrap();
}

/// A form as `curl -F` sends it, with these files.
fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body =
        b"--x\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhello\r\n".to_vec();
    for (name, content) in files {
        let head = format!(
            "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"{name}\"\r\n\
             Content-Type: image/png\r\n\r\n"
        );
        body.extend(head.as_bytes());
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(b"--x--\r\n");
    let mut request = format!(
        "POST /detect HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    request
}

#[test]
fn the_file_of_a_form_is_looked_at_and_named_if_it_is_refused() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let address = service.address;
    let send = |files: &[(&str, &[u8])]| exchange(address, &form(files)).unwrap();
    let picture = numbered(1);
    let answer = send(&[("a.png", &picture)]);
    assert_eq!(answer.status, 200, "{answer:?}");
    let plain = post(address, "/detect", &picture).json();
    assert_eq!(answer.json()["detections"], plain["detections"]);
    refused(
        &send(&[("notes.txt", b"hello")]),
        415,
        "`notes.txt`: not an image",
    );
    refused(&send(&[("a.png", &picture[..40])]), 422, "`a.png`: ");
    refused(&send(&[]), 400, "no file");
    refused(
        &send(&[("a.png", &picture), ("b.png", &picture)]),
        400,
        "several files",
    );
    refused(&send(&[("a.png", b"")]), 400, "no body");
    still_answers(address);
    service.stop().unwrap();
}

#[test]
fn only_the_services_own_names_are_answered() {
    let config = ServiceConfig {
        allow_hosts: vec!["photos.example".to_owned()],
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let ask = |host: &str| {
        let request = format!("GET /health HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        exchange(service.address, request.as_bytes()).unwrap()
    };
    for host in [
        "Host: photos.example:80\r\n",
        "Host: 127.0.0.1:1\r\n",
        "Host: [::1]\r\n",
    ] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    refused(
        &ask("Host: evil.example\r\n"),
        403,
        "--allow-host evil.example",
    );
    service.stop().unwrap();
}

#[test]
fn too_many_bytes_are_refused_and_the_answer_arrives() {
    let config = ServiceConfig {
        max_body_bytes: 1000.try_into().unwrap(),
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let address = service.address;
    let huge = vec![0; 8 << 20];
    refused(&post(address, "/detect", &huge), 413, "1000 bytes");

    // The length is not told ahead.
    let mut chunked = b"POST /detect HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Transfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..64 {
        chunked.extend(b"10000\r\n");
        chunked.extend(vec![0; 0x10000]);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\n\r\n");
    let answer = exchange(address, &chunked).unwrap();
    refused(&answer, 413, "1000 bytes");

    // A client that asks first is told before it sends.
    let asking = b"POST /detect HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
        Content-Length: 1001\r\nExpect: 100-continue\r\n\r\n";
    refused(&exchange(address, asking).unwrap(), 413, "1000 bytes");

    let exact = vec![b'x'; 1000];
    refused(&post(address, "/detect", &exact), 415, "not an image");
    still_answers(address);
    service.stop().unwrap();
}

#[test]
fn too_many_pixels_are_refused_before_they_are_decoded() {
    let config = ServiceConfig {
        max_pixels: 400,
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let address = service.address;
    still_answers(address);
    let larger = png(&RgbImage::new(401, 1));
    refused(&post(address, "/detect", &larger), 413, "401×1");
    service.stop().unwrap();
}

/// What claims to be 60000 pixels wide and high must not take the memory of that.
#[test]
fn a_bomb_is_refused() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let mut bomb = numbered(1);
    bomb[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
    let checksum = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&checksum.to_be_bytes());
    refused(&post(service.address, "/detect", &bomb), 413, "60000×60000");
    service.stop().unwrap();
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 * (crc & 1))
        })
    })
}

#[test]
fn slow_clients_are_let_go() {
    let config = ServiceConfig {
        timeout_seconds: 0.2,
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let address = service.address;

    // A body that does not end.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&post_head("/detect", 100)).unwrap();
    stream.write_all(b"half").unwrap();
    refused(&Answer::read(&mut stream).unwrap(), 408, "0.2 s");

    // One that is too large besides.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&post_head("/detect", 1 << 40)).unwrap();
    refused(&Answer::read(&mut stream).unwrap(), 413, "larger");

    // Headers that do not end, and nothing at all.
    for beginning in [&b"POST /detect HTTP/1.1\r\nHo"[..], b""] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(beginning).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
    }
    service.wait_for_metric("retinanet_connections", 1.0);
    still_answers(address);
    service.stop().unwrap();
}

/// One that asks and asks, and never reads, must not keep its connection.
#[test]
fn clients_that_do_not_read_are_let_go() {
    let config = ServiceConfig {
        timeout_seconds: 0.2,
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let mut stream = TcpStream::connect(service.address).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let refused = (0..1000).any(|_| stream.write_all(&request).is_err());
    assert!(refused, "the service takes every request");
    service.wait_for_metric("retinanet_connections", 1.0);
    service.stop().unwrap();
}

#[test]
fn more_than_may_wait_are_told_to_come_again() {
    let (detector, gate) = Gated::new();
    let config = ServiceConfig {
        max_waiting: 1.try_into().unwrap(),
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, detector);
    let address = service.address;
    let first = thread::spawn(move || post(address, "/detect", &numbered(1)));
    gate.next_batch();
    let answer = post(address, "/detect", &numbered(2));
    refused(&answer, 503, "come again");
    assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    assert_eq!(get(address, "/health").status, 200);
    gate.open();
    assert_eq!(first.join().unwrap().status, 200);
    service.stop().unwrap();
}

#[test]
fn queries_paths_and_methods_that_are_not_known_are_refused() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let address = service.address;
    for query in ["score=high", "score=1.5", "score=NaN", "scores=0.3"] {
        let path = format!("/detect?{query}");
        refused(&post(address, &path, &numbered(1)), 400, "score");
    }
    refused(&get(address, "/nowhere"), 404, "/detect");
    refused(&get(address, "/detect"), 405, "method");
    refused(&post(address, "/health", b""), 405, "method");
    let nonsense = exchange(address, b"nonsense\r\n\r\n").unwrap();
    assert_eq!(nonsense.status, 400);
    still_answers(address);
    service.stop().unwrap();
}

/// Does what the width of the picture says.
struct Failing;

impl Detect for Failing {
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
        let found = |class, x2| Detection {
            bbox: BoundingBox::new(0.0, 0.0, x2, 1.0),
            class: ClassId(class),
            score: 0.5,
        };
        match pictures[0].width() {
            1 => panic!("it fell over"),
            2 => vec![Err("no memory".to_owned())],
            3 => vec![],
            4 => vec![Ok(vec![found(0, f32::NAN)])],
            5 => vec![Ok(vec![found(9, 1.0)])],
            _ => vec![Ok(vec![found(0, 1.0)])],
        }
    }
}

#[test]
fn a_detector_that_fails_fails_its_request_and_no_other() {
    let service = Running::start(&ServiceConfig::default(), Failing);
    let address = service.address;
    for (width, words) in [
        (1, "it fell over"),
        (2, "no memory"),
        (3, "0 results for 1"),
        (4, "not finite"),
        (5, "no class 9"),
    ] {
        let answer = post(address, "/detect", &png(&RgbImage::new(width, 2)));
        refused(&answer, 500, words);
        still_answers(address);
    }
    service.stop().unwrap();
}
