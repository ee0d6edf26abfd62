//! Device access for cgroup v2: rules are compiled to a BPF_CGROUP_DEVICE program and attached to the cgroup.
//!
//! Invariant: fail closed. If the program cannot be loaded and attached the caller gets an error and starts nothing.
//! Follows the allow-list semantics of the OCI runtime specification; the upstream work of reference is
//! opencontainers/cgroups `devices/devicefilter.go`.

use crate::fd::{check_long, own};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// What kind of device a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Character devices.
    Char,
    /// Block devices.
    Block,
    /// Both.
    All,
}

/// One permission. `None` means any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Which kind.
    pub kind: Kind,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made with mknod.
    pub mknod: bool,
}

impl fmt::Display for Rule {
    /// In the language of devices.allow of cgroup v1: `c 1:3 rwm`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Char => 'c',
            Kind::Block => 'b',
            Kind::All => 'a',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        write!(f, "{kind} {}:{} ", number(self.major), number(self.minor))?;
        for (on, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if on {
                write!(f, "{letter}")?;
            }
        }
        Ok(())
    }
}

/// One instruction of extended BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: dst | src << 4, offset, immediate }
}

const LOAD_WORD: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const MOV64_IMM: u8 = 0xb7;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JNE_IMM: u8 = 0x55;
const EXIT: u8 = 0x95;

/// The program: registers 2 to 5 hold kind, access, major and minor; each rule returns 1 if all it names agrees; the end is 0.
pub fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut out = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(AND32_IMM, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 3, 1, 0, 0),
        op(RSH32_IMM, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests = Vec::new();
        match rule.kind {
            Kind::Block => tests.push(vec![op(JNE_IMM, 2, 0, 0, 1)]),
            Kind::Char => tests.push(vec![op(JNE_IMM, 2, 0, 0, 2)]),
            Kind::All => {}
        }
        // Asked-for bits (mknod 1, read 2, write 4) that the rule does not give must be none.
        let denied = 7 & !(i32::from(rule.mknod) | i32::from(rule.read) << 1 | i32::from(rule.write) << 2);
        if denied != 0 {
            tests.push(vec![op(MOV32_REG, 1, 3, 0, 0), op(AND32_IMM, 1, 0, 0, denied), op(JNE_IMM, 1, 0, 0, 0)]);
        }
        if let Some(major) = rule.major {
            tests.push(vec![op(JNE_IMM, 4, 0, 0, major as i32)]);
        }
        if let Some(minor) = rule.minor {
            tests.push(vec![op(JNE_IMM, 5, 0, 0, minor as i32)]);
        }
        let mut block: Vec<Instruction> = tests.concat();
        block.extend([op(MOV64_IMM, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
        let len = block.len() as i16;
        for (at, instruction) in block.iter_mut().enumerate() {
            if instruction.code == JNE_IMM {
                instruction.offset = len - at as i16 - 1;
            }
        }
        out.extend(block);
    }
    out.extend([op(MOV64_IMM, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    out
}

/// bpf(2) attributes are a union padded to this size; the kernel wants the unused rest to be zero.
#[repr(C, align(8))]
struct Attr([u32; 32]);

fn bpf(command: i32, attr: &Attr) -> io::Result<i32> {
    // SAFETY: `attr` is a zero-padded bpf_attr; pointers in it live until the call ends.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr, std::mem::size_of::<Attr>()) };
    check_long(ret).map(|n| n as i32)
}

/// Loads the program for `rules` and attaches it to the cgroup v2 directory `cgroup`; it lives as long as the cgroup.
pub fn attach(cgroup: BorrowedFd<'_>, rules: &[Rule]) -> io::Result<()> {
    const BPF_PROG_LOAD: i32 = 5;
    const BPF_PROG_ATTACH: i32 = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    let program = compile(rules);
    let license = c"Apache";
    let put = |attr: &mut Attr, at: usize, pointer: u64| {
        attr.0[at] = pointer as u32;
        attr.0[at + 1] = (pointer >> 32) as u32;
    };
    let mut attr = Attr([0; 32]);
    attr.0[0] = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.0[1] = program.len() as u32;
    put(&mut attr, 2, program.as_ptr() as u64);
    put(&mut attr, 4, license.as_ptr() as u64);
    let loaded = own(bpf(BPF_PROG_LOAD, &attr)?);
    let mut attr = Attr([0; 32]);
    attr.0[0] = cgroup.as_raw_fd() as u32;
    attr.0[1] = loaded.as_raw_fd() as u32;
    attr.0[2] = BPF_CGROUP_DEVICE;
    attr.0[3] = BPF_F_ALLOW_MULTI;
    bpf(BPF_PROG_ATTACH, &attr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, on the few operations that [`compile`] uses.
    fn run(program: &[Instruction], access: u32, kind: u32, major: u32, minor: u32) -> i64 {
        let ctx = [access << 16 | kind, major, minor];
        let mut r = [0i64; 11];
        let mut pc = 0;
        loop {
            let i = program[pc];
            let (dst, src) = ((i.registers & 15) as usize, (i.registers >> 4) as usize);
            pc += 1;
            match i.code {
                LOAD_WORD => r[dst] = ctx[i.offset as usize / 4].into(),
                MOV32_REG => r[dst] = r[src],
                MOV64_IMM => r[dst] = i.immediate.into(),
                AND32_IMM => r[dst] &= i64::from(i.immediate),
                RSH32_IMM => r[dst] >>= i.immediate,
                JNE_IMM if r[dst] != i64::from(i.immediate) => pc += i.offset as usize,
                JNE_IMM => {}
                EXIT => return r[0],
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn only_what_a_rule_names_is_allowed() {
        let null = Rule { kind: Kind::Char, major: Some(1), minor: Some(3), read: true, write: true, mknod: false };
        let any_mknod = Rule { kind: Kind::Block, major: None, minor: None, read: false, write: false, mknod: true };
        let program = compile(&[null, any_mknod]);
        assert_eq!(run(&program, 2 | 4, 2, 1, 3), 1);
        assert_eq!(run(&program, 1, 2, 1, 3), 0);
        assert_eq!(run(&program, 2, 2, 1, 5), 0);
        assert_eq!(run(&program, 2, 1, 1, 3), 0);
        assert_eq!(run(&program, 1, 1, 8, 0), 1);
        assert_eq!(run(&program, 1 | 2, 1, 8, 0), 0);
        assert_eq!(run(&compile(&[]), 2, 2, 1, 3), 0);
        assert_eq!((null.to_string().as_str(), any_mknod.to_string().as_str()), ("c 1:3 rw", "b *:* m"));
    }
}
