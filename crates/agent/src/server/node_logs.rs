//! `/logs/…`: files of the node's log directory, and lists of them, as Go's file server shows them; logs of services among them.

use super::log_query;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::path::Path;
use streaming::answer::{Body, Refusal, of_type};
use tokio_util::io::ReaderStream;

/// The file or the list at `path` below `dir`; no link leads out of it.
pub(super) async fn answer(dir: &Path, path: &str) -> Result<Response<Body>, Refusal> {
    let missing = || Refusal::new(404, "404 page not found\n");
    let file = open(dir, path).map_err(|_| missing())?;
    let meta = file.metadata().map_err(|_| missing())?;
    if meta.is_dir() {
        let list = list(&dir.join(path)).map_err(|e| Refusal::new(500, format!("error listing directory: {e}")))?;
        return Ok(of_type(200, "text/html; charset=utf-8", list));
    }
    Ok(plain(stream(file)))
}

/// The logs of services, one after the other; of one that has none, a line that says so.
pub(super) async fn of_services(dir: &Path, services: &[String]) -> Result<Response<Body>, Refusal> {
    let mut pieces = Vec::new();
    for service in services {
        let file = log_query::places(service).iter().find_map(|place| open(dir, place).ok().filter(is_file));
        pieces.push(match file {
            Some(file) => stream(file),
            None => {
                let line = Frame::data(Bytes::from(format!("\nlog not found for {service}\n")));
                futures_util::stream::iter([Ok(line)]).boxed()
            }
        });
    }
    Ok(plain(futures_util::stream::iter(pieces).flatten().boxed()))
}

fn is_file(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.is_file())
}

type Frames = BoxStream<'static, Result<Frame<Bytes>, streaming::answer::BoxError>>;

fn stream(file: File) -> Frames {
    let stream = ReaderStream::new(tokio::fs::File::from_std(file));
    stream.map(|piece: std::io::Result<Bytes>| piece.map(Frame::data).map_err(Into::into)).boxed()
}

fn plain(frames: Frames) -> Response<Body> {
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn open(dir: &Path, path: &str) -> std::io::Result<File> {
    let root = File::open(dir)?;
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(File::from(openat2(root, path, flags, Mode::empty(), resolve)?))
}

fn list(dir: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let escape = |t: &str| t.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
    let line = |name: &String| format!("<a href=\"{0}\">{0}</a>\n", escape(name));
    Ok(format!("<pre>\n{}</pre>\n", names.iter().map(line).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(dir: &Path, path: &str, want: &str) {
        let got = match answer(dir, path).await {
            Ok(response) => {
                let body = response.into_body().collect().await.expect("readable").to_bytes();
                String::from_utf8_lossy(&body).into_owned()
            }
            Err(refusal) => format!("{}", refusal.code),
        };
        assert_eq!(got, want, "{path}");
    }

    #[tokio::test]
    async fn files_and_lists_but_nothing_outside() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("pods")).expect("made");
        std::fs::write(dir.path().join("dhow.log"), "line\n").expect("written");
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("pods/out")).expect("linked");
        let root = dir.path();
        check(root, "", "<pre>\n<a href=\"dhow.log\">dhow.log</a>\n<a href=\"pods/\">pods/</a>\n</pre>\n").await;
        check(root, "dhow.log", "line\n").await;
        check(root, "pods/out", "404").await;
        check(root, "../x", "404").await;
        let services = ["kubelet".to_owned(), "pods".to_owned()];
        let body = of_services(root, &services).await.unwrap_or_else(Refusal::response).into_body();
        let body = body.collect().await.expect("readable").to_bytes();
        assert_eq!(String::from_utf8_lossy(&body), "line\n\nlog not found for pods\n");
    }
}
