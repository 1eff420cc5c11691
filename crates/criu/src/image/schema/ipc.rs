//! System V IPC (CRIU 4.2: `images/ipc-desc.proto`, `images/ipc-msg.proto`, `images/ipc-sem.proto`,
//! `images/ipc-shm.proto`, `images/ipc-var.proto`).

use super::messages;

messages! {
    ipc_desc_entry {
        1 key! u32;
        2 uid! u32;
        3 gid! u32;
        4 cuid! u32;
        5 cgid! u32;
        6 mode! u32;
        7 id! u32;
    }
    ipc_msg {
        1 mtype! u64;
        2 msize! u32;
    }
    ipc_msg_entry {
        1 desc! message(ipc_desc_entry);
        2 qbytes! u32;
        3 qnum! u32;
    }
    ipc_sem_entry {
        1 desc! message(ipc_desc_entry);
        2 nsems! u32;
    }
    ipc_shm_entry {
        1 desc! message(ipc_desc_entry);
        2 size! u64;
        3 in_pagemaps? flag;
        4 hugetlb_flag? u32;
    }
    ipc_var_entry {
        1 sem_ctls* u32;
        2 msg_ctlmax! u32;
        3 msg_ctlmnb! u32;
        4 msg_ctlmni! u32;
        5 auto_msgmni! u32;
        6 shm_ctlmax! u64;
        7 shm_ctlall! u64;
        8 shm_ctlmni! u32;
        9 shm_rmid_forced! u32;
        10 mq_queues_max! u32;
        11 mq_msg_max! u32;
        12 mq_msgsize_max! u32;
        13 mq_msg_default? u32;
        14 mq_msgsize_default? u32;
        15 msg_next_id? u32;
        16 sem_next_id? u32;
        17 shm_next_id? u32;
    }
}
