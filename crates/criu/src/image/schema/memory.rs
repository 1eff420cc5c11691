//! Address spaces and their pages (CRIU 4.2: `images/mm.proto`, `images/vma.proto`, `images/pagemap.proto`).

use super::messages;
use super::words::{MAPPING, PAGES, PROTECTION, STATUS};

messages! {
    aio_ring_entry {
        1 id! u64;
        2 nr_req! u32;
        3 ring_len! u32;
    }
    mm_entry {
        1 mm_start_code! u64 as hex;
        2 mm_end_code! u64 as hex;
        3 mm_start_data! u64 as hex;
        4 mm_end_data! u64 as hex;
        5 mm_start_stack! u64 as hex;
        6 mm_start_brk! u64 as hex;
        7 mm_brk! u64 as hex;
        8 mm_arg_start! u64 as hex;
        9 mm_arg_end! u64 as hex;
        10 mm_env_start! u64 as hex;
        11 mm_env_end! u64 as hex;
        12 exe_file_id! u32;
        13 mm_saved_auxv* u64;
        14 vmas* message(vma_entry);
        15 dumpable? i32;
        16 aios* message(aio_ring_entry);
        17 thp_disabled? flag;
    }
    vma_entry {
        1 start! u64 as hex;
        2 end! u64 as hex;
        3 pgoff! u64;
        4 shmid! u64;
        5 prot! u32 as flags(PROTECTION);
        6 flags! u32 as flags(MAPPING);
        7 status! u32 as flags(STATUS);
        8 fd! s64;
        9 madv? u64 as hex;
        10 fdflags? u32 as hex;
    }
    pagemap_head {
        1 pages_id! u32;
    }
    pagemap_entry {
        1 vaddr! u64 as hex;
        2 compat_nr_pages! u32;
        3 in_parent? flag;
        4 flags? u32 as flags(PAGES);
        5 nr_pages? u64;
    }
}
