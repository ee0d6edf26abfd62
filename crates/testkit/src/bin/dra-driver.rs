//! The driver of dynamic resources of `testkit` as a program, for tests/e2e: `dra-driver NAME CDI-DIR SOCKET REGISTRATION-SOCKET`. It ends
//! when it is killed.

use std::path::PathBuf;
use testkit::{DraFixture, DraOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, cdi, socket, registration] = args.as_slice() else {
        return Err("usage: dra-driver NAME CDI-DIR SOCKET REGISTRATION-SOCKET".into());
    };
    let (socket, registration) = (PathBuf::from(socket), PathBuf::from(registration));
    let services = ["v1.DRAPlugin", "v1alpha1.DRAResourceHealth"].map(str::to_owned).into();
    let driver = DraFixture::new(DraOptions { name: name.clone(), cdi: cdi.into(), services });
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
