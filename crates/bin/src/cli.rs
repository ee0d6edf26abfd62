//! The command line: what can be said, with help texts. What happens is in `commands/`, one file per command.

use crate::config::Settings;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Docker and Kubernetes in one binary.
#[derive(Debug, Parser)]
#[command(name = "dhow", version, about, propagate_version = true, disable_help_subcommand = true)]
#[command(after_help = "Start a cluster with `dhow up`, then use kubectl.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine; returns when its node is ready
    Up(Up),
    /// Start the server without a node; nodes join with `dhow agent`
    Server(Up),
    /// Make this machine a node of a cluster whose server is elsewhere
    Agent(Agent),
    /// Serve the Container Runtime Interface (v1) on a socket, for a kubelet or crictl
    Cri(Cri),
    /// Save store and certificates to a file, also while dhow runs
    Backup(Backup),
    /// Put a saved cluster into an empty data directory
    Restore(Backup),
    /// Create, list and delete tokens by which machines join
    Token(Token),
    /// Stop the cluster on this machine and all its containers; keeps all data
    Down(Settings),
    /// Tell what runs and how it is
    Status(Settings),
    /// Stop the cluster and remove every trace: containers, network, images, data
    Reset(Reset),
    /// Install a systemd unit that starts dhow at boot
    Install(Install),
    /// Pull, push, import, export, list and remove images
    Image(Image),
    /// Print a completion script for a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `up` and `server`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Stay in the foreground and log to the terminal
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Started by itself.
    #[arg(long, hide = true)]
    pub(crate) detached: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Arguments of `agent`.
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// The server, https://HOST:6443; needed once
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// A token of `dhow token create`; needed once
    #[arg(long, value_name = "ID.SECRET")]
    pub(crate) token: Option<String>,
    /// The hash of the cluster's CA that was printed with the token; needed once
    #[arg(long, value_name = "sha256:HEX")]
    pub(crate) ca_hash: Option<String>,
    /// Instead of these three, for a server that is not dhow's: a kubeconfig with a token for asking for certificates (kubeadm's
    /// bootstrap-kubelet.conf) or with a certificate of this node; needed once
    #[arg(long, value_name = "FILE", conflicts_with_all = ["server", "token", "ca_hash"])]
    pub(crate) bootstrap_kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) up: Up,
}

/// Arguments of `cri`. Its directories, links and cgroups are its own, so that it can run beside `dhow up`.
#[derive(Debug, Args)]
pub(crate) struct Cri {
    /// The socket
    #[arg(long, value_name = "URL", default_value = "unix:///run/dhow-cri/cri.sock")]
    pub(crate) listen: String,
    /// Images, records and logs of supervisors
    #[arg(long, value_name = "DIR", default_value = "/var/lib/dhow-cri")]
    pub(crate) data_dir: PathBuf,
    /// Sockets and state of this boot
    #[arg(long, value_name = "DIR", default_value = "/run/dhow-cri")]
    pub(crate) run_dir: PathBuf,
    /// Addresses of pods on this machine
    #[arg(long, value_name = "CIDR", default_value = "10.85.0.0/16")]
    pub(crate) pod_cidr: ipnet::IpNet,
    /// Name of the pods' bridge
    #[arg(long, value_name = "NAME", default_value = "dhow-cri0")]
    pub(crate) bridge: String,
    /// The cgroup of supervisors, and of pods whose client names none
    #[arg(long, value_name = "PATH", default_value = "/dhow-cri")]
    pub(crate) cgroup: String,
    /// Registries: mirrors, plain HTTP, CA files, credentials
    #[arg(long, value_name = "FILE", default_value = "/etc/dhow/registries.yaml")]
    pub(crate) registries: PathBuf,
    /// Stop all pods and remove every trace, instead of serving
    #[arg(long)]
    pub(crate) reset: bool,
}

/// Arguments of `backup` and `restore`.
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print the command by which another machine joins
    Create {
        /// How long the token lives: 30m, 24h, 7d; 0 = for ever
        #[arg(long, default_value = "24h")]
        ttl: String,
        /// A note for people
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List tokens, without their secrets
    List,
    /// Delete a token
    Delete {
        /// Its id
        id: String,
    },
}

/// Arguments of `install`.
#[derive(Debug, Args)]
pub(crate) struct Install {
    /// What the unit starts
    #[arg(value_enum, default_value = "up")]
    pub(crate) role: InstallRole,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// A command that a unit can start.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum InstallRole {
    /// Server and node
    Up,
    /// The server alone
    Server,
    /// A node; join first, with `dhow agent`
    Agent,
}

/// Arguments of `reset`.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// Arguments of `image`.
#[derive(Debug, Args)]
pub(crate) struct Image {
    #[command(subcommand)]
    pub(crate) command: ImageCommand,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

/// What to do with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Fetch an image from its registry
    Pull {
        /// For example nginx, ghcr.io/org/app:1.2 or app@sha256:…
        reference: String,
    },
    /// Send an image to its registry
    Push {
        /// Image, named after the registry it goes to
        reference: String,
    },
    /// Load images from a tar archive (docker save, OCI) or an OCI layout folder
    Import {
        /// Archive or folder
        path: PathBuf,
        /// Name for an image that carries none
        #[arg(long)]
        name: Option<String>,
    },
    /// Write an image as an OCI archive
    Export {
        /// Image
        reference: String,
        /// File to write
        #[arg(long, short)]
        output: PathBuf,
    },
    /// List images
    Ls,
    /// Show an image's configuration as JSON
    Inspect {
        /// Image
        reference: String,
    },
    /// Give an image another name
    Tag {
        /// Image
        reference: String,
        /// New name
        name: String,
    },
    /// Remove images
    Rm {
        /// Images
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Remove images that no container uses
    Prune,
}
