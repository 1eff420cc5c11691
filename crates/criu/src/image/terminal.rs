//! Terminals (CRIU `images/tty.proto`).

use prost::Message;

use super::records;

/// `tty-info.img`: one terminal.
#[derive(Clone, PartialEq, Message)]
pub struct Terminal {
    /// The id that open files of it point to.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// See [`TerminalType`].
    #[prost(enumeration = "TerminalType", required, tag = "2")]
    pub r#type: i32,
    /// The slave of a pseudoterminal cannot be opened.
    #[prost(bool, required, tag = "3")]
    pub locked: bool,
    /// Opened exclusively.
    #[prost(bool, required, tag = "4")]
    pub exclusive: bool,
    /// A pseudoterminal in packet mode.
    #[prost(bool, required, tag = "5")]
    pub packet_mode: bool,
    /// The session it controls, zero for none.
    #[prost(uint32, required, tag = "6")]
    pub sid: u32,
    /// Its foreground process group.
    #[prost(uint32, required, tag = "7")]
    pub pgrp: u32,
    /// Device number.
    #[prost(uint32, required, tag = "8")]
    pub rdev: u32,
    /// Its size.
    #[prost(message, optional, tag = "11")]
    pub winsize: Option<WindowSize>,
    /// Which pseudoterminal it is.
    #[prost(message, optional, tag = "12")]
    pub pty: Option<Pty>,
    /// The device its file is on.
    #[prost(uint32, optional, tag = "13")]
    pub dev: Option<u32>,
    /// Owner.
    #[prost(uint32, optional, tag = "14")]
    pub uid: Option<u32>,
    /// Group.
    #[prost(uint32, optional, tag = "15")]
    pub gid: Option<u32>,
}

/// What a terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum TerminalType {
    /// Not known.
    Unknown = 0,
    /// A pseudoterminal.
    Pty = 1,
    /// The console.
    Console = 2,
    /// A virtual terminal.
    Vt = 3,
    /// The controlling terminal, opened as `/dev/tty`.
    Ctty = 4,
    /// One that comes from outside.
    External = 5,
    /// A serial line.
    Serial = 6,
}

/// A terminal's size.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct WindowSize {
    /// Lines.
    #[prost(uint32, required, tag = "1")]
    pub ws_row: u32,
    /// Columns.
    #[prost(uint32, required, tag = "2")]
    pub ws_col: u32,
    /// Width in pixels.
    #[prost(uint32, required, tag = "3")]
    pub ws_xpixel: u32,
    /// Height in pixels.
    #[prost(uint32, required, tag = "4")]
    pub ws_ypixel: u32,
}

/// A pseudoterminal.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Pty {
    /// Its number below `/dev/pts`.
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
}

records! { Terminal => Terminals }
