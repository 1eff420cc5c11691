//! The registers of each architecture (CRIU 4.2: `images/core-x86.proto`, `images/core-arm.proto`,
//! `images/core-aarch64.proto`, `images/core-ppc64.proto`, `images/core-s390.proto`, `images/core-mips.proto`,
//! `images/core-loongarch64.proto`, `images/core-riscv64.proto`).

use super::{enumerations, messages};

enumerations! {
    user_x86_regs_mode {
        1 NATIVE; 2 COMPAT;
    }
}

messages! {
    user_x86_regs_entry {
        1 r15! u64;
        2 r14! u64;
        3 r13! u64;
        4 r12! u64;
        5 bp! u64;
        6 bx! u64;
        7 r11! u64;
        8 r10! u64;
        9 r9! u64;
        10 r8! u64;
        11 ax! u64;
        12 cx! u64;
        13 dx! u64;
        14 si! u64;
        15 di! u64;
        16 orig_ax! u64;
        17 ip! u64;
        18 cs! u64;
        19 flags! u64;
        20 sp! u64;
        21 ss! u64;
        22 fs_base! u64;
        23 gs_base! u64;
        24 ds! u64;
        25 es! u64;
        26 fs! u64;
        27 gs! u64;
        28 mode? one_of(user_x86_regs_mode);
    }
    user_x86_cet_entry {
        1 cet! u64 as hex;
        2 ssp! u64 as hex;
    }
    user_x86_xsave_entry {
        1 xstate_bv! u64;
        2 ymmh_space* u32;
        3 bndreg_state* u64;
        4 bndcsr_state* u64;
        5 opmask_reg* u64;
        6 zmm_upper* u64;
        7 hi16_zmm* u64;
        8 pkru* u32;
        9 cet? message(user_x86_cet_entry);
    }
    user_x86_fpregs_entry {
        1 cwd! u32;
        2 swd! u32;
        3 twd! u32;
        4 fop! u32;
        5 rip! u64;
        6 rdp! u64;
        7 mxcsr! u32;
        8 mxcsr_mask! u32;
        9 st_space* u32;
        10 xmm_space* u32;
        11 padding* u32;
        13 xsave? message(user_x86_xsave_entry);
    }
    user_desc_t {
        1 entry_number! u32;
        2 base_addr! u32;
        3 limit! u32;
        4 seg_32bit! flag;
        5 contents_h! flag;
        6 contents_l! flag;
        7 read_exec_only! flag;
        8 limit_in_pages! flag;
        9 seg_not_present! flag;
        10 usable! flag;
    }
    thread_info_x86 {
        1 clear_tid_addr! u64 as hex;
        2 gpregs! message(user_x86_regs_entry) as hex;
        3 fpregs! message(user_x86_fpregs_entry);
        4 tls* message(user_desc_t);
    }
    user_arm_regs_entry {
        1 r0! u32;
        2 r1! u32;
        3 r2! u32;
        4 r3! u32;
        5 r4! u32;
        6 r5! u32;
        7 r6! u32;
        8 r7! u32;
        9 r8! u32;
        10 r9! u32;
        11 r10! u32;
        12 fp! u32;
        13 ip! u32;
        14 sp! u32;
        15 lr! u32;
        16 pc! u32;
        17 cpsr! u32;
        18 orig_r0! u32;
    }
    user_arm_vfpstate_entry {
        1 vfp_regs* u64;
        2 fpscr! u32;
        3 fpexc! u32;
        4 fpinst! u32;
        5 fpinst2! u32;
    }
    thread_info_arm {
        1 clear_tid_addr! u64 as hex;
        2 tls! u32;
        3 gpregs! message(user_arm_regs_entry) as hex;
        4 fpstate! message(user_arm_vfpstate_entry);
    }
    user_aarch64_regs_entry {
        1 regs* u64;
        2 sp! u64;
        3 pc! u64;
        4 pstate! u64;
    }
    user_aarch64_fpsimd_context_entry {
        1 vregs* u64;
        2 fpsr! u32;
        3 fpcr! u32;
    }
    pac_address_keys {
        1 apiakey_lo! u64;
        2 apiakey_hi! u64;
        3 apibkey_lo! u64;
        4 apibkey_hi! u64;
        5 apdakey_lo! u64;
        6 apdakey_hi! u64;
        7 apdbkey_lo! u64;
        8 apdbkey_hi! u64;
        9 pac_enabled_key! u64;
    }
    pac_generic_keys {
        1 apgakey_lo! u64;
        2 apgakey_hi! u64;
    }
    pac_keys {
        6 pac_address_keys? message(pac_address_keys);
        7 pac_generic_keys? message(pac_generic_keys);
    }
    thread_info_aarch64 {
        1 clear_tid_addr! u64 as hex;
        2 tls! u64;
        3 gpregs! message(user_aarch64_regs_entry) as hex;
        4 fpsimd! message(user_aarch64_fpsimd_context_entry);
        5 pac_keys? message(pac_keys);
    }
    user_ppc64_regs_entry {
        1 gpr* u64;
        2 nip! u64;
        3 msr! u64;
        4 orig_gpr3! u64;
        5 ctr! u64;
        6 link! u64;
        7 xer! u64;
        8 ccr! u64;
        9 trap! u64;
        10 texasr? u64;
        11 tfhar? u64;
        12 tfiar? u64;
    }
    user_ppc64_fpstate_entry {
        1 fpregs* u64;
    }
    user_ppc64_vrstate_entry {
        1 vrregs* u64;
        2 vrsave! u32;
    }
    user_ppc64_vsxstate_entry {
        1 vsxregs* u64;
    }
    user_ppc64_tm_regs_entry {
        1 gpregs! message(user_ppc64_regs_entry);
        2 fpstate? message(user_ppc64_fpstate_entry);
        3 vrstate? message(user_ppc64_vrstate_entry);
        4 vsxstate? message(user_ppc64_vsxstate_entry);
    }
    thread_info_ppc64 {
        1 clear_tid_addr! u64 as hex;
        2 gpregs! message(user_ppc64_regs_entry) as hex;
        3 fpstate? message(user_ppc64_fpstate_entry);
        4 vrstate? message(user_ppc64_vrstate_entry);
        5 vsxstate? message(user_ppc64_vsxstate_entry);
        6 tmstate? message(user_ppc64_tm_regs_entry);
    }
    user_s390_regs_entry {
        1 psw_mask! u64;
        2 psw_addr! u64;
        3 gprs* u64;
        4 acrs* u32;
        5 orig_gpr2! u64;
        6 system_call! u32;
    }
    user_s390_vxrs_low_entry {
        1 regs* u64;
    }
    user_s390_vxrs_high_entry {
        1 regs* u64;
    }
    user_s390_fpregs_entry {
        1 fpc! u32;
        2 fprs* u64;
    }
    user_s390_gs_cb_entry {
        1 regs* u64;
    }
    user_s390_ri_entry {
        1 ri_on! u32;
        2 regs* u64;
    }
    thread_info_s390 {
        1 clear_tid_addr! u64 as hex;
        2 gpregs! message(user_s390_regs_entry) as hex;
        3 fpregs! message(user_s390_fpregs_entry) as hex;
        4 vxrs_low? message(user_s390_vxrs_low_entry) as hex;
        5 vxrs_high? message(user_s390_vxrs_high_entry) as hex;
        6 gs_cb? message(user_s390_gs_cb_entry) as hex;
        7 gs_bc? message(user_s390_gs_cb_entry) as hex;
        8 ri_cb? message(user_s390_ri_entry) as hex;
    }
    user_mips_regs_entry {
        1 r0! u64;
        2 r1! u64;
        3 r2! u64;
        4 r3! u64;
        5 r4! u64;
        6 r5! u64;
        7 r6! u64;
        8 r7! u64;
        9 r8! u64;
        10 r9! u64;
        11 r10! u64;
        12 r11! u64;
        13 r12! u64;
        14 r13! u64;
        15 r14! u64;
        16 r15! u64;
        17 r16! u64;
        18 r17! u64;
        19 r18! u64;
        20 r19! u64;
        21 r20! u64;
        22 r21! u64;
        23 r22! u64;
        24 r23! u64;
        25 r24! u64;
        26 r25! u64;
        27 r26! u64;
        28 r27! u64;
        29 r28! u64;
        30 r29! u64;
        31 r30! u64;
        32 r31! u64;
        33 lo! u64;
        34 hi! u64;
        35 cp0_epc! u64;
        36 cp0_badvaddr! u64;
        37 cp0_status! u64;
        38 cp0_cause! u64;
    }
    user_mips_fpregs_entry {
        1 r0! u64;
        2 r1! u64;
        3 r2! u64;
        4 r3! u64;
        5 r4! u64;
        6 r5! u64;
        7 r6! u64;
        8 r7! u64;
        9 r8! u64;
        10 r9! u64;
        11 r10! u64;
        12 r11! u64;
        13 r12! u64;
        14 r13! u64;
        15 r14! u64;
        16 r15! u64;
        17 r16! u64;
        18 r17! u64;
        19 r18! u64;
        20 r19! u64;
        21 r20! u64;
        22 r21! u64;
        23 r22! u64;
        24 r23! u64;
        25 r24! u64;
        26 r25! u64;
        27 r26! u64;
        28 r27! u64;
        29 r28! u64;
        30 r29! u64;
        31 r30! u64;
        32 r31! u64;
        33 lo! u64;
        34 hi! u64;
        35 fpu_fcr31! u32;
        36 fpu_id! u32;
    }
    thread_info_mips {
        1 clear_tid_addr! u64 as hex;
        2 tls! u64;
        3 gpregs! message(user_mips_regs_entry) as hex;
        4 fpregs! message(user_mips_fpregs_entry) as hex;
    }
    user_loongarch64_gpregs_entry {
        1 regs* u64;
        2 pc! u64;
    }
    user_loongarch64_fpregs_entry {
        1 regs* u64;
        2 fcc! u64;
        3 fcsr! u32;
    }
    thread_info_loongarch64 {
        1 clear_tid_addr! u64 as hex;
        2 tls! u64;
        3 gpregs! message(user_loongarch64_gpregs_entry) as hex;
        4 fpregs! message(user_loongarch64_fpregs_entry) as hex;
    }
    user_riscv64_regs_entry {
        1 pc! u64;
        2 ra! u64;
        3 sp! u64;
        4 gp! u64;
        5 tp! u64;
        6 t0! u64;
        7 t1! u64;
        8 t2! u64;
        9 s0! u64;
        10 s1! u64;
        11 a0! u64;
        12 a1! u64;
        13 a2! u64;
        14 a3! u64;
        15 a4! u64;
        16 a5! u64;
        17 a6! u64;
        18 a7! u64;
        19 s2! u64;
        20 s3! u64;
        21 s4! u64;
        22 s5! u64;
        23 s6! u64;
        24 s7! u64;
        25 s8! u64;
        26 s9! u64;
        27 s10! u64;
        28 s11! u64;
        29 t3! u64;
        30 t4! u64;
        31 t5! u64;
        32 t6! u64;
    }
    user_riscv64_d_ext_entry {
        1 f* u64;
        2 fcsr! u32;
    }
    thread_info_riscv64 {
        1 clear_tid_addr! u64 as hex;
        2 tls! u64;
        3 gpregs! message(user_riscv64_regs_entry) as hex;
        4 fpsimd! message(user_riscv64_d_ext_entry);
    }
}
