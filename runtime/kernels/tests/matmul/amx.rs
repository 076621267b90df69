//! The tile instructions of AMX in software, for processors without them: these raise SIGILL, and its handler does what the
//! instruction would do. After the Intel SDM, volume 2, and volume 1, chapter 18; no more than palette 1.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::Once;

use membrane_kernels::Isa;

/// The tiles of a thread.
struct State {
    /// Rows, and bytes of a row, of each tile; all 0 without a configuration.
    sizes: [(usize, usize); 8],
    tiles: [[[u8; 64]; 16]; 8],
}

thread_local! {
    static STATE: UnsafeCell<State> =
        const { UnsafeCell::new(State { sizes: [(0, 0); 8], tiles: [[[0; 64]; 16]; 8] }) };
}

/// Has this process run tile instructions from now on, where the rest of what the kernels want of AMX is there.
pub fn emulate() {
    static EMULATED: Once = Once::new();
    EMULATED.call_once(|| {
        let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_illegal_instruction;
        // SAFETY: zeros are a `sigaction` without flags; the handler has the signature that `SA_SIGINFO` asks for, and does what
        // `emulate_amx` wants.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
            Isa::emulate_amx();
        }
    });
}

/// Continues behind the instruction if it is one of tiles, and lets the process die of it otherwise.
extern "C" fn on_illegal_instruction(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives the context of the interrupted code, at whose instruction pointer an instruction is.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let at = registers[libc::REG_RIP as usize];
        match STATE.with(|state| execute(&mut *state.get(), at as *const u8, registers)) {
            Some(length) => registers[libc::REG_RIP as usize] = at + length as i64,
            None => drop(libc::signal(libc::SIGILL, libc::SIG_DFL)),
        }
    }
}

