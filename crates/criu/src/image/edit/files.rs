//! Files that are elsewhere at the restore.

use super::{WireError, edit_entries};
use crate::image::file::RegularFile;
use crate::image::{ImageError, Kind};

/// Numbers of fields (CRIU `images/fdinfo.proto`, `images/regfile.proto`).
mod field {
    pub(super) const REGULAR_FILE: u32 = 3;
    pub(super) const NAME: u32 = 6;
    pub(super) const SIZE: u32 = 8;
}

/// What is to be another about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its path.
    pub name: String,
    /// It may have any size; else a restore refuses another than it had.
    pub any_size: bool,
}

/// A `files.img` in which regular files and directories are found elsewhere. `choose` says which, and where.
///
/// # Errors
///
/// When the image is damaged.
pub fn move_files(
    files: &[u8],
    mut choose: impl FnMut(&RegularFile) -> Option<Moved>,
) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::Files, files, |entry| {
        entry.edit(field::REGULAR_FILE, |message| {
            let file = <RegularFile as prost::Message>::decode(message.encode().as_slice())
                .map_err(|_| WireError::Mismatch { number: field::REGULAR_FILE, expected: "a file" })?;
            if let Some(moved) = choose(&file) {
                message.set_bytes(field::NAME, moved.name.into_bytes());
                if moved.any_size {
                    message.remove(field::SIZE);
                }
            }
            Ok::<_, WireError>(())
        })?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::image::file::{File, FileType};
    use crate::image::framing::tests::image;
    use crate::image::read_all;

    #[test]
    fn chosen_files_move_and_all_else_stays() {
        let file = |id: u32, name: &str| File {
            r#type: FileType::Regular as i32,
            id,
            reg: Some(RegularFile { id, name: name.to_owned(), size: Some(7), ..RegularFile::default() }),
            ..File::default()
        };
        let encoded = [file(1, "/a"), file(2, "/b"), file(3, "/c")].map(|file| file.encode_to_vec());
        let entries: Vec<(&[u8], &[u8])> = encoded.iter().map(|entry| (&entry[..], &[][..])).collect();
        let before = image(Kind::Files, &entries);
        let after = move_files(&before, |file| match file.name.as_str() {
            "/a" => Some(Moved { name: "/elsewhere".into(), any_size: true }),
            "/b" => Some(Moved { name: "/there".into(), any_size: false }),
            _ => None,
        });
        let seen: Vec<(String, Option<u64>)> = read_all::<File>(&after.unwrap())
            .unwrap()
            .into_iter()
            .map(|file| file.reg.map(|file| (file.name, file.size)).unwrap())
            .collect();
        let expected = [("/elsewhere", None), ("/there", Some(7)), ("/c", Some(7))];
        assert_eq!(seen, expected.map(|(name, size)| (name.to_owned(), size)));
    }
}
