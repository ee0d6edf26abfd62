//! The CSI driver of `testkit` as a program, for tests/e2e: `csi-driver NAME NODE-ID STATE-DIR SOCKET REGISTRATION-SOCKET`. It mounts
//! for real, and ends when it is killed.

use std::path::PathBuf;
use testkit::{CsiFixture, CsiOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, node_id, state, socket, registration] = args.as_slice() else {
        return Err("usage: csi-driver NAME NODE-ID STATE-DIR SOCKET REGISTRATION-SOCKET".into());
    };
    let (socket, registration) = (PathBuf::from(socket), PathBuf::from(registration));
    let driver = CsiFixture::new(CsiOptions {
        name: name.clone(),
        state: state.into(),
        node_id: node_id.clone(),
        stages: true,
        mounts: true,
    });
    for stale in [&socket, &registration] {
        match std::fs::remove_file(stale) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let serving = driver.serve(&socket)?;
    driver.register(&registration, &socket)?;
    Ok(serving.await?)
}
