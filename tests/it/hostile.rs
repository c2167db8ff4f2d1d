//! Files that were cut, torn and changed at random: every reader gives a value or an error, without a panic
//! and in bounded memory. How many inputs there are says `RETINANET_HOSTILE`, for each kind of file.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use retinanet_annotations::{CocoFile, Masks, read_results};
use retinanet_data::CocoDataset;
use retinanet_dataset_tools::{DatasetFormat, Destination, Source, convert};
use retinanet_detector::{
    Architecture, HeadConfig, HeadNorm, ModelConfig, NormKind, load_pretrained,
};
use retinanet_evaluation::Evaluator;
use retinanet_experiment::load_config;
use retinanet_images::{Decoding, Range16Bit, decode_bytes};
use retinanet_settings::Whole;
use retinanet_tests::Experiment;
use retinanet_trainer::{RunDirectory, peak_memory};

use crate::serve::Serving;

/// `SplitMix64` (Steele et al. 2014).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What stands in many files and means much.
const TOKENS: [&str; 24] = [
    "null",
    "-1",
    "1e999",
    "1e300",
    "18446744073709551616",
    "NaN",
    "[",
    "]",
    "{",
    "}",
    "\"",
    ",",
    ":",
    "0",
    "true",
    "\u{feff}",
    "\u{1b}",
    "\\ud800",
    "<",
    "&a",
    "*a",
    "= ",
    "\n",
    "9223372036854775807",
];

/// A sound input, changed in one to six ways.
fn changed(sound: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len());
        let end = (at + numbers.below(40)).min(bytes.len());
        match numbers.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                let to = numbers.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            3 => {
                let token = TOKENS[numbers.below(TOKENS.len())];
                bytes.splice(at..end, token.bytes());
            }
            4 if at < bytes.len() => bytes[at] ^= 1 << numbers.below(8),
            5 if at + 4 <= bytes.len() => {
                let huge = [0, 1, u32::MAX, 0x7fff_ffff, 0x00ff_ffff][numbers.below(5)];
                bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(huge));
            }
            _ if at < bytes.len() => bytes[at] = numbers.next() as u8,
            _ => {}
        }
    }
    bytes
}

/// Lets a reader look at many changed inputs; `read` must neither panic nor take a gibibyte.
fn try_all(kind: &str, inputs: &[Vec<u8>], mut read: impl FnMut(&[u8])) {
    const MOST_MEMORY: u64 = 1 << 30;
    let count = std::env::var("RETINANET_HOSTILE").ok();
    let count = count.and_then(|it| it.parse().ok()).unwrap_or(5_000_usize);
    let mut numbers = Numbers(kind.len() as u64);
    for index in 0..count {
        let bytes = changed(&inputs[index % inputs.len()], &mut numbers);
        let read = catch_unwind(AssertUnwindSafe(|| read(&bytes)));
        let peak = peak_memory().unwrap_or_default();
        if read.is_err() || peak > MOST_MEMORY {
            let path = std::env::temp_dir().join(format!("hostile-{kind}-{index}"));
            fs_err::write(&path, &bytes).unwrap();
            panic!(
                "{kind}: input {index}, {peak} bytes at most, is at {}",
                path.display()
            );
        }
    }
}

fn file(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    path
}

fn write(path: &Path, bytes: &[u8]) {
    fs_err::write(path, bytes).unwrap();
}

#[test]
#[ignore = "takes a minute or more"]
fn annotations_and_results() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "a.json");
    let sound = serde_json::json!({
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4.5], "area": 12, "iscrowd": 0,
             "segmentation": [[1, 2, 4, 2, 4, 6]]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4],
             "segmentation": {"size": [10, 20], "counts": [5, 20, 175]}, "iscrowd": 1},
        ],
        "categories": [{"id": 2, "name": "x"}],
    });
    let inputs = [sound.to_string().into_bytes()];
    try_all("annotations", &inputs, |bytes| {
        write(&path, bytes);
        for masks in [Masks::Ignored, Masks::Bounds, Masks::Areas, Masks::Outlines] {
            let _ = CocoFile::read(&path, masks);
        }
        let _ = CocoDataset::read(&path, folder.path());
        let _ = Evaluator::from_file(&path).and_then(|it| it.evaluate(&[]));
    });
    let results = br#"[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]"#;
    try_all("results", &[results.to_vec()], |bytes| {
        write(&path, bytes);
        let _ = read_results(&path);
    });
}

#[test]
#[ignore = "takes a minute or more"]
fn images() {
    let picture = RgbImage::from_fn(23, 17, |x, y| image::Rgb([x as u8 * 9, y as u8 * 13, 77]));
    let encoded = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Qoi,
        ImageFormat::Pnm,
    ]
    .map(|format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    });
    let decoding = Decoding {
        max_pixels: 1_000_000,
        range_16_bit: Range16Bit::try_from([300, 900]).ok(),
    };
    try_all("images", &encoded, |bytes| {
        // Decoders may panic; that is caught where files are read, and not here.
        let _ = retinanet_images::catch_panic(|| decode_bytes(bytes, decoding).is_ok());
    });
}

#[test]
#[ignore = "takes a minute or more"]
fn configs() {
    let folder = tempfile::tempdir().unwrap();
    let (path, base) = (file(&folder, "a.toml"), file(&folder, "base.toml"));
    write(&base, b"[train]\nepochs = 3\n");
    let sound = b"extends = \"base.toml\"\nseed = 3\n[data]\nroot = \"x\"\nshort_side = [64, 96]\n\
        train = { annotations = \"t.json\", images = \"i\" }\n[model]\nbackbone = \"resnet18\"\nwidth = 8\n\
        head = { depth = 1, norm = \"group_norm\" }\nanchors = { sizes = [8.0, 16.0] }\n[optimizer]\nlr = 0.01\n\
        [train]\nbatch_size = 2\nunfreeze_at = 1\n";
    try_all("configs", &[sound.to_vec()], |bytes| {
        write(&path, bytes);
        let _ = load_config(&path, &[]);
    });
}

