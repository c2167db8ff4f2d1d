use anyhow::{anyhow, Context};
use clap::ValueEnum;
use retinanet_benchmark::{Benchmark, BenchmarkError, BenchmarkOptions, ImageSize, Measurement};
use retinanet_detector::{ModelConfig, Precision};
use retinanet_experiment::{load_config, ComputeConfig, DataConfig, ExperimentConfig, SplitConfig};
use retinanet_trainer::peak_memory;
use serde::de::value::Error as NameError;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::Serialize;

use crate::args::{BenchArguments, Workload};
use crate::console;
use crate::device;
use crate::failure::Failure;
use crate::machine::Machine;

/// All that `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    machine: Machine,
    device: &'a str,
    threads: usize,
    results: Vec<Measurement>,
    peak_rss_mib: Option<f64>,
}

pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let config = config(arguments)?;
    let only = match (arguments.mlperf, &arguments.only[..]) {
        (true, []) => &[Workload::Step, Workload::Inference],
        (_, only) => only,
    };
    let data = data(arguments)?;
    let workloads = chosen(only, data.is_some())?;
    super::set_threads(arguments.threads);
    let device = device::open(&arguments.device).map_err(Failure::usage)?;
    let precision: Precision = named("--precision", &arguments.precision)?;
    if !precision.is_on(&device) {
        return Err(Failure::usage(anyhow!(
            "`--precision {precision}`: `{}` does not compute with such floats",
            arguments.device
        )));
    }
    let bench = Benchmark::new(options(arguments, config, precision), &device)?;

    let bar = console::work_bar("measuring", workloads.len());
    let mut results = Vec::new();
    for workload in workloads {
        results.extend(measure(&bench, workload, data.as_ref())?);
        bar.inc(1);
    }
    bar.finish_and_clear();

    let (machine, threads) = (Machine::here(), rayon::current_num_threads());
    let cores = threads.min(machine.cores);
    let on_cpu = !bench.is_on_gpu();
    let results = results.into_iter().map(|measured| {
        if on_cpu {
            measured.with_cores(cores)
        } else {
            measured
        }
    });
    let report = Report {
        machine,
        device: &arguments.device,
        threads,
        results: results.collect(),
        peak_rss_mib: peak_memory().map(|bytes| bytes as f64 / f64::from(1 << 20)),
    };
    if arguments.json {
        let text = serde_json::to_string(&report)
            .context("cannot write the measurements")
            .map_err(Failure::work)?;
        console::result(&text);
    } else {
        console::result(&table(&report));
        if arguments.mlperf {
            console::result(&mlperf_lines(&report));
        }
    }
    Ok(())
}

/// What is measured: a config's network and loss, or the paper's with a few settings.
fn config(arguments: &BenchArguments) -> Result<ExperimentConfig, Failure> {
    if let Some(path) = &arguments.config {
        return Ok(load_config(path, &[])?);
    }
    if arguments.mlperf {
        return Ok(ExperimentConfig {
            model: ModelConfig {
                backbone: named("--mlperf", "resnext50_32x4d")?,
                p6_from: named("--mlperf", "p5")?,
                ..ModelConfig::default()
            },
            ..ExperimentConfig::default()
        });
    }
    let model = ModelConfig {
        backbone: named("--backbone", &arguments.backbone)?,
        norm: named("--norm", &arguments.norm)?,
        freeze_at: arguments.freeze_at,
        ..ModelConfig::default()
    };
    Ok(ExperimentConfig {
        model,
        compute: ComputeConfig {
            gradient_checkpointing: arguments.gradient_checkpointing,
            ..ComputeConfig::default()
        },
        ..ExperimentConfig::default()
    })
}

fn options(
    arguments: &BenchArguments,
    config: ExperimentConfig,
    precision: Precision,
) -> BenchmarkOptions {
    let of_config = arguments.config.as_ref().and_then(|path| path.file_stem());
    let of_config = of_config.map(|name| name.to_string_lossy().into_owned());
    let (size, classes) = if arguments.mlperf {
        (MLPERF_SIZE, MLPERF_CLASSES)
    } else {
        (arguments.size, arguments.classes)
    };
    let of_config = of_config.or_else(|| arguments.mlperf.then(|| "MLPerf".to_owned()));
    BenchmarkOptions {
        config,
        precision,
        name: of_config.unwrap_or_else(|| arguments.backbone.clone()),
        objects: arguments.objects,
        size,
        classes,
        batch: arguments.batch,
        repeats: arguments.repeats,
        warmup: arguments.warmup,
        seed: arguments.seed,
    }
}

fn measure(
    bench: &Benchmark<'_>,
    workload: Workload,
    data: Option<&DataConfig>,
) -> Result<Vec<Measurement>, BenchmarkError> {
    Ok(match workload {
        Workload::Convolution => bench.convolutions()?,
        Workload::Layers => bench.layers()?,
        Workload::Step => vec![bench.step()?],
        Workload::Inference => vec![bench.inference()?],
        Workload::Int8 => vec![bench.quantized()?],
        Workload::Loader => (data.map(|data| bench.loader(data)).transpose()?)
            .into_iter()
            .collect(),
        Workload::Matcher => vec![bench.matcher()?],
        Workload::Decode => vec![bench.decode()?],
    })
}

