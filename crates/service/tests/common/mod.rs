//! What the tests share: a service on a free port, and a client that speaks bytes.

use std::io::{self, Cursor, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use image::{ImageFormat, Rgb, RgbImage};
use retinanet_boxes::{BoundingBox, CategoryId, Class, ClassId, ClassList, Detection};
use retinanet_service::{Detect, ModelInfo, ServiceConfig, ServiceError, Stop, run};
use serde_json::Value;

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A service on a thread of its own.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Stop,
    thread: JoinHandle<Result<(), ServiceError>>,
}

impl Running {
    pub(crate) fn start(config: &ServiceConfig, detector: impl Detect) -> Self {
        Self::start_as(info(&[(1, "circle"), (7, "star")]), config, detector)
    }

    pub(crate) fn start_as(info: ModelInfo, config: &ServiceConfig, detector: impl Detect) -> Self {
        let config = ServiceConfig {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..config.clone()
        };
        let (sender, ready) = mpsc::channel();
        let stop = Stop::new();
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            run(&config, detector, info, &stopped, |address| {
                sender.send(address).unwrap();
            })
        });
        let address = ready.recv_timeout(PATIENCE).expect("the service starts");
        Self {
            address,
            stop,
            thread,
        }
    }

    /// Tells the service to stop and does not wait.
    pub(crate) fn tell_to_stop(&self) {
        self.stop.stop();
    }

    pub(crate) fn stop(self) -> Result<(), ServiceError> {
        self.tell_to_stop();
        self.thread.join().expect("the service does not panic")
    }

    /// The sum of a metric over its labels that begin like this.
    pub(crate) fn metric(&self, beginning: &str) -> f64 {
        let text = get(self.address, "/metrics").text();
        let lines = text.lines().filter(|line| line.starts_with(beginning));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric has a value.
    pub(crate) fn wait_for_metric(&self, beginning: &str, value: f64) {
        wait_until(beginning, || self.metric(beginning) == value);
    }
}

pub(crate) fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::yield_now();
    }
}

/// A model with these categories.
pub(crate) fn info(categories: &[(u64, &str)]) -> ModelInfo {
    let class = |&(category, name): &(u64, &str)| Class::new(CategoryId(category), name);
    ModelInfo {
        name: "shapes".into(),
        classes: ClassList::new(categories.iter().map(class).collect()).unwrap(),
        details: [("run".to_owned(), "quickstart".to_owned())].into(),
    }
}

/// Answers the number that a picture's colour is: the width of the only box.
pub(crate) struct ByColor;

impl Detect for ByColor {
    fn detect(&mut self, pictures: Vec<RgbImage>) -> Vec<Result<Vec<Detection>, String>> {
        let number = |picture: &RgbImage| {
            let Rgb([high, low, _]) = *picture.get_pixel(0, 0);
            f32::from(u16::from_be_bytes([high, low]))
        };
        let found = |picture: &RgbImage| Detection {
            bbox: BoundingBox::new(0.0, 0.0, number(picture), 1.0),
            class: ClassId(1),
            score: 0.75,
        };
        (pictures.iter())
            .map(|picture| Ok(vec![found(picture)]))
            .collect()
    }
}

/// A PNG whose colour is a number.
pub(crate) fn numbered(number: u16) -> Vec<u8> {
    let [high, low] = number.to_be_bytes();
    png(&RgbImage::from_pixel(24, 16, Rgb([high, low, 0])))
}

pub(crate) fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

/// What the service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Reads until the service closes the connection.
    pub(crate) fn read(stream: &mut TcpStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let end = (bytes.windows(4).position(|four| four == b"\r\n\r\n"))
            .ok_or_else(|| io::Error::other("no head"))?;
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        Ok(Self {
            status: status.ok_or_else(|| io::Error::other("no status"))?,
            body: bytes.split_off(end + 4),
            head,
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Answer {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    exchange(address, head.as_bytes()).expect("an answer")
}

pub(crate) fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    exchange(address, &post_bytes(path, body)).expect("an answer")
}

/// A whole request.
pub(crate) fn post_bytes(path: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = post_head(path, body.len());
    bytes.extend(body);
    bytes
}

/// A request without its body.
pub(crate) fn post_head(path: &str, length: usize) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// Sends bytes and reads the answer.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(bytes)?;
    Answer::read(&mut stream)
}
