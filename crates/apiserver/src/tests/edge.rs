//! Connections of clients that are slow, greedy or rude, byte by byte; time is paused.

use super::*;
use crate::server::Connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A client's end of a connection.
async fn connect() -> DuplexStream {
    connect_as(false).await
}

async fn connect_as(is_http2: bool) -> DuplexStream {
    let server = Fixture::new().await.server;
    let (client, stream) = tokio::io::duplex(16 << 20);
    let address = "127.0.0.1:1".parse().expect("an address");
    let connection = Connection { server, shutdown: CancellationToken::new(), address };
    let peer = Peer::local(UserInfo::new("admin", &[MASTERS]));
    base::tasks::detach("test-connection", connection.converse(stream, is_http2, peer, None));
    client
}

/// All that comes until the server hangs up, as text, and after how many seconds.
async fn rest(client: &mut DuplexStream) -> (String, u64) {
    let begun = Instant::now();
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).await.expect("memory");
    (String::from_utf8_lossy(&bytes).into_owned(), begun.elapsed().as_secs())
}

fn first_line(answer: &str) -> &str {
    answer.lines().next().unwrap_or_default()
}

// === HTTP/1.1 ===

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let mut client = connect().await;
    client.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.expect("memory");
    let (answer, seconds) = rest(&mut client).await;
    assert_eq!((answer.as_str(), seconds), ("", 32));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_ends_its_request() {
    let mut client = connect().await;
    let head =
        "POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    client.write_all(head.as_bytes()).await.expect("memory");
    let (answer, seconds) = rest(&mut client).await;
    assert_eq!((first_line(&answer), seconds), ("HTTP/1.1 504 Gateway Timeout", 60));
}

#[tokio::test(start_paused = true)]
async fn a_body_without_end_is_cut() {
    let mut client = connect().await;
    let head = "POST /api/v1/namespaces HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.write_all(head.as_bytes()).await.expect("memory");
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    for _ in 0..8 {
        client.write_all(chunk.as_bytes()).await.expect("memory");
    }
    let (answer, _) = rest(&mut client).await;
    assert_eq!(first_line(&answer), "HTTP/1.1 413 Payload Too Large");
}

