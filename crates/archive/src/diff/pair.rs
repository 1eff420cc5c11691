//! Which processes of two checkpoints belong together.

use std::collections::HashMap;

use crate::inspect::Process;

/// A process before and after, by their places; one of them may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// In the first checkpoint.
    pub before: Option<usize>,
    /// In the second.
    pub after: Option<usize>,
}

/// Matches processes: first those with the same id that run the same program, then those that run the same program with the same
/// arguments under parents that belong together (a restored or another copy has other ids), then what is left with the same id.
///
/// The result has those of the second checkpoint in their order, then those that are gone.
#[must_use]
pub fn pairs(before: &[Process], after: &[Process]) -> Vec<Pair> {
    let by_pid: HashMap<u32, usize> =
        before.iter().enumerate().map(|(place, process)| (process.pid, place)).collect();
    let mut of_after: Vec<Option<usize>> = vec![None; after.len()];
    let mut taken = vec![false; before.len()];
    let mut take = |of: &mut Option<usize>, place: usize| {
        if !std::mem::replace(&mut taken[place], true) {
            *of = Some(place);
        }
    };

    for (process, of) in after.iter().zip(&mut of_after) {
        if let Some(place) = by_pid.get(&process.pid)
            && same_program(&before[*place], process)
        {
            take(of, *place);
        }
    }
    // Parents come before their children in both, so that one pass finds whole trees.
    let place_of: HashMap<u32, usize> =
        after.iter().enumerate().map(|(place, process)| (process.pid, place)).collect();
    let mut candidates: HashMap<Signature<'_>, Vec<usize>> = HashMap::new();
    for (place, process) in before.iter().enumerate().rev() {
        candidates.entry(signature(process, process.parent)).or_default().push(place);
    }
    for place in 0..after.len() {
        if of_after[place].is_some() {
            continue;
        }
        let process = &after[place];
        // The parent as the first checkpoint calls it; none at the root of the tree.
        let parent = match process.parent.and_then(|pid| place_of.get(&pid)) {
            Some(parent) => match of_after[*parent] {
                Some(parent) => Some(before[parent].pid),
                None => continue,
            },
            None => None,
        };
        let Some(found) = candidates.get_mut(&signature(process, parent)) else { continue };
        while of_after[place].is_none()
            && let Some(candidate) = found.pop()
        {
            take(&mut of_after[place], candidate);
        }
    }
    for (process, of) in after.iter().zip(&mut of_after) {
        if let (None, Some(place)) = (*of, by_pid.get(&process.pid)) {
            take(of, *place);
        }
    }
    let kept = of_after.iter().enumerate().map(|(place, of)| Pair { before: *of, after: Some(place) });
    let gone = (0..before.len()).filter(|place| !taken[*place]);
    kept.chain(gone.map(|place| Pair { before: Some(place), after: None })).collect()
}

fn same_program(before: &Process, after: &Process) -> bool {
    match (&before.executable, &after.executable) {
        (Some(before), Some(after)) => before == after,
        _ => before.name == after.name,
    }
}

/// The parent's id in the first checkpoint, the program, and its arguments.
type Signature<'p> = (Option<u32>, &'p str, &'p [String]);

fn signature(process: &Process, parent: Option<u32>) -> Signature<'_> {
    let program = process.executable.as_deref().unwrap_or(&process.name);
    (parent, program, process.arguments.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32, program: &str) -> Process {
        Process {
            pid,
            parent: (parent > 0).then_some(parent),
            executable: Some(program.to_owned()),
            ..Process::default()
        }
    }

    fn matched(before: &[Process], after: &[Process]) -> Vec<(u32, u32)> {
        let pid = |processes: &[Process], place: Option<usize>| place.map_or(0, |place| processes[place].pid);
        pairs(before, after).iter().map(|pair| (pid(before, pair.before), pid(after, pair.after))).collect()
    }

    #[test]
    fn the_same_id_and_program_belong_together() {
        let before = [process(1, 0, "a"), process(2, 1, "b"), process(3, 1, "c")];
        let after = [process(1, 0, "a"), process(3, 1, "c"), process(4, 1, "d")];
        assert_eq!(matched(&before, &after), [(1, 1), (3, 3), (0, 4), (2, 0)]);
    }

    #[test]
    fn copies_with_other_ids_are_found_through_their_parents() {
        let before = [process(1, 0, "a"), process(2, 1, "b"), process(3, 1, "b"), process(4, 3, "c")];
        let after = [process(11, 0, "a"), process(12, 11, "b"), process(13, 11, "b"), process(14, 13, "c")];
        assert_eq!(matched(&before, &after), [(1, 11), (2, 12), (3, 13), (4, 14)]);
    }

    #[test]
    fn a_process_that_runs_another_program_keeps_its_id() {
        assert_eq!(matched(&[process(5, 0, "sh")], &[process(5, 0, "server")]), [(5, 5)]);
    }
}
