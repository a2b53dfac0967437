//! Writes classic BPF from its end to its start.
//!
//! BPF only jumps forward, so whatever a jump leads to is written before the jump, and every offset is known when it is
//! needed: no patching, no second pass. Conditional offsets are 8 bits wide (`struct sock_filter`, `linux/filter.h`).
//! Where a target is too far, a nearer copy (of a return) or an unconditional jump with its 32-bit offset is written
//! first. No offset is ever cut: each is converted with a check, and a failure is a [`CompileError`].

use libc::sock_filter;

use crate::compile::CompileError;

// Operations: `linux/bpf_common.h`, `linux/filter.h`.
/// `BPF_LD | BPF_W | BPF_ABS`: A = the 32 bits at offset k of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`: A = A & k.
const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`: jumps k ahead.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`: ends with k.
const RETURN: u16 = 0x06;

/// A comparison of A with a constant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Compare {
    /// `BPF_JMP | BPF_JEQ | BPF_K`.
    Equal,
    /// `BPF_JMP | BPF_JGE | BPF_K`.
    AtLeast,
}

/// Where a jump goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goto {
    /// To a return of this value, wherever one is near.
    Return(u32),
    /// To the instruction that was written as the n-th.
    Written(usize),
}

/// A value set or a dispatch: from each start on, up to the next, go there. The first start is 0.
pub(crate) type Step = (u32, Goto);

/// A program being written.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// The last instruction first.
    reversed: Vec<sock_filter>,
    /// The latest copy of each return.
    returns: Vec<(u32, usize)>,
}

/// Steps that go the same way as the first of them, but for single values between: its exceptions.
struct Run<'a> {
    steps: &'a [Step],
    start: u32,
    goto: Goto,
    exceptions: usize,
}

impl Run<'_> {
    fn comparisons(&self) -> usize {
        1 + self.exceptions
    }
}

impl Assembler {
    pub(crate) fn with_capacity(instructions: usize) -> Self {
        Self {
            reversed: Vec::with_capacity(instructions),
            returns: Vec::with_capacity(8),
        }
    }

    /// Returns the program, in order, starting with what was written last.
    pub(crate) fn finish(mut self) -> Vec<sock_filter> {
        self.reversed.reverse();
        self.reversed
    }

    /// How far ahead of the next instruction to be written the n-th is.
    fn distance(&self, written: usize) -> usize {
        // The next one gets index len(); offsets count from the instruction after it.
        self.reversed.len() - written - 1
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }

    /// Returns a place equivalent to `goto` that an 8-bit offset reaches, also after one more instruction is written.
    fn near(&mut self, goto: Goto) -> Result<usize, CompileError> {
        const REACH: usize = u8::MAX as usize - 1;
        match goto {
            Goto::Written(written) if self.distance(written) <= REACH => Ok(written),
            Goto::Written(written) => self.jump(written),
            Goto::Return(value) => {
                let latest = self.returns.iter().position(|latest| latest.0 == value);
                if let Some(&(_, written)) = latest.and_then(|at| self.returns.get(at))
                    && self.distance(written) <= REACH
                {
                    return Ok(written);
                }
                let written = self.push(RETURN, 0, 0, value);
                match latest.and_then(|at| self.returns.get_mut(at)) {
                    Some(entry) => entry.1 = written,
                    None => self.returns.push((value, written)),
                }
                Ok(written)
            }
        }
    }

    fn jump(&mut self, written: usize) -> Result<usize, CompileError> {
        let distance = self.distance(written);
        let k = u32::try_from(distance).map_err(|_| CompileError::JumpTooFar { distance })?;
        Ok(self.push(JUMP, 0, 0, k))
    }

