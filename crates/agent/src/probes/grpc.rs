//! `grpc.health.v1.Health/Check` over plain HTTP/2 (`pkg/probe/grpc`). The two messages have one field each, so they are
//! written and read by hand.

use super::{Outcome, connect, join};
use crate::pod::plan::go_duration;
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::IpAddr;
use std::time::Duration;

/// Asks the service's health.
pub(super) async fn check(ip: IpAddr, port: u16, service: &str, timeout: Duration) -> Outcome {
    let address = join(&ip.to_string(), port);
    let late = |what: &str| {
        Outcome::Failure(format!(
            "timeout: {what} \"{address}\" within {}: context deadline exceeded",
            go_duration(timeout)
        ))
    };
    match tokio::time::timeout(timeout, call(ip, port, &address, service)).await {
        // Upstream's client dials until the time is over, so a refusal reads like a timeout.
        Err(_) | Ok(Err(CallError::Connect)) => late("failed to connect service"),
        Ok(Err(CallError::Rpc { code: 12, message })) => Outcome::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        Ok(Err(CallError::Rpc { code, message })) => Outcome::Failure(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {message}",
            code_name(code)
        )),
        Ok(Ok(1)) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("service unhealthy (responded with \"{}\")", status_name(status))),
    }
}

enum CallError {
    Connect,
    Rpc { code: u32, message: String },
}

fn internal(e: impl std::fmt::Display) -> CallError {
    CallError::Rpc { code: 13, message: e.to_string() }
}

async fn call(ip: IpAddr, port: u16, address: &str, service: &str) -> Result<u64, CallError> {
    let stream = connect(&ip.to_string(), port).await.map_err(|_| CallError::Connect)?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|_| CallError::Connect)?;
    let connection = base::tasks::spawn("grpc probe", connection);
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36 grpc-go/1.72")
        .body(Full::new(frame(&encode(service))))
        .map_err(internal)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(internal)?;
        if let Some(status) = grpc_status(response.headers()) {
            status?;
        }
        if response.status() != http::StatusCode::OK {
            let code = if response.status() == http::StatusCode::NOT_FOUND { 12 } else { 2 };
            let message = format!("unexpected HTTP status code received from server: {}", response.status());
            return Err(CallError::Rpc { code, message });
        }
        let body = Limited::new(response.into_body(), super::OUTPUT_MAX_BYTES).collect().await.map_err(internal)?;
        if let Some(status) = body.trailers().and_then(grpc_status) {
            status?;
        }
        decode(&body.to_bytes()).ok_or_else(|| internal("malformed answer"))
    };
    let answer = answer.await;
    connection.abort();
    answer
}

/// `grpc-status`, if it is there: fine or an error.
fn grpc_status(headers: &http::HeaderMap) -> Option<Result<(), CallError>> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let code = text("grpc-status")?.parse().unwrap_or(2);
    let message = text("grpc-message").unwrap_or_default().to_owned();
    Some(if code == 0 { Ok(()) } else { Err(CallError::Rpc { code, message }) })
}

/// `HealthCheckRequest { string service = 1 }`.
fn encode(service: &str) -> Vec<u8> {
    let mut out = Vec::new();
    if !service.is_empty() {
        out.push(0x0a);
        let mut len = service.len();
        while len >= 0x80 {
            out.push((len as u8 & 0x7f) | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(service.as_bytes());
    }
    out
}

fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(5 + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// `HealthCheckResponse { ServingStatus status = 1 }`; other fields are skipped, absence is UNKNOWN (0).
fn decode(body: &[u8]) -> Option<u64> {
    let mut rest = body.get(5..)?;
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => {
                let value = varint(&mut rest)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let len = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(len..)?;
            }
            5 => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn status_name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".into(),
        1 => "SERVING".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

fn code_name(code: u32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    usize::try_from(code).ok().and_then(|c| NAMES.get(c)).copied().unwrap_or("Unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(encode(""), Vec::<u8>::new());
        assert_eq!(encode("ab"), [0x0a, 2, b'a', b'b']);
        assert_eq!(&frame(&encode("ab"))[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(decode(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(decode(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(decode(&[0, 0, 0, 0, 6, 0x12, 2, 1, 1, 8, 2]), Some(2));
        assert_eq!(decode(&[0, 0]), None);
        assert_eq!(decode(&[0, 0, 0, 0, 1, 8]), None);
    }
}
