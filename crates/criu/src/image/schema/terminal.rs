//! Terminals (CRIU 4.2: `images/tty.proto`).

use super::file::fown_entry;
use super::{enumerations, messages};

enumerations! {
    TtyType {
        0 UNKNOWN; 1 PTY; 2 CONSOLE; 3 VT; 4 CTTY; 5 EXT_TTY; 6 SERIAL;
    }
}

messages! {
    winsize_entry {
        1 ws_row! u32;
        2 ws_col! u32;
        3 ws_xpixel! u32;
        4 ws_ypixel! u32;
    }
    termios_entry {
        1 c_iflag! u32;
        2 c_oflag! u32;
        3 c_cflag! u32;
        4 c_lflag! u32;
        5 c_line! u32;
        6 c_ispeed! u32;
        7 c_ospeed! u32;
        8 c_cc* u32;
    }
    tty_pty_entry {
        1 index! u32;
    }
    tty_data_entry {
        1 tty_id! u32;
        2 data! bytes;
    }
    tty_info_entry {
        1 id! u32;
        2 type! one_of(TtyType);
        3 locked! flag;
        4 exclusive! flag;
        5 packet_mode! flag;
        6 sid! u32;
        7 pgrp! u32;
        8 rdev! u32;
        9 termios? message(termios_entry);
        10 termios_locked? message(termios_entry);
        11 winsize? message(winsize_entry);
        12 pty? message(tty_pty_entry);
        13 dev? u32;
        14 uid? u32;
        15 gid? u32;
    }
    tty_file_entry {
        1 id! u32;
        2 tty_info_id! u32;
        3 flags! u32 as hex;
        4 fown! message(fown_entry);
        6 regf_id? u32;
    }
}
