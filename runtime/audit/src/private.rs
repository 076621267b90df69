//! Files that only their owner may read.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;

/// What others than the owner may do with a file.
const OTHERS: u32 = 0o077;

/// Takes it from them. False if they have it still: the file is not ours, or its file system has no permissions.
pub(crate) fn keep_private(file: &File) -> bool {
    let mode = |file: &File| file.metadata().map(|metadata| metadata.permissions().mode());
    let Ok(before) = mode(file) else { return false };
    if before & OTHERS == 0 {
        return true;
    }
    let changed = file.set_permissions(Permissions::from_mode(before & 0o7777 & !OTHERS));
    changed.is_ok() && mode(file).is_ok_and(|after| after & OTHERS == 0)
}
