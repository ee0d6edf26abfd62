//! Asking other resolvers. A question goes on as it came, but for its id; the answer comes back as it is, but for its id.

use base::Random;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Which way a question came; it goes on the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

const LARGEST_MESSAGE: usize = 65_535;
const HEADER: usize = 12;

/// Asks the resolvers one after the other; `None` if nobody answers.
pub(super) async fn forward(
    question: &[u8],
    transport: Transport,
    upstreams: &[SocketAddr],
    timeout: Duration,
    random: &dyn Random,
) -> Option<Vec<u8>> {
    if question.len() < HEADER {
        return None;
    }
    for upstream in upstreams {
        let mut id = [0; 2];
        random.fill(&mut id);
        let mut sent = question.to_vec();
        sent[..2].copy_from_slice(&id);
        let asked = async {
            match transport {
                Transport::Udp => ask_udp(&sent, *upstream).await,
                Transport::Tcp => ask_tcp(&sent, *upstream).await,
            }
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(mut answer)) => {
                answer[..2].copy_from_slice(&question[..2]);
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a resolver failed"),
            Err(_) => tracing::debug!(%upstream, "a resolver did not answer in time"),
        }
    }
    None
}

async fn ask_udp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    // A socket per question: the kernel picks a port that nobody can guess, and a connected socket hears only the resolver.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; LARGEST_MESSAGE];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if is_answer_to(question, &buffer[..len]) {
            buffer.truncate(len);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(question: &[u8], upstream: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let len = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes()[..], question].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    if is_answer_to(question, &buffer) {
        Ok(buffer)
    } else {
        Err(std::io::Error::other("an answer to another question"))
    }
}

/// Same id, and a response; the question, if repeated, is the same.
fn is_answer_to(question: &[u8], answer: &[u8]) -> bool {
    const RESPONSE: u8 = 0x80;
    if answer.len() < HEADER || answer[..2] != question[..2] || answer[2] & RESPONSE == 0 {
        return false;
    }
    let none_repeated = answer[4..6] == [0, 0];
    none_repeated || question_section(answer).is_some_and(|a| question_section(question) == Some(a))
}

/// The first question in lower case: name, type, class.
fn question_section(message: &[u8]) -> Option<Vec<u8>> {
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1 + len;
        if len == 0 {
            return message.get(HEADER..at + 4).map(<[u8]>::to_ascii_lowercase);
        }
    }
}
