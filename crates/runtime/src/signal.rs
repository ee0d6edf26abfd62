//! Names and numbers of signals.

/// Asks a process to end.
pub const TERM: i32 = 15;
/// Ends it.
pub const KILL: i32 = 9;

/// Linux' numbers on every architecture we run on; real-time signals as `SIGRTMIN+n`.
pub fn number(name: &str) -> Option<i32> {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let plain = match name.trim_start_matches("SIG") {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    if let Some(at) = NAMES.iter().position(|n| *n == plain) {
        return i32::try_from(at + 1).ok();
    }
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.get(1..)?.parse::<i32>().ok() };
    let number = match (plain.strip_prefix("RTMIN"), plain.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN + offset(rest)?,
        (_, Some(rest)) => RTMAX - offset(rest)?,
        _ => return None,
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (name, want) in [
            ("SIGTERM", Some(15)),
            ("TERM", Some(15)),
            ("9", Some(9)),
            ("SIGSYS", Some(31)),
            ("SIGIOT", Some(6)),
            ("SIGRTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+99", None),
            ("SIGNOPE", None),
            ("0", None),
        ] {
            assert_eq!(number(name), want, "{name}");
        }
    }
}
