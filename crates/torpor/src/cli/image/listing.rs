//! The views of `x` as text, in the columns of CRIU's own crit.

use std::fmt::Write as _;

use torpor_criu::image::explore::{Mappings, OpenFiles, OpenSockets, Process, Resident, ResidentRange};

use crate::cli::output;

/// Processes, indented below their parents.
pub(super) fn processes(all: &[Process]) -> String {
    let mut text = format!("{:>7}{:>7}{:>7}   {}\n", "PID", "PGID", "SID", "COMM");
    for root in all {
        process(root, 0, &mut text);
    }
    text
}

fn process(one: &Process, depth: usize, text: &mut String) {
    let Process { pid, pgid, sid, comm, children } = one;
    let _ = writeln!(text, "{pid:>7}{pgid:>7}{sid:>7}   {:1$}{comm}", "", depth * 4);
    for child in children {
        process(child, depth + 1, text);
    }
}

/// Descriptors with what is behind them.
pub(super) fn open_files(all: &[OpenFiles]) -> String {
    let mut text = String::new();
    for process in all {
        let _ = writeln!(text, "{}", process.pid);
        for file in &process.files {
            let _ = writeln!(text, "\t{:>7}: {}", file.fd, file.path);
        }
    }
    text
}

/// Mappings with what is mapped.
pub(super) fn mappings(all: &[Mappings]) -> String {
    let mut text = String::new();
    for process in all {
        let _ = writeln!(text, "{}", process.pid);
        if let Some(exe) = &process.exe {
            let _ = writeln!(text, "\t{:<36}    {exe}", "exe");
        }
        for mapped in &process.mems {
            let range = format!("{:0>8}-{:0>8}", mapped.start, mapped.end);
            let blank = if mapped.resource.is_empty() { "" } else { " " };
            let _ = writeln!(text, "\t{range:<36}{}{blank}{}", mapped.protection, mapped.resource);
        }
    }
    text
}

/// Pages with the mappings they lie in.
pub(super) fn resident(all: &[Resident]) -> String {
    let mut text = String::new();
    for process in all {
        let _ = writeln!(text, "{}", process.pid);
        for range in &process.rss {
            let pages = format!("\t{} / {:<8}", range.phy_addr, range.phy_pages);
            let _ = writeln!(text, "{pages:<24}{}", areas(range));
        }
    }
    text
}

fn areas(range: &ResidentRange) -> String {
    let mut text = String::new();
    for area in &range.vmas {
        match area.pages {
            None => text.push_str(" ~"),
            Some(pages) => {
                let _ = write!(text, " {:0>8} / {pages:<8}", area.addr);
            }
        }
        if let Some(file) = &area.resource {
            let _ = write!(text, " {file}");
        }
        let _ = write!(text, "\n\t{:23}", "");
    }
    text
}

/// Sockets in a table.
pub(super) fn sockets(all: &[OpenSockets]) -> String {
    let mut table = output::table(&[
        ">PID", ">FD", "FAMILY", "TYPE", "PROTOCOL", "STATE", "LOCAL", "PEER", ">SEND", ">RECEIVE",
    ]);
    for process in all {
        for socket in &process.sockets {
            table.add_row([
                process.pid.to_string(),
                socket.fd.to_string(),
                socket.family.clone(),
                socket.socket_type.clone(),
                socket.protocol.clone(),
                socket.state.clone(),
                end(&socket.src_addr, socket.src_port),
                end(&socket.dest_addr, socket.dest_port),
                socket.send_buf.clone(),
                socket.recv_buf.clone(),
            ]);
        }
    }
    output::lines(&table)
}

fn end(address: &str, port: u32) -> String {
    match (address.contains(':'), port) {
        (_, 0) => address.to_owned(),
        (true, port) => format!("[{address}]:{port}"),
        (false, port) => format!("{address}:{port}"),
    }
}