#[tokio::test(start_paused = true)]
async fn a_head_may_be_long_but_not_endless() {
    for (length, expected) in
        [(900 << 10, "HTTP/1.1 200 OK"), (2 << 20, "HTTP/1.1 431 Request Header Fields Too Large")]
    {
        let mut client = connect().await;
        let head =
            format!("GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Long: {}\r\n\r\n", "x".repeat(length));
        client.write_all(head.as_bytes()).await.expect("memory");
        let (answer, _) = rest(&mut client).await;
        assert_eq!(first_line(&answer), expected, "{length} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_said_all_and_hung_up_half_is_forgotten_or_answered() {
    let mut client = connect().await;
    client.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("memory");
    client.shutdown().await.expect("memory");
    let (answer, seconds) = rest(&mut client).await;
    assert_eq!(seconds, 0);
    assert!(["", "HTTP/1.1 200 OK"].contains(&first_line(&answer)), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_http_is_refused_at_once() {
    for garbage in [
        "\x16\x03\x01\x02\0\x01",
        "GET / HTTP/9.9\r\n\r\n",
        "\0\0\0\0\0\0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nxxxxxxxxxxxx",
    ] {
        let mut client = connect().await;
        client.write_all(garbage.as_bytes()).await.expect("memory");
        client.shutdown().await.expect("memory");
        let (_, seconds) = rest(&mut client).await;
        assert_eq!(seconds, 0, "{garbage:?}");
    }
}

// === HTTP/2 ===

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GO_AWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https:///` of the static table, or `POST`.
fn open(stream: u32, method: u8, flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &[method, 0x84, 0x87])
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

async fn connect_2() -> DuplexStream {
    let mut client = connect_as(true).await;
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("memory");
    client.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("memory");
    client
}

/// The next frame: kind, stream and content; `None` at the end.
async fn next(client: &mut DuplexStream) -> Option<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    client.read_exact(&mut payload).await.ok()?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

#[tokio::test(start_paused = true)]
async fn rapid_resets_end_the_connection() {
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    let mut client = connect_2().await;
    let flood: Vec<u8> = (0..5000)
        .flat_map(|i| [open(2 * i + 1, GET, END_STREAM), frame(RESET, 0, 2 * i + 1, &[0, 0, 0, 8])].concat())
        .collect();
    client.write_all(&flood).await.expect("memory");
    let mut why = None;
    while let Some((kind, _, payload)) = next(&mut client).await {
        if kind == GO_AWAY {
            why = payload.get(4..8).map(<[u8]>::to_vec);
        }
    }
    assert_eq!(why.as_deref(), Some(ENHANCE_YOUR_CALM.as_slice()));
}

#[tokio::test(start_paused = true)]
async fn streams_that_say_nothing_are_limited_and_end() {
    const REFUSED: [u8; 4] = [0, 0, 0, 7];
    let mut client = connect_2().await;
    let begun = Instant::now();
    // Bodies are announced, and never come.
    let many: Vec<u8> = (0..1010).flat_map(|i| open(2 * i + 1, POST, 0)).collect();
    client.write_all(&many).await.expect("memory");
    let (mut answered, mut refused) = (0, 0);
    while let Some((kind, stream, payload)) = next(&mut client).await {
        match kind {
            HEADERS => answered += 1,
            RESET if payload == REFUSED => refused += 1,
            GO_AWAY => panic!("the connection ended at stream {stream}"),
            _ => {}
        }
        if answered == 1000 {
            break;
        }
    }
    assert_eq!(refused, 10);
    assert!(begun.elapsed() <= Duration::from_secs(61), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn long_headers_are_taken_as_in_http_1() {
    let mut client = connect_2().await;
    // A name and a value that are in no table, the value 100,000 bytes long, over several frames.
    let mut block = vec![GET, 0x84, 0x87, 0x00, 1, b'x', 0x7f];
    let mut length = 100_000 - 127;
    while length >= 128 {
        block.push(u8::try_from(length % 128).expect("small") | 0x80);
        length /= 128;
    }
    block.push(u8::try_from(length).expect("small"));
    block.extend([b'v'; 100_000]);
    let mut pieces = block.chunks(16_000).enumerate().peekable();
    while let Some((i, piece)) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let (kind, flags) = if i == 0 { (HEADERS, END_STREAM | last) } else { (9, last) };
        client.write_all(&frame(kind, flags, 1, piece)).await.expect("memory");
    }
    loop {
        match next(&mut client).await {
            // `:status 404` would be 0x8d, 431 is in no table: 200 is index 8.
            Some((HEADERS, 1, payload)) => return assert_eq!(payload.first(), Some(&0x88)),
            Some((DATA | RESET, 1, _)) | None => panic!("no head was answered"),
            Some(_) => {}
        }
    }
}

// === panics ===

/// Trips over objects of one name.
struct Trap;

#[async_trait::async_trait]
impl crate::admission::Admission for Trap {
    fn name(&self) -> &'static str {
        "Trap"
    }

    fn handles(&self, _: crate::admission::Operation, _: &machinery::kinds::KindInfo, _: &str) -> bool {
        true
    }

    async fn validate(&self, request: &crate::admission::Request<'_>) -> Result<(), api::Status> {
        assert_ne!(request.name, "trap", "it shut");
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_end_of_one_request() {
    let f = Fixture::with(Arc::new(MemoryStore::default()), vec![Box::new(Trap)], None).await;
    f.check_http(
        "
        POST /api/v1/namespaces/default/configmaps
        {\"metadata\":{\"name\":\"trap\"}}

        POST /api/v1/namespaces/default/configmaps
        {\"metadata\":{\"name\":\"free\"}}",
        expect![[r#"
            500 InternalError: Internal error occurred: this request caused apiserver to panic. Look in the logs for details
            201 ConfigMap free@2
        "#]],
    )
    .await;
}
