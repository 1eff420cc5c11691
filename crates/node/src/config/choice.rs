//! Settings that are one word out of a few.

use serde::Serialize;

/// Declares an enum whose variants are words a person can write, and what each means.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
        pub enum $name { $($(#[$doc])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            /// The words that can be written.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word this is written as.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What `word` means, if it is one of [`Self::WORDS`].
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

choice!(
    /// What happens when no generation that may be restored could be.
    OnRestoreFailure {
        /// Start from the beginning.
        Fresh = "fresh",
        /// End with an error.
        Fail = "fail",
    }
);

choice!(
    /// What happens when the program crashed since its last checkpoint.
    AfterCrash {
        /// Start from the beginning.
        Fresh = "fresh",
        /// Restore the newest generation, although the program already ran on from it.
        Last = "last",
        /// End with an error.
        Fail = "fail",
    }
);

choice!(
    /// Which slot of its name a start takes.
    Slots {
        /// The one in the name, or the name itself: nobody else may run under it.
        Own = "own",
        /// Whichever is free: one that waits suspended, else a new one.
        Claim = "claim",
    }
);

choice!(
    /// What happens to a program whose name was taken over by a newer start.
    Fenced {
        /// It is ended.
        End = "end",
        /// It runs on, but is not checkpointed any more.
        Run = "run",
    }
);

choice!(
    /// What happens to established TCP connections with a peer outside the program.
    Tcp {
        /// They are closed; the program sees a reset after its restore.
        Close = "close",
        /// They are kept, and must find the same addresses at restore.
        Established = "established",
        /// A checkpoint is refused while there are any.
        Fail = "fail",
    }
);

choice!(
    /// What happens to Unix sockets whose peer is outside the program.
    ExtUnixSockets {
        /// Datagram sockets are connected again by name; a stream with a peer outside still refuses.
        Reconnect = "reconnect",
        /// A checkpoint is refused while there are any.
        Fail = "fail",
    }
);

choice!(
    /// Whether memory is gathered into huge pages before the program is frozen.
    HugePages {
        /// Where the machine, the process and the mapping allow it: the program stands still for less long.
        Gather = "gather",
        /// Memory stays as it is.
        Leave = "leave",
    }
);

choice!(
    /// What becomes of the files of one mount.
    VolumePolicy {
        /// Its changes travel with the checkpoint.
        Carry = "carry",
        /// It stays where it is, and must be there, unchanged, at restore.
        Leave = "leave",
        /// A checkpoint is refused while the program has files open there.
        Refuse = "refuse",
    }
);

choice!(
    /// What becomes of files changed on the root file system.
    RootFiles {
        /// Carried where the root is a container's own, left on a plain disk.
        Auto = "auto",
        /// Carried.
        Carry = "carry",
        /// Left.
        Leave = "leave",
    }
);

choice!(
    /// What the program gets of Torpor's own capabilities.
    Capabilities {
        /// None that were granted for Torpor's sake.
        Drop = "drop",
        /// All of them.
        Keep = "keep",
    }
);

choice!(
    /// Whether the program gets a namespace of its own.
    Namespace {
        /// Where privileges allow.
        Auto = "auto",
        /// Always; the start fails where privileges do not allow it.
        On = "on",
        /// Never.
        Off = "off",
    }
);

choice!(
    /// What to do when the node state server gives no usable answer.
    NodeStateUnreachable {
        /// Suspend, as if the node were shutting down.
        Suspend = "suspend",
        /// Pass the signal on to the program.
        Pass = "pass",
    }
);

choice!(
    /// What a failed hook means.
    OnHookFailure {
        /// The checkpoint fails and the program runs on; after a restore, the restore fails.
        Fail = "fail",
        /// A warning is logged.
        Ignore = "ignore",
    }
);

choice!(
    /// A difference between checkpoint and restore that is accepted instead of leading to a fresh start or refusal.
    AllowChanged {
        /// The command line.
        Command = "command",
        /// The program's executable.
        Executable = "executable",
        /// The container image.
        Image = "image",
        /// A file on a volume that the program had open.
        Volume = "volume",
    }
);

choice!(
    /// The instruction set a fresh start keeps libraries within, so that older machines can restore it.
    CpuBaseline {
        /// x86-64-v1: SSE2.
        V1 = "x86-64-v1",
        /// x86-64-v2: SSE4.2, POPCNT.
        V2 = "x86-64-v2",
        /// x86-64-v3: AVX2, BMI2, FMA.
        V3 = "x86-64-v3",
        /// x86-64-v4: AVX-512.
        V4 = "x86-64-v4",
    }
);
