//! The program that decides on device nodes (bpf(2), BPF_PROG_TYPE_CGROUP_DEVICE): 1 allows, 0 refuses.

use holdfast_sys::bpf::Instruction;

use crate::DeviceRule;

// Classes and operations (kernel document bpf/standardization/instruction-set.rst).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER_32: u8 = 0xbc;
const AND_32: u8 = 0x54;
const EXCLUSIVE_OR_32: u8 = 0xa4;
const SHIFT_RIGHT_32: u8 = 0x74;
const JUMP_UNLESS_EQUAL_32: u8 = 0x56;
const EXIT: u8 = 0x95;

// The answer, and the argument: the address of a struct bpf_cgroup_dev_ctx.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
// What the program keeps.
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Fields of struct bpf_cgroup_dev_ctx (linux/bpf.h). The access is in the high half of the first, the kind in the low one.
const OFFSET_OF_TYPE: i16 = 0;
const OFFSET_OF_MAJOR: i16 = 4;
const OFFSET_OF_MINOR: i16 = 8;
const ACCESS_MKNOD: u32 = 1;
const ACCESS_READ: u32 = 2;
const ACCESS_WRITE: u32 = 4;
const KIND_BLOCK: u32 = 1;
const KIND_CHAR: u32 = 2;

/// A program that allows what one of `rules` allows and refuses all else, also kinds of access that are not known here.
pub(crate) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        load(ACCESS, OFFSET_OF_TYPE),
        of_registers(MOVE_REGISTER_32, KIND, ACCESS),
        with_value(AND_32, KIND, 0xffff),
        with_value(SHIFT_RIGHT_32, ACCESS, 16),
        load(MAJOR, OFFSET_OF_MAJOR),
        load(MINOR, OFFSET_OF_MINOR),
    ];
    for rule in rules {
        append(rule, &mut program);
    }
    program.extend(answer(0));
    program
}

/// Leads to its end where the rule does not fit.
fn append(rule: &DeviceRule, program: &mut Vec<Instruction>) {
    let DeviceRule {
        is_char,
        major,
        minor,
        read,
        write,
        mknod,
    } = *rule;
    let kind = if is_char { KIND_CHAR } else { KIND_BLOCK };
    let allowed = [(read, ACCESS_READ), (write, ACCESS_WRITE), (mknod, ACCESS_MKNOD)]
        .into_iter()
        .filter(|(is_allowed, _)| *is_allowed)
        .fold(0, |bits, (_, bit)| bits | bit);
    let begin = program.len();
    // What is compared is a copy that no longer has the number: of the registers themselves the kernel's check would learn what they
    // are, and follow each of these cases through all the rules that come after, so that it took the square of their number.
    let tests = [
        (KIND, EXCLUSIVE_OR_32, Some(kind)),
        (MAJOR, EXCLUSIVE_OR_32, major),
        (MINOR, EXCLUSIVE_OR_32, minor),
        (ACCESS, AND_32, Some(!allowed)),
    ];
    for (register, operation, number) in tests {
        if let Some(number) = number {
            program.extend([
                of_registers(MOVE_REGISTER_32, ANSWER, register),
                with_value(operation, ANSWER, number),
                with_value(JUMP_UNLESS_EQUAL_32, ANSWER, 0),
            ]);
        }
    }
    program.extend(answer(1));
    let end = program.len();
    for (at, instruction) in program.iter_mut().enumerate().skip(begin) {
        if instruction.opcode == JUMP_UNLESS_EQUAL_32 {
            instruction.offset = i16::try_from(end - at - 1).expect("a rule has fourteen instructions at most");
        }
    }
}

fn answer(value: u32) -> [Instruction; 2] {
    [with_value(MOVE, ANSWER, value), with_value(EXIT, 0, 0)]
}

fn load(to: u8, offset: i16) -> Instruction {
    Instruction {
        offset,
        ..of_registers(LOAD_WORD, to, CONTEXT)
    }
}

fn of_registers(opcode: u8, to: u8, from: u8) -> Instruction {
    Instruction {
        opcode,
        registers: from << 4 | to,
        offset: 0,
        immediate: 0,
    }
}

