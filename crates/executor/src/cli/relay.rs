//! `run`'s output: from a FIFO in the supervision directory, which the executor writes to as it would to an agent's, to this
//! process's own stream.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use holdfast_record::SupervisionDir;
use holdfast_sys::file::{mkfifo_at, open_at};
use holdfast_sys::readiness;

/// What waits here for a slow reader, in bytes; then the task does, as on any pipe.
const WAITING: usize = 1 << 20;
const CHUNK: usize = 64 * 1024;

/// Two threads: one that empties the FIFO, and one that may wait for whoever reads our output.
#[derive(Debug)]
pub struct Relay {
    /// The FIFO.
    pub path: PathBuf,
    queue: Arc<Queue>,
    // Keeps the FIFO from an end of file before the executor has opened it.
    writer: OwnedFd,
    threads: [JoinHandle<()>; 2],
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    waiting: usize,
    /// The task is over: what is left of its output is little, and must not wait.
    is_unbounded: bool,
    is_complete: bool,
    is_broken: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }
}

impl Relay {
    /// Makes the FIFO and starts. `broken` is called once if nobody reads `sink` any more; the rest is thrown away.
    pub fn start(
        dir: &SupervisionDir,
        name: &str,
        sink: impl Write + Send + 'static,
        broken: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        mkfifo_at(dir, name, 0o600)?;
        let source = open_at(dir, name, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0)?;
        readiness::set_nonblocking(source.as_fd(), false)?;
        let writer = open_at(dir, name, libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOFOLLOW, 0)?;
        let queue = Arc::new(Queue::default());
        let (reading, writing) = (queue.clone(), queue.clone());
        let threads = [
            thread::Builder::new().spawn(move || read(File::from(source), &reading))?,
            thread::Builder::new().spawn(move || write(sink, &writing, broken))?,
        ];
        Ok(Self {
            path: dir.path().join(name),
            queue,
            writer,
            threads,
        })
    }

    /// The task is over: takes everything that is left in the FIFO, however slow the reader is.
    pub fn unbound(&self) -> impl Fn() + Send + 'static {
        let queue = self.queue.clone();
        move || queue.update(|state| state.is_unbounded = true)
    }

    /// Returns when all is written. To be called when the executor has closed its end.
    pub fn finish(self) {
        drop(self.writer);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn read(mut source: File, queue: &Queue) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match source.read(&mut chunk) {
            Ok(count @ 1..) => {
                let mut state = queue.state();
                while state.waiting > WAITING && !state.is_unbounded && !state.is_broken {
                    state = queue.wait(state);
                }
                if !state.is_broken {
                    state.waiting += count;
                    state.chunks.push_back(chunk[..count].to_vec());
                }
                drop(state);
                queue.changed.notify_all();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    queue.update(|state| state.is_complete = true);
}

fn write(mut sink: impl Write, queue: &Queue, broken: impl FnOnce()) {
    loop {
        let mut state = queue.state();
        while state.chunks.is_empty() && !state.is_complete {
            state = queue.wait(state);
        }
        let Some(chunk) = state.chunks.pop_front() else {
            return;
        };
        state.waiting -= chunk.len();
        drop(state);
        queue.changed.notify_all();
        if sink.write_all(&chunk).and_then(|()| sink.flush()).is_err() {
            queue.update(|state| {
                state.is_broken = true;
                state.chunks.clear();
            });
            return broken();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use holdfast_record::Intent;

    use super::*;

    fn dir(state: &tempfile::TempDir) -> SupervisionDir {
        let intent = Intent::new("t", "a", "t", "run", holdfast_record::boot_id().unwrap()).unwrap();
        SupervisionDir::create(&state.path().join("run"), &intent).unwrap()
    }

    #[derive(Clone, Default)]
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            thread::sleep(std::time::Duration::from_millis(1));
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_of_it_arrives_at_a_slow_reader() {
        let state = tempfile::tempdir().unwrap();
        let dir = dir(&state);
        let slow = Slow::default();
        let relay = Relay::start(&dir, "out", slow.clone(), || panic!("it is not broken")).unwrap();
        let expected: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut fifo = File::options().write(true).open(&relay.path).unwrap();
        fifo.write_all(&expected).unwrap();
        drop(fifo);
        relay.unbound()();
        relay.finish();
        assert!(*slow.0.lock().unwrap() == expected);
    }

    #[test]
    fn a_reader_that_left_blocks_nobody() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let state = tempfile::tempdir().unwrap();
        let dir = dir(&state);
        let told = Arc::new(AtomicBool::new(false));
        let telling = told.clone();
        let relay = Relay::start(&dir, "out", Broken, move || telling.store(true, Ordering::Relaxed)).unwrap();
        let mut fifo = File::options().write(true).open(&relay.path).unwrap();
        fifo.write_all(&vec![b'x'; 4_000_000]).unwrap();
        drop(fifo);
        relay.finish();
        assert!(told.load(Ordering::Relaxed));
    }
}
