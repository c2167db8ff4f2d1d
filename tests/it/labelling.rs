//! What helps people to label: `dataset rank`, and the service as Label Studio and a function of CVAT's ask it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use retinanet_tests::{Experiment, run};
use serde_json::{Value, json};

use crate::serve::{Serving, TOKEN};

/// A Label Studio that has one picture, for those who know the token; its address.
fn label_studio(picture: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let head: Vec<String> = (lines.map_while(Result::ok))
                .take_while(|line| !line.is_empty())
                .collect();
            let is_asked = head[0].starts_with("GET /data/upload/1/a.png ");
            let token = format!("authorization: Token {TOKEN}");
            let knows = head.iter().any(|line| line.eq_ignore_ascii_case(&token));
            let (status, body) = match (is_asked, knows) {
                (true, true) => ("200 OK", &picture[..]),
                (true, false) => ("401 Unauthorized", &b""[..]),
                (false, _) => ("404 Not Found", &b""[..]),
            };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            // The service may have had enough.
            let _ = stream.write_all(&[head.as_bytes(), body].concat());
        }
    });
    format!("http://{address}")
}

fn interface(labels: &[&str]) -> String {
    let labels = labels
        .iter()
        .map(|label| format!("<Label value=\"{label}\"/>"));
    let labels: String = labels.collect();
    format!(
        "<View><Image name=\"photo\" value=\"$picture\"/>\
         <RectangleLabels name=\"boxes\" toName=\"photo\">{labels}</RectangleLabels></View>"
    )
}

fn ask(service: &Serving, head: &str, body: &Value) -> (u16, Value) {
    let (status, answer) = service.ask(head, body.to_string().as_bytes());
    (status, serde_json::from_str(&answer).unwrap())
}

/// Of an answer of `/detect` the boxes in percent of the picture's sides, with name and score.
fn in_percent(detected: &Value) -> Vec<(String, [f64; 5])> {
    let side = |key: &str| detected[key].as_f64().unwrap() / 100.0;
    let (width, height) = (side("width"), side("height"));
    let detections = detected["detections"].as_array().unwrap().iter();
    detections
        .map(|it| {
            let number = |place: usize| it["bbox"][place].as_f64().unwrap();
            let score = it["score"].as_f64().unwrap();
            let name = it["name"].as_str().unwrap().to_owned();
            let [x, y] = [number(0) / width, number(1) / height];
            (name, [x, y, number(2) / width, number(3) / height, score])
        })
        .collect()
}

#[test]
fn tasks_get_the_boxes_that_are_detected() {
    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let folder = experiment.path("data/images");
    // Wider than high, so that its sides cannot be taken for each other.
    let photo = image::open(experiment.path("data/images/val_00000.png")).unwrap();
    let photo = photo.crop_imm(0, 0, photo.width(), 3 * photo.height() / 4);
    photo.save(experiment.path("data/images/wide.png")).unwrap();
    let picture = experiment.bytes("data/images/wide.png");
    let address = label_studio(picture.clone());
    let more = [
        "--label-studio",
        &address,
        "--local-files",
        &folder,
        "--score",
        "0.05",
    ];
    let service = Serving::start(&experiment.path("run"), &more);

    let classes = experiment.json("data/val.json");
    let classes = classes["categories"].as_array().unwrap().iter();
    let classes: Vec<_> = classes.map(|it| it["name"].as_str().unwrap()).collect();
    let schema = interface(&classes);
    let setup = json!({ "project": "1.2", "schema": schema, "hostname": address });
    let (status, answer) = ask(&service, "POST /setup", &setup);
    assert_eq!((status, &answer["model_version"]), (200, &json!("run")));

    let tasks = ["/data/upload/1/a.png", "/data/local-files/?d=w%69de.png"];
    let tasks = tasks.map(|picture| json!({ "id": 7, "data": { "picture": picture } }));
    let asked = json!({ "tasks": tasks, "label_config": schema, "project": "1.2", "params": {} });
    let (status, answer) = ask(&service, "POST /predict", &asked);
    assert_eq!(status, 200, "{answer}");
    let (_, detected) = service.ask("POST /detect", &picture);
    let expected = in_percent(&serde_json::from_str(&detected).unwrap());
    assert!(expected.len() > 1, "{detected}");
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        let boxes = result["result"].as_array().unwrap();
        assert_eq!(boxes.len(), expected.len());
        for (found, (name, numbers)) in boxes.iter().zip(&expected) {
            assert_eq!(found["from_name"], "boxes");
            assert_eq!(found["to_name"], "photo");
            let value = &found["value"];
            assert_eq!(value["rectanglelabels"], json!([name]));
            let told = ["x", "y", "width", "height"].map(|key| &value[key]);
            for (told, expected) in told.into_iter().chain([&found["score"]]).zip(numbers) {
                assert!((told.as_f64().unwrap() - expected).abs() < 1e-3, "{found}");
            }
        }
        let least = expected
            .iter()
            .map(|(_, numbers)| numbers[4])
            .fold(1.0, f64::min);
        assert!((result["score"].as_f64().unwrap() - least).abs() < 1e-6);
    }
    let (status, _) = ask(
        &service,
        "POST /webhook",
        &json!({ "action": "ANNOTATION_CREATED" }),
    );
    assert_eq!(status, 201);
}

