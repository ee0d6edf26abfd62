//! [`connect_local`]: a connection to `localhost` as a pod sees it, for port-forward.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::netlink::netns;

/// Loopback answers at once, unless the listener's queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to `localhost:port` inside the network namespace, IPv4 first. Blocks; the connection may be used anywhere.
pub fn connect_local(namespace: OwnedFd, port: u16) -> io::Result<TcpStream> {
    let connect = || {
        let v4 = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT_TIMEOUT);
        v4.or_else(|refused| {
            // The refusal of IPv4 is what most people want to read.
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            TcpStream::connect_timeout(&v6, CONNECT_TIMEOUT).map_err(|_| refused)
        })
    };
    netns::within(namespace.as_fd(), connect).map_err(io::Error::other)?
}
