//! How much an archive may ask for.

/// Limits on what is read, so that no archive takes memory or time without end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most entries.
    pub entries: usize,
    /// Most bytes of all names together.
    pub names: usize,
    /// Most bytes that a compressed archive may unpack to; none means 16 GiB, or 200 times its compressed size where that
    /// is more.
    pub unpacked: Option<u64>,
    /// Most bytes that a decoder may look back, which is memory it takes.
    pub window: u64,
    /// Most bytes of bodies that are kept from a stream that cannot be read at any place.
    pub kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1 << 17, names: 16 << 20, unpacked: None, window: 32 << 20, kept: 16 << 20 }
    }
}

impl Limits {
    /// Most bytes that may come out of so many compressed ones.
    pub(crate) fn unpacked_from(&self, packed: u64) -> u64 {
        self.unpacked.unwrap_or_else(|| packed.saturating_mul(200).max(16 << 30))
    }
}
