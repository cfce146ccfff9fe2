//! From answers by number to a program of the classic packet filter (seccomp_filter.rst).

/// Numbers from `start` up to the next segment's, and what is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) start: u32,
    pub(super) answer: Answer,
}

/// What the filter says to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel goes on.
    Allow,
    /// The call fails with this number.
    Error(u16),
    /// It depends on an argument.
    Check(Check),
}

/// Allowed if the condition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    /// Which, from 0. Only its lower half is looked at: all that are checked are integers of 32 bits to the kernel.
    pub(super) argument: u32,
    pub(super) condition: Condition,
    /// If it does not hold.
    pub(super) error: u16,
}

/// What an argument must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    NoneOfBits(u32),
    OneOf(Vec<u32>),
    NoneOf(Vec<u32>),
}

/// `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) value: u32,
}

/// BPF_LD, BPF_W, BPF_ABS: a word of `struct seccomp_data`.
pub(super) const LOAD: u16 = 0x20;
/// BPF_JMP with BPF_JA, BPF_JEQ, BPF_JGE and BPF_JSET, each with BPF_K.
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const IF_ANY_BIT: u16 = 0x45;
/// BPF_RET, BPF_K.
pub(super) const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;
pub(super) const ARGUMENT_SIZE: u32 = 8;

/// AUDIT_ARCH_X86_64 (linux/audit.h).
pub(super) const X86_64: u32 = 0xc000_003e;

/// SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_KILL_PROCESS.
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const ERROR: u32 = 0x0005_0000;
pub(super) const KILL: u32 = 0x8000_0000;

/// How far a conditional jump is let go: at most 255 instructions are between it and its target, and two may still come.
const NEAR: usize = 253;

impl Instruction {
    fn plain(code: u16, value: u32) -> Self {
        Instruction {
            code,
            if_true: 0,
            if_false: 0,
            value,
        }
    }

    /// As the kernel reads it.
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let Instruction {
            code,
            if_true,
            if_false,
            value,
        } = self;
        let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), value.to_ne_bytes());
        [a, b, if_true, if_false, c, d, e, f]
    }
}

/// The program that answers by `segments`, of which the first begins at 0; they are in ascending order.
pub(super) fn compile(segments: &[Segment]) -> Vec<Instruction> {
    let mut program = Backwards::default();
    let search = program.search(segments);
    program.go_to(search);
    program.push(Instruction::plain(LOAD, NUMBER));
    let number = program.here();
    let kill = program.plain(RETURN, KILL);
    program.branch(IF_EQUAL, X86_64, number, kill);
    program.push(Instruction::plain(LOAD, ARCHITECTURE));
    program.reversed.reverse();
    program.reversed
}

/// A program, the last instruction first: jumps only go forward, so what they lead to is there already. A place is counted from the
/// end.
#[derive(Debug, Default)]
struct Backwards {
    reversed: Vec<Instruction>,
    /// Where answers are that are given more than once.
    answers: Vec<(Answer, usize)>,
}

impl Backwards {
    fn push(&mut self, instruction: Instruction) {
        self.reversed.push(instruction);
    }

    /// Of the instruction that was pushed last.
    fn here(&self) -> usize {
        self.reversed.len() - 1
    }

    fn plain(&mut self, code: u16, value: u32) -> usize {
        self.push(Instruction::plain(code, value));
        self.here()
    }

    /// Instructions between the next and that place.
    fn distance(&self, place: usize) -> usize {
        self.reversed.len() - place - 1
    }

    /// Makes the next instruction one that leads to the place, if the place is not just behind it.
    fn go_to(&mut self, place: usize) {
        if let distance @ 1.. = self.distance(place) {
            self.push(Instruction::plain(JUMP, u32::try_from(distance).unwrap_or(u32::MAX)));
        }
    }

    /// A place from which a conditional jump gets to that place.
    fn near(&mut self, place: usize) -> usize {
        if self.distance(place) > NEAR {
            self.go_to(place);
            return self.here();
        }
        place
    }

    fn branch(&mut self, code: u16, value: u32, if_true: usize, if_false: usize) -> usize {
        let if_true = self.near(if_true);
        let if_false = self.near(if_false);
        let offset = |place| u8::try_from(self.distance(place)).unwrap_or(u8::MAX);
        let instruction = Instruction {
            code,
            if_true: offset(if_true),
            if_false: offset(if_false),
            value,
        };
        self.push(instruction);
        self.here()
    }

    fn search(&mut self, segments: &[Segment]) -> usize {
        match segments {
            [] => self.answer(&Answer::Allow),
            [only] => self.answer(&only.answer),
            _ => {
                let (low, high) = segments.split_at(segments.len() / 2);
                let if_high = self.search(high);
                let if_low = self.search(low);
                self.branch(IF_AT_LEAST, high[0].start, if_high, if_low)
            }
        }
    }

    fn answer(&mut self, answer: &Answer) -> usize {
        let known = self.answers.iter().position(|(known, _)| known == answer);
        if let Some(place) = known.map(|at| self.answers[at].1)
            && self.distance(place) <= NEAR
        {
            return place;
        }
        let place = match answer {
            Answer::Allow => self.plain(RETURN, ALLOW),
            Answer::Error(number) => self.plain(RETURN, ERROR | u32::from(*number)),
            Answer::Check(check) => self.check(check),
        };
        match known {
            Some(at) => self.answers[at].1 = place,
            None => self.answers.push((answer.clone(), place)),
        }
        place
    }

    fn check(&mut self, check: &Check) -> usize {
        let Check {
            argument,
            condition,
            error,
        } = check;
        let allow = self.answer(&Answer::Allow);
        let refuse = self.answer(&Answer::Error(*error));
        let first = match condition {
            Condition::NoneOfBits(mask) => self.branch(IF_ANY_BIT, *mask, refuse, allow),
            Condition::OneOf(values) => self.compare(values, allow, refuse),
            Condition::NoneOf(values) => self.compare(values, refuse, allow),
        };
        self.go_to(first);
        self.plain(LOAD, ARGUMENTS + ARGUMENT_SIZE * argument)
    }

    fn compare(&mut self, values: &[u32], if_any: usize, if_none: usize) -> usize {
        let mut next = if_none;
        for value in values.iter().rev() {
            next = self.branch(IF_EQUAL, *value, if_any, next);
        }
        next
    }
}
