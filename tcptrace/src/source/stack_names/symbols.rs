//! Functions and source lines of addresses, by blazesym (only here).

use std::{borrow::Cow, cell::RefCell, ffi::OsStr, path::Path, sync::Arc};

use blazesym::{
    Pid,
    symbolize::{
        CodeInfo, Input, Sym, Symbolized, Symbolizer,
        source::{Process, Source},
    },
};

use super::process_code::ProcessCode;
use crate::{
    kernel,
    model::{stack::StackFrame, text},
};

/// Stacks after which the tables of all files are read again, so that those of ended processes are freed.
const MAX_STACKS: u32 = 1 << 12;

thread_local! {
    /// The symbolizer, which belongs to its thread, and the stacks it has named.
    static SYMBOLIZER: RefCell<(Symbolizer, u32)> = {
        // blazesym maps files of the processes, which their users may shorten meanwhile.
        kernel::survive_truncation();
        RefCell::new((Symbolizer::new(), 0))
    };
}

/// The frames at `addresses` of a process, innermost first; an inlined function is a frame of its own.
pub(super) fn frames(code: &ProcessCode, addresses: &[u64]) -> Vec<StackFrame> {
    SYMBOLIZER.with_borrow_mut(|(symbolizer, stacks)| {
        if *stacks == MAX_STACKS {
            (*symbolizer, *stacks) = (Symbolizer::new(), 0);
        }
        *stacks += 1;
        let intact = kernel::replaced_pages();
        let mut process = Process::new(Pid::from(code.pid));
        process.map_files = code.can_open_mappings();
        process.perf_map = code.has_perf_map();
        let input = Input::AbsAddr(addresses);
        let found = symbolizer.symbolize(&Source::Process(process.clone()), input).or_else(|error| {
            log::debug!("symbols of process {}: {error:#}", code.pid);
            // One damaged file fails them all. Most often it is one with debug information.
            process.debug_syms = false;
            symbolizer.symbolize(&Source::Process(process), input)
        });
        let found = found.unwrap_or_default();
        let symbols = found.iter().map(Some).chain(std::iter::repeat(None));
        let of = |(&address, symbol)| named(code, address, symbol);
        let frames = addresses.iter().zip(symbols).flat_map(of).collect();
        drop(found);
        if kernel::replaced_pages() == intact {
            return frames;
        }
        // Names that were read from zeros are wrong, also later.
        *symbolizer = Symbolizer::new();
        addresses.iter().flat_map(|&address| named(code, address, None)).collect()
    })
}

/// The frame at `address`, after those that are inlined there.
fn named(code: &ProcessCode, address: u64, symbol: Option<&Symbolized<'_>>) -> Vec<StackFrame> {
    let module = code.module(address);
    let Some(Symbolized::Sym(symbol)) = symbol else {
        // No address of code without a file: it would tell where its memory is.
        let offset = code.file_offset(address).map_or(0, |(_, offset)| offset);
        return vec![StackFrame { offset, module, ..StackFrame::default() }];
    };
    let Sym { name, offset, code_info, inlined, .. } = symbol;
    let frame = |function: &str, code: Option<&CodeInfo<'_>>, is_inlined| StackFrame {
        function: if module.is_empty() {
            text::bounded(&without_tier(function))
        } else {
            text::bounded(function)
        },
        // A line says more, and calls in one line are one place: a loop that the compiler unrolled. Functions that are compiled
        // again have other offsets.
        offset: if is_inlined || line_of(code) != 0 || module.is_empty() { 0 } else { *offset as u64 },
        module: Arc::clone(&module),
        file: code.map(|code| path(code.dir.as_deref(), &code.file)).unwrap_or_default(),
        line: line_of(code),
        is_inlined,
    };
    let inlined = inlined.iter().rev().map(|inner| frame(&inner.name, inner.code_info.as_ref(), true));
    inlined.chain([frame(name, code_info.as_deref(), false)]).collect()
}

fn line_of(code: Option<&CodeInfo<'_>>) -> u32 {
    code.and_then(|code| code.line).unwrap_or(0)
}

/// The name that V8 gives to a function, without the mark of how far it is optimised: `JS:*release /srv/pool.js:9:25`.
fn without_tier(function: &str) -> Cow<'_, str> {
    match function.split_once([':']) {
        Some((kind @ ("JS" | "LazyCompile" | "Function"), name)) => {
            format!("{kind}:{}", name.trim_start_matches(['~', '^', '*', '+'])).into()
        }
        _ => function.into(),
    }
}

fn path(folder: Option<&Path>, file: &OsStr) -> Arc<str> {
    let path = folder.map_or_else(|| Path::new(file).to_owned(), |folder| folder.join(file));
    text::bounded(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        process::{Child, Command},
        thread,
        time::Duration,
    };

    use super::*;

    /// A process that has mapped a copy of a library.
    struct MappedLibrary {
        child: Child,
        file: File,
        _folder: tempfile::TempDir,
    }

    impl MappedLibrary {
        /// `None` if this program has no such library.
        fn of_library() -> Option<Self> {
            let maps = fs::read_to_string("/proc/self/maps").expect("this process");
            let library = maps
                .lines()
                .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("libgcc_s")))?;
            let folder = tempfile::tempdir().expect("a folder");
            let copy = folder.path().join("copy.so");
            fs::copy(library, &copy).expect("a copy");
            let child = Command::new("sleep").arg("600").env("LD_PRELOAD", &copy).spawn().expect("sleep");
            let file = File::options().read(true).write(true).open(&copy).expect("the copy");
            Some(Self { child, file, _folder: folder })
        }

        fn address(&self) -> Option<u64> {
            let maps = fs::read_to_string(format!("/proc/{}/maps", self.child.id())).ok()?;
            let line = maps.lines().find(|line| line.contains("r-xp") && line.ends_with("copy.so"))?;
            Some(u64::from_str_radix(line.split_once('-')?.0, 16).ok()? + 0x100)
        }
    }

    impl Drop for MappedLibrary {
        fn drop(&mut self) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }

    #[test]
    fn a_file_that_became_shorter_ends_nothing() {
        let Some(mapping) = MappedLibrary::of_library() else { return eprintln!("skipped: no libgcc_s.so") };
        let address = (0..1_000).find_map(|_| {
            thread::sleep(Duration::from_millis(5));
            mapping.address()
        });
        let address = address.expect("the process maps the library");
        let code = ProcessCode::read(mapping.child.id()).expect("it runs");
        assert_eq!(frames(&code, &[address]).len(), 1);
        // `kernel::mapped_files` has the test of a file that is being read.
        mapping.file.set_len(0).expect("shorter");
        assert_eq!(frames(&code, &[address + 0x400]).len(), 1);
    }

    #[test]
    fn tiers_of_v8_are_one_function() {
        for name in ["JS:~f a.js:1:2", "JS:*f a.js:1:2", "JS:f a.js:1:2"] {
            assert_eq!(without_tier(name), "JS:f a.js:1:2");
        }
        assert_eq!(without_tier("py::f:/a.py"), "py::f:/a.py");
    }
}
