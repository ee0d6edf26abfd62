//! `dhow image …`: through the running dhow, or directly if none runs.

use super::{CommandError, require_root, say};
use crate::cli::{Image, ImageCommand};
use crate::control::{self, Reply, Request};
use crate::images::{self, ImageRequest};
use crate::process::Instance;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::BTreeMap;

/// Does the command and prints what came out.
pub(crate) fn run(image: Image) -> Result<(), CommandError> {
    require_root()?;
    let config = image.settings.resolve()?;
    let show: fn(&Value) = match &image.command {
        ImageCommand::Ls => list,
        ImageCommand::Inspect { .. } => |v| say(serde_json::to_string_pretty(v).unwrap_or_default()),
        ImageCommand::Rm { .. } | ImageCommand::Prune => removed,
        ImageCommand::Push { .. } => |v| say(format_args!("Pushed {}.", v["pushed"].as_str().unwrap_or_default())),
        ImageCommand::Export { .. } => |v| say(format_args!("Wrote {}.", v["written"].as_str().unwrap_or_default())),
        ImageCommand::Pull { .. } | ImageCommand::Import { .. } | ImageCommand::Tag { .. } => named,
    };
    let request = ImageRequest::of(image.command)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value = runtime.block_on(async {
        let mut bars = Bars::default();
        if Instance::find(&config.run_dir).is_some() {
            return Ok(control::ask(&config.run_dir, &Request::Image(request), |reply| bars.show(&reply)).await?);
        }
        let store = images::open(&config.data_dir, &config.registries)?;
        let (sender, mut replies) = tokio::sync::mpsc::unbounded_channel();
        let show = async {
            while let Some(reply) = replies.recv().await {
                bars.show(&reply);
            }
        };
        let (result, ()) = tokio::join!(images::run(&store, request, sender), show);
        Ok::<Value, CommandError>(result?)
    })?;
    show(&value);
    Ok(())
}

/// A bar per layer; drawn only on a terminal.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    by_layer: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, reply: &Reply) {
        let Reply::Progress { layer, state, done, total } = reply else { return };
        let bar = self.by_layer.entry(layer.clone()).or_insert_with(|| {
            let bar = self.all.add(ProgressBar::new(0));
            let style = ProgressStyle::with_template("{prefix} {msg:12} {wide_bar} {bytes:>10}/{total_bytes:10}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(layer.clone());
            bar
        });
        bar.set_message(state.clone());
        if *total > 0 {
            bar.set_length(*total);
        }
        if *done > 0 {
            bar.set_position(*done);
        }
        if ["ready", "exists", "uploaded"].contains(&state.as_str()) {
            bar.finish();
        }
    }
}

fn short(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    &hex[..hex.len().min(12)]
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn list(value: &Value) {
    let mut rows = vec![["IMAGE", "ID", "SIZE", "STORED"].map(str::to_owned)];
    for image in value.as_array().into_iter().flatten() {
        let names = strings(&image["names"]);
        let names = if names.is_empty() { strings(&image["digests"]) } else { names };
        for name in if names.is_empty() { vec!["<none>"] } else { names } {
            let text = |key: &str| image[key].as_str().unwrap_or_default().to_owned();
            let size = HumanBytes(image["size"].as_u64().unwrap_or(0)).to_string();
            rows.push([name.to_owned(), short(&text("id")).to_owned(), size, text("stored")]);
        }
    }
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let (image, id, size) = (width(0), width(1), width(2));
    for row in &rows {
        say(format_args!("{:image$}  {:id$}  {:size$}  {}", row[0], row[1], row[2], row[3]));
    }
}

fn named(value: &Value) {
    let one = std::slice::from_ref(value);
    for image in value.as_array().map_or(one, Vec::as_slice) {
        let names = strings(&image["names"]).join(", ");
        say(format_args!("{} {}", short(image["id"].as_str().unwrap_or_default()), names));
    }
}

fn removed(value: &Value) {
    for name in strings(&value["removed"]) {
        say(format_args!("Removed {name}"));
    }
    say(format_args!("Freed {}.", HumanBytes(value["bytes"].as_u64().unwrap_or(0))));
}
