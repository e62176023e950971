//! Who runs PostgreSQL, and how a program is started as that user.

use std::{
    ffi::OsStr,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{Gid, Uid, User};

use super::StartError;

/// The user who runs PostgreSQL.
#[derive(Clone, Debug)]
pub(super) struct Account {
    /// The name, as PostgreSQL's peer authentication sees it.
    pub(super) name: String,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    /// Whether this process has to become that user.
    changes: bool,
    setpriv: PathBuf,
}

impl Account {
    /// The owner of an existing cluster; else the present user, or for root `postgres` or `nobody`.
    pub(super) fn choose(data: &Path) -> Result<Self, StartError> {
        let setpriv = on_path("setpriv").ok_or(StartError::NoSetpriv)?;
        let present = Uid::effective();
        let owner = data.metadata().ok().map(|metadata| Uid::from_raw(metadata.uid()));
        let user = match owner {
            Some(owner) if owner != present && !present.is_root() => {
                return Err(StartError::OwnedByOther { data: data.to_path_buf(), owner: owner.as_raw() });
            }
            Some(owner) if !owner.is_root() => by_uid(owner)?,
            Some(_) | None if present.is_root() => {
                by_name("postgres").or_else(|| by_name("nobody")).ok_or(StartError::NoAccount)?
            }
            Some(_) | None => by_uid(present)?,
        };
        Ok(Self { name: user.name, uid: user.uid, gid: user.gid, changes: present.is_root(), setpriv })
    }

    /// Whether files that this process makes have to be given to the account.
    pub(super) fn changes(&self) -> bool {
        self.changes
    }

    /// The names that may connect as the cluster's role: the account's and the server's own.
    pub(super) fn names(&self) -> Vec<String> {
        let own = User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name);
        let mut names = vec![self.name.clone()];
        names.extend(own.filter(|own| *own != self.name));
        names
    }

    /// A program that runs as the account, ends when the thread that starts it does, and hears no Ctrl-C of our terminal.
    pub(super) fn command(&self, program: impl AsRef<OsStr>, folder: &Path) -> Command {
        let mut command = Command::new(&self.setpriv);
        // One call: a second program in between would lose the parent-death signal with the change of user.
        command.args(["--pdeathsig", "INT"]);
        if self.changes {
            command
                .arg("--reuid")
                .arg(self.uid.to_string())
                .arg("--regid")
                .arg(self.gid.to_string())
                .arg("--init-groups");
        }
        command.arg(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C.UTF-8");
        command.current_dir(folder).stdin(Stdio::null()).process_group(0);
        command
    }

    /// Whether the account can pass through a folder; asked of the kernel, which knows groups and access lists too.
    pub(super) fn reaches(&self, folder: &Path) -> Result<bool, StartError> {
        let mut test = self.command("test", Path::new("/"));
        let status = test.arg("-x").arg(folder).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.map(|status| status.success()).map_err(super::io_error("run", &self.setpriv))
    }
}

/// A program on PATH, with links resolved.
pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/bin", "/bin"].map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .find_map(|folder| folder.join(program).canonicalize().ok().filter(|file| file.is_file()))
}

fn by_uid(uid: Uid) -> Result<User, StartError> {
    User::from_uid(uid).ok().flatten().ok_or(StartError::NoName { uid: uid.as_raw() })
}

fn by_name(name: &str) -> Option<User> {
    User::from_name(name).ok().flatten()
}
