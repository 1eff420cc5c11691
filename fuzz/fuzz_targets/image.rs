//! Any kind of image, chosen by the first byte: what is read is written back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_criu::image::kind::KINDS;
use torpor_criu::image::{ImageReader, ImageWriter, Kind, Limits, Name};
use torpor_criu::image::{
    credential, file, memory, namespace, process, read_all, read_one, socket, terminal,
};
use torpor_criu::stats::Statistics;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let kind = KINDS[usize::from(*choice) % KINDS.len()].kind;
    // Random bytes hardly ever start with the right magic, so that is put in front.
    let Ok(writer) = ImageWriter::new(kind, Vec::new()) else { return };
    let image = [writer.into_inner(), body.to_vec()].concat();
    round_trip(kind, &image);
    typed(kind, &image);
    let _ = Name::parse(&String::from_utf8_lossy(body));
});

fn round_trip(kind: Kind, image: &[u8]) {
    let limits = Limits { message: 1 << 16, payload: 1 << 16, entries: 1 << 10 };
    let Ok(mut reader) = ImageReader::new(kind, image, limits) else { return };
    let mut writer = ImageWriter::with_head(reader.head(), Vec::new()).expect("memory takes everything");
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => writer.entry(entry.message, entry.extra).expect("memory takes everything"),
            Ok(None) => break,
            Err(_) => return,
        }
    }
    assert_eq!(writer.into_inner(), image);
}

fn typed(kind: Kind, image: &[u8]) {
    match kind {
        Kind::Inventory => drop(read_one::<process::Inventory>(image)),
        Kind::ProcessTree => drop(read_all::<process::TreeEntry>(image)),
        Kind::Core => drop(read_one::<process::Core>(image)),
        Kind::Ids => drop(read_one::<process::Ids>(image)),
        Kind::Seccomp => drop(read_one::<credential::SeccompFilters>(image)),
        Kind::Memory => drop(read_one::<memory::Memory>(image).map(|memory| memory.page_size())),
        Kind::Files => drop(read_all::<file::File>(image)),
        Kind::Descriptors => drop(read_all::<file::Descriptor>(image)),
        Kind::RemappedPaths => drop(read_all::<file::RemappedPath>(image)),
        Kind::RemovedFile => drop(read_one::<file::RemovedFile>(image)),
        Kind::PipeData => drop(read_all::<file::PipeData>(image)),
        Kind::TcpStream => drop(read_one::<socket::TcpStream>(image)),
        Kind::Terminals => drop(read_all::<terminal::Terminal>(image)),
        Kind::Mounts => drop(read_all::<namespace::Mount>(image)),
        Kind::TimeNamespace => drop(read_one::<namespace::TimeNamespace>(image)),
        Kind::Statistics => drop(Statistics::read(image)),
        _ => {}
    }
}
