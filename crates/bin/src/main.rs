//! dhow: Docker and Kubernetes in one binary. This file only tells roles apart; `cli.rs` has the commands, `system.rs` assembles
//! what runs.

mod access;
mod audit_log;
mod backup;
mod bootstrap;
mod cli;
mod commands;
mod config;
mod control;
mod cri;
mod images;
mod join;
mod leaders;
mod local;
mod logging;
mod membership;
mod node;
mod presence;
mod process;
mod reload;
mod server;
mod spans;
mod storage;
mod system;
mod tokens;
mod traces;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use commands::CommandError;
use std::process::ExitCode;
use system::Role;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The zygote must be reached before anything starts a thread.
    if args.first().is_some_and(|a| a == "zygote") {
        return ExitCode::from(u8::try_from(runtime::zygote::main(&args[1..])).unwrap_or(1));
    }
    match run(Cli::parse(), &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dhow: {}", base::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, args: &[String]) -> Result<(), CommandError> {
    match cli.command {
        Command::Up(up) => commands::up::run(up, Role::Up, args),
        Command::Server(up) => commands::up::run(up, Role::Server, args),
        Command::Agent(agent) => commands::agent::run(agent, args),
        Command::Cri(args) => commands::cri::run(args),
        Command::Backup(args) => commands::backup::make(args),
        Command::Restore(args) => commands::backup::restore(args),
        Command::Token(token) => commands::token::run(token),
        Command::Down(settings) => commands::down::run(settings),
        Command::Status(settings) => commands::status::run(settings),
        Command::Reset(reset) => commands::reset::run(reset),
        Command::Install(install) => commands::install::run(install),
        Command::Image(image) => commands::image::run(image),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "dhow", &mut std::io::stdout());
            Ok(())
        }
    }
}
