//! What the kernel knows about the current thread, its CPU and the time it used, and about the
//! process.

use std::io;
use std::time::Duration;

/// Pins the calling thread to one CPU out of those the process may use, `index` modulo their count.
/// A refusal (container policy) is an error the caller may ignore.
pub fn pin_to_cpu(index: usize) -> io::Result<usize> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: cpu_set_t is a plain bit set; all-zero is the empty set.
    let mut allowed: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: pid 0 is the calling thread; the set is valid for the call.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CPU_ISSET reads within the fixed size of the set.
    let cpus: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) })
        .collect();
    let cpu = index
        .checked_rem(cpus.len())
        .and_then(|at| cpus.get(at))
        .copied()
        .ok_or_else(|| io::Error::other("the process may use no cpu"))?;
    // SAFETY: as above.
    let mut wanted: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` came out of a set of the same size.
    unsafe { libc::CPU_SET(cpu, &mut wanted) };
    // SAFETY: as for sched_getaffinity.
    if unsafe { libc::sched_setaffinity(0, size, &raw const wanted) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cpu)
}

/// CPU time the calling thread has used, user and system.
pub fn cpu_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time all threads of this process have used, user and system, those that ended included.
pub fn process_cpu_time() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both clocks exist on every Linux; the time is valid for the call. A failure leaves 0.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_pinned_and_its_time_grows() {
        std::thread::spawn(|| {
            // A sandbox may refuse; the shard tolerates it, so does the test.
            if let Ok(cpu) = pin_to_cpu(0) {
                assert_eq!(pin_to_cpu(0).unwrap(), cpu);
            }
            let before = cpu_time();
            while cpu_time() == before {}
            let own = cpu_time();
            assert!(process_cpu_time() >= own);
        })
        .join()
        .unwrap();
    }
}