#[test]
fn what_label_studio_cannot_be_answered_is_told() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let run = experiment.path("run");
    let address = label_studio(Vec::new());
    let service = Serving::start(&run, &["--label-studio", &address]);
    let classes = experiment.json("data/val.json");
    let class = classes["categories"][0]["name"].as_str().unwrap();
    let predict = |picture: &str| {
        let task = json!({ "id": 7, "data": { "picture": picture } });
        let asked = json!({ "tasks": [task], "label_config": interface(&[class]) });
        ask(&service, "POST /predict", &asked)
    };
    for (picture, reason) in [
        ("http://127.0.0.2/a.png", "--picture-host 127.0.0.2"),
        ("s3://bucket/a.png", "no address of the web"),
        ("/data/nowhere.png", "404"),
        ("data:image/png;base64,AAAA", "image"),
    ] {
        let (status, answer) = predict(picture);
        let told = answer["error"].as_str().unwrap();
        assert!((415..=422).contains(&status), "{status} {told}");
        assert!(
            told.starts_with("task 7: ") && told.contains(reason),
            "{told}"
        );
    }
    let setup = json!({ "schema": interface(&["zebra"]) });
    let (status, answer) = ask(&service, "POST /setup", &setup);
    let told = answer["error"].as_str().unwrap();
    assert_eq!(status, 422, "{told}");
    assert!(told.contains("zebra") && told.contains(class), "{told}");
    let (status, _) = service.ask("POST /predict", b"{\"tasks\": 1}");
    assert_eq!(status, 400);

    // Nobody who was not asked to speaks it.
    let plain = Serving::start(&run, &[]);
    assert_eq!(ask(&plain, "POST /setup", &json!({})).0, 404);
    let refused = ["serve", "--run", &run, "--label-studio", "localhost:8080"];
    retinanet_tests::run(&refused).expect_refusal(2, &["http://localhost:8080"]);
}

