//! Runs a BPF program as the kernel does (`kernel/seccomp.c`, `net/core/filter.c`), refusing what it would refuse.

use libc::sock_filter;

/// Returns what `program` returns for a call, and how many instructions that took.
pub(super) fn run(program: &[sock_filter], arch: u32, number: u32, args: &[u64; 6]) -> Result<(u32, usize), String> {
    let mut data = Vec::with_capacity(64);
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0x1234_5678_9abc_def0_u64.to_le_bytes()); // instruction_pointer
    data.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));

    let (mut at, mut a, mut steps) = (0_usize, 0_u32, 0);
    loop {
        let instruction = program.get(at).ok_or_else(|| format!("ran off the end at {at}"))?;
        steps += 1;
        at += 1;
        let k = instruction.k;
        match instruction.code {
            0x20 => {
                let offset = k as usize;
                let word = data.get(offset..offset + 4).filter(|_| offset.is_multiple_of(4));
                let word = word.ok_or_else(|| format!("load at {offset}"))?;
                a = u32::from_le_bytes(word.try_into().map_err(|_| "no word")?);
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 | 0x35 | 0x25 => {
                let met = match instruction.code {
                    0x15 => a == k,
                    0x35 => a >= k,
                    _ => a > k,
                };
                at += usize::from(if met { instruction.jt } else { instruction.jf });
            }
            0x06 => return Ok((k, steps)),
            code => return Err(format!("instruction {code:#x}")),
        }
    }
}

/// Checks what the kernel checks before it takes a program: all jumps land inside, and the last instruction returns
/// (`bpf_check_classic`).
pub(super) fn check(program: &[sock_filter]) -> Result<(), String> {
    if program.is_empty() || program.len() > crate::MAX_INSTRUCTIONS {
        return Err(format!("{} instructions", program.len()));
    }
    for (at, instruction) in program.iter().enumerate() {
        let furthest = match instruction.code {
            0x05 => instruction.k as usize,
            0x15 | 0x35 | 0x25 => usize::from(instruction.jt.max(instruction.jf)),
            0x20 | 0x54 | 0x06 => 0,
            code => return Err(format!("instruction {code:#x} at {at}")),
        };
        if at + 1 + furthest >= program.len() && instruction.code != 0x06 {
            return Err(format!("instruction {at} leads outside"));
        }
    }
    if program.last().map(|last| last.code) != Some(0x06) {
        return Err("doesn't end with a return".to_owned());
    }
    Ok(())
}

/// Returns how many instructions nothing leads to.
pub(super) fn unreachable(program: &[sock_filter]) -> usize {
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (at, instruction) in program.iter().enumerate() {
        if !reached[at] {
            continue;
        }
        match instruction.code {
            0x06 => {}
            0x05 => reached[at + 1 + instruction.k as usize] = true,
            0x15 | 0x35 | 0x25 => {
                reached[at + 1 + usize::from(instruction.jt)] = true;
                reached[at + 1 + usize::from(instruction.jf)] = true;
            }
            _ => reached[at + 1] = true,
        }
    }
    reached.iter().filter(|reached| !**reached).count()
}
