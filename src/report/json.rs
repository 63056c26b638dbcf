//! Events as JSON lines with their time, for programs.

use std::io::{self, Write};

use jiff::Timestamp;

use crate::event::{Event, Sink, Stamped};

/// Writes every event as one line, `{"time":"2026-…Z","event":"…",…}`.
pub struct JsonLines<W> {
    out: W,
    clock: Box<dyn FnMut() -> Timestamp>,
    error: Option<io::Error>,
}

impl<W: Write> JsonLines<W> {
    /// Writes to `out`; `clock` tells the time.
    pub fn new(out: W, clock: impl FnMut() -> Timestamp + 'static) -> Self {
        JsonLines {
            out,
            clock: Box::new(clock),
            error: None,
        }
    }

    /// The first error, if a line could not be written; nothing was written
    /// after it.
    pub fn finish(self) -> io::Result<()> {
        self.error.map_or(Ok(()), Err)
    }

    fn write(&mut self, event: &Event) -> io::Result<()> {
        let time = format!("{:.3}", (self.clock)());
        let mut line = serde_json::to_vec(&Stamped { time, event })?;
        line.push(b'\n');
        self.out.write_all(&line)?;
        self.out.flush()
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn event(&mut self, event: &Event) {
        if self.error.is_none() {
            self.error = self.write(event).err();
        }
    }
}