fn with_value(opcode: u8, register: u8, value: u32) -> Instruction {
    Instruction {
        opcode,
        registers: register,
        offset: 0,
        immediate: value.cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(is_char: bool, major: Option<u32>, minor: Option<u32>, access: u32) -> DeviceRule {
        DeviceRule {
            is_char,
            major,
            minor,
            read: access & ACCESS_READ != 0,
            write: access & ACCESS_WRITE != 0,
            mknod: access & ACCESS_MKNOD != 0,
        }
    }

    /// What the kernel would do, for the instructions that are used.
    fn run(program: &[Instruction], context: [u32; 3]) -> u64 {
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let Instruction {
                opcode,
                registers: numbers,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(numbers & 15), usize::from(numbers >> 4));
            let (low, value) = (registers[to] as u32, immediate.cast_unsigned());
            at += 1;
            match opcode {
                LOAD_WORD => {
                    assert_eq!(from, usize::from(CONTEXT));
                    registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]);
                }
                MOVE => registers[to] = i64::from(immediate).cast_unsigned(),
                MOVE_REGISTER_32 => registers[to] = u64::from(registers[from] as u32),
                AND_32 => registers[to] = u64::from(low & value),
                EXCLUSIVE_OR_32 => registers[to] = u64::from(low ^ value),
                SHIFT_RIGHT_32 => registers[to] = u64::from(low >> value),
                JUMP_UNLESS_EQUAL_32 if low != value => at += usize::try_from(offset).unwrap(),
                JUMP_UNLESS_EQUAL_32 => {}
                EXIT => return registers[usize::from(ANSWER)],
                unknown => panic!("{unknown:#x}"),
            }
        }
    }

    fn allows(rule: &DeviceRule, kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let has = |bit: u32, is_allowed: bool| access & bit == 0 || is_allowed;
        kind == if rule.is_char { KIND_CHAR } else { KIND_BLOCK }
            && rule.major.is_none_or(|number| number == major)
            && rule.minor.is_none_or(|number| number == minor)
            && access < 8
            && has(ACCESS_READ, rule.read)
            && has(ACCESS_WRITE, rule.write)
            && has(ACCESS_MKNOD, rule.mknod)
    }

    #[test]
    fn a_program_allows_exactly_what_one_of_its_rules_allows() {
        let numbers = [0, 1, 3, 255, 0x000f_ffff, u32::MAX];
        let lists: Vec<Vec<DeviceRule>> = vec![
            vec![],
            vec![rule(true, Some(1), Some(3), 6)],
            vec![rule(true, None, None, 7)],
            vec![
                rule(false, None, None, ACCESS_MKNOD),
                rule(true, None, Some(3), ACCESS_READ),
            ],
            vec![
                rule(true, Some(1), None, ACCESS_READ),
                rule(true, Some(1), Some(3), ACCESS_WRITE),
                rule(false, Some(u32::MAX), Some(0), 7),
                rule(true, Some(0x000f_ffff), Some(u32::MAX), 5),
            ],
        ];
        for rules in lists {
            let program = program(&rules);
            let mut allowed = 0;
            // Kind 3 and the access bit 8 do not exist.
            for kind in 1..=3 {
                for access in 1..16 {
                    for major in numbers {
                        for minor in numbers {
                            let expected = rules.iter().any(|rule| allows(rule, kind, access, major, minor));
                            let answer = run(&program, [access << 16 | kind, major, minor]);
                            assert_eq!(
                                answer,
                                u64::from(expected),
                                "{rules:?}: kind {kind} access {access} {major}:{minor}"
                            );
                            allowed += answer;
                        }
                    }
                }
            }
            assert_eq!(allowed == 0, rules.is_empty());
        }
    }

    #[test]
    fn the_program_of_one_rule_is_this() {
        let instruction = |opcode, registers, offset, immediate| Instruction {
            opcode,
            registers,
            offset,
            immediate,
        };
        let expected = [
            instruction(0x61, 0x12, 0, 0),
            instruction(0xbc, 0x23, 0, 0),
            instruction(0x54, 0x03, 0, 0xffff),
            instruction(0x74, 0x02, 0, 16),
            instruction(0x61, 0x14, 4, 0),
            instruction(0x61, 0x15, 8, 0),
            instruction(0xbc, 0x30, 0, 0),
            instruction(0xa4, 0x00, 0, 2),
            instruction(0x56, 0x00, 11, 0),
            instruction(0xbc, 0x40, 0, 0),
            instruction(0xa4, 0x00, 0, 1),
            instruction(0x56, 0x00, 8, 0),
            instruction(0xbc, 0x50, 0, 0),
            instruction(0xa4, 0x00, 0, 3),
            instruction(0x56, 0x00, 5, 0),
            instruction(0xbc, 0x20, 0, 0),
            instruction(0x54, 0x00, 0, !6),
            instruction(0x56, 0x00, 2, 0),
            instruction(0xb7, 0x00, 0, 1),
            instruction(0x95, 0x00, 0, 0),
            instruction(0xb7, 0x00, 0, 0),
            instruction(0x95, 0x00, 0, 0),
        ];
        assert_eq!(program(&[rule(true, Some(1), Some(3), 6)]), expected);
    }
}
