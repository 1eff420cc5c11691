//! What others have signed about generations: kept, and neither read nor believed here.

use serde::{Deserialize, Serialize};

use super::error::LineageError;
use super::record::Record;

/// Most signed statements kept of a generation; the oldest are forgotten first.
const MOST: usize = 16;

/// A statement that somebody signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Word for word, as it was signed.
    pub statement: String,
    /// The signature, in base64.
    pub signature: String,
}

impl Record {
    /// Keeps a signed statement about a generation.
    ///
    /// # Errors
    /// [`LineageError::NoSuchGeneration`].
    pub fn keep_signed(&mut self, number: u64, signed: &Signed) -> Result<(), LineageError> {
        let kept = &mut self.generation_mut(number)?.signed;
        kept.retain(|other| other.statement != signed.statement);
        kept.push(signed.clone());
        let surplus = kept.len().saturating_sub(MOST);
        kept.drain(..surplus);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{generation, record};
    use super::*;
    use crate::manifest::GenerationKind;

    #[test]
    fn the_newest_statements_are_kept() {
        let mut record = record();
        record.generations = vec![generation(1, GenerationKind::Running)];
        let signed = |number: usize| Signed { statement: number.to_string(), signature: String::new() };
        for number in 0..MOST + 2 {
            record.keep_signed(1, &signed(number)).unwrap();
            record.keep_signed(1, &signed(number)).unwrap();
        }
        let kept = &record.generations[0].signed;
        assert_eq!((kept.len(), &kept[0]), (MOST, &signed(2)));
        assert!(matches!(record.keep_signed(2, &signed(0)), Err(LineageError::NoSuchGeneration { .. })));
    }
}
