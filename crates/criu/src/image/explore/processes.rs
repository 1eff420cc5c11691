//! Who is whose child.

use std::collections::HashMap;

use serde::Serialize;

use super::{ExploreError, Images, Listed, listed};

/// Deepest tree of processes. It is far beyond what programs have, and within what can be handled one level inside the other.
const DEPTH: usize = 500;

/// A process with its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its PID.
    pub pid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its name, as the kernel has it.
    pub comm: String,
    /// Its children, in the order of the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Process>,
}

/// The trees of processes; real checkpoints have one.
///
/// # Errors
///
/// When an image is missing or damaged, or a process is its own ancestor.
pub fn processes(images: &dyn Images) -> Result<Vec<Process>, ExploreError> {
    let all = listed(images)?;
    let known: HashMap<u32, &Listed> = all.iter().map(|one| (one.pid, one)).collect();
    let mut children: HashMap<u32, Vec<&Listed>> = HashMap::new();
    let mut roots = Vec::new();
    for one in &all {
        if known.contains_key(&one.parent) {
            children.entry(one.parent).or_default().push(one)
        } else {
            roots.push(one)
        }
    }
    let mut placed = 0;
    let trees: Vec<Process> = roots
        .iter()
        .map(|root| place(images, root, &children, DEPTH, &mut placed))
        .collect::<Result<_, _>>()?;
    match all.iter().find(|one| placed < all.len() && !is_below(&known, one)) {
        Some(lost) => Err(ExploreError::NoTree { pid: lost.pid }),
        None => Ok(trees),
    }
}

fn place(
    images: &dyn Images,
    one: &Listed,
    children: &HashMap<u32, Vec<&Listed>>,
    depth: usize,
    placed: &mut usize,
) -> Result<Process, ExploreError> {
    if depth == 0 {
        return Err(ExploreError::NoTree { pid: one.pid });
    }
    *placed += 1;
    let core = one.core(images)?;
    let below = children.get(&one.pid).map_or(&[][..], Vec::as_slice);
    Ok(Process {
        pid: one.pid,
        pgid: one.group,
        sid: one.session,
        comm: core.message("tc").map(|task| task.text("comm").into_owned()).unwrap_or_default(),
        children: below
            .iter()
            .map(|child| place(images, child, children, depth - 1, placed))
            .collect::<Result<_, _>>()?,
    })
}

/// Whether a process descends from one without a parent.
fn is_below(known: &HashMap<u32, &Listed>, one: &Listed) -> bool {
    let mut at = one;
    for _ in 0..DEPTH {
        match known.get(&at.parent) {
            Some(parent) => at = parent,
            None => return true,
        }
    }
    false
}
