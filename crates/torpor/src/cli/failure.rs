//! How a failed command tells what went wrong, and what to do about it.

use torpor_archive::blueprint::BlueprintError;
use torpor_archive::layout::LayoutError;
use torpor_archive::memory::{CoreError, DumpError, MemoryError, PatternError};
use torpor_archive::oci::OciError;
use torpor_archive::registry::RegistryError;
use torpor_archive::source::SourceError;
use torpor_criu::image::ImageError;
use torpor_criu::image::document::EncodeError;
use torpor_criu::image::explore::ExploreError;
use torpor_node::config::ConfigError;
use torpor_node::container::adoption::AdoptionError;
use torpor_node::container::cri::restore::CriRestoreError;
use torpor_node::container::own::OwnError;
use torpor_node::container::{ContainerError, FindError};
use torpor_node::control::{ClientError, ServerError};
use torpor_node::hooks::HookError;
use torpor_node::http::HttpError;
use torpor_node::install::InstallError;
use torpor_node::migration::MigrationError;
use torpor_node::oci_runtime::settings::SettingsError;
use torpor_node::outlook::OutlookError;
use torpor_node::permit::KeyPairError;
use torpor_node::seccomp::SeccompError;
use torpor_node::status::StatusError;
use torpor_node::wrapper::WrapperError;
use torpor_store::gc::GcError;
use torpor_store::lineage::LineageError;
use torpor_store::name::NameError;
use torpor_store::{BackendError, DraftError, KeyError, OpenError, ReadError};

use super::Exit;

/// Prints `error` to standard error as `error: …`, with `help: …` below where a remedy is known, and
/// returns the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    eprintln!("error: {}", sentence(error));
    if let Some(remedy) = remedy(error) {
        eprintln!("help: {remedy}");
    }
    exit(error)
}

/// The whole chain of causes in one line, leaving out a cause that its parent has already quoted.
pub(crate) fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// An error of the command line itself, with its exit code and remedy.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong, in lower case.
    pub(crate) message: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
    /// What the process ends with.
    pub(crate) exit: Exit,
}

