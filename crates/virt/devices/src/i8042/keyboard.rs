//! The keyboard behind the controller: it answers commands, and its only keys are three. Scan code set 2.

/// What a keyboard answers to every command (PS/2: "acknowledge").
const ACKNOWLEDGE: u8 = 0xfa;

/// Control, alt and delete pressed and let go again, in scan code set 2.
pub(super) const CONTROL_ALT_DELETE: [u8; 11] = [
    0x14, 0x11, 0xe0, 0x71, // pressed
    0xe0, 0xf0, 0x71, 0xf0, 0x11, 0xf0, 0x14, // let go
];

/// A command's answer, and whether a parameter comes next.
pub(super) fn answer(command: u8) -> (&'static [u8], bool) {
    match command {
        // Lights, scan code set, repetition.
        0xed | 0xf0 | 0xf3 => (&[ACKNOWLEDGE], true),
        0xee => (&[0xee], false),
        // Identity: a keyboard.
        0xf2 => (&[ACKNOWLEDGE, 0xab, 0x83], false),
        // Reset: acknowledged, and passed its test.
        0xff => (&[ACKNOWLEDGE, 0xaa], false),
        _ => (&[ACKNOWLEDGE], false),
    }
}

/// The answer to a parameter.
pub(super) const PARAMETER_ANSWER: &[u8] = &[ACKNOWLEDGE];
