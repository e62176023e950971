//! Which PostgreSQL runs the cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{StartError, account::on_path, io_error};

/// The oldest version that has all that the server uses.
const OLDEST: u32 = 13;

/// Where Debian and Red Hat put PostgreSQL, one folder a version.
const PLACES: [&str; 2] = ["/usr/lib/postgresql", "/usr"];

/// A PostgreSQL server's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binaries {
    folder: PathBuf,
    /// The major version.
    pub(super) major: u32,
}

impl Binaries {
    pub(super) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    /// The programs of a folder given; else those on PATH; else the newest that is installed. An existing cluster fixes the major version.
    pub(super) fn find(given: Option<&Path>, data: &Path) -> Result<Self, StartError> {
        let wanted = cluster_major(data)?;
        let candidates = match given {
            Some(folder) => {
                vec![Self::at(folder)?.ok_or_else(|| StartError::NotBinaries { folder: folder.to_path_buf() })?]
            }
            None => installed()?,
        };
        let none = candidates.is_empty();
        let fitting = candidates.into_iter().find(|found| wanted.is_none_or(|wanted| found.major == wanted));
        match (fitting, wanted) {
            (Some(found), _) if found.major < OLDEST => Err(StartError::TooOld { found: found.major }),
            (Some(found), _) => Ok(found),
            (None, Some(wanted)) if !none => Err(StartError::OtherMajor { data: data.to_path_buf(), wanted }),
            (None, Some(_) | None) => Err(StartError::NoBinaries),
        }
    }

    fn at(folder: &Path) -> Result<Option<Self>, StartError> {
        let postgres = folder.join("postgres");
        if !postgres.is_file() || !folder.join("initdb").is_file() {
            return Ok(None);
        }
        let output =
            Command::new(&postgres).arg("--version").env_clear().output().map_err(io_error("run", &postgres))?;
        let major = major_of(&String::from_utf8_lossy(&output.stdout));
        Ok(major.map(|major| Self { folder: folder.to_path_buf(), major }))
    }
}

/// All that are installed: the one on PATH first, then the newest first.
fn installed() -> Result<Vec<Binaries>, StartError> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for place in PLACES {
        let Ok(entries) = fs::read_dir(place) else { continue };
        let versions = entries
            .flatten()
            .filter(|entry| place != "/usr" || entry.file_name().to_string_lossy().starts_with("pgsql-"));
        folders.extend(versions.map(|entry| entry.path().join("bin")));
    }
    let mut found =
        folders.iter().filter_map(|folder| Binaries::at(folder).transpose()).collect::<Result<Vec<_>, _>>()?;
    found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
    // On Debian, `postgres` is not on PATH, but what stands there was put there on purpose.
    let first = on_path("postgres").and_then(|postgres| postgres.parent().map(Path::to_path_buf));
    if let Some(binaries) = first.map(|folder| Binaries::at(&folder)).transpose()?.flatten() {
        found.insert(0, binaries);
    }
    Ok(found)
}

/// The major version that made the cluster, if there is one.
fn cluster_major(data: &Path) -> Result<Option<u32>, StartError> {
    let path = data.join("PG_VERSION");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StartError::Io { doing: "read", path, source }),
    }
}

/// `postgres (PostgreSQL) 15.18 (Debian …)`, `… 18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).map_or(number, |end| &number[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_major_version() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("bash"), None);
    }

    #[test]
    fn an_existing_cluster_fixes_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let newest = Binaries::find(None, dir.path()).unwrap();
        fs::write(dir.path().join("PG_VERSION"), format!("{}\n", newest.major)).unwrap();
        assert_eq!(Binaries::find(None, dir.path()).unwrap().major, newest.major);
        fs::write(dir.path().join("PG_VERSION"), "12\n").unwrap();
        assert!(matches!(Binaries::find(None, dir.path()), Err(StartError::OtherMajor { wanted: 12, .. })));
        assert!(matches!(Binaries::find(Some(dir.path()), dir.path()), Err(StartError::NotBinaries { .. })));
    }
}
