//! What the kernel would make of a program: as much of the classic packet filter as seccomp takes, and it checks as strictly.

use super::filter::{
    ALLOW, ARCHITECTURE, ARGUMENT_SIZE, ARGUMENTS, ERROR, IF_ANY_BIT, IF_AT_LEAST, IF_EQUAL, JUMP, KILL, LOAD, NUMBER,
    RETURN, X86_64,
};

/// What a program said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Error(u16),
    Kill,
}

/// What a program is asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

impl Call {
    pub(super) fn of(number: u32, arguments: &[u64]) -> Self {
        let mut all = [0; 6];
        all[..arguments.len()].copy_from_slice(arguments);
        Call {
            number,
            architecture: X86_64,
            arguments: all,
        }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            NUMBER => self.number,
            ARCHITECTURE => self.architecture,
            _ => {
                let (at, half) = (offset - ARGUMENTS, (offset - ARGUMENTS) % ARGUMENT_SIZE);
                let argument = self.arguments[(at / ARGUMENT_SIZE) as usize];
                match half {
                    0 => argument as u32,
                    4 => (argument >> 32) as u32,
                    _ => panic!("offset {offset} is not aligned"),
                }
            }
        }
    }
}

/// The verdict, and how many instructions it took. Jumps go forward by their nature, so a program that stays within its bounds ends.
pub(super) fn run(program: &[u8], call: &Call) -> (Verdict, usize) {
    let (instructions, rest) = program.as_chunks::<8>();
    assert!(rest.is_empty(), "{} bytes are no whole instructions", program.len());
    let (mut at, mut accumulator, mut steps) = (0, 0, 0);
    loop {
        let [a, b, if_true, if_false, c, d, e, f] = instructions[at];
        let (code, value) = (u16::from_ne_bytes([a, b]), u32::from_ne_bytes([c, d, e, f]));
        steps += 1;
        at += 1;
        let condition = match code {
            LOAD => {
                accumulator = call.word(value);
                continue;
            }
            JUMP => {
                at += value as usize;
                continue;
            }
            RETURN => {
                let verdict = match value {
                    ALLOW => Verdict::Allow,
                    KILL => Verdict::Kill,
                    _ if value & 0xffff_0000 == ERROR => Verdict::Error(value as u16),
                    _ => panic!("returns {value:#x}"),
                };
                return (verdict, steps);
            }
            IF_EQUAL => accumulator == value,
            IF_AT_LEAST => accumulator >= value,
            IF_ANY_BIT => accumulator & value != 0,
            _ => panic!("code {code:#x}"),
        };
        at += usize::from(if condition { if_true } else { if_false });
    }
}
