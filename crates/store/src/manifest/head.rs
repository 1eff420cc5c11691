//! The head's encoding.

use prost::Message;

use super::file::{BlockTable, RunMessage, decode_blocks, decode_body, encode_body};
use super::{
    Description, GenerationKind, Image, Manifest, MemoryId, MemoryKind, MemoryObject, Phase, SegmentRef,
    Sizes,
};
use crate::id::{BlockId, ManifestId};

/// Most bytes of a head.
pub(crate) const MAX_HEAD: usize = 256 << 20;
/// Most bytes of facts.
pub(crate) const MAX_FACTS: usize = 16 << 20;

#[derive(Clone, PartialEq, Eq, Message)]
struct PhaseMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    micros: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SizesMessage {
    #[prost(uint64, tag = "1")]
    logical: u64,
    #[prost(uint64, tag = "2")]
    new: u64,
    #[prost(uint64, tag = "3")]
    stored: u64,
    #[prost(uint64, tag = "4")]
    memory: u64,
    #[prost(uint64, tag = "5")]
    zero: u64,
    #[prost(uint64, tag = "6")]
    files: u64,
    #[prost(uint64, tag = "7")]
    images: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct ImageMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    runs: Vec<RunMessage>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct SegmentMessage {
    #[prost(bytes = "vec", tag = "1")]
    block: Vec<u8>,
    #[prost(uint32, tag = "2")]
    piece: u32,
    #[prost(uint32, tag = "3")]
    size: u32,
    #[prost(uint64, tag = "4")]
    start: u64,
    #[prost(uint64, tag = "5")]
    end: u64,
    #[prost(uint64, tag = "6")]
    count: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct MemoryMessage {
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint64, tag = "2")]
    id: u64,
    #[prost(uint64, tag = "3")]
    pages: u64,
    #[prost(uint64, tag = "4")]
    zero_pages: u64,
    #[prost(message, repeated, tag = "5")]
    segments: Vec<SegmentMessage>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct HeadMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    epoch: u64,
    #[prost(uint64, tag = "3")]
    generation: u64,
    #[prost(uint32, tag = "4")]
    kind: u32,
    #[prost(uint64, optional, tag = "5")]
    parent: Option<u64>,
    /// Seconds since 1970, and nanoseconds.
    #[prost(sint64, tag = "6")]
    created: i64,
    #[prost(int32, tag = "7")]
    created_nanos: i32,
    #[prost(message, repeated, tag = "8")]
    phases: Vec<PhaseMessage>,
    #[prost(bytes = "vec", tag = "9")]
    facts: Vec<u8>,
    #[prost(message, optional, tag = "10")]
    sizes: Option<SizesMessage>,
    /// Ids of the blocks that images lie in.
    #[prost(bytes = "vec", tag = "11")]
    blocks: Vec<u8>,
    #[prost(message, repeated, tag = "12")]
    images: Vec<ImageMessage>,
    #[prost(message, repeated, tag = "13")]
    memory: Vec<MemoryMessage>,
    #[prost(message, repeated, tag = "14")]
    files: Vec<SegmentMessage>,
}

fn encode_segment(segment: &SegmentRef) -> SegmentMessage {
    SegmentMessage {
        block: segment.block.as_bytes().to_vec(),
        piece: segment.piece,
        size: segment.size,
        start: segment.start,
        end: segment.end,
        count: segment.count,
    }
}

fn decode_segment(message: &SegmentMessage) -> Result<SegmentRef, String> {
    let block = BlockId::try_from(message.block.as_slice()).map_err(|error| error.to_string())?;
    let SegmentMessage { piece, size, start, end, count, .. } = *message;
    Ok(SegmentRef { block, piece, size, start, end, count })
}

/// Encodes a head; its id is not part of it.
pub(crate) fn encode_head(manifest: &Manifest) -> Vec<u8> {
    let Manifest { description, sizes, images, memory, files, .. } = manifest;
    let mut table = BlockTable::default();
    let images = images
        .iter()
        .map(|image| ImageMessage { name: image.name.clone(), runs: encode_body(&image.body, &mut table) })
        .collect();
    let message = HeadMessage {
        name: description.name.clone(),
        epoch: description.epoch,
        generation: description.generation,
        kind: match description.kind {
            GenerationKind::Suspend => 1,
            GenerationKind::Running => 2,
            GenerationKind::Template => 3,
        },
        parent: description.parent,
        created: description.created.as_second(),
        created_nanos: description.created.subsec_nanosecond(),
        phases: description
            .phases
            .iter()
            .map(|phase| PhaseMessage { name: phase.name.clone(), micros: phase.micros })
            .collect(),
        facts: description.facts.clone(),
        sizes: Some(SizesMessage {
            logical: sizes.logical,
            new: sizes.new,
            stored: sizes.stored,
            memory: sizes.memory,
            zero: sizes.zero,
            files: sizes.files,
            images: sizes.images,
        }),
        blocks: table.ids,
        images,
        memory: memory
            .iter()
            .map(|object| MemoryMessage {
                kind: match object.id.kind {
                    MemoryKind::Process => 1,
                    MemoryKind::Shared => 2,
                },
                id: object.id.id,
                pages: object.pages,
                zero_pages: object.zero_pages,
                segments: object.segments.iter().map(encode_segment).collect(),
            })
            .collect(),
        files: files.iter().map(encode_segment).collect(),
    };
    message.encode_to_vec()
}

