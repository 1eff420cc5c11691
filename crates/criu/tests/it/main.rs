//! Sessions with a CRIU: a fake one always, a real one where `TORPOR_CRIU` names it.

mod fake;
mod images;
mod pages;
mod real;

use std::path::PathBuf;

use torpor_criu::options::Common;
use torpor_criu::page_server::{PageFlags, PageSink, PagemapId};
use torpor_criu::program::Program;
use torpor_criu::session::{Session, Spawn};

fn fake_program() -> Program {
    let here = std::env::current_exe().unwrap();
    let directory = here.parent().and_then(|deps| deps.parent()).unwrap();
    Program::new(directory.join("examples/fake-criu"))
}

fn scripted(script: &str) -> Spawn {
    Spawn { environment: vec![("FAKE_CRIU".into(), script.into())], ..Spawn::default() }
}

fn start(script: &str) -> Session {
    Session::start(&fake_program(), scripted(script)).unwrap()
}

/// A directory for images, and options that log into it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn common(&self) -> Common {
        Common { log_file: Some("criu.log".into()), ..Common::new(self.directory.path()) }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("criu.log")).unwrap_or_default()
    }
}

/// Counts, and keeps the first byte of every page.
#[derive(Debug, Default)]
struct Counted {
    opened: Vec<PagemapId>,
    firsts: Vec<(u64, u8)>,
    holes: Vec<(u64, u64)>,
    parent: bool,
    fail_close: bool,
    fail_pages: bool,
    closed: bool,
}

impl PageSink for Counted {
    fn open(&mut self, id: PagemapId) -> std::io::Result<bool> {
        self.opened.push(id);
        Ok(self.parent)
    }

    fn has_parent(&mut self, _: PagemapId) -> std::io::Result<bool> {
        Ok(self.parent)
    }

    fn pages(
        &mut self,
        _: PagemapId,
        vaddr: u64,
        _: PageFlags,
        pages: u64,
        body: &mut dyn std::io::Read,
    ) -> std::io::Result<()> {
        if self.fail_pages {
            return Err(std::io::Error::other("no memory left in the budget"));
        }
        let mut page = vec![0; rustix::param::page_size()];
        for number in 0..pages {
            body.read_exact(&mut page)?;
            self.firsts.push((vaddr + number * page.len() as u64, page[0]));
        }
        Ok(())
    }

    fn hole(&mut self, _: PagemapId, vaddr: u64, _: PageFlags, pages: u64) -> std::io::Result<()> {
        self.holes.push((vaddr, pages));
        Ok(())
    }

    fn close(&mut self) -> std::io::Result<()> {
        self.closed = true;
        if self.fail_close { Err(std::io::Error::other("cannot keep it")) } else { Ok(()) }
    }
}
