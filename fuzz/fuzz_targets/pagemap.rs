//! Pagemaps: ranges come in order, do not overlap, and survive being written in either form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_criu::image::pagemap::{Generation, PageRange, PagemapReader, PagemapWriter};
use torpor_criu::image::{ImageWriter, Kind, Limits};

fuzz_target!(|body: &[u8]| {
    let Ok(writer) = ImageWriter::new(Kind::Pagemap, Vec::new()) else { return };
    let image = [writer.into_inner(), body.to_vec()].concat();
    let Some(ranges) = read(&image) else { return };
    for pair in ranges.windows(2) {
        assert!(pair[0].vaddr + pair[0].pages * 4096 <= pair[1].vaddr);
        assert!(pair[0].first <= pair[1].first);
    }
    assert_eq!(read(&written(&ranges, Generation::Wide)).as_ref(), Some(&ranges));
    // The older form splits long ranges and leaves out empty ones; the pages are the same.
    if ranges.iter().all(|range| range.pages < 1 << 40) {
        let narrow = read(&written(&ranges, Generation::Narrow)).expect("what was written can be read");
        let pages = |ranges: &[PageRange]| ranges.iter().map(|range| range.pages).sum::<u64>();
        assert_eq!(pages(&narrow), pages(&ranges));
    }
});

fn read(image: &[u8]) -> Option<Vec<PageRange>> {
    PagemapReader::new(image, Limits { entries: 1 << 12, ..Limits::default() })
        .ok()?
        .collect::<Result<_, _>>()
        .ok()
}

fn written(ranges: &[PageRange], generation: Generation) -> Vec<u8> {
    let mut writer = PagemapWriter::new(Vec::new(), 1, generation, 4096).expect("memory takes everything");
    for range in ranges {
        writer.range(range.vaddr, range.pages, range.flags).expect("memory takes everything");
    }
    writer.into_inner()
}
