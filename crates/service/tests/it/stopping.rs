use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use retinanet_service::{ServiceConfig, ServiceError, Stop, run};

use crate::common::{ByColor, PATIENCE, Running, info, numbered, post, post_head, wait_until};
use crate::gate::Gated;

#[test]
fn what_has_begun_is_finished_and_nothing_new_begins() {
    let (detector, gate) = Gated::new();
    let service = Running::start(&ServiceConfig::default(), detector);
    let address = service.address;
    let under_way = thread::spawn(move || post(address, "/detect", &numbered(77)));
    gate.next_batch();

    service.tell_to_stop();
    wait_until("new connections are refused", || {
        TcpStream::connect(address).is_err()
    });
    gate.open();
    let answer = under_way.join().unwrap().json();
    assert_eq!(answer["detections"][0]["bbox"][2], 77.0);
    service.stop().unwrap();
}

#[test]
fn idle_connections_do_not_hold_it() {
    let config = ServiceConfig {
        // Long enough for the test to fail if it were waited for.
        stop_seconds: 2.0 * PATIENCE.as_secs_f64(),
        timeout_seconds: 2.0 * PATIENCE.as_secs_f64(),
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let mut silent = TcpStream::connect(service.address).unwrap();
    let mut kept = TcpStream::connect(service.address).unwrap();
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    kept.read_exact(&mut [0; 12]).unwrap();
    service.wait_for_metric("retinanet_connections", 3.0);
    service.stop().unwrap();
    for stream in [&mut silent, &mut kept] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
}

#[test]
fn clients_that_take_too_long_are_cut_off() {
    let config = ServiceConfig {
        stop_seconds: 0.1,
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, ByColor);
    let mut slow = TcpStream::connect(service.address).unwrap();
    slow.write_all(&post_head("/detect", 100)).unwrap();
    service.wait_for_metric("retinanet_in_flight", 1.0);
    service.stop().unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = Vec::new();
    // Cut off, in whichever way.
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn a_detector_that_does_not_come_back_is_told() {
    let (detector, gate) = Gated::new();
    let config = ServiceConfig {
        stop_seconds: 0.1,
        ..ServiceConfig::default()
    };
    let service = Running::start(&config, detector);
    let address = service.address;
    let hopeless = thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let request = [post_head("/detect", numbered(1).len()), numbered(1)].concat();
        stream.write_all(&request).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    gate.next_batch();
    let result = service.stop();
    assert!(
        matches!(result, Err(ServiceError::DetectorStuck { .. })),
        "{result:?}"
    );
    hopeless.join().unwrap();
}

#[test]
fn an_address_in_use_is_named() {
    let service = Running::start(&ServiceConfig::default(), ByColor);
    let config = ServiceConfig {
        address: service.address,
        ..ServiceConfig::default()
    };
    let info = info(&[]);
    let result = run(&config, ByColor, info, &Stop::new(), |_| ());
    let error = result.unwrap_err().to_string();
    assert!(error.contains(&service.address.to_string()), "{error}");
    service.stop().unwrap();
}
