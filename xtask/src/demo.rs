//! The main job, for real: two programs are ended by a signal, started again, and go on where they were.

mod service;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::runtime_directory::{self, RuntimeDirectory};
use crate::{chore, criu, needs, workspace};
use service::{Service, redis, web};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many keys Redis holds.
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    /// Build for development instead of for release: quicker to build, slower to run.
    #[arg(long)]
    debug: bool,
}

/// What the demonstration works with.
#[derive(Debug)]
struct Stage {
    torpor: PathBuf,
    criu: PathBuf,
    directory: PathBuf,
    runtime: RuntimeDirectory,
}

impl Stage {
    fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    fn torpor(&self) -> Command {
        let mut torpor = Command::new(&self.torpor);
        torpor.env("TORPOR_CRIU", &self.criu).env("TORPOR_STORE", self.store());
        torpor.env(runtime_directory::VARIABLE, self.runtime.path());
        torpor
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let stage = prepare(args)?;
    chore::step("starting Redis and a Python web server under `torpor run`");
    let first = [Service::start(&stage, redis::SERVICE)?, Service::start(&stage, web::SERVICE)?];
    redis::fill(args.keys)?;
    for _ in 0..3 {
        web::count()?;
    }
    std::thread::sleep(Duration::from_secs(2));
    let before = (redis::state()?, web::state()?);
    println!("    Redis: {} keys, up {} s", before.0.keys, before.0.uptime);
    println!(
        "    web:   counter {}, {} threads, up {:.1} s",
        before.1.counter, before.1.threads, before.1.uptime
    );

    chore::step("the node goes away: SIGTERM to both");
    for service in first {
        let name = service.name();
        let (code, took) = service.suspend()?;
        println!("    {name:<11} ended with {code} after {:.2} s", took.as_secs_f64());
        ensure!(code == 143, "{name} should have ended with 143, as suspended programs do");
    }

    chore::step("what the store keeps: `torpor ls`");
    chore::run_plain(stage.torpor().arg("ls"))?;

    chore::step("another start of the same two commands");
    let second = [Service::start(&stage, redis::SERVICE)?, Service::start(&stage, web::SERVICE)?];
    let after = (redis::state()?, web::state()?);
    compare(&before, &after)?;
    // They must still work, not just answer.
    let counted = web::count()?;
    ensure!(counted == before.1.counter + 1, "the counter went from {} to {counted}", before.1.counter);
    redis::write_one()?;

    chore::step("where the time went: `torpor show`");
    for service in second {
        chore::run_plain(stage.torpor().args(["show", &format!("{}@1", service.name())]))?;
    }
    println!("\nBoth went on where they were. The store is {}.", stage.store().display());
    Ok(())
}

fn prepare(args: &Args) -> Result<Stage> {
    needs::install(needs::DEMO)?;
    chore::step("finding a CRIU that works here");
    let criu = criu::ensure(&criu::Args::default())?;
    chore::step("building Torpor");
    let mut build = chore::cargo();
    build.args(["build", "--quiet", "-p", "torpor"]);
    if !args.debug {
        build.arg("--release");
    }
    chore::run(&mut build)?;
    let profile = if args.debug { "debug" } else { "release" };
    let directory = workspace::target().join("demo");
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    fs::copy(workspace::root().join("xtask/demo/web.py"), directory.join("web.py"))?;
    let torpor = workspace::target().join(profile).join("torpor");
    Ok(Stage { torpor, criu, directory, runtime: RuntimeDirectory::new()? })
}

type States = (redis::State, web::State);

/// Prints both states side by side, and fails where something was lost.
fn compare(before: &States, after: &States) -> Result<()> {
    let mut lost = Vec::new();
    println!("    {:<28} {:>14} {:>14}", "", "before", "after");
    let mut line = |what: &str, was: String, is: String, kept: bool| {
        println!("    {what:<28} {was:>14} {is:>14}  {}", if kept { "kept" } else { "LOST" });
        if !kept {
            lost.push(what.to_owned());
        }
    };
    let (redis, web) = before;
    let (redis_now, web_now) = after;
    let short = |text: &str| text.chars().take(12).collect::<String>();
    line("Redis: keys", redis.keys.to_string(), redis_now.keys.to_string(), redis.keys == redis_now.keys);
    line(
        "Redis: digest of all keys",
        short(&redis.digest),
        short(&redis_now.digest),
        redis.digest == redis_now.digest,
    );
    line("Redis: run id", short(&redis.run_id), short(&redis_now.run_id), redis.run_id == redis_now.run_id);
    line(
        "Redis: uptime, s",
        redis.uptime.to_string(),
        redis_now.uptime.to_string(),
        redis.uptime <= redis_now.uptime,
    );
    line(
        "web: counter",
        web.counter.to_string(),
        web_now.counter.to_string(),
        web.counter == web_now.counter,
    );
    line(
        "web: threads",
        web.threads.to_string(),
        web_now.threads.to_string(),
        web.threads == web_now.threads,
    );
    line(
        "web: work of the laziest",
        web.least_work.to_string(),
        web_now.least_work.to_string(),
        web.least_work <= web_now.least_work,
    );
    line(
        "web: uptime, s",
        format!("{:.1}", web.uptime),
        format!("{:.1}", web_now.uptime),
        web.uptime <= web_now.uptime,
    );
    if !lost.is_empty() {
        bail!("lost over the restart: {}", lost.join(", "));
    }
    Ok(())
}
