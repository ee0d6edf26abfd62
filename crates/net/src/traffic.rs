//! What has gone through links, from the kernel's table of them (`/proc/net/dev`). Pure.
//!
//! A pod's link is counted at the node's end, where it is seen the other way round: no namespace has to be entered.

/// Counters of a link since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The link's name.
    pub name: String,
    /// What came in.
    pub received: Direction,
    /// What went out.
    pub sent: Direction,
}

/// One way of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Of these, broken ones.
    pub errors: u64,
    /// Dropped ones.
    pub dropped: u64,
}

impl Traffic {
    /// The same link as whoever is at its other end sees it, under that end's name.
    pub fn from_the_other_end(&self, name: &str) -> Traffic {
        Traffic { name: name.to_owned(), received: self.sent, sent: self.received }
    }
}

/// Reads `/proc/net/dev`; lines that are no link's are left out.
pub fn traffic(dev: &str) -> Vec<Traffic> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let way = |at: usize| {
            let n = |i: usize| numbers.get(at + i).copied();
            Some(Direction { bytes: n(0)?, packets: n(1)?, errors: n(2)?, dropped: n(3)? })
        };
        Some(Traffic { name: name.trim().to_owned(), received: way(0)?, sent: way(8)? })
    };
    dev.lines().filter_map(line).collect()
}

/// The link of the default route, from `/proc/net/route`.
pub fn default_link(route: &str) -> Option<&str> {
    let mut fields = route.lines().map(str::split_whitespace);
    fields.find_map(|mut f| {
        let name = f.next()?;
        (f.next()? == "00000000").then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_and_turned_round() {
        let dev = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n \
            dhow1a:    10       2    1    3    0     0          0         0       20       4    5    6    0     0       0          0\n";
        let [link] = traffic(dev).try_into().expect("one link");
        assert_eq!(link.received, Direction { bytes: 10, packets: 2, errors: 1, dropped: 3 });
        let inside = link.from_the_other_end("eth0");
        assert_eq!((inside.name.as_str(), inside.received.bytes, inside.sent.bytes), ("eth0", 20, 10));
        let route = "Iface\tDestination\tGateway\ndhow0\t00002A0A\t0\neth7\t00000000\t0101A8C0\n";
        assert_eq!(default_link(route), Some("eth7"));
        assert!(traffic(&std::fs::read_to_string("/proc/net/dev").expect("there")).iter().any(|t| t.name == "lo"));
    }
}