    /// Writes a comparison of A.
    pub(crate) fn branch(
        &mut self,
        compare: Compare,
        value: u32,
        met: Goto,
        unmet: Goto,
    ) -> Result<Goto, CompileError> {
        if met == unmet {
            return Ok(met);
        }
        let (met, unmet) = (self.near(met)?, self.near(unmet)?);
        let offset = |distance| u8::try_from(distance).map_err(|_| CompileError::JumpTooFar { distance });
        let (jt, jf) = (offset(self.distance(met))?, offset(self.distance(unmet))?);
        let code = match compare {
            Compare::Equal => 0x15,
            Compare::AtLeast => 0x35,
        };
        Ok(Goto::Written(self.push(code, jt, jf, value)))
    }

    /// Writes the load of the 32 bits at `offset`, under `mask`, going on at `then`.
    pub(crate) fn load(&mut self, offset: u32, mask: u32, then: Goto) -> Result<Goto, CompileError> {
        let then = self.near(then)?;
        if self.distance(then) != 0 {
            self.jump(then)?;
        }
        if mask != u32::MAX {
            self.push(AND, 0, 0, mask);
        }
        Ok(Goto::Written(self.push(LOAD, 0, 0, offset)))
    }

    /// Writes a search for A among `steps`, which start at 0 and ascend; returns where to enter it.
    ///
    /// A balanced tree of comparisons. Length is what a filter costs at install (see [`crate::compile()`]), so a value
    /// that differs from equal neighbours costs one test for equality at a leaf instead of two in the tree.
    pub(crate) fn search(&mut self, steps: &[Step]) -> Result<Goto, CompileError> {
        self.tree(&runs(steps))
    }

    fn tree(&mut self, runs: &[Run<'_>]) -> Result<Goto, CompileError> {
        let (lower, upper) = runs.split_at(middle(runs));
        match (lower, upper) {
            ([], []) => Err(CompileError::NothingToSearch),
            ([], [run]) | ([run], []) => {
                let mut entry = run.goto;
                for &(value, goto) in run.steps.iter().rev().filter(|step| step.1 != run.goto) {
                    entry = self.branch(Compare::Equal, value, goto, entry)?;
                }
                Ok(entry)
            }
            (lower, upper) => {
                let Some(pivot) = upper.first().map(|run| run.start) else {
                    return self.tree(lower);
                };
                let upper = self.tree(upper)?;
                let lower = self.tree(lower)?;
                self.branch(Compare::AtLeast, pivot, upper, lower)
            }
        }
    }
}

/// Where to cut so that both halves have about as many comparisons; for two runs or more never 0 and never all.
fn middle(runs: &[Run<'_>]) -> usize {
    let total: usize = runs.iter().map(Run::comparisons).sum();
    let mut before = 0;
    for (at, run) in runs.iter().enumerate() {
        if at > 0 && 2 * before + run.comparisons() > total {
            return at;
        }
        before += run.comparisons();
    }
    runs.len().saturating_sub(1)
}

/// Joins steps into runs.
fn runs(steps: &[Step]) -> Vec<Run<'_>> {
    let is_single = |at: usize| {
        let (this, next) = (steps.get(at), steps.get(at + 1));
        matches!((this, next), (Some(this), Some(next)) if this.0 + 1 == next.0)
    };
    let mut runs: Vec<Run<'_>> = Vec::with_capacity(steps.len());
    let mut first = 0;
    while let Some(&(start, goto)) = steps.get(first) {
        let (mut end, mut exceptions) = (first + 1, 0);
        loop {
            // Looks past single values for the same goto again; found, they are exceptions of this run.
            let mut ahead = end;
            while is_single(ahead) && steps.get(ahead).is_some_and(|step| step.1 != goto) {
                ahead += 1;
            }
            if steps.get(ahead).is_none_or(|step| step.1 != goto) {
                break;
            }
            exceptions += ahead - end;
            end = ahead + 1;
        }
        runs.push(Run {
            steps: steps.get(first..end).unwrap_or_default(),
            start,
            goto,
            exceptions,
        });
        first = end;
    }
    runs
}
