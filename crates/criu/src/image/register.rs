//! Registers (CRIU `images/core-x86.proto`, `core-aarch64.proto`): what `core-TID.img` has of the processor, beside
//! [`Core`](super::process::Core).

use prost::Message;

use super::process::Thread;
use super::records;

/// `core-TID.img`, with the registers.
#[derive(Clone, PartialEq, Message)]
pub struct Registers {
    /// The processor: see [`Machine`](super::process::Machine).
    #[prost(enumeration = "super::process::Machine", required, tag = "1")]
    pub mtype: i32,
    /// Those of x86.
    #[prost(message, optional, tag = "2")]
    pub x86: Option<X86>,
    /// What belongs to the thread.
    #[prost(message, optional, tag = "5")]
    pub thread_core: Option<Thread>,
    /// Those of 64-bit Arm.
    #[prost(message, optional, tag = "8")]
    pub aarch64: Option<Aarch64>,
}

/// What a thread has of an x86 processor.
#[derive(Clone, PartialEq, Message)]
pub struct X86 {
    /// General registers.
    #[prost(message, required, tag = "2")]
    pub general: X86General,
    /// Floating-point and vector registers.
    #[prost(message, required, tag = "3")]
    pub float: X86Float,
}

macro_rules! general {
    ($($(#[$doc:meta])+ $name:ident = $tag:literal;)+) => {
        /// General registers of x86, in the kernel's order (`user_regs_struct`).
        #[derive(Clone, Copy, PartialEq, Message)]
        pub struct X86General {
            $($(#[$doc])+ #[prost(uint64, required, tag = $tag)] pub $name: u64,)+
            /// 2 for a 32-bit program.
            #[prost(int32, optional, tag = "28")]
            pub mode: Option<i32>,
        }

        impl X86General {
            /// All of them, in the kernel's order.
            #[must_use]
            pub fn values(&self) -> [u64; 27] {
                [$(self.$name),+]
            }
        }
    };
}

general! {
    /// r15.
    r15 = "1";
    /// r14.
    r14 = "2";
    /// r13.
    r13 = "3";
    /// r12.
    r12 = "4";
    /// rbp.
    bp = "5";
    /// rbx.
    bx = "6";
    /// r11.
    r11 = "7";
    /// r10.
    r10 = "8";
    /// r9.
    r9 = "9";
    /// r8.
    r8 = "10";
    /// rax.
    ax = "11";
    /// rcx.
    cx = "12";
    /// rdx.
    dx = "13";
    /// rsi.
    si = "14";
    /// rdi.
    di = "15";
    /// The number of the system call it was in.
    orig_ax = "16";
    /// rip.
    ip = "17";
    /// Code segment.
    cs = "18";
    /// Flags.
    flags = "19";
    /// rsp.
    sp = "20";
    /// Stack segment.
    ss = "21";
    /// Base of fs: thread-local storage.
    fs_base = "22";
    /// Base of gs.
    gs_base = "23";
    /// Data segment.
    ds = "24";
    /// Extra segment.
    es = "25";
    /// Segment fs.
    fs = "26";
    /// Segment gs.
    gs = "27";
}

/// Floating-point and vector registers of x86, as the instruction FXSAVE stores them.
#[derive(Clone, PartialEq, Message)]
pub struct X86Float {
    /// Control word.
    #[prost(uint32, required, tag = "1")]
    pub cwd: u32,
    /// Status word.
    #[prost(uint32, required, tag = "2")]
    pub swd: u32,
    /// Tag word.
    #[prost(uint32, required, tag = "3")]
    pub twd: u32,
    /// Last instruction.
    #[prost(uint32, required, tag = "4")]
    pub fop: u32,
    /// Its address.
    #[prost(uint64, required, tag = "5")]
    pub rip: u64,
    /// The address of its operand.
    #[prost(uint64, required, tag = "6")]
    pub rdp: u64,
    /// Control and status of vectors.
    #[prost(uint32, required, tag = "7")]
    pub mxcsr: u32,
    /// Which of its bits there are.
    #[prost(uint32, required, tag = "8")]
    pub mxcsr_mask: u32,
    /// 32 words: st0 to st7.
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub st_space: Vec<u32>,
    /// 64 words: xmm0 to xmm15.
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub xmm_space: Vec<u32>,
    /// What the instruction XSAVE stores besides.
    #[prost(message, optional, tag = "13")]
    pub xsave: Option<X86Extended>,
}

/// Further vector registers of x86.
#[derive(Clone, PartialEq, Message)]
pub struct X86Extended {
    /// Which parts are there.
    #[prost(uint64, required, tag = "1")]
    pub xstate_bv: u64,
    /// 64 words: the upper halves of ymm0 to ymm15.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub ymmh_space: Vec<u32>,
}

/// What a thread has of a 64-bit Arm processor.
#[derive(Clone, PartialEq, Message)]
pub struct Aarch64 {
    /// Thread-local storage.
    #[prost(uint64, required, tag = "2")]
    pub tls: u64,
    /// General registers.
    #[prost(message, required, tag = "3")]
    pub general: Aarch64General,
    /// Vector registers.
    #[prost(message, required, tag = "4")]
    pub vectors: Aarch64Vectors,
}

/// General registers of 64-bit Arm.
#[derive(Clone, PartialEq, Message)]
pub struct Aarch64General {
    /// x0 to x30.
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub regs: Vec<u64>,
    /// Stack pointer.
    #[prost(uint64, required, tag = "2")]
    pub sp: u64,
    /// Program counter.
    #[prost(uint64, required, tag = "3")]
    pub pc: u64,
    /// State.
    #[prost(uint64, required, tag = "4")]
    pub pstate: u64,
}

/// Vector registers of 64-bit Arm.
#[derive(Clone, PartialEq, Message)]
pub struct Aarch64Vectors {
    /// 64 words: v0 to v31.
    #[prost(uint64, repeated, packed = "false", tag = "1")]
    pub vregs: Vec<u64>,
    /// Status.
    #[prost(uint32, required, tag = "2")]
    pub fpsr: u32,
    /// Control.
    #[prost(uint32, required, tag = "3")]
    pub fpcr: u32,
}

records! { Registers => Core }
