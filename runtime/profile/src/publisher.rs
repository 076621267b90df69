//! Publishers that a profile trusts, by their keys.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::ProfileError;
use crate::read;
use crate::signature::{Fingerprint, PublicKey};

/// A key that is in a file.
const FILE_PREFIX: &str = "file:";

/// Someone who signs plugins, as a profile knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publisher {
    /// The profile's name for them.
    pub name: String,
    /// Fingerprint of their key.
    pub fingerprint: Fingerprint,
    /// The key, if the profile has it: signatures that bring no key of their own need it.
    pub key: Option<PublicKey>,
}

/// Reads the `[publishers]` of a profile: names to `sha256:` and the fingerprint, to `file:` and the path of a PEM file,
/// or to PEM text.
pub(crate) fn resolve(
    written: &BTreeMap<String, String>,
    origin: &str,
    folder: &Path,
) -> Result<BTreeMap<String, Publisher>, ProfileError> {
    let one = |(name, value): (&String, &String)| {
        let error = |message: String| ProfileError::Publisher {
            origin: origin.to_owned(),
            name: name.clone(),
            message,
        };
        let key = |text: &str| PublicKey::from_pem(text).map_err(|cause| error(cause.to_string()));
        let publisher = if let Some(path) = value.strip_prefix(FILE_PREFIX) {
            known(name, key(&read::text_inside(folder, path)?)?)
        } else if value.starts_with("-----") {
            known(name, key(value)?)
        } else {
            let fingerprint: Fingerprint = value.parse().map_err(|_| {
                error(
                    "give `sha256:` and the fingerprint, `file:KEY.pub`, or the public key itself".to_owned(),
                )
            })?;
            Publisher { name: name.clone(), fingerprint, key: None }
        };
        Ok((name.clone(), publisher))
    };
    written.iter().map(one).collect()
}

fn known(name: &str, key: PublicKey) -> Publisher {
    Publisher { name: name.to_owned(), fingerprint: key.fingerprint(), key: Some(key) }
}
