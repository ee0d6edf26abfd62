//! What a container runs unless it says otherwise: command and environment of its image. Pure.

/// PATH if neither image nor container set it, as Docker has it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Program and arguments. `command` replaces the image's entrypoint and its arguments, `args` alone only the arguments; empty if
/// nobody says what to run.
pub fn command(entrypoint: &[String], image_args: &[String], command: Vec<String>, args: Vec<String>) -> Vec<String> {
    let mut out = if command.is_empty() { entrypoint.to_vec() } else { command.clone() };
    if command.is_empty() && args.is_empty() {
        out.extend(image_args.iter().cloned());
    }
    out.extend(args);
    out
}

/// Defaults, then the image's variables (`NAME=value`), then the container's. `HOME` is the launcher's to add: it knows the user.
pub fn environment(
    image: &[String],
    own: impl IntoIterator<Item = (String, String)>,
    hostname: &str,
    tty: bool,
) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> =
        vec![("PATH".into(), DEFAULT_PATH.into()), ("HOSTNAME".into(), hostname.into())];
    if tty {
        out.push(("TERM".into(), "xterm".into()));
    }
    let of_image = image.iter().filter_map(|e| e.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (name, value) in of_image.chain(own) {
        match out.iter_mut().find(|(n, _)| *n == name) {
            Some(entry) => entry.1 = value,
            None => out.push((name, value)),
        }
    }
    out
}
