//! What a signature is over: an in-toto statement that names files by their digests.

use serde::{Deserialize, Serialize};

use super::SignatureError;
use crate::digest::Digest;

/// Types of the statement and of what it states.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://model_signing/signature/v1.0";
const METHOD: &str = "files";
const HASH: &str = "sha256";
/// The name of the resource where a file was signed and not a folder.
pub const WHOLE_FILE: &str = ".";
/// Files of one statement (a list without end).
const MAX_RESOURCES: usize = 10_000;

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The name of the file or folder where it was signed. For people: nothing depends on it.
    pub subject: String,
    /// The files.
    pub resources: Vec<Resource>,
    /// Paths below a signed folder that were left out.
    pub ignored: Vec<String>,
    /// Symbolic links were followed where it was signed.
    pub links: bool,
}

/// A file by name and digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Path below the signed folder, or [`WHOLE_FILE`].
    pub name: String,
    /// SHA-256 of its bytes.
    pub digest: Digest,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: SubjectDigest,
}

#[derive(Serialize, Deserialize)]
struct SubjectDigest {
    sha256: String,
}

/// Fields that are not listed are to be ignored, says the form.
#[derive(Serialize, Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<WrittenResource>,
}

#[derive(Serialize, Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
    #[serde(default)]
    allow_symlinks: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ignore_paths: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct WrittenResource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Statement {
    /// The statement of one file.
    pub fn of_file(name: &str, digest: Digest) -> Self {
        let resources = vec![Resource { name: WHOLE_FILE.to_owned(), digest }];
        Self { subject: name.to_owned(), resources, ignored: Vec::new(), links: false }
    }

    /// The text that is signed.
    pub(super) fn to_json(&self) -> Result<Vec<u8>, SignatureError> {
        let resource = |resource: &Resource| WrittenResource {
            name: resource.name.clone(),
            algorithm: HASH.to_owned(),
            digest: resource.digest.hex(),
        };
        let written = Written {
            kind: STATEMENT.to_owned(),
            subject: vec![Subject {
                name: self.subject.clone(),
                digest: SubjectDigest { sha256: self.root().hex() },
            }],
            predicate_type: PREDICATE.to_owned(),
            predicate: Predicate {
                serialization: Serialization {
                    method: METHOD.to_owned(),
                    hash_type: HASH.to_owned(),
                    allow_symlinks: self.links,
                    ignore_paths: self.ignored.clone(),
                },
                resources: self.resources.iter().map(resource).collect(),
            },
        };
        serde_json::to_vec(&written).map_err(|error| SignatureError::Signing(error.to_string()))
    }

    /// Reads the text that was signed.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, SignatureError> {
        let error = |what: String| SignatureError::Bundle(format!("its statement: {what}"));
        let written: Written = serde_json::from_slice(payload).map_err(|cause| error(format!("{cause}")))?;
        let expect = |what: &str, found: &str, wanted: &str| match found == wanted {
            true => Ok(()),
            false => Err(error(format!("{what} is {:?}, not {wanted:?}", short(found)))),
        };
        expect("`_type`", &written.kind, STATEMENT)?;
        expect("`predicateType`", &written.predicate_type, PREDICATE)?;
        let Predicate { serialization, resources } = written.predicate;
        expect("`method`", &serialization.method, METHOD)?;
        expect("`hash_type`", &serialization.hash_type, HASH)?;
        let [subject] = &written.subject[..] else {
            return Err(error(format!("it has {} subjects instead of one", written.subject.len())));
        };
        if resources.is_empty() || resources.len() > MAX_RESOURCES {
            return Err(error(format!(
                "it has {} files; there must be 1 to {MAX_RESOURCES}",
                resources.len()
            )));
        }
        let digest = |text: &str| match text.contains(':') {
            true => Err(error(format!("{:?} is not 64 hexadecimal digits", short(text)))),
            false => text.parse::<Digest>().map_err(|cause| error(cause.to_string())),
        };
        let mut read = Vec::with_capacity(resources.len());
        for resource in resources {
            expect("`algorithm`", &resource.algorithm, HASH)?;
            read.push(Resource { digest: digest(&resource.digest)?, name: resource.name });
        }
        let statement = Self {
            subject: subject.name.clone(),
            resources: read,
            ignored: serialization.ignore_paths,
            links: serialization.allow_symlinks,
        };
        if statement.root() != digest(&subject.digest.sha256)? {
            return Err(error("the digest of its subject is not that of its files".to_owned()));
        }
        Ok(statement)
    }

    /// Whether the statement is of one file with this digest.
    ///
    /// # Errors
    /// It is of another file, or of a folder.
    pub fn is_of_file(&self, digest: Digest) -> Result<(), SignatureError> {
        match &self.resources[..] {
            [file] if file.name == WHOLE_FILE && file.digest == digest => Ok(()),
            [file] if file.name == WHOLE_FILE => {
                Err(SignatureError::OtherContent(format!("{} was signed, this is {digest}", file.digest)))
            }
            files => {
                Err(SignatureError::OtherContent(format!("a folder of {} files was signed", files.len())))
            }
        }
    }

    /// SHA-256 over the digests of the files in their order.
    fn root(&self) -> Digest {
        let bytes: Vec<u8> = self.resources.iter().flat_map(|resource| *resource.digest.as_bytes()).collect();
        Digest::of(&bytes)
    }
}

/// The beginning of a text from a file.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
