//! The component of a profile's plugin: read once, and only if it is the one that the profile means.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use membrane_profile::signature::{self, Bundle, PublicKey, SignatureError};
use membrane_profile::{Digest, Location, Origin, Publisher, ResolvedPlugin};

use crate::error::{HostError, Result};
use crate::first_party;
use crate::limits::MAX_COMPONENT_BYTES;

/// The bytes of a plugin, checked against what its profile entry trusts.
#[derive(Clone)]
pub struct Component {
    /// WebAssembly. What was hashed and checked is these bytes, and these are to be compiled.
    pub bytes: Vec<u8>,
    /// Their SHA-256.
    pub digest: Digest,
}

impl Component {
    /// Reads the component of a plugin, and its signature if the profile asks for one.
    ///
    /// First-party plugins are part of the program, and what a command line names is the choice of whoever typed it.
    /// A file that a profile names needs a word on whose it is: its digest, a publisher whose signature is in the file
    /// with `.sig` behind the name, or `unsigned = true`.
    ///
    /// # Errors
    /// The file can't be read or is too large; the digest is not the pinned one; the signature is missing, not valid or
    /// somebody else's; the profile does not say whose the file is.
    pub fn of(plugin: &ResolvedPlugin) -> Result<Self> {
        let path = match &plugin.location {
            Location::FirstParty(name) => {
                let bytes = first_party::find(name)?.bytes.to_vec();
                let component = Self { digest: Digest::of(&bytes), bytes };
                component.check_pin(plugin)?;
                return Ok(component);
            }
            Location::Path(path) => path,
        };
        let component = Self::read(&plugin.name, path)?;
        component.check_pin(plugin)?;
        match &plugin.publisher {
            Some(publisher) => component.check_signature(plugin, publisher, &signature_path(path))?,
            None if plugin.origin == Origin::Profile && plugin.pin.is_none() && !plugin.unsigned => {
                return Err(HostError::Untrusted {
                    plugin: plugin.name.clone(),
                    location: shown(&plugin.location.to_string()),
                    found: component.digest,
                });
            }
            None => {}
        }
        Ok(component)
    }

    /// Reads a component, whoever made it. `name` is for errors.
    ///
    /// # Errors
    /// The file can't be read, or is larger than the host takes.
    pub fn read(name: &str, path: &Path) -> Result<Self> {
        let unreadable = |cause: String| HostError::Unreadable {
            plugin: shown(name),
            path: shown(&path.display().to_string()),
            cause,
        };
        // Before it is opened: opening a pipe waits for whoever writes to it.
        let metadata = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "a folder" } else { "no regular file" };
            return Err(unreadable(format!("is {what}; give the component (.wasm)")));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let read = file.take(MAX_COMPONENT_BYTES as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| unreadable(error.to_string()))?;
        if bytes.len() > MAX_COMPONENT_BYTES {
            return Err(unreadable(format!("is larger than the limit of {MAX_COMPONENT_BYTES} bytes")));
        }
        Ok(Self { digest: Digest::of(&bytes), bytes })
    }

    fn check_pin(&self, plugin: &ResolvedPlugin) -> Result<()> {
        match plugin.pin {
            Some(pinned) if pinned != self.digest => Err(HostError::Pinned {
                plugin: plugin.name.clone(),
                location: shown(&plugin.location.to_string()),
                found: self.digest,
                pinned,
            }),
            _ => Ok(()),
        }
    }

    fn check_signature(&self, plugin: &ResolvedPlugin, publisher: &Publisher, path: &Path) -> Result<()> {
        let refused = |cause: String| HostError::Signature {
            plugin: plugin.name.clone(),
            publisher: format!("`{}` ({})", shown(&publisher.name), publisher.fingerprint),
            path: shown(&path.display().to_string()),
            cause: shown(&cause),
        };
        match signed_by(path, publisher, self.digest) {
            Ok(true) => Ok(()),
            Ok(false) => Err(refused("is not there".to_owned())),
            Err(SignatureError::File(error)) => Err(refused(format!("can't be used: {error}"))),
            Err(error) => Err(refused(error.to_string())),
        }
    }
}

/// Whether there is a signature; if there is one it is the publisher's, over the digest.
fn signed_by(path: &Path, publisher: &Publisher, digest: Digest) -> Result<bool, SignatureError> {
    let Some(bundle) = Bundle::read(path)? else { return Ok(false) };
    let verified = bundle.verify(publisher.key.as_ref())?;
    let found = PublicKey::fingerprint(&verified.signer);
    if found != publisher.fingerprint {
        return Err(SignatureError::OtherKey { found, wanted: publisher.fingerprint });
    }
    verified.statement.is_of_file(digest)?;
    Ok(true)
}

/// Where the signature of a component is.
pub fn signature_path(component: &Path) -> PathBuf {
    let mut name = component.as_os_str().to_owned();
    name.push(".");
    name.push(signature::EXTENSION);
    PathBuf::from(name)
}

/// A text from a profile or a signature file, as it can be shown.
fn shown(text: &str) -> String {
    crate::text::clean(text, 400)
}
