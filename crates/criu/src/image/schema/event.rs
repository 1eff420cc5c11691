//! Descriptors that tell of events (CRIU 4.2: `images/eventfd.proto`, `images/eventpoll.proto`,
//! `images/signalfd.proto`, `images/timerfd.proto`, `images/pidfd.proto`, `images/fsnotify.proto`).

use super::file::{fh_entry, fown_entry};
use super::{enumerations, messages};

enumerations! {
    mark_type {
        1 INODE; 2 MOUNT;
    }
}

messages! {
    eventfd_file_entry {
        1 id! u32;
        2 flags! u32;
        3 fown! message(fown_entry);
        4 counter! u64;
    }
    eventpoll_tfd_entry {
        1 id! u32;
        2 tfd! u32;
        3 events! u32;
        4 data! u64;
        5 dev? u32;
        6 inode? u64;
        7 pos? u64;
    }
    eventpoll_file_entry {
        1 id! u32;
        2 flags! u32;
        3 fown! message(fown_entry);
        4 tfd* message(eventpoll_tfd_entry);
    }
    signalfd_entry {
        1 id! u32;
        2 flags! u32 as hex;
        3 fown! message(fown_entry);
        4 sigmask! u64 as hex;
    }
    timerfd_entry {
        1 id! u32;
        2 flags! u32 as hex;
        3 fown! message(fown_entry);
        4 clockid! u32;
        5 ticks! u64;
        6 settime_flags! u32 as hex;
        7 vsec! u64;
        8 vnsec! u64;
        9 isec! u64;
        10 insec! u64;
    }
    pidfd_entry {
        1 id! u32;
        2 ino! u32;
        3 flags! u32;
        4 nspid! i32;
        5 fown! message(fown_entry);
    }
    inotify_wd_entry {
        1 id! u32;
        2 i_ino! u64;
        3 mask! u32 as hex;
        4 ignored_mask! u32 as hex;
        5 s_dev! u32 as device;
        6 wd! u32;
        7 f_handle! message(fh_entry);
    }
    inotify_file_entry {
        1 id! u32;
        2 flags! u32 as hex;
        4 fown! message(fown_entry);
        5 wd* message(inotify_wd_entry);
    }
    fanotify_inode_mark_entry {
        1 i_ino! u64;
        2 f_handle! message(fh_entry);
    }
    fanotify_mount_mark_entry {
        1 mnt_id! u32;
        2 path? text;
    }
    fanotify_mark_entry {
        1 id! u32;
        2 type! one_of(mark_type);
        3 mflags! u32 as hex;
        4 mask! u32 as hex;
        5 ignored_mask! u32 as hex;
        6 s_dev! u32 as device;
        7 ie? message(fanotify_inode_mark_entry);
        8 me? message(fanotify_mount_mark_entry);
    }
    fanotify_file_entry {
        1 id! u32;
        2 flags! u32 as hex;
        3 fown! message(fown_entry);
        4 faflags! u32 as hex;
        5 evflags! u32 as hex;
        6 mark* message(fanotify_mark_entry);
    }
}
