use std::path::Path;

use anyhow::anyhow;
use retinanet_service::PAGE;
use retinanet_web::FILES;
use serde_json::json;

use super::{counted_score, LoadedModel};
use crate::args::ExportArguments;
use crate::console;
use crate::failure::Failure;

/// The detector's file, as the page's worker asks for it.
const DETECTOR: &str = "detector.safetensors";

/// A page may ask nobody but its own server, so that no photo leaves the browser.
const POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; worker-src 'self'; \
                      style-src 'unsafe-inline'; img-src blob: data:; media-src blob:; connect-src 'self'";

/// Writes a page that runs the detector in the reader's browser.
pub(crate) fn run(model: &LoadedModel, arguments: &ExportArguments) -> Result<(), Failure> {
    let folder = &arguments.out;
    refuse_what_is_there(folder)?;
    let LoadedModel {
        detector, config, ..
    } = model;
    let config = config.detector()?;
    let detector_file = folder.join(DETECTOR);
    let weights = detector
        .to_bytes(&config, arguments.half, &detector_file)
        .map_err(Failure::work)?;
    let classes = detector.classes().iter().map(|(_, class)| class);
    let about = json!({
        "model": super::model_name(&arguments.model),
        "classes": classes.collect::<Vec<_>>(),
        "details": { "version": env!("CARGO_PKG_VERSION") },
        "score": counted_score(None, model.best_score),
    });

    let (about, page) = (about.to_string(), page());
    let made = [
        (DETECTOR, &*weights),
        ("about.json", about.as_bytes()),
        ("index.html", page.as_bytes()),
    ];
    let mut bytes = 0;
    for (name, content) in FILES.into_iter().chain(made) {
        super::write_over(&folder.join(name), content)?;
        bytes += content.len();
    }
    let shown = folder.display();
    console::result(&format!(
        "wrote a page to {shown}, {:.1} MB in all\nnext:\n  python3 -m http.server --directory {shown}",
        bytes as f64 / 1e6
    ));
    Ok(())
}

/// The service's page, with the detector in place of the service.
fn page() -> String {
    let policy = format!("<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">");
    PAGE.replacen(
        "<meta charset=\"utf-8\">",
        &format!("<meta charset=\"utf-8\">\n{policy}"),
        1,
    )
    .replacen(
        "<script>",
        "<script src=\"detector.js\"></script>\n<script>",
        1,
    )
}

/// A page takes the place of an older one, and of nothing else.
fn refuse_what_is_there(folder: &Path) -> Result<(), Failure> {
    let is_stdout = folder.as_os_str() == "-";
    if is_stdout || (folder.exists() && !folder.is_dir()) {
        return Err(Failure::usage(anyhow!(
            "--out `{}` must be a folder for a page",
            folder.display()
        )));
    }
    let Ok(entries) = fs_err::read_dir(folder) else {
        return Ok(());
    };
    let ours = |name: &str| {
        let made = [DETECTOR, "about.json", "index.html"];
        // What a killed export was writing.
        let is_left_over = name.starts_with(".retinanet-");
        is_left_over || made.contains(&name) || FILES.iter().any(|(file, _)| *file == name)
    };
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    match names.find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => Err(Failure::usage(anyhow!(
            "--out `{}` is not empty: `{name}` is no part of a page; give a new folder",
            folder.display()
        ))),
    }
}
