//! What a container changed in its image, as engines keep it: a tar stream and a list of what is gone.
//!
//! The stream is never written anywhere. Its headers are made up front, and bodies are read from the store where the stream
//! would have them (POSIX `pax` interchange format, `pax(1)`; extended attributes as `SCHILY.xattr.NAME`, star(5)).

use torpor_store::manifest::{Body, FileEntry, FileKind};

const BLOCK: u64 = 512;
/// What the fields of a header can tell: seven and eleven octal digits.
const MAX_SMALL: u64 = 0o7_777_777;
const MAX_LARGE: u64 = 0o77_777_777_777;
const MAX_NAME: usize = 100;

/// A part of the stream.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    /// So many bytes of a file.
    Body(Body, u64),
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Body(_, length) => *length,
        }
    }
}

/// A stream. What lies between its pieces is zeros.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// With where each begins.
    pieces: Vec<(u64, Piece)>,
    size: u64,
    /// What is gone, as absolute paths.
    pub(super) removed: Vec<String>,
    /// Other names of files, which go last: the file must be there before.
    links: Vec<FileEntry>,
}

impl Layer {
    /// Takes a file. Its path is absolute.
    pub(super) fn add(&mut self, entry: FileEntry) {
        let path = entry.path.trim_ascii_start().strip_prefix(b"/").unwrap_or(&entry.path).to_vec();
        if path.is_empty() {
            return;
        }
        match &entry.kind {
            FileKind::Deleted => self.removed.push(format!("/{}", String::from_utf8_lossy(&path))),
            FileKind::HardLink { .. } => self.links.push(entry),
            FileKind::Directory { opaque } => {
                let opaque = *opaque;
                let name = [&path[..], b"/"].concat();
                self.header(&entry, &name, b'5', b"", 0, (0, 0));
                if opaque {
                    // Of an OCI layer: all that the image has in there is gone.
                    let mark = [&name[..], b".wh..wh..opq"].concat();
                    self.header(&FileEntry { xattrs: Vec::new(), ..entry }, &mark, b'0', b"", 0, (0, 0));
                }
            }
            FileKind::File { size } => {
                let size = *size;
                self.header(&entry, &path, b'0', b"", size, (0, 0));
                self.push(Piece::Body(entry.body, size));
            }
            FileKind::Symlink { target } => {
                let target = target.clone();
                self.header(&entry, &path, b'2', &target, 0, (0, 0));
            }
            FileKind::Fifo => self.header(&entry, &path, b'6', b"", 0, (0, 0)),
            FileKind::CharDevice { major, minor } => {
                let numbers = (*major, *minor);
                self.header(&entry, &path, b'3', b"", 0, numbers);
            }
            FileKind::BlockDevice { major, minor } => {
                let numbers = (*major, *minor);
                self.header(&entry, &path, b'4', b"", 0, numbers);
            }
            // A tar has no sockets, and the program makes its own anew.
            FileKind::Socket => {}
        }
    }

    /// Ends the stream. Returns its size in bytes.
    pub(super) fn finish(&mut self) -> u64 {
        for link in std::mem::take(&mut self.links) {
            if let FileKind::HardLink { to } = &link.kind {
                let to = to.strip_prefix(b"/").unwrap_or(to).to_vec();
                let path = link.path.strip_prefix(b"/").unwrap_or(&link.path).to_vec();
                self.header(&link, &path, b'1', &to, 0, (0, 0));
            }
        }
        self.removed.sort();
        self.size += 2 * BLOCK;
        self.size
    }

