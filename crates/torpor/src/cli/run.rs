//! `torpor run`: a program that outlives its node.
//!
//! The flags are made from the table of settings that the configuration file and the variables use too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use torpor_node::config::{self, Given, Loaded, SETTINGS, Setting, Shape, Surroundings};

use torpor_node::criu_bundle;
use torpor_node::wrapper::{self, Setup};
use torpor_store::{Credentials, Repository};

use super::failure::Failure;
use super::{Exit, output, store};

/// What was typed.
#[derive(Debug, Clone)]
pub(crate) struct Args {
    given: Given,
    config_path: Option<PathBuf>,
    print_config: bool,
    program: Vec<OsString>,
}

impl clap::Args for Args {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
            .args(SETTINGS.iter().map(flag))
            .arg(
                Arg::new("config-path")
                    .long("config-path")
                    .value_name("FILE")
                    .env("TORPOR_CONFIG_PATH")
                    .value_parser(value_parser!(PathBuf))
                    .help(format!(
                        "The configuration file [default: {}, else {}]",
                        config::TORPOR_PATH,
                        config::CRIK_PATH
                    )),
            )
            .arg(
                Arg::new("print-config")
                    .long("print-config")
                    .action(ArgAction::SetTrue)
                    .help("Print the configuration as a file, with where each value is from, and end"),
            )
            .arg(
                Arg::new("program")
                    .value_name("PROGRAM")
                    .value_parser(value_parser!(OsString))
                    .num_args(0..)
                    .trailing_var_arg(true)
                    .help("The program and its arguments; without one, only what is kept is restored"),
            )
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Args::augment_args(command)
    }
}

/// The flag of a setting.
fn flag(setting: &Setting) -> Arg {
    let name = setting.flag();
    let help = format!("{} [default: {}] [env: {}]", setting.help, setting.default, setting.variable());
    let mut arg = Arg::new(setting.key).long(name).help_heading(setting.group).help(help);
    if setting.key == "criuOptions" {
        // It is typed for one option at a time, and remedies name it so.
        arg = arg.visible_alias("criu-option");
    }
    match setting.shape {
        Shape::One(value) => arg.value_name(value),
        Shape::Word(words) => {
            arg.value_name("WORD").value_parser(PossibleValuesParser::new(words)).hide_possible_values(false)
        }
        // With a value it can be taken back where the configuration file gives it.
        Shape::Switch => arg
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(PossibleValuesParser::new(["true", "false"]))
            .hide_possible_values(true),
        Shape::Many(value) => arg.value_name(value).action(ArgAction::Append),
        Shape::ManyWords(words) => {
            arg.value_name("WORD").action(ArgAction::Append).value_parser(PossibleValuesParser::new(words))
        }
        Shape::Hook => arg.value_name("COMMAND|URL|signal:NAME").action(ArgAction::Append),
    }
}

impl clap::FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, clap::Error> {
        let mut given = Given::default();
        for setting in SETTINGS {
            if matches.value_source(setting.key) == Some(ValueSource::CommandLine) {
                let texts = matches.get_many::<String>(setting.key).into_iter().flatten().cloned().collect();
                given.flag(setting, texts);
            }
        }
        Ok(Args {
            given,
            config_path: matches.get_one::<PathBuf>("config-path").cloned(),
            print_config: matches.get_flag("print-config"),
            program: matches.get_many::<OsString>("program").into_iter().flatten().cloned().collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Args::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Runs the program, or prints the configuration.
pub(crate) fn run(args: Args) -> anyhow::Result<Exit> {
    let Args { given, config_path, print_config, mut program } = args;
    if print_config && program.is_empty() {
        // Of the settings only the name's default depends on it.
        program.push("program".into());
    }
    let loaded = config::load(given, config_path, false, program, &Surroundings::read()?)?;
    if print_config {
        output::put(loaded.config.explain(&loaded.given).as_bytes())?;
        return Ok(Exit::Success);
    }
    start(loaded)
}

/// Runs the program that a configuration names.
pub(super) fn start(loaded: Loaded) -> anyhow::Result<Exit> {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = loaded.config;
    let setup = Setup {
        repository: config.store.as_ref().map(open).transpose()?,
        criu: criu_bundle::find(config.criu.as_deref())?.program,
        expert_options: config.criu_options.iter().map(|option| option.parse()).collect::<Result<_, _>>()?,
        surroundings: Surroundings::read()?,
    };
    let code = wrapper::run(config, setup)?;
    Ok(Exit::Program(u8::try_from(code).unwrap_or(u8::MAX)))
}

/// Opens the store, or makes it where that is wanted.
fn open(store: &config::StoreConfig) -> anyhow::Result<Repository> {
    let backend = store::backend(&store.url)?;
    let credentials = match &store.credentials {
        config::Credentials::None => Credentials::None,
        config::Credentials::PassphraseFile(path) => Credentials::from_passphrase_file(path)?,
        config::Credentials::KeyFile(path) => Credentials::from_key_file(path)?,
    };
    if let (true, Some(directory)) = (store.must_exist, store.url.strip_prefix("file://"))
        && !Path::new(directory).is_dir()
    {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{directory} is not there"),
            "mount the volume that imageDir names; it is never created",
        )
        .into());
    }
    Ok(Repository::open_or_create(backend, &credentials)?)
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn typed(words: &[&str]) -> Result<Args, clap::Error> {
        let command = Args::augment_args(clap::Command::new("run").no_binary_name(true));
        Args::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    fn resolved(words: &[&str]) -> config::RunConfig {
        let args = typed(words).unwrap();
        let surroundings =
            Surroundings { host: "box".into(), current_dir: "/here".into(), ..Surroundings::default() };
        config::RunConfig::resolve(&args.given, config::Dialect::Torpor, args.program, &surroundings).unwrap()
    }

    #[test]
    fn each_setting_is_a_flag() {
        Args::augment_args(clap::Command::new("run")).debug_assert();
    }

    #[test]
    fn flags_end_where_the_program_begins() {
        for words in [
            &["--grace", "30s", "--", "bash", "-c", "--grace 1s"][..],
            &["--grace=30s", "bash", "-c", "--grace 1s"],
        ] {
            let config = resolved(words);
            assert_eq!(config.grace.as_secs(), 30);
            assert_eq!(config.program, ["bash", "-c", "--grace 1s"]);
        }
    }

    #[test]
    fn flags_of_every_shape() {
        let config = resolved(&[
            "--no-restore",
            "--leave-stopped=false",
            "--tcp",
            "fail",
            "--exclude",
            "/a",
            "--exclude=b",
            "--allow-changed",
            "image",
            "--pre-checkpoint",
            "redis-cli save",
            "sleep",
        ]);
        assert!(config.no_restore && !config.leave_stopped);
        assert_eq!(config.tcp, config::Tcp::Fail);
        assert_eq!(config.exclude, ["/a", "/here/b"].map(PathBuf::from));
        assert_eq!(config.allow_changed, [config::AllowChanged::Image]);
        assert_eq!(config.hooks.pre_checkpoint.len(), 1);
    }

    #[test]
    fn words_that_mean_nothing_are_refused_while_typing() {
        for words in [&["--tcp", "maybe"][..], &["--no-restore=perhaps"], &["--frobnicate"], &["--grace"]] {
            assert!(typed(words).is_err(), "{words:?}");
        }
    }
}