#[test]
#[ignore = "takes a minute or more"]
fn weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "w");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/pytorch");
    let names = [
        "resnet18_thin.pth",
        "resnet18_thin_legacy.pt",
        "resnet18_thin.safetensors",
    ];
    let inputs = names.map(|name| fs_err::read(fixtures.join(name)).unwrap());
    let config = ModelConfig {
        backbone: Architecture::Resnet18,
        width: Whole::literal(4),
        norm: NormKind::BatchNorm,
        fpn_channels: Whole::literal(8),
        head: HeadConfig {
            depth: Whole::literal(1),
            norm: HeadNorm::None,
            ..HeadConfig::default()
        },
        ..ModelConfig::default()
    };
    let model = config.init(2, 0, &burn::tensor::Device::flex()).unwrap();
    try_all("weights", &inputs, |bytes| {
        write(&path, bytes);
        let _ = load_pretrained(&mut model.clone(), &path);
    });
}

#[test]
#[ignore = "takes a minute or more"]
fn data_sets_of_other_formats() {
    let folder = tempfile::tempdir().unwrap();
    let picture = file(&folder, "set/a.png");
    RgbImage::new(20, 10).save(&picture).unwrap();
    let out = file(&folder, "out.json");
    let root = folder.path().join("set");
    let read = |format, path: &Path| {
        let source = Source {
            format,
            path,
            images: Some(&root),
            split: None,
        };
        let destination = Destination {
            format: DatasetFormat::Coco,
            path: &out,
        };
        let _ = convert(source, destination);
    };
    let (yaml, labels) = (file(&folder, "set/data.yaml"), file(&folder, "set/a.txt"));
    write(&labels, b"0 0.5 0.5 0.5 0.5\n");
    try_all(
        "yaml",
        &[b"path: .\ntrain: x\nnc: 2\nnames:\n  0: 'a b' # c\n  1: \"d\"\n".to_vec()],
        |bytes| {
            write(&yaml, bytes);
            read(DatasetFormat::Yolo, &root);
        },
    );
    write(&yaml, b"names: [a, b]");
    try_all(
        "labels",
        &[b"0 0.5 0.5 0.5 0.5\n1 0.1 0.1 0.2 0.2 0.2 0.4\n".to_vec()],
        |bytes| {
            write(&labels, bytes);
            read(DatasetFormat::Yolo, &root);
        },
    );
    let csv = file(&folder, "a.csv");
    let sound = b"filename,width,height,class,xmin,ymin,xmax,ymax\na.png,20,10,\"x, y\",1,2,3.5,4\nb.png,5,5,,,,,\n";
    try_all("csv", &[sound.to_vec()], |bytes| {
        write(&csv, bytes);
        read(DatasetFormat::Csv, &csv);
    });
    let xml = file(&folder, "voc/a.xml");
    let sound = b"<annotation><filename>a.png</filename><size><width>20</width><height>10</height></size><object>\
        <name>x</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax>\
        </bndbox></object></annotation>";
    try_all("voc", &[sound.to_vec()], |bytes| {
        write(&xml, bytes);
        read(DatasetFormat::Voc, xml.parent().unwrap());
    });
}

#[test]
#[ignore = "takes a minute or more"]
fn checkpoints() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let run_dir = PathBuf::from(experiment.path("run"));
    for name in [
        "state.json",
        "manifest.json",
        "detector.json",
        "config.toml",
    ] {
        let path = run_dir.join("checkpoints/last").join(name);
        let Ok(sound) = fs_err::read(&path) else {
            continue;
        };
        try_all(name, std::slice::from_ref(&sound), |bytes| {
            write(&path, bytes);
            let _ = RunDirectory::open(&run_dir).map(|run| run.newest().is_ok());
        });
        write(&path, &sound);
    }
}

#[test]
#[ignore = "takes a minute or more"]
fn requests() {
    let experiment = Experiment::new();
    let one_step = ["--set", "train.iterations=1"];
    experiment.train("run", &one_step).expect_success();
    let serving = Serving::start(&experiment.path("run"), &["--timeout", "5"]);
    let mut picture = std::io::Cursor::new(Vec::new());
    RgbImage::new(20, 10)
        .write_to(&mut picture, ImageFormat::Png)
        .unwrap();
    let picture = picture.into_inner();
    let request = |head: &str, body: &[u8]| {
        let head = format!(
            "{head}Host: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    };
    let part = "--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n";
    let form = [part.as_bytes(), &picture, b"\r\n--x--\r\n"].concat();
    let multipart = "POST /detect HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=x\r\n";
    let inputs = [
        request("POST /detect?score=0.5 HTTP/1.1\r\n", &picture),
        request(multipart, &form),
        request("GET /health HTTP/1.1\r\n", b""),
        request("GET /metrics HTTP/1.1\r\n", b""),
    ];
    try_all("requests", &inputs, |bytes| {
        let mut stream = TcpStream::connect(&serving.address).unwrap();
        // It may answer and close before all is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let status = answer.get(9..12).unwrap_or_default();
        assert_ne!(status, b"500", "{}", answer.escape_ascii());
    });
    let (status, _) = serving.ask("GET /health", b"");
    assert_eq!(status, 200);
    assert!(serving.peak_memory() < 1 << 30);
}
