//! [`Remote`]: the streams of a remote command, whatever protocol carries them; and the status that ends them.

use crate::answer::Refusal;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The client is gone, or does not want this stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the client is gone")]
pub(crate) struct Gone;

/// Where output goes.
pub(crate) enum Output {
    /// A stream of its own.
    Spdy(super::spdy::StreamWriter),
    /// A channel of a WebSocket.
    WebSocket(super::websocket::Channel),
}

impl Output {
    pub(crate) async fn write(&self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Output::Spdy(stream) => stream.write(bytes).await,
            Output::WebSocket(channel) => channel.write(bytes).await,
        }
    }

    /// No more follows. WebSocket channels have no end of their own.
    pub(crate) async fn finish(&self) -> Result<(), Gone> {
        match self {
            Output::Spdy(stream) => stream.finish().await,
            Output::WebSocket(_) => Ok(()),
        }
    }

    /// Nothing more can follow. WebSocket channels have no such thing.
    pub(crate) async fn reset(&self) -> Result<(), Gone> {
        match self {
            Output::Spdy(stream) => stream.reset().await,
            Output::WebSocket(_) => Ok(()),
        }
    }

    /// Waits until nobody takes what is written.
    pub(crate) async fn gone(&self) {
        match self {
            Output::Spdy(stream) => stream.gone().await,
            Output::WebSocket(channel) => channel.gone().await,
        }
    }
}

/// Streams of a remote command as its client has opened them.
pub(crate) struct Remote {
    /// Ends when the client ends it.
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(crate) stdout: Option<Output>,
    pub(crate) stderr: Option<Output>,
    /// JSON objects `{"Width":…,"Height":…}` one after the other.
    pub(crate) resize: Option<mpsc::Receiver<Bytes>>,
    /// Takes the status.
    pub(crate) error: Output,
    /// From protocol version 4 on the status is JSON; before, it is text, and empty if all is well.
    pub(crate) json_status: bool,
    /// The client is gone.
    pub(crate) gone: CancellationToken,
    /// Says goodbye.
    pub(crate) close: BoxFuture<'static, ()>,
}

/// What the client asked for (`remotecommand.NewOptions`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// To write.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Wanted {
    /// From the query. Both the kubelet's names and the API's are understood.
    pub fn parse(query: &[(String, String)]) -> Result<Self, Refusal> {
        let on = |names: [&str; 2]| {
            let value = query.iter().find(|(n, _)| names.contains(&n.as_str())).map(|(_, v)| v.as_str());
            matches!(value, Some("1" | "true"))
        };
        let tty = on(["tty", "tty"]);
        // A terminal has one output only.
        let stderr = on(["error", "stderr"]) && !tty;
        let wanted = Wanted { stdin: on(["input", "stdin"]), stdout: on(["output", "stdout"]), stderr, tty };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            let text = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(Refusal::new(400, text));
        }
        Ok(wanted)
    }
}

/// How a remote command ended (`cri-streaming/pkg/streaming/remotecommand/status.go`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    Success,
    /// The command ended with another code than 0.
    Exit {
        command: Vec<String>,
        code: i32,
    },
    /// There was no command, or it was lost.
    Failed(String),
}

impl Ended {
    pub(crate) fn failed(what: &str, error: &dyn std::fmt::Display) -> Self {
        Ended::Failed(format!("{what}: {error}"))
    }

    fn message(&self) -> String {
        match self {
            Ended::Success => String::new(),
            Ended::Exit { command, code } => format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            Ended::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }

    /// What the error stream gets.
    pub(crate) fn encode(&self, as_json: bool) -> Bytes {
        if !as_json {
            return self.message().into();
        }
        let value = match self {
            Ended::Success => json!({"metadata": {}, "status": "Success"}),
            Ended::Exit { code, .. } => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Ended::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "InternalError",
                "code": 500,
            }),
        };
        value.to_string().into()
    }
}

/// Takes terminal sizes out of a stream of JSON.
#[derive(Debug, Default)]
pub(crate) struct Sizes {
    rest: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Size {
    #[serde(alias = "width")]
    width: u16,
    #[serde(alias = "height")]
    height: u16,
}

impl Sizes {
    /// The newest size in what has arrived, as columns and rows; `Err`: no JSON.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<(u16, u16)>, serde_json::Error> {
        self.rest.extend_from_slice(bytes);
        let mut values = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Size>();
        let (mut newest, mut used) = (None, 0);
        loop {
            match values.next() {
                Some(Ok(size)) => {
                    newest = Some((size.width, size.height));
                    used = values.byte_offset();
                }
                Some(Err(error)) if error.is_eof() && self.rest.len() < 1024 => break,
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        self.rest.drain(..used);
        Ok(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_any_pieces() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(b"{\"Width\":80,").ok(), Some(None));
        assert_eq!(sizes.push(b"\"Height\":24}\n{\"Width\":81,\"Height\":25}{").ok(), Some(Some((81, 25))));
        assert_eq!(sizes.push(b"}").ok(), Some(Some((0, 0))));
        assert!(sizes.push(b"nonsense").is_err());
    }

    #[test]
    fn statuses() {
        let text = |ended: Ended| String::from_utf8(ended.encode(true).to_vec()).expect("JSON");
        expect_test::expect![[r#"{"metadata":{},"status":"Success"}"#]].assert_eq(&text(Ended::Success));
        let exit = Ended::Exit { command: vec!["sh".into(), "-c".into(), "exit 3".into()], code: 3 };
        expect_test::expect![[r#"{"details":{"causes":[{"message":"3","reason":"ExitCode"}]},"message":"command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3","metadata":{},"reason":"NonZeroExitCode","status":"Failure"}"#]].assert_eq(&text(exit.clone()));
        assert!(exit.encode(false).starts_with(b"command terminated"));
        assert!(Ended::Success.encode(false).is_empty());
    }
}
