//! Before training on a GPU: whether it computes what the CPU does, and the memory of that.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::anyhow;
use burn::tensor::Device;
use retinanet_experiment::Observer;
use retinanet_trainer::{Checked, DeviceCheck, TOLERANCE};
use xxhash_rust::xxh3::xxh3_64;

use crate::device;
use crate::failure::Failure;

/// Compares a device with the CPU, in the short form, unless it passed before: the same adapter with
/// the same driver, this very program, and the same shapes.
pub(crate) fn require(
    check: &DeviceCheck,
    device: &Device,
    name: &str,
    observer: &mut dyn Observer,
) -> Result<(), Failure> {
    if device::is_flex(device) {
        return Ok(());
    }
    let check = check.clone().short();
    let adapter = device::describe(device);
    let pass = pass_file(&check, &adapter);
    if pass.as_deref().is_some_and(Path::is_file) {
        observer.message("the first step takes longer than the others: it compiles kernels");
        return Ok(());
    }
    observer.message(&format!(
        "compiling kernels for {adapter} and comparing what they compute with the CPU: some minutes, once"
    ));
    let checked = check.run(device, 1, observer)?;
    refuse_wrong(&checked, name)?;
    if let Some(pass) = pass {
        if let Err(error) = remember(&pass, &adapter) {
            observer.message(&format!("it will be compared again next time: {error}"));
        }
    }
    Ok(())
}

/// An error that names what a device computes wrong.
pub(crate) fn refuse_wrong(checked: &[Checked], name: &str) -> Result<(), Failure> {
    let wrong: Vec<_> = checked
        .iter()
        .filter(|checked| checked.is_wrong())
        .collect();
    let Some(first) = wrong.first() else {
        return Ok(());
    };
    let (part, off) = first.deviation.worst();
    let others = match wrong.len() {
        1 => String::new(),
        count => format!(", and {} more of {}", count - 1, checked.len()),
    };
    Err(Failure::work(anyhow!(
        "`{name}` computes wrong numbers: the {part} of `{}` is off by {off:.1e} of its norm, where \
         {TOLERANCE:.0e} is allowed{others}; `retinanet device check` tells all, `--device flex` \
         computes on the CPU, and `--trust-device` trains all the same",
        first.what
    )))
}

fn remember(pass: &Path, adapter: &str) -> anyhow::Result<()> {
    if let Some(folder) = pass.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(pass, format!("{adapter}\n"))?;
    Ok(())
}

/// The file that stands for a pass; none if there is no place for it.
fn pass_file(check: &DeviceCheck, adapter: &str) -> Option<PathBuf> {
    let program = std::env::current_exe()
        .and_then(|path| path.metadata())
        .ok()?;
    let built = program.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let key = format!(
        "{adapter} {} {} {} {} {:?}",
        env!("CARGO_PKG_VERSION"),
        program.len(),
        built.as_nanos(),
        check.fingerprint(),
        device::broken_kernel(),
    );
    Some(cache_folder()?.join(format!("{:016x}", xxh3_64(key.as_bytes()))))
}

/// Where programs of this system keep what can be made again.
fn cache_folder() -> Option<PathBuf> {
    let from = |variable: &str| {
        let folder = std::env::var_os(variable).filter(|folder| !folder.is_empty())?;
        Some(PathBuf::from(folder))
    };
    let base = from("XDG_CACHE_HOME")
        .or_else(|| from("LOCALAPPDATA"))
        .or_else(|| Some(from("HOME")?.join(".cache")))?;
    Some(base.join("retinanet").join("devices"))
}