/// Decodes a head.
pub(crate) fn decode_head(id: ManifestId, bytes: &[u8]) -> Result<Manifest, String> {
    let message = HeadMessage::decode(bytes).map_err(|error| error.to_string())?;
    if message.facts.len() > MAX_FACTS {
        return Err(format!("{} bytes of facts are too many", message.facts.len()));
    }
    let created = jiff::Timestamp::new(message.created, message.created_nanos)
        .map_err(|_| "it was made at no possible time".to_owned())?;
    let description = Description {
        name: message.name,
        epoch: message.epoch,
        generation: message.generation,
        kind: match message.kind {
            1 => GenerationKind::Suspend,
            2 => GenerationKind::Running,
            3 => GenerationKind::Template,
            other => return Err(format!("there is no generation kind {other}")),
        },
        parent: message.parent,
        created,
        phases: message
            .phases
            .into_iter()
            .map(|phase| Phase { name: phase.name, micros: phase.micros })
            .collect(),
        facts: message.facts,
    };
    let sizes = message.sizes.unwrap_or_default();
    let blocks = decode_blocks(&message.blocks)?;
    let images = message
        .images
        .into_iter()
        .map(|image| {
            let body = decode_body(&image.runs, &blocks, u64::MAX)?;
            Ok(Image { name: image.name, body })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let memory = message
        .memory
        .into_iter()
        .map(|object| {
            let kind = match object.kind {
                1 => MemoryKind::Process,
                2 => MemoryKind::Shared,
                other => return Err(format!("there is no memory kind {other}")),
            };
            let segments = object.segments.iter().map(decode_segment).collect::<Result<Vec<_>, String>>()?;
            if !segments.is_sorted_by(|a, b| a.end <= b.start) {
                return Err("its segments overlap".to_owned());
            }
            Ok(MemoryObject {
                id: MemoryId { kind, id: object.id },
                pages: object.pages,
                zero_pages: object.zero_pages,
                segments,
            })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let files = message.files.iter().map(decode_segment).collect::<Result<Vec<_>, String>>()?;
    Ok(Manifest {
        id,
        description,
        sizes: Sizes {
            logical: sizes.logical,
            new: sizes.new,
            stored: sizes.stored,
            memory: sizes.memory,
            zero: sizes.zero,
            files: sizes.files,
            images: sizes.images,
        },
        images,
        memory,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Body;
    use crate::manifest::extent::PieceRun;
    use crate::manifest::file::BodyRun;
    use proptest::prelude::*;

    fn manifest() -> Manifest {
        let segment = |start| SegmentRef {
            block: BlockId([4; 32]),
            piece: 3,
            size: 100,
            start,
            end: start + 4096,
            count: 7,
        };
        let pieces = PieceRun { block: BlockId([5; 32]), first: 1, count: 2 };
        Manifest {
            id: ManifestId([0; 32]),
            description: Description {
                name: "shop/web".to_owned(),
                epoch: 4,
                generation: 9,
                kind: GenerationKind::Running,
                parent: Some(8),
                created: "2026-03-04T05:06:07.000000008Z".parse().unwrap(),
                phases: vec![Phase { name: "freeze".to_owned(), micros: 180_000 }],
                facts: br#"{"criu":"4.2.1"}"#.to_vec(),
            },
            sizes: Sizes { logical: 1, new: 2, stored: 3, memory: 4, zero: 5, files: 6, images: 7 },
            images: vec![Image {
                name: "inventory.img".to_owned(),
                body: Body { runs: vec![BodyRun { offset: 0, len: 40, pieces }] },
            }],
            memory: vec![MemoryObject {
                id: MemoryId::shared(77),
                pages: 9,
                zero_pages: 1,
                segments: vec![segment(0), segment(8192)],
            }],
            files: vec![segment(0)],
        }
    }

    #[test]
    fn reads_what_it_writes() {
        let manifest = manifest();
        assert_eq!(decode_head(manifest.id, &encode_head(&manifest)), Ok(manifest));
    }

    proptest! {
        #[test]
        fn takes_any_bytes_without_panic(bytes: Vec<u8>) {
            let _ = decode_head(ManifestId([0; 32]), &bytes);
        }

        #[test]
        fn takes_any_damage_without_panic(at: prop::sample::Index, byte: u8, end: prop::sample::Index) {
            let mut bytes = encode_head(&manifest());
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = decode_head(ManifestId([0; 32]), &bytes);
            let _ = decode_head(ManifestId([0; 32]), &bytes[..end.index(bytes.len())]);
        }
    }
}
