//! Sets the wall clock of one process wrong: Linux gives every process its time through one page
//! of code (vDSO), and that page of that process is changed. Neither the machine's clock nor
//! another process' is touched, nor the process' own monotonic clock, as with a machine whose time
//! source lies. Invariant: no thread of the process is inside the page while it is changed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _, ObjectSymbol as _};

use super::{Bed, Error, Result};
use crate::process::Wait;

/// The function by which programs ask for the time (vdso(7)).
const FUNCTION: &str = "__vdso_clock_gettime";

impl Bed {
    /// Puts the wall clock of the processes of pod `uid` ahead by `seconds`, or back if negative;
    /// 0 sets it right. Works inside the bed, on x86-64, until a process starts anew.
    ///
    /// # Errors
    /// If no process of the pod runs, or its memory cannot be written.
    pub fn skew_clock(&self, uid: &str, seconds: i32) -> Result<()> {
        let pids = processes_of(uid);
        for pid in &pids {
            skew(*pid, seconds)?;
        }
        if pids.is_empty() {
            let known = "the uid of a pod whose processes run in the bed".to_owned();
            return Err(Error::Unknown { name: uid.to_owned(), known });
        }
        Ok(())
    }
}

/// The processes in the cgroups of a pod, which bear its uid, but for the one that only holds the
/// pod's namespaces.
fn processes_of(uid: &str) -> Vec<u32> {
    let marks = [uid.to_owned(), uid.replace('-', "_")];
    let is_own = |pid: &u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        marks.iter().any(|mark| groups.contains(mark)) && program.trim() != "pause"
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_own).collect()
}

fn skew(pid: u32, seconds: i32) -> Result<()> {
    let page = page(pid)?;
    let path = format!("/proc/{pid}/mem");
    let path = Path::new(&path);
    let memory = OpenOptions::new().read(true).write(true).open(path);
    let memory = memory.map_err(|source| Error::file("open", path, source))?;
    let begin = function(&memory, &page).map_err(|source| Error::file("read", path, source))?;
    let stopped = Stopped::outside(pid, &page)?;
    let written = memory.write_all_at(&clock_gettime(seconds), begin);
    drop(stopped);
    written.map_err(|source| Error::file("write", path, source))
}

/// Where the page of code lies in the process.
fn page(pid: u32) -> Result<Range<u64>> {
    let path = format!("/proc/{pid}/maps");
    let path = Path::new(&path);
    let maps = fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
        let (begin, end) = line.split(' ').next()?.split_once('-')?;
        let parsed = |text| u64::from_str_radix(text, 16).ok();
        Some(parsed(begin)?..parsed(end)?)
    });
    let none = || io::Error::other("no vDSO is mapped");
    line.ok_or_else(|| Error::file("look through", path, none()))
}

/// The address of the function, from the symbols in the page.
fn function(memory: &File, page: &Range<u64>) -> io::Result<u64> {
    let size = usize::try_from(page.end - page.start).map_err(io::Error::other)?;
    let mut image = vec![0; size];
    memory.read_exact_at(&mut image, page.start)?;
    let image = ElfFile64::<LittleEndian>::parse(image.as_slice()).map_err(io::Error::other)?;
    let mut symbols = image.dynamic_symbols();
    let found = symbols.find(|symbol| symbol.name() == Ok(FUNCTION));
    let found = found.ok_or_else(|| io::Error::other(format!("{FUNCTION} is not in the vDSO")))?;
    Ok(page.start + found.address())
}

/// The function in machine code of x86-64 (System V calling convention): asks the kernel by system
/// call, and adds `seconds` to the answer if the wall clock was asked for.
fn clock_gettime(seconds: i32) -> Vec<u8> {
    let mut code = vec![
        0xb8, 0xe4, 0x00, 0x00, 0x00, // mov eax, SYS_clock_gettime
        0x0f, 0x05, // syscall
        0x85, 0xc0, // test eax, eax
        0x75, 0x0b, // jnz to the end
        0x85, 0xff, // test edi, edi: CLOCK_REALTIME is 0
        0x75, 0x07, // jnz to the end
        0x48, 0x81, 0x06, // add qword [rsi], …
    ];
    code.extend(seconds.to_le_bytes());
    code.push(0xc3); // ret
    code
}

/// A process that stands still; it goes on with the end of the value.
struct Stopped(u32);

impl Stopped {
    /// Stops it where no thread is inside `page`, where it rests but for nanoseconds.
    fn outside(pid: u32, page: &Range<u64>) -> Result<Self> {
        let stopped = Self(pid);
        Wait::new(&format!("process {pid} outside of its clock"), 5).until(|| {
            signal(pid, "STOP");
            let outside = threads(pid).map(|at| at.iter().all(|at| !page.contains(at)));
            if outside == Some(false) {
                signal(pid, "CONT");
            }
            outside == Some(true)
        })?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(self.0, "CONT");
    }
}

/// Where every thread of the process stands; nothing while one still runs.
fn threads(pid: u32) -> Option<Vec<u64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let at = tasks.flatten().map(|task| {
        let status = fs::read_to_string(task.path().join("stat")).ok()?;
        // The state follows the name in parentheses, which may hold anything (proc(5)).
        let state = status.rsplit_once(") ")?.1.chars().next()?;
        let line = fs::read_to_string(task.path().join("syscall")).ok()?;
        let counter = line.split_whitespace().next_back()?.strip_prefix("0x")?;
        (state == 'T').then(|| u64::from_str_radix(counter, 16).ok())?
    });
    at.collect()
}

/// A process that is gone shows when its threads are looked at.
fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
}