    /// Fills `into` from byte `at` of the stream on; `body` reads a file.
    pub(super) fn read_at<E>(
        &self,
        at: u64,
        into: &mut [u8],
        mut body: impl FnMut(&Body, u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        into.fill(0);
        let end = at + into.len() as u64;
        let first = self.pieces.partition_point(|(start, piece)| start + piece.length() <= at);
        for (start, piece) in self.pieces[first..].iter().take_while(|(start, _)| *start < end) {
            let from = at.max(*start);
            let to = end.min(start + piece.length());
            let part = &mut into[(from - at) as usize..(to - at) as usize];
            match piece {
                Piece::Bytes(bytes) => {
                    part.copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
                }
                Piece::Body(file, _) => body(file, from - start, part)?,
            }
        }
        Ok(())
    }

    fn push(&mut self, piece: Piece) {
        let length = piece.length();
        if length > 0 {
            self.pieces.push((self.size, piece));
            self.size += length.next_multiple_of(BLOCK);
        }
    }

    fn header(
        &mut self,
        entry: &FileEntry,
        name: &[u8],
        kind: u8,
        link: &[u8],
        size: u64,
        (major, minor): (u32, u32),
    ) {
        let modified = u64::try_from(entry.modified.seconds).unwrap_or(0);
        let (uid, gid) = (u64::from(entry.uid), u64::from(entry.gid));
        let mut records = Vec::new();
        for (key, value) in [("path", name), ("linkpath", link)] {
            if value.len() > MAX_NAME {
                records.extend(record(key.as_bytes(), value));
            }
        }
        for (key, value, most) in
            [("size", size, MAX_LARGE), ("uid", uid, MAX_SMALL), ("gid", gid, MAX_SMALL)]
        {
            if value > most {
                records.extend(record(key.as_bytes(), value.to_string().as_bytes()));
            }
        }
        for xattr in &entry.xattrs {
            records.extend(record(&[b"SCHILY.xattr.", &xattr.name[..]].concat(), &xattr.value));
        }
        if !records.is_empty() {
            let length = records.len() as u64;
            self.push(Piece::Bytes(block(b"pax", 0o644, (0, 0), (length, 0), b'x', b"", (0, 0))));
            self.push(Piece::Bytes(records));
        }
        let header = block(name, entry.mode, (uid, gid), (size, modified), kind, link, (major, minor));
        self.push(Piece::Bytes(header));
    }
}

/// A record starts with its own length, in decimal digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn block(
    name: &[u8],
    mode: u32,
    (uid, gid): (u64, u64),
    (size, modified): (u64, u64),
    kind: u8,
    link: &[u8],
    (major, minor): (u32, u32),
) -> Vec<u8> {
    let mut header = vec![0; BLOCK as usize];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(MAX_NAME)]);
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, format!("{:07o}", uid.min(MAX_SMALL)).as_bytes());
    put(116, format!("{:07o}", gid.min(MAX_SMALL)).as_bytes());
    put(124, format!("{:011o}", size.min(MAX_LARGE)).as_bytes());
    put(136, format!("{:011o}", modified.min(MAX_LARGE)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &link[..link.len().min(MAX_NAME)]);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", u64::from(major).min(MAX_SMALL)).as_bytes());
    put(337, format!("{:07o}", u64::from(minor).min(MAX_SMALL)).as_bytes());
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use torpor_store::manifest::{FileTime, Xattr};

    use super::*;

    fn entry(path: &str, kind: FileKind) -> FileEntry {
        FileEntry {
            section: "carried".to_owned(),
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o4755,
            uid: 3_000_000,
            gid: 7,
            modified: FileTime { seconds: 5, nanos: 0 },
            accessed: FileTime { seconds: 0, nanos: 0 },
            xattrs: vec![Xattr { name: b"user.a".to_vec(), value: b"\0\n".to_vec() }],
            body: Body::default(),
        }
    }

    /// The stream; every byte of a body is `x`.
    fn stream(layer: &mut Layer, step: usize) -> Vec<u8> {
        let size = layer.finish() as usize;
        let mut bytes = vec![1; size];
        for (number, part) in bytes.chunks_mut(step).enumerate() {
            let fill = |_: &Body, _: u64, into: &mut [u8]| {
                into.fill(b'x');
                Ok::<(), ()>(())
            };
            layer.read_at((number * step) as u64, part, fill).unwrap();
        }
        bytes
    }

    #[test]
    fn a_reader_of_tars_finds_what_was_put_in() {
        let long = format!("/{}/file", "d".repeat(120));
        for step in [1, 7, 512, 100_000] {
            let mut layer = Layer::default();
            layer.add(entry("/", FileKind::Directory { opaque: false }));
            layer.add(entry("/a-link", FileKind::HardLink { to: b"/etc/motd".to_vec() }));
            layer.add(entry("/etc", FileKind::Directory { opaque: true }));
            layer.add(entry("/etc/motd", FileKind::File { size: 700 }));
            layer.add(entry(&long, FileKind::File { size: 0 }));
            layer.add(entry("/gone", FileKind::Deleted));
            layer.add(entry("/link", FileKind::Symlink { target: b"etc/motd".to_vec() }));
            layer.add(entry("/null", FileKind::CharDevice { major: 1, minor: 3 }));
            let bytes = stream(&mut layer, step);
            assert_eq!(layer.removed, ["/gone"]);
            let directory = tempfile::tempdir().unwrap();
            let archive = directory.path().join("layer.tar");
            std::fs::write(&archive, &bytes).unwrap();
            let listed = std::process::Command::new("tar").args(["-tvf"]).arg(&archive).output().unwrap();
            let listed = String::from_utf8(listed.stdout).unwrap();
            let names: Vec<_> = listed.lines().map(|line| line.split_whitespace().nth(5).unwrap()).collect();
            let expected = ["etc/", "etc/.wh..wh..opq", "etc/motd", &long[1..], "link", "null", "a-link"];
            assert_eq!(names, expected, "{listed}");
            assert!(listed.contains("3000000/7") && listed.contains("-rwsr-xr-x"), "{listed}");
            assert!(listed.contains("a-link link to etc/motd") && listed.contains("1,3"), "{listed}");
        }
    }
}