/// The function of `docs/labelling.md`, called as Nuclio calls it.
#[test]
fn the_documents_function_gives_cvat_its_boxes() {
    const CALL: &str = "
import base64, sys, types
context = types.SimpleNamespace(Response=lambda **given: given)
picture = base64.b64encode(open(sys.argv[1], 'rb').read()).decode()
event = types.SimpleNamespace(body={'image': picture, 'threshold': 0.05})
print(handler(context, event)['body'])
";
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/labelling.md");
    let document = fs_err::read_to_string(document).unwrap();
    let (_, code) = document.split_once("```python\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();

    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let service = Serving::start(&experiment.path("run"), &[]);
    let script = experiment.write("main.py", &format!("{code}{CALL}"));
    let python = std::env::var("RETINANET_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let called = std::process::Command::new(python)
        .arg(script)
        .arg(experiment.path("data/images/val_00000.png"))
        .env("RETINANET", format!("http://{}", service.address))
        .output()
        .unwrap();
    let called = retinanet_tests::Finished::from(called).expect_success();
    let boxes: Value = serde_json::from_str(&called.stdout).unwrap();
    let picture = experiment.bytes("data/images/val_00000.png");
    let (_, detected) = service.ask("POST /detect?score=0.05", &picture);
    let detected: Value = serde_json::from_str(&detected).unwrap();
    let expected = detected["detections"].as_array().unwrap();
    assert!(expected.len() > 1, "{detected}");
    assert_eq!(boxes.as_array().unwrap().len(), expected.len());
    for (found, expected) in boxes.as_array().unwrap().iter().zip(expected) {
        assert_eq!(found["label"], expected["name"]);
        let edge = |place: usize| expected["bbox"][place].as_f64().unwrap();
        let right = edge(0) + edge(2);
        assert!((found["points"][2].as_f64().unwrap() - right).abs() < 1e-3);
    }
}

/// A photo, copies of it in other formats, and others: the copies are chosen last, and a broken one is told.
#[test]
fn photos_are_ranked_with_near_copies_last() {
    let experiment = Experiment::new();
    experiment.train_to_find("run").expect_success();
    let photos = experiment.path("photos");
    fs_err::create_dir(&photos).unwrap();
    for name in [
        "val_00000",
        "val_00001",
        "val_00002",
        "train_00000",
        "train_00001",
    ] {
        let name = format!("{name}.png");
        let photo = experiment.path(&format!("data/images/{name}"));
        fs_err::copy(photo, format!("{photos}/{name}")).unwrap();
    }
    let photo = image::open(format!("{photos}/val_00000.png")).unwrap();
    for copy in ["copy_1.bmp", "copy_2.qoi"] {
        photo.to_rgb8().save(format!("{photos}/{copy}")).unwrap();
    }
    let [run_dir, json, labels] =
        ["run", "ranked.json", "next.json"].map(|name| experiment.path(name));
    let rank = ["dataset", "rank", "--run", &run_dir, &photos];
    let page = experiment.path("page");
    let all = run(&[&rank[..], &["--json", &json, "--page", &page]].concat()).expect_success();
    let page = String::from_utf8(experiment.bytes("page/index.html")).unwrap();
    assert!(page.contains("images/copy_1.bmp.jpg"));
    assert_eq!(
        fs_err::read_dir(experiment.path("page/images"))
            .unwrap()
            .count(),
        7
    );
    let ranked = experiment.json("ranked.json");
    let names: Vec<&str> = (ranked.as_array().unwrap().iter())
        .map(|it| it["file_name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 7);
    let is_same = |name: &&str| ["val_00000.png", "copy_1.bmp", "copy_2.qoi"].contains(name);
    assert!(names[5..].iter().all(is_same), "{names:?}");
    for it in &ranked.as_array().unwrap()[5..] {
        assert!(it["novelty"].as_f64().unwrap() < 1e-3, "{ranked}");
    }
    assert!(all.stdout.lines().count() == 8, "{all:#?}");

    fs_err::write(format!("{photos}/broken.png"), "no picture").unwrap();
    let two = ["--take", "2", "--to", "coco", "--labels", &labels];
    run(&[&rank[..], &two].concat()).expect_refusal(1, &["1 of 8 images", "broken.png"]);
    let chosen = experiment.json("next.json");
    let chosen: Vec<&str> = (chosen["images"].as_array().unwrap().iter())
        .map(|it| it["file_name"].as_str().unwrap())
        .collect();
    assert_eq!(chosen, names[..2]);
    run(&[&rank[..], &["--take", "0"]].concat()).expect_refusal(2, &["--take"]);
}

/// A label that stands twice is told whatever a detector has learned.
#[test]
fn wrong_labels_are_listed_by_detectors_that_did_not_learn_them() {
    let experiment = Experiment::new();
    experiment.train("run", &[]).expect_success();
    let mut labels = experiment.json("data/train.json");
    let mut doubled = labels["annotations"][0].clone();
    doubled["id"] = json!(1000);
    labels["annotations"]
        .as_array_mut()
        .unwrap()
        .push(doubled.clone());
    experiment.write("data/train.json", &labels.to_string());

    let [run_dir, out, json, to_correct] =
        ["run", "out", "errors.json", "correct.json"].map(|name| experiment.path(name));
    let errors = [
        "dataset", "errors", "--run", &run_dir, "--out", &out, "--json", &json,
    ];
    let own = run(&[&errors[..], &["--take", "3"]].concat()).expect_success();
    let listed = experiment.json("errors.json");
    let count = listed.as_array().unwrap().len();
    assert!((1..=3).contains(&count), "{listed}");
    let first = &listed[0];
    assert_eq!(first["kind"], "doubled", "{listed}");
    assert_eq!(first["image_id"], doubled["image_id"]);
    assert_eq!(first["bbox"], doubled["bbox"]);
    assert_eq!(own.stdout.lines().count(), count + 1, "{own:#?}");
    assert!(own.stdout.contains("labelled twice"), "{own:#?}");
    let page = experiment.path("out/page/index.html");
    for read in [
        &experiment.path("data/train.json"),
        &format!("{run_dir}/config.toml"),
        &page,
    ] {
        let onto = [
            "dataset", "errors", "--run", &run_dir, "--out", &out, "--json", read,
        ];
        let before = fs_err::read(read).unwrap();
        assert_eq!(run(&onto).code, Some(2), "{read}");
        assert_eq!(fs_err::read(read).unwrap(), before);
    }

    let labels = ["--to", "coco", "--labels", &to_correct];
    let folds = [&errors[..], &["--folds", "2", "--yes"], &labels].concat();
    let told = run(&folds).expect_success();
    assert!(told.stderr.contains("fold 2 of 2"), "{told:#?}");
    assert_eq!(experiment.json("errors.json")[0]["kind"], "doubled");
    // Each image was held out once, and learned by the other fold.
    let parts = [1, 2].map(|fold| {
        let ids = |half: &str| -> Vec<u64> {
            let file = experiment.json(&format!("out/folds/{fold}/{half}.json"));
            let images = file["images"].as_array().unwrap().iter();
            images.map(|image| image["id"].as_u64().unwrap()).collect()
        };
        [ids("train"), ids("val")]
    });
    assert_eq!(parts[0][0], parts[1][1]);
    assert_eq!(parts[0][1], parts[1][0]);
    assert_eq!(parts[0].iter().flatten().count(), 6);
    for fold in [1, 2] {
        let config = experiment.bytes(&format!("out/folds/{fold}/run/config.toml"));
        let config = String::from_utf8(config).unwrap();
        let learns = |line: &str| line.contains(&format!("folds/{fold}/train.json"));
        assert!(config.lines().any(learns), "{config}");
    }
    let page = String::from_utf8(experiment.bytes("out/page/index.html")).unwrap();
    assert!(page.contains("labelled twice"));
    let corrected = experiment.json("correct.json");
    assert!(!corrected["images"].as_array().unwrap().is_empty());

    // What is trained is not trained again, and of other labels it is not taken.
    let again = run(&folds).expect_success();
    assert!(!again.stderr.contains("fold "), "{again:#?}");
    assert_eq!(again.stdout, told.stdout);
    let longer = [&folds[..], &["--set", "train.iterations=8"]].concat();
    run(&longer).expect_refusal(2, &["other settings"]);
    let mut fewer = experiment.json("data/train.json");
    fewer["annotations"].as_array_mut().unwrap().pop();
    experiment.write("data/train.json", &fewer.to_string());
    run(&folds).expect_refusal(2, &["other labels", "--out"]);
    let many = [&errors[..], &["--folds", "7"]].concat();
    run(&many).expect_refusal(2, &["7 of 6 images"]);
    let refused = [&errors[..], &["--folds", "1"]].concat();
    run(&refused).expect_refusal(2, &["--folds", "from 2"]);
    let nowhere = ["dataset", "errors", "--run", "nowhere"];
    run(&nowhere).expect_refusal(2, &["nowhere"]);
}