impl Failure {
    /// A failure with a remedy.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure { message: message.into(), remedy: Some(remedy.into()), exit }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The first remedy known to an error in the chain. Each library error with a remedy has its line here.
pub(crate) fn remedy(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        None.or_else(|| cause.downcast_ref().and_then(|failure: &Failure| failure.remedy.clone()))
            .or_else(|| cause.downcast_ref().and_then(WrapperError::remedy))
            .or_else(|| cause.downcast_ref().map(LineageError::remedy))
            .or_else(|| cause.downcast_ref().map(GcError::remedy))
            .or_else(|| cause.downcast_ref().map(|error: &OpenError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &KeyError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &DraftError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &SourceError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(LayoutError::remedy))
            .or_else(|| cause.downcast_ref().map(OciError::remedy))
            .or_else(|| cause.downcast_ref().map(BlueprintError::remedy))
            .or_else(|| cause.downcast_ref().map(|error: &RegistryError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &MemoryError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &DumpError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &CoreError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &PatternError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &ReadError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &BackendError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &NameError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().and_then(ConfigError::remedy))
            .or_else(|| cause.downcast_ref().map(ContainerError::remedy))
            .or_else(|| cause.downcast_ref().map(AdoptionError::remedy))
            .or_else(|| cause.downcast_ref().map(|error: &CriRestoreError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &SettingsError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(OwnError::remedy))
            .or_else(|| cause.downcast_ref().map(|error: &SeccompError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(MigrationError::remedy))
            .or_else(|| cause.downcast_ref().map(|error: &FindError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &OutlookError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &ClientError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &ServerError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &HttpError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &InstallError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &HookError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &KeyPairError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &StatusError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &ExploreError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &EncodeError| error.remedy().to_owned()))
            .or_else(|| cause.downcast_ref().map(|error: &ImageError| error.remedy().to_owned()))
    })
}

/// The exit code of the first error in the chain that has one of its own.
pub(crate) fn exit(error: &anyhow::Error) -> Exit {
    error
        .chain()
        .find_map(|cause| {
            None.or_else(|| cause.downcast_ref().map(|failure: &Failure| failure.exit))
                .or_else(|| cause.downcast_ref().and_then(of_wrapper))
                .or_else(|| cause.downcast_ref().map(of_lineage))
                .or_else(|| cause.downcast_ref().map(of_collection))
                .or_else(|| cause.downcast_ref().map(of_opening))
                .or_else(|| cause.downcast_ref().map(of_key))
                .or_else(|| cause.downcast_ref().map(of_draft))
                .or_else(|| cause.downcast_ref().map(of_source))
                .or_else(|| cause.downcast_ref().and_then(of_layout))
                .or_else(|| cause.downcast_ref().and_then(of_oci))
                .or_else(|| cause.downcast_ref().map(of_blueprint))
                .or_else(|| cause.downcast_ref().map(of_registry))
                .or_else(|| cause.downcast_ref().map(of_memory))
                .or_else(|| cause.downcast_ref().map(of_dump))
                .or_else(|| cause.downcast_ref().map(of_core))
                .or_else(|| cause.downcast_ref().map(|_: &PatternError| Exit::Usage))
                .or_else(|| cause.downcast_ref().map(of_reading))
                .or_else(|| cause.downcast_ref().map(of_backend))
                .or_else(|| cause.downcast_ref().map(|_: &ConfigError| Exit::Usage))
                .or_else(|| cause.downcast_ref().map(of_container))
                .or_else(|| cause.downcast_ref().map(of_adoption))
                .or_else(|| cause.downcast_ref().map(of_restore_by_cri))
                .or_else(|| cause.downcast_ref().map(of_own))
                .or_else(|| cause.downcast_ref().map(of_migration))
                .or_else(|| cause.downcast_ref().map(of_finding))
                .or_else(|| cause.downcast_ref().map(of_outlook))
                .or_else(|| cause.downcast_ref().map(of_client))
                .or_else(|| cause.downcast_ref().map(of_server))
                .or_else(|| cause.downcast_ref().map(|_: &HttpError| Exit::Place))
                .or_else(|| cause.downcast_ref().map(|_: &StatusError| Exit::Place))
                .or_else(|| cause.downcast_ref().map(|_: &KeyPairError| Exit::Credentials))
                .or_else(|| cause.downcast_ref().map(of_view))
                .or_else(|| cause.downcast_ref().map(of_image))
                .or_else(|| cause.downcast_ref().map(|_: &EncodeError| Exit::Damaged))
        })
        .unwrap_or(Exit::Failure)
}

/// None where one of its causes decides.
fn of_wrapper(error: &WrapperError) -> Option<Exit> {
    match error {
        WrapperError::Lineage(error) => Some(of_lineage(error)),
        WrapperError::Control(error) => Some(of_server(error)),
        WrapperError::Status(_) | WrapperError::Staging { .. } => Some(Exit::Place),
        WrapperError::Name(_) | WrapperError::Policy(_) | WrapperError::NoProgram { .. } => Some(Exit::Usage),
        WrapperError::Launch(error) => u8::try_from(error.exit_code()).ok().map(Exit::Program),
        _ => None,
    }
}

fn of_outlook(error: &OutlookError) -> Exit {
    match error {
        OutlookError::Gone(_) => Exit::NotFound,
        _ => Exit::Failure,
    }
}

fn of_container(error: &ContainerError) -> Exit {
    match error {
        ContainerError::Find(error) => of_finding(error),
        ContainerError::Busy { .. } => Exit::Held,
        ContainerError::CriRestore(error) => of_restore_by_cri(error),
        ContainerError::Lineage(error) => of_lineage(error),
        ContainerError::Read(error) => of_reading(error),
        ContainerError::Draft(error) => of_draft(error),
        ContainerError::NoBundle { .. } | ContainerError::Ended(_) => Exit::NotFound,
        ContainerError::NeedsBundle { .. } | ContainerError::NotAContainer { .. } => Exit::Usage,
        ContainerError::NoImages { .. } | ContainerError::Image { .. } => Exit::Damaged,
        ContainerError::Occupied { .. } | ContainerError::Place { .. } | ContainerError::Room { .. } => {
            Exit::Place
        }
        _ => Exit::Failure,
    }
}

fn of_adoption(error: &AdoptionError) -> Exit {
    match error {
        AdoptionError::Container(error) => of_container(error),
        AdoptionError::Lineage(error) => of_lineage(error),
        AdoptionError::Read(error) => of_reading(error),
        AdoptionError::Mounts { .. } | AdoptionError::ImageUnknown { .. } => Exit::Usage,
        AdoptionError::NoImage { .. } => Exit::NotFound,
        _ => Exit::Failure,
    }
}

fn of_restore_by_cri(error: &CriRestoreError) -> Exit {
    match error {
        CriRestoreError::PodEnded { .. } => Exit::NotFound,
        CriRestoreError::File(_)
        | CriRestoreError::Configuration { .. }
        | CriRestoreError::Mounts { .. }
        | CriRestoreError::Sources { .. } => Exit::Usage,
        CriRestoreError::Logs { .. } => Exit::Place,
        _ => Exit::Failure,
    }
}

fn of_own(error: &OwnError) -> Exit {
    match error {
        OwnError::Place { .. } | OwnError::Overlay { .. } => Exit::Place,
        OwnError::Layer { .. } => Exit::Damaged,
        OwnError::NoProgram => Exit::Usage,
        OwnError::Find(error) => of_finding(error),
        OwnError::Container(error) => of_container(error),
        _ => Exit::Failure,
    }
}

fn of_migration(error: &MigrationError) -> Exit {
    match error {
        MigrationError::Container(error) => of_container(error),
        MigrationError::Adoption(error) => of_adoption(error),
        MigrationError::Address { .. } => Exit::Place,
        _ => Exit::Failure,
    }
}

fn of_finding(error: &FindError) -> Exit {
    match error {
        FindError::None { .. } => Exit::NotFound,
        FindError::Several { .. } => Exit::Usage,
        FindError::State { .. } => Exit::Damaged,
        _ => Exit::Place,
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Absent { .. } => Exit::NotFound,
        ClientError::Connect { .. } => Exit::Place,
        _ => Exit::Failure,
    }
}

fn of_server(error: &ServerError) -> Exit {
    match error {
        ServerError::Taken { .. } => Exit::Held,
        _ => Exit::Place,
    }
}

fn of_lineage(error: &LineageError) -> Exit {
    match error {
        LineageError::Held { .. } | LineageError::Fenced { .. } | LineageError::Contended { .. } => {
            Exit::Held
        }
        LineageError::NoSuchName { .. } | LineageError::NoSuchGeneration { .. } => Exit::NotFound,
        LineageError::Record { .. } => Exit::Damaged,
        LineageError::Sealed { source, .. } => of_reading(source),
        LineageError::Name(_) => Exit::Usage,
        LineageError::Backend(error) => of_backend(error),
        _ => Exit::Failure,
    }
}

fn of_collection(error: &GcError) -> Exit {
    match error {
        GcError::Unreadable { source, .. } => of_reading(source),
        GcError::Lost { .. } => Exit::Damaged,
        GcError::NoIndex { source } => of_reading(source),
        GcError::Lineage(error) => of_lineage(error),
        GcError::Rewrite { source, .. } | GcError::Index { source } => of_draft(source),
        GcError::Backend(error) => of_backend(error),
        _ => Exit::Failure,
    }
}

fn of_opening(error: &OpenError) -> Exit {
    match error {
        OpenError::NoStore { .. } => Exit::NotFound,
        OpenError::Backend(error) => of_backend(error),
        OpenError::Key(error) => of_key(error),
        OpenError::Read { source, .. } => of_reading(source),
        _ => Exit::Failure,
    }
}

fn of_key(error: &KeyError) -> Exit {
    match error {
        KeyError::Backend(error) => of_backend(error),
        KeyError::Header { .. } => Exit::Damaged,
        KeyError::NoSuchSlot { .. } => Exit::NotFound,
        _ => Exit::Credentials,
    }
}

fn of_draft(error: &DraftError) -> Exit {
    match error {
        DraftError::Backend(error) => of_backend(error),
        DraftError::Read(error) => of_reading(error),
        _ => Exit::Failure,
    }
}

fn of_reading(error: &ReadError) -> Exit {
    match error {
        ReadError::Backend(error) => of_backend(error),
        ReadError::NoSuchImage { .. } | ReadError::NoSuchMemory { .. } => Exit::NotFound,
        ReadError::Output { .. } => Exit::Place,
        _ => Exit::Damaged,
    }
}

/// What a checkpoint that cannot be read means for the exit code.
fn of_source(error: &SourceError) -> Exit {
    match error {
        SourceError::Place { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Exit::NotFound,
        SourceError::Place { .. } | SourceError::Entry { .. } => Exit::Place,
        SourceError::Store { source, .. } => of_reading(source),
        SourceError::Passed { .. } | SourceError::Window { .. } | SourceError::Sparse { .. } => Exit::Failure,
        _ => Exit::Damaged,
    }
}

/// None where one of its causes decides.
fn of_layout(error: &LayoutError) -> Option<Exit> {
    match error {
        LayoutError::Source(error) => Some(of_source(error)),
        LayoutError::Image { .. } | LayoutError::Edit { .. } => Some(Exit::Damaged),
        LayoutError::Output { .. } => Some(Exit::Place),
        _ => None,
    }
}

/// None where one of its causes decides.
fn of_oci(error: &OciError) -> Option<Exit> {
    match error {
        OciError::Layout(error) => of_layout(error),
        OciError::Source(error) => Some(of_source(error)),
        OciError::Registry(error) => Some(of_registry(error)),
        OciError::NoLayout { .. } | OciError::NoImage { .. } => Some(Exit::NotFound),
        OciError::Several { .. } => Some(Exit::Usage),
        OciError::Read { .. } | OciError::Output { .. } => Some(Exit::Place),
        OciError::Document { .. }
        | OciError::TooLarge { .. }
        | OciError::Digest { .. }
        | OciError::TooDeep { .. } => Some(Exit::Damaged),
        _ => None,
    }
}

fn of_blueprint(error: &BlueprintError) -> Exit {
    match error {
        BlueprintError::Source(error) => of_source(error),
        BlueprintError::Draft(error) => of_draft(error),
        BlueprintError::Output(_) => Exit::Place,
        BlueprintError::NoArchive { .. } | BlueprintError::NoBlueprint { .. } => Exit::Failure,
        _ => Exit::Damaged,
    }
}

fn of_registry(error: &RegistryError) -> Exit {
    match error {
        RegistryError::Reference { .. } => Exit::Usage,
        RegistryError::Denied { .. } | RegistryError::Helper { .. } => Exit::Credentials,
        RegistryError::NotFound { .. } => Exit::NotFound,
        RegistryError::Digest { .. } => Exit::Damaged,
        _ => Exit::Place,
    }
}

fn of_memory(error: &MemoryError) -> Exit {
    match error {
        MemoryError::Source(error) => of_source(error),
        MemoryError::NoProcess { .. } | MemoryError::Ended { .. } => Exit::NotFound,
        _ => Exit::Damaged,
    }
}

fn of_dump(error: &DumpError) -> Exit {
    match error {
        DumpError::Memory(error) => of_memory(error),
        _ => Exit::Place,
    }
}

fn of_core(error: &CoreError) -> Exit {
    match error {
        CoreError::Memory(error) => of_memory(error),
        CoreError::Output { .. } => Exit::Place,
        CoreError::NoRegisters { .. } => Exit::Damaged,
        _ => Exit::Failure,
    }
}

fn of_view(error: &ExploreError) -> Exit {
    match error {
        ExploreError::Missing { .. } => Exit::NotFound,
        ExploreError::Unreadable { .. } => Exit::Place,
        ExploreError::Image { source, .. } => of_image(source),
        ExploreError::NoTree { .. } => Exit::Damaged,
    }
}

fn of_image(error: &ImageError) -> Exit {
    match error {
        ImageError::Io { .. } | ImageError::Unreadable { .. } => Exit::Place,
        _ => Exit::Damaged,
    }
}

fn of_backend(error: &BackendError) -> Exit {
    match error {
        BackendError::NotFound { .. } => Exit::NotFound,
        BackendError::ShortRead { .. } => Exit::Damaged,
        _ => Exit::Place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_transparent_error_holds_is_found() {
        let name = "a/b".parse().unwrap();
        let error = anyhow::Error::new(WrapperError::Lineage(LineageError::NoSuchName { name }));
        assert_eq!(exit(&error), Exit::NotFound);
        assert!(remedy(&error).is_some());
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = anyhow::anyhow!("disk is full").context("cannot write pack 1: disk is full");
        assert_eq!(sentence(&error), "cannot write pack 1: disk is full");
        let error = anyhow::anyhow!("disk is full").context("cannot write pack 1");
        assert_eq!(sentence(&error), "cannot write pack 1: disk is full");
    }

    #[test]
    fn remedy_and_exit_code_survive_context() {
        let error = anyhow::Error::new(Failure::new(Exit::NotFound, "no store", "start a program first"))
            .context("cannot list");
        assert_eq!(remedy(&error).as_deref(), Some("start a program first"));
        assert_eq!(exit(&error), Exit::NotFound);
    }
}