/// The setting of this name, so that the option takes what the config takes.
fn named<T: DeserializeOwned>(option: &str, name: &str) -> Result<T, Failure> {
    T::deserialize(name.into_deserializer())
        .map_err(|error: NameError| Failure::usage(anyhow!("{option}: {error}")))
}

/// What the loader shall load.
fn data(arguments: &BenchArguments) -> Result<Option<DataConfig>, Failure> {
    let mut data = match arguments {
        BenchArguments {
            data: Some(config), ..
        } => Some(load_config(config, &[])?.data),
        BenchArguments {
            annotations: Some(annotations),
            images: Some(images),
            ..
        } => Some(DataConfig {
            train: SplitConfig {
                annotations: annotations.clone(),
                images: images.clone(),
            },
            ..DataConfig::default()
        }),
        _ => None,
    };
    if let (Some(data), Some(workers)) = (&mut data, arguments.workers) {
        data.loader.workers = workers;
    }
    Ok(data)
}

/// What MLPerf trains on and measures: its subset of Open Images.
const MLPERF_CLASSES: usize = 264;
const MLPERF_SIZE: ImageSize = ImageSize {
    height: 800,
    width: 800,
};

/// The rates and latencies that MLPerf compares: samples in a second for training and its scenario Offline, the 90th
/// percentile for SingleStream.
fn mlperf_lines(report: &Report<'_>) -> String {
    let lines = report.results.iter().filter_map(|measured| {
        let rate = measured.images_per_s?;
        let of_core = measured.images_per_s_and_core;
        let of_core = of_core.map_or_else(String::new, |rate| format!(", {rate:.3} a core"));
        Some(match measured.name {
            "step" => format!("MLPerf Training: {rate:.3} samples/s{of_core}"),
            name => format!(
                "MLPerf Inference{}: Offline {rate:.3} samples/s{of_core}; SingleStream {:.1} ms (90th percentile), \
                 99th {:.1} ms",
                if name == "int8" { " in int8" } else { "" },
                1e3 * measured.p90_s,
                1e3 * measured.p99_s
            ),
        })
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// What to measure, each once and in one order.
fn chosen(only: &[Workload], has_data: bool) -> Result<Vec<Workload>, Failure> {
    if only.contains(&Workload::Loader) && !has_data {
        return Err(Failure::usage(anyhow!(
            "the loader needs --data CONFIG, or --annotations FILE and --images DIR"
        )));
    }
    Ok(Workload::value_variants()
        .iter()
        .copied()
        .filter(|workload| only.is_empty() || only.contains(workload))
        .filter(|it| !matches!(it, Workload::Layers | Workload::Int8) || !only.is_empty())
        .filter(|workload| *workload != Workload::Loader || has_data)
        .collect())
}

fn table(report: &Report<'_>) -> String {
    let header = ["what", "", "median", "min", "max", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(header)
        .chain(report.results.iter().map(row))
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths = [0, 1, 2, 3, 4, 5].map(width);
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let [name, what, median, min, max, rate] = row;
            let [w0, w1, w2, w3, w4, w5] = widths;
            let line = format!(
                "{name:w0$}  {what:w1$}  {median:>w2$}  {min:>w3$}  {max:>w4$}  {rate:>w5$}"
            );
            line.trim_end().to_owned()
        })
        .collect();
    lines.extend(report.results.iter().filter_map(device_line));
    if let Some(peak) = report.peak_rss_mib {
        lines.push(format!("at most {peak:.0} MiB of memory"));
    }
    lines.join("\n")
}

fn row(measurement: &Measurement) -> [String; 6] {
    let milliseconds = |seconds: f64| format!("{:.2} ms", 1e3 * seconds);
    let gflops = (measurement.gflops).map(|gflops| format!("{gflops:.1} GFLOP/s"));
    let images = measurement.images_per_s;
    let images = images.map(|images| format!("{images:.2} images/s"));
    let roof = (measurement.least_s)
        .map(|least| format!("{:.0} % of the roof", 100.0 * least / measurement.median_s));
    let rate = [gflops.or(images), roof];
    let rate = rate.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let times = measurement
        .times
        .map_or_else(String::new, |times| format!("{times} × "));
    [
        measurement.name.to_owned(),
        times + &measurement.what,
        milliseconds(measurement.median_s),
        milliseconds(measurement.min_s),
        milliseconds(measurement.max_s),
        rate,
    ]
}

/// What a GPU was asked to do; nothing on the CPU.
fn device_line(measurement: &Measurement) -> Option<String> {
    let work = measurement.device.as_ref()?;
    Some(format!(
        "{} {}: {:.0} dispatches, {:.1} reads by the host, {:.2} MB down, {:.2} MB up, \
         {:.0} MiB of device memory",
        measurement.name,
        measurement.what,
        work.dispatches,
        work.host_reads,
        work.bytes_down / 1e6,
        work.bytes_up / 1e6,
        work.memory_bytes as f64 / f64::from(1 << 20),
    ))
}
