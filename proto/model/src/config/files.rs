//! A host's configuration file into layers: the only I/O of this crate.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{Layer, MAX_DOCUMENT_BYTES};

/// A file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadConfigError {
    /// The system refused.
    #[error("{} cannot be read", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no text.
    #[error("{} is not UTF-8 text", .0.display())]
    NotText(PathBuf),
    /// It is too large.
    #[error("{} has more than {MAX_DOCUMENT_BYTES} bytes, which no configuration has", .0.display())]
    TooLarge(PathBuf),
}

/// Reads a configuration file, lowest layer first: before `NAME.ENV.yaml` comes `NAME.yaml` of the same folder, where it is (D9).
///
/// # Errors
/// Where the file cannot be read, or its base is there and cannot.
pub fn read(path: &Path) -> Result<Vec<Layer>, ReadConfigError> {
    let mut layers = Vec::new();
    if let Some(base) = base_of(path)
        && base.try_exists().map_err(|source| ReadConfigError::Io { path: base.clone(), source })?
    {
        layers.push(read_one(&base)?);
    }
    layers.push(read_one(path)?);
    Ok(layers)
}

/// `NAME.yaml` of `NAME.ENV.yaml`.
fn base_of(path: &Path) -> Option<PathBuf> {
    let extension = path.extension()?.to_str().filter(|extension| matches!(*extension, "yaml" | "yml"))?;
    let stem = path.file_stem()?.to_str()?;
    let (name, environment) = stem.rsplit_once('.')?;
    if name.is_empty() || environment.is_empty() {
        None
    } else {
        Some(path.with_file_name(format!("{name}.{extension}")))
    }
}

fn read_one(path: &Path) -> Result<Layer, ReadConfigError> {
    let io = |source| ReadConfigError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_DOCUMENT_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(ReadConfigError::TooLarge(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_not_text| ReadConfigError::NotText(path.to_owned()))?;
    Ok(Layer::host(path.display().to_string(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_brings_its_base() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("dwcp.yaml"), "enabled: true\n").expect("written");
        std::fs::write(file("dwcp.staging.yaml"), "enabled: false\n").expect("written");
        std::fs::write(file("site.example.yaml"), "enabled: false\n").expect("written");
        let names = |name: &str| read(&file(name)).map(|layers| layers.len());
        assert_eq!(names("dwcp.staging.yaml").expect("read"), 2);
        assert_eq!(names("dwcp.yaml").expect("read"), 1);
        assert_eq!(names("site.example.yaml").expect("read"), 1);
        assert!(matches!(names("none.yaml"), Err(ReadConfigError::Io { .. })));
        std::fs::write(file("big.yaml"), vec![b'#'; MAX_DOCUMENT_BYTES + 1]).expect("written");
        assert!(matches!(names("big.yaml"), Err(ReadConfigError::TooLarge(_))));
    }
}