/// The general registers in the order of their numbers.
const REGISTERS: [c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Where an operand in memory is: base and displacement, and the scaled index, which is a stride for tiles.
struct Memory {
    base: usize,
    index: usize,
}

/// Does one instruction and returns its length; `None` if the processor would refuse it.
///
/// # Safety
/// `at` must be an instruction, and what it reads and writes must be there.
unsafe fn execute(state: &mut State, at: *const u8, registers: &[i64; 23]) -> Option<usize> {
    // SAFETY: the instructions below have five bytes at least; others end with a byte that differs.
    let byte = |i: usize| unsafe { at.add(i).read() };
    if byte(0) != 0xC4 || byte(1) & 0x1F != 2 || byte(2) & 0x84 != 0 {
        return None;
    }
    let (extensions, prefix, opcode, operands) = (!byte(1) >> 5, byte(2) & 3, byte(3), byte(4));
    let (kind, tile, other) = (operands >> 6, usize::from(operands >> 3 & 7), usize::from(operands & 7));
    // SAFETY: as above.
    let memory = || unsafe { operand(at, kind, other, extensions, registers) };
    match (opcode, prefix, kind == 3) {
        (0x49, 0, true) if operands == 0xC0 => state.sizes = [(0, 0); 8],
        (0x49, 0, false) if tile == 0 => {
            let (Memory { base, index }, length) = memory()?;
            // SAFETY: the instruction reads 64 bytes.
            let config = unsafe { ((base + index) as *const [u8; 64]).read_unaligned() };
            state.configure(&config)?;
            return Some(length);
        }
        (0x49, 3, true) if other == 0 => {
            state.size(tile)?;
            state.tiles[tile] = [[0; 64]; 16];
        }
        (0x4B, 1 | 3, false) if other == 4 => {
            let (Memory { base, index: stride }, length) = memory()?;
            let (rows, bytes) = state.size(tile)?;
            state.tiles[tile] = [[0; 64]; 16];
            for (row, to) in state.tiles[tile][..rows].iter_mut().enumerate() {
                // SAFETY: the instruction reads these bytes.
                unsafe {
                    ((base + row * stride) as *const u8).copy_to_nonoverlapping(to.as_mut_ptr(), bytes)
                };
            }
            return Some(length);
        }
        (0x4B, 2, false) if other == 4 => {
            let (Memory { base, index: stride }, length) = memory()?;
            let (rows, bytes) = state.size(tile)?;
            for (row, from) in state.tiles[tile][..rows].iter().enumerate() {
                // SAFETY: the instruction writes these bytes.
                unsafe { ((base + row * stride) as *mut u8).copy_from_nonoverlapping(from.as_ptr(), bytes) };
            }
            return Some(length);
        }
        (0x5E, _, true) => state.multiply(tile, other, usize::from(!byte(2) >> 3 & 15), prefix)?,
        _ => return None,
    }
    Some(5)
}

/// The operand in memory of an instruction with its operands' byte at 4, and the instruction's length.
///
/// # Safety
/// As for [`execute`].
unsafe fn operand(
    at: *const u8,
    kind: u8,
    base: usize,
    extensions: u8,
    registers: &[i64; 23],
) -> Option<(Memory, usize)> {
    let register = |number: usize, extension: u8| {
        registers[REGISTERS[number + usize::from(extension & 1) * 8] as usize] as usize
    };
    let mut memory = Memory { base: 0, index: 0 };
    let mut length = 5;
    let mut number = base;
    if base == 4 {
        // SAFETY: a byte of the instruction.
        let byte = unsafe { at.add(length).read() };
        length += 1;
        number = usize::from(byte & 7);
        let index = usize::from(byte >> 3 & 7);
        if index != 4 || extensions >> 1 & 1 == 1 {
            memory.index = register(index, extensions >> 1) << (byte >> 6);
        }
    }
    if kind == 0 && number == 5 {
        return None; // No base, or relative to the instruction: nothing here is.
    }
    memory.base = register(number, extensions);
    // SAFETY: bytes of the instruction.
    let displacement = unsafe {
        match kind {
            1 => isize::from(at.add(length).cast::<i8>().read()),
            2 => at.add(length).cast::<i32>().read_unaligned() as isize,
            _ => 0,
        }
    };
    memory.base = memory.base.wrapping_add_signed(displacement);
    Some((memory, length + [0, 1, 4][usize::from(kind)]))
}

impl State {
    /// LDTILECFG.
    fn configure(&mut self, config: &[u8; 64]) -> Option<()> {
        let sizes = std::array::from_fn(|tile| {
            let row_bytes = u16::from_le_bytes([config[16 + 2 * tile], config[17 + 2 * tile]]);
            (usize::from(config[48 + tile]), usize::from(row_bytes))
        });
        let fits = |&(rows, bytes): &(usize, usize)| rows <= 16 && bytes <= 64 && (rows == 0) == (bytes == 0);
        let rest = [&config[1..16], &config[32..48], &config[56..64]].concat();
        (config[0] == 1 && sizes.iter().all(fits) && rest.iter().all(|byte| *byte == 0)).then(|| {
            *self = Self { sizes, tiles: [[[0; 64]; 16]; 8] };
        })
    }

    /// Rows of a tile that is configured, and bytes of a row.
    fn size(&self, tile: usize) -> Option<(usize, usize)> {
        let size = *self.sizes.get(tile)?;
        (size.0 > 0).then_some(size)
    }

    /// TDPBUUD, TDPBUSD, TDPBSUD and TDPBSSD, by their prefix.
    fn multiply(&mut self, sums: usize, a: usize, b: usize, prefix: u8) -> Option<()> {
        let ((rows, bytes), (a_rows, a_bytes), (b_rows, b_bytes)) =
            (self.size(sums)?, self.size(a)?, self.size(b)?);
        let distinct = sums != a && sums != b && a != b;
        if !distinct || rows != a_rows || bytes != b_bytes || a_bytes != 4 * b_rows || bytes % 4 != 0 {
            return None;
        }
        let signed = |byte: u8, is: bool| if is { i32::from(byte as i8) } else { i32::from(byte) };
        for m in 0..rows {
            for n in (0..bytes).step_by(4) {
                let sum = &mut self.tiles[sums][m];
                let mut total = i32::from_le_bytes([sum[n], sum[n + 1], sum[n + 2], sum[n + 3]]);
                for k in 0..a_bytes {
                    let (x, y) = (self.tiles[a][m][k], self.tiles[b][k / 4][n + k % 4]);
                    total = total.wrapping_add(signed(x, prefix >= 2) * signed(y, prefix % 2 == 1));
                }
                self.tiles[sums][m][n..n + 4].copy_from_slice(&total.to_le_bytes());
            }
        }
        Some(())
    }
}
