//! Trees, drawn with lines.

use std::fmt::Write;

use super::output;

/// A line of a tree, and what hangs below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    text: String,
    children: Vec<Node>,
}

impl Node {
    /// A line without anything below it. What would move a terminal's cursor is shown as an escape.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        Self { text: output::plain(text.as_ref()).into_owned(), children: Vec::new() }
    }

    /// The node with these below it.
    pub(crate) fn with(mut self, children: impl IntoIterator<Item = Node>) -> Self {
        self.children.extend(children);
        self
    }

    /// Hangs one more below it.
    pub(crate) fn push(&mut self, child: Node) {
        self.children.push(child);
    }

    /// Hangs one more below it, unless there is nothing below that.
    pub(crate) fn push_group(&mut self, group: Node) {
        if !group.children.is_empty() {
            self.children.push(group);
        }
    }

    /// The tree as lines.
    pub(crate) fn lines(&self) -> String {
        let mut text = format!("{}\n", self.text);
        // A chain of processes can be deeper than a stack.
        let mut open: Vec<(&[Node], String)> = vec![(&self.children, String::new())];
        while let Some((siblings, indent)) = open.pop() {
            let Some((node, rest)) = siblings.split_first() else { continue };
            let (branch, below) =
                if rest.is_empty() { ("└── ", "    ") } else { ("├── ", "│   ") };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{indent}{branch}{}", node.text);
            let inner = format!("{indent}{below}");
            open.push((rest, indent));
            open.push((&node.children, inner));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_from_parents_to_children() {
        let tree = Node::new("a").with([
            Node::new("b").with([Node::new("c"), Node::new("d").with([Node::new("e")])]),
            Node::new("f"),
        ]);
        assert_eq!(tree.lines(), "a\n├── b\n│   ├── c\n│   └── d\n│       └── e\n└── f\n");
    }

    #[test]
    fn a_group_without_members_is_left_out() {
        let mut tree = Node::new("a");
        tree.push_group(Node::new("empty"));
        assert_eq!(tree.lines(), "a\n");
    }

    #[test]
    fn text_cannot_draw_lines_of_its_own() {
        assert_eq!(Node::new("a\n└── b\u{1b}[2J").lines(), "a\\n└── b\\u{1b}[2J\n");
    }
}
