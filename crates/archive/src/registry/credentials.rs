//! Names and passwords for registries, where Podman and Docker keep them (containers/image `docs/containers-auth.json.5.md`, Docker
//! `config.json`), and the programs that keep them for them (docker-credential-helpers).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Reference, RegistryError};

/// Largest file.
const MAX_FILE: u64 = 1 << 20;
/// What Docker calls its own registry.
const DOCKER_KEYS: [&str; 3] = ["https://index.docker.io/v1/", "index.docker.io", "docker.io"];

/// What a registry lets somebody in by.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// A token that others are had for.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    /// Whether the first file must be there.
    required: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Auth>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: String,
    identitytoken: String,
    username: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Credentials {
    /// Those in this file.
    #[must_use]
    pub fn in_file(path: &Path) -> Self {
        Self { files: vec![path.to_owned()], required: true }
    }

    /// Those that Podman and Docker have for whoever runs this, by the environment.
    #[must_use]
    pub fn of_user(variable: impl Fn(&str) -> Option<String>) -> Self {
        if let Some(file) = variable("REGISTRY_AUTH_FILE") {
            return Self::in_file(Path::new(&file));
        }
        let home = variable("HOME");
        let below = |directory: Option<String>, rest: &str| directory.map(|it| Path::new(&it).join(rest));
        let runtime = variable("XDG_RUNTIME_DIR")
            .unwrap_or_else(|| format!("/run/containers/{}", rustix::process::getuid().as_raw()));
        let runtime = if runtime.starts_with("/run/containers") {
            PathBuf::from(runtime).join("auth.json")
        } else {
            PathBuf::from(runtime).join("containers/auth.json")
        };
        let config = below(variable("XDG_CONFIG_HOME"), "containers/auth.json")
            .or_else(|| below(home.clone(), ".config/containers/auth.json"));
        let docker =
            below(variable("DOCKER_CONFIG"), "config.json").or_else(|| below(home, ".docker/config.json"));
        Self { files: [Some(runtime), config, docker].into_iter().flatten().collect(), required: false }
    }

    /// What there is for an image's registry.
    ///
    /// # Errors
    /// Where a file is there and makes no sense, or a program fails.
    pub fn find(&self, reference: &Reference) -> Result<Option<Credential>, RegistryError> {
        for path in &self.files {
            let Some(file) = read(path, self.required)? else { continue };
            let keys = keys(reference);
            for key in &keys {
                if let Some(helper) = file.cred_helpers.get(key).filter(|helper| !helper.is_empty())
                    && let Some(found) = ask(helper, key)?
                {
                    return Ok(Some(found));
                }
                if let Some(found) = file.auths.get(key).and_then(Auth::credential) {
                    return Ok(Some(found));
                }
            }
            if !file.creds_store.is_empty() {
                for key in keys.iter().filter(|key| !key.contains('/') || key.starts_with("https:")) {
                    if let Some(found) = ask(&file.creds_store, key)? {
                        return Ok(Some(found));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// Under what a file may have an image's registry, the most precise first.
fn keys(reference: &Reference) -> Vec<String> {
    let mut name = format!("{}/{}", reference.host(), reference.repository());
    let mut keys = vec![name.clone()];
    while let Some((shorter, _)) = name.rsplit_once('/') {
        name = shorter.to_owned();
        keys.push(name.clone());
    }
    if reference.host() == "docker.io" {
        keys.extend(DOCKER_KEYS.map(str::to_owned));
    } else {
        keys.push(format!("https://{}", reference.host()));
    }
    keys
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        if !self.identitytoken.is_empty() {
            return Some(Credential::IdentityToken(self.identitytoken.clone()));
        }
        if !self.username.is_empty() {
            let (name, password) = (self.username.clone(), self.password.clone());
            return Some(Credential::Password { name, password });
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (name, password) = decoded.split_once(':')?;
        // Some writers fill up with zeros.
        let password = password.trim_end_matches('\0').to_owned();
        Some(Credential::Password { name: name.to_owned(), password })
    }
}

fn read(path: &Path, required: bool) -> Result<Option<File>, RegistryError> {
    let failed = |source| RegistryError::File { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Err(error)
            if !required
                && matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) =>
        {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|source| RegistryError::Credentials { path: path.to_owned(), source })
}

/// Asks a program that keeps credentials.
fn ask(helper: &str, key: &str) -> Result<Option<Credential>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let failed =
        |message: String| RegistryError::Helper { program: program.clone(), host: key.to_owned(), message };
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(failed("its name is no name of a program".to_owned()));
    }
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // One that needs no more than it has closes its input.
        let _ = input.write_all(key.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        // So the helpers' protocol has it.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(failed(said));
    }
    let answer: Answer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("its answer makes no sense".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken(answer.secret),
        _ => Credential::Password { name: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str, image: &str) -> Option<Credential> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        Credentials::in_file(&path).find(&image.parse().unwrap()).unwrap()
    }

    fn password(name: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { name: name.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn the_most_precise_entry_is_taken() {
        // `a:b`, `c:d:e`
        let json = r#"{"auths": {"quay.io": {"auth": "YTpi"}, "quay.io/shop": {"auth": "YzpkOmU="}}}"#;
        assert_eq!(found(json, "quay.io/shop/web"), password("c", "d:e"));
        assert_eq!(found(json, "quay.io/other"), password("a", "b"));
        assert_eq!(found(json, "ghcr.io/other"), None);
        let docker = r#"{"auths": {"https://index.docker.io/v1/": {"identitytoken": "t"}}}"#;
        assert_eq!(found(docker, "alpine"), Some(Credential::IdentityToken("t".to_owned())));
        assert_eq!(found(r#"{"auths": {"quay.io": {"auth": "!"}}}"#, "quay.io/x"), None);
    }

    #[test]
    fn files_are_looked_for_where_podman_and_docker_have_them() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1".to_owned()),
            _ => None,
        };
        let files = Credentials::of_user(variable).files;
        let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            names,
            [
                "/run/user/1/containers/auth.json",
                "/home/me/.config/containers/auth.json",
                "/home/me/.docker/config.json"
            ]
        );
    }

    #[test]
    fn a_program_with_a_path_in_its_name_is_not_run() {
        let json = r#"{"credHelpers": {"quay.io": "../evil"}}"#;
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("auth.json");
        std::fs::write(&path, json).unwrap();
        let refused = Credentials::in_file(&path).find(&"quay.io/x".parse().unwrap()).unwrap_err();
        assert!(matches!(refused, RegistryError::Helper { .. }), "{refused}");
    }
}
