//! The known failures, by what they are about. Messages are those of CRIU 3.17 to 4.2.

use super::Known;

mod elsewhere;
mod files;
mod images;
mod isolation;
mod kernel;
mod mounts;
mod network;
mod processes;
mod resources;

/// The first row that matches a line counts, so the more general ones come later.
const TABLES: [&[Known]; 8] = [
    resources::ROWS,
    network::ROWS,
    files::ROWS,
    mounts::ROWS,
    processes::ROWS,
    kernel::ROWS,
    isolation::ROWS,
    images::ROWS,
];

/// Every known failure, the more general ones after the others.
pub fn known() -> impl Iterator<Item = &'static Known> {
    TABLES.into_iter().flatten()
}

impl Known {
    /// What to do about it where the program does not run under `torpor run`.
    #[must_use]
    pub fn remedy_elsewhere(&self) -> &'static str {
        elsewhere::remedy(self.id).unwrap_or(self.remedy)
    }
}
